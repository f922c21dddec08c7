# The control plane: certificates, etcd, apiserver, controller-manager, scheduler, DNS, all in namespace kcp.
# Sourced by cluster.sh.

# certificate NAME SUBJECT USAGES [NAMES]: in $STATE/pki, kept between runs.
certificate() {
    (
        cd "$STATE/pki"
        [ ! -f "$1.crt" ] || exit 0
        [ -f ca.crt ] || authority
        openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout "$1.key" -subj "$2" -out request
        {
            printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=%s\n' "$3"
            [ -z "${4:-}" ] || echo "subjectAltName=$4"
        } >extensions
        openssl x509 -req -in request -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile extensions -out "$1.crt"
    ) >>"$LOGS/openssl.log" 2>&1 || show_and_die "$LOGS/openssl.log" "the certificate of $1 couldn't be made"
}

authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout ca.key -subj /CN=cluster-ca \
        -days 3650 -out ca.crt -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature
    openssl genrsa -out sa.key 2048
    openssl rsa -in sa.key -pubout -out sa.pub
}

# client NAME SUBJECT [NAMES]: a certificate, and a kubeconfig that uses it.
client() {
    certificate "$1" "$2" clientAuth,serverAuth "${3:-}"
    cat >"$STATE/$1.kubeconfig" <<K
apiVersion: v1
kind: Config
current-context: adit
contexts: [{name: adit, context: {cluster: adit, user: $1}}]
clusters:
- name: adit
  cluster: {server: "https://$API_IP:$API_PORT", certificate-authority: "$STATE/pki/ca.crt"}
users:
- name: $1
  user: {client-certificate: "$STATE/pki/$1.crt", client-key: "$STATE/pki/$1.key"}
K
}

control_plane() {
    local name names=DNS:kubernetes
    for name in default svc cluster local; do names+=",${names##*,}.$name"; done
    certificate apiserver /CN=kube-apiserver serverAuth "$names,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:$API_IP"
    certificate kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth
    client admin /O=system:masters/CN=admin
    client kcm /CN=system:kube-controller-manager
    client sched /CN=system:kube-scheduler
    client proxy /CN=system:kube-proxy
    client dns /CN=cluster-dns
    start_etcd
    start_apiserver
    start_controllers
    start_dns
}

start_etcd() {
    spawn etcd ip netns exec kcp "$BIN/etcd" --data-dir "$STATE/etcd" \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
        --initial-cluster default=http://127.0.0.1:2380
    wait_for 20 in_control_plane curl -fsS http://127.0.0.1:2379/health ||
        show_and_die "$LOGS/etcd.log" "etcd didn't answer within 20 s"
}

start_apiserver() {
    local pki=$STATE/pki
    spawn kube-apiserver ip netns exec kcp "$BIN/kube-apiserver" --etcd-servers http://127.0.0.1:2379 \
        --bind-address $API_IP --advertise-address $API_IP --secure-port $API_PORT --profiling=false \
        --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" --cert-dir "$STATE/apiserver" \
        --client-ca-file "$pki/ca.crt" --service-account-issuer https://kubernetes.default.svc.cluster.local \
        --service-account-key-file "$pki/sa.pub" --service-account-signing-key-file "$pki/sa.key" \
        --authorization-mode Node,RBAC --service-cluster-ip-range "$SERVICE_CIDRS" --allow-privileged=true \
        --kubelet-client-certificate "$pki/kubelet-client.crt" --kubelet-client-key "$pki/kubelet-client.key" \
        --kubelet-preferred-address-types InternalIP
    wait_for 90 k get --raw /readyz || show_and_die "$LOGS/kube-apiserver.log" "kube-apiserver wasn't ready within 90 s"
}

start_controllers() {
    local as pki=$STATE/pki
    as="--kubeconfig $STATE/kcm.kubeconfig --authentication-kubeconfig $STATE/kcm.kubeconfig"
    as+=" --authorization-kubeconfig $STATE/kcm.kubeconfig --bind-address 127.0.0.1 --leader-elect=false"
    as+=" --cert-dir $STATE/apiserver"
    spawn kube-controller-manager ip netns exec kcp "$BIN/kube-controller-manager" $as \
        --use-service-account-credentials=true --service-account-private-key-file "$pki/sa.key" \
        --root-ca-file "$pki/ca.crt" --cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key"
    spawn kube-scheduler ip netns exec kcp "$BIN/kube-scheduler" ${as//kcm.kubeconfig/sched.kubeconfig}
    wait_for 30 k -n default get serviceaccount default ||
        show_and_die "$LOGS/kube-controller-manager.log" "the controllers made no default ServiceAccount within 30 s"
}

# CoreDNS in the control plane's network, reached through the usual ClusterIP: DNS works while a node's CNI is broken.
start_dns() {
    cat >"$STATE/Corefile" <<C
.:53 {
    bind $API_IP
    errors
    kubernetes cluster.local in-addr.arpa { kubeconfig $STATE/dns.kubeconfig
        pods insecure
        ttl 5
    }
}
C
    k apply -f - >"$LOGS/dns-objects.log" 2>&1 <<Y || show_and_die "$LOGS/dns-objects.log" "the objects of the DNS service were refused"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: cluster-dns}
rules:
- {apiGroups: [""], resources: [services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: cluster-dns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-dns}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: cluster-dns}]
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: $DNS_IP
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
endpoints: [{addresses: [$API_IP], conditions: {ready: true}}]
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
Y
    spawn coredns ip netns exec kcp "$BIN/coredns" -conf "$STATE/Corefile"
}

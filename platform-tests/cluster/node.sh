#!/usr/bin/env bash
# Process 1 of a node, in network, mount, process, host name and IPC namespaces of its own.
# Gets NAME IP NODE_IPS NODE_CIDRS POD_CIDRS CGROUP DNS_IP STATE BIN IMAGES LOGS. Prepares private mounts, then keeps containerd, kubelet and
# kube-proxy running: one that dies, or is killed by a test, is started again after half a second.
set -euo pipefail
FOLDER=$STATE/$NAME

private_mounts() {
    local setting file pair
    mount --make-rshared /
    mount -t proc proc /proc
    mkdir -p "$FOLDER"/{run,kubelet,containerd,etc-cni,opt-cni,log,etc-containerd,varlib-cni,sysctl,cgroup}
    # A sysfs of this network namespace, with the cgroup mounts kept.
    mount --rbind /sys/fs/cgroup "$FOLDER/cgroup"
    mount -t sysfs sysfs /sys
    mount --rbind "$FOLDER/cgroup" /sys/fs/cgroup
    # kubelet writes six sysctls that belong to the whole machine: files bound over them keep the machine's values.
    for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
        kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
        file=$FOLDER/sysctl/$(basename "${setting%=*}")
        echo "${setting#*=}" >"$file"
        mount --bind "$file" "/proc/sys/${setting%=*}"
    done
    for pair in run:/run kubelet:/var/lib/kubelet containerd:/var/lib/containerd etc-cni:/etc/cni opt-cni:/opt/cni \
        etc-containerd:/etc/containerd log:/var/log varlib-cni:/var/lib/cni; do
        mkdir -p "${pair#*:}"
        mount --bind "$FOLDER/${pair%%:*}" "${pair#*:}"
        mount --make-rshared "${pair#*:}"
    done
    mkdir -p /run/netns /run/containerd /etc/cni/net.d /opt/cni/bin /var/log/pods /var/log/containers
}

# Written under another name and renamed INSIDE net.d: containerd 1.6 doesn't notice a file moved in from elsewhere.
write_conflist() {
    local cidr ranges='' routes=''
    for cidr in ${NODE_CIDRS//,/ }; do
        ranges+="${ranges:+, }[{\"subnet\": \"$cidr\"}]"
        case $cidr in
        *:*) routes+=', {"dst": "::/0"}' ;;
        *) routes+='{"dst": "0.0.0.0/0"}' ;;
        esac
    done
    cp /usr/lib/cni/* /opt/cni/bin/
    rm -f /etc/cni/net.d/*
    cat >/etc/cni/net.d/.new <<C
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipMasq": false, "mtu": 1500, "ipam": {"type": "host-local",
    "ranges": [$ranges], "routes": [$routes]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
C
    mv /etc/cni/net.d/.new /etc/cni/net.d/10-pods.conflist
}

# restrict_oom_score_adj: without CAP_SYS_RESOURCE an oom_score_adj can't be lowered, and runc would fail with the
# misleading "can't get final child's PID from pipe: EOF".
write_containerd_config() {
    cat >/etc/containerd/config.toml <<C
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
C
}

# The handler runsc, where gVisor was built; runc has to be said again then. systrap needs neither a device nor a virtual
# machine. The shim reads the second file for each pod, so that flags of runsc can be tried out on a node that runs.
add_gvisor() {
    cat >>/etc/containerd/config.toml <<C
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runsc]
  runtime_type = "io.containerd.runsc.v1"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runsc.options]
  TypeUrl = "io.containerd.runsc.v1.options"
  ConfigPath = "/etc/containerd/runsc.toml"
C
    cat >/etc/containerd/runsc.toml <<C
[runsc_config]
  platform = "systrap"
C
}

# No eviction: the machine may be busy with other things. cgroup v1 hybrid is enough for 1.34.
write_kubelet_config() {
    cat >/var/lib/kubelet/config.yaml <<C
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $IP
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $STATE/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $STATE/pki/$NAME.crt
tlsPrivateKeyFile: $STATE/pki/$NAME.key
cgroupDriver: cgroupfs
cgroupRoot: $CGROUP
failCgroupV1: false
enforceNodeAllocatable: []
evictionHard: {}
localStorageCapacityIsolation: false
imageGCHighThresholdPercent: 100
failSwapOn: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDomain: cluster.local
clusterDNS: [$DNS_IP]
resolvConf: ""
nodeStatusUpdateFrequency: 5s
C
}

# keep LOG COMMAND...
keep() {
    local log=$LOGS/$NAME-$1.log
    shift
    while :; do
        "$@" >>"$log" 2>&1 || true
        sleep 0.5
    done
}

import_images() {
    local archive
    for _ in $(seq 100); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
    for archive in "$IMAGES"/*.tar; do ctr -n k8s.io images import "$archive"; done
}

hostname "$NAME"
private_mounts
write_conflist
write_containerd_config
[ ! -x "$BIN/runsc" ] || add_gvisor
write_kubelet_config
# containerd finds its shims by PATH.
PATH=$PATH:$BIN keep containerd containerd --config /etc/containerd/config.toml &
import_images
keep kubelet "$BIN/kubelet" --config /var/lib/kubelet/config.yaml --kubeconfig "$STATE/$NAME.kubeconfig" \
    --hostname-override "$NAME" --node-ip "$NODE_IPS" &
# conntrack 0: those sysctls belong to the whole machine too.
keep proxy "$BIN/kube-proxy" --kubeconfig "$STATE/proxy.kubeconfig" --hostname-override "$NAME" \
    --proxy-mode "${PROXY_MODE:-nftables}" --cluster-cidr "$POD_CIDRS" --conntrack-max-per-core 0 \
    --conntrack-tcp-timeout-established 0s --conntrack-tcp-timeout-close-wait 0s \
    --healthz-bind-address "$IP" --metrics-bind-address "$IP" &
trap 'exit 0' TERM INT
while :; do wait -n || sleep 0.5; done

# Paths, versions, packages and waits. Sourced by cluster.sh.

KUBE_VERSION=${KUBE_VERSION:-v1.34.4}
COREDNS_VERSION=${COREDNS_VERSION:-v1.12.4}
CYCLONUS_VERSION=${CYCLONUS_VERSION:-v0.5.6}
# Kubernetes 1.34 needs etcd 3.5, see build_etcd; bookworm has 3.4.
ETCD_SUITE=${ETCD_SUITE:-trixie}

# Every Debian package that these scripts use.
PACKAGES=(containerd runc containernetworking-plugins iptables nftables conntrack socat iproute2 util-linux procps kmod
    busybox-static redis-server jq curl openssl python3 ca-certificates debian-archive-keyring)

. "$HERE/../debian.sh"

ROOT=${ADIT_CLUSTER_DIR:-$HOME/.cache/adit-cluster}
mkdir -p "$ROOT" || die "can't write to $ROOT; set ADIT_CLUSTER_DIR to a folder that can be written"
ROOT=$(cd "$ROOT" && pwd -P)
# A node mounts folders of its own over these: state kept there would vanish from its sight.
case $ROOT/ in
/run/* | /var/log/* | /var/lib/kubelet/* | /var/lib/containerd/* | /var/lib/cni/* | /etc/cni/* | /opt/cni/*)
    die "ADIT_CLUSTER_DIR must not lie below a folder that nodes replace, but is $ROOT"
    ;;
esac
BIN=$ROOT/bin
STATE=$ROOT/state
IMAGES=$ROOT/images
LOGS=$STATE/logs
mkdir -p "$BIN" "$IMAGES"

# The control plane's address, and what is derived from a node's number.
API_IP=10.99.0.254
API_PORT=6443
DNS_IP=10.96.0.10
node_ip() { echo "10.99.0.$1"; }
pod_cidr() { echo "10.244.$(($1 - 1)).0/24"; }
POD_CIDRS=10.244.0.0/16
SERVICE_CIDRS=10.96.0.0/16

# IP_FAMILIES=dual: nodes, pods and, where they ask for it, services have IPv6 addresses besides. The state remembers it.
FAMILIES=$(cat "$STATE/families" 2>/dev/null || echo "${IP_FAMILIES:-single}")
API_IP6=fd00:99::fe
node_ip6() { echo "fd00:99::$1"; }
pod_cidr6() { echo "fd00:244:0:$1::/64"; }
is_dual() { [ "$FAMILIES" = dual ]; }
case $FAMILIES in
single) ;;
dual)
    POD_CIDRS+=,fd00:244::/48
    SERVICE_CIDRS+=,fd00:96::/108
    ;;
*) die "expected IP_FAMILIES to be 'single' or 'dual', got '$FAMILIES'" ;;
esac

require_root() { [ "$(id -u)" = 0 ] || die "'$verb' needs root: it makes network namespaces and mounts"; }

# One change at a time. spawn closes descriptor 9 in what it starts.
lock() {
    exec 9>"$ROOT/lock"
    flock -n 9 || die "another cluster.sh is at work in $ROOT; wait for its end"
}

# wait_for SECONDS COMMAND...: until it succeeds.
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.2
    done
}

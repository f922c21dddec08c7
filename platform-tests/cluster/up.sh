# up, down, restart. Sourced by cluster.sh.

up() {
    local count=${1:-2} program name since number
    [[ $count =~ ^[1-9][0-9]?$ ]] || die "expected a number of nodes from 1 to 99, got '$count'"
    require_root
    lock
    need "${PACKAGES[@]}"
    for program in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl coredns; do
        [ -x "$BIN/$program" ] || die "$program isn't built: cluster.sh build all"
    done
    [ -f "$IMAGES/localhost_pause_1.tar" ] || die "there are no images: cluster.sh build images"
    for name in kcp $(seq -f kn%g "$count"); do
        [ ! -e "/run/netns/$name" ] || die "the network namespace $name exists: cluster.sh down, or another cluster is up"
    done
    [ "$FAMILIES" = "${IP_FAMILIES:-$FAMILIES}" ] ||
        die "the cluster was made with IP_FAMILIES=$FAMILIES, which can't change: cluster.sh down --wipe"
    mkdir -p "$STATE"/{pids,pki,etcd,apiserver}
    echo "$FAMILIES" >"$STATE/families"
    rm -rf "$LOGS"
    mkdir "$LOGS"
    trap 'echo "cluster.sh: up failed, the logs are in $LOGS" >&2; down_all' EXIT
    networks "$count"
    control_plane
    say "the control plane is ready"
    since=$(date -u +%FT%TZ)
    for number in $(seq "$count"); do start_node "$number"; done
    for number in $(seq "$count"); do wait_node "$number" "$since"; done
    forget_nodes_above "$count"
    trap - EXIT
    say "$count nodes are Ready"
}

# A bridge in kcp, and a cable from it to each node: a capture on br0 sees all that nodes say to each other.
networks() {
    local count=$1 number other
    add_netns kcp
    ip -n kcp link add br0 type bridge
    ip -n kcp addr add "$API_IP/24" dev br0
    ip -n kcp link set br0 up
    for number in $(seq "$count"); do
        add_netns "kn$number"
        ip -n kcp link add "v$number" type veth peer name eth0 netns "kn$number"
        ip -n kcp link set "v$number" master br0 up
        ip -n kcp route add "$(pod_cidr "$number")" via "$(node_ip "$number")"
        ip -n "kn$number" addr add "$(node_ip "$number")/24" dev eth0
        ip -n "kn$number" link set eth0 up
        ip -n "kn$number" route add default via "$API_IP"
        for other in $(seq "$count"); do
            [ "$number" = "$other" ] || ip -n "kn$number" route add "$(pod_cidr "$other")" via "$(node_ip "$other")"
        done
        ip netns exec "kn$number" sh -c \
            'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter'
        # Thousands of connections a second, as a benchmark makes, would fill conntrack's table within its two minutes.
        ip netns exec "kn$number" sh -c 'echo 5 >/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait'
    done
    ! is_dual || networks6 "$count"
}

# The same cables with IPv6. No address is another's, so none is looked for (nodad).
networks6() {
    local count=$1 number other
    ip -n kcp addr add "$API_IP6/64" dev br0 nodad
    for number in $(seq "$count"); do
        ip -n kcp route add "$(pod_cidr6 "$number")" via "$(node_ip6 "$number")"
        ip -n "kn$number" addr add "$(node_ip6 "$number")/64" dev eth0 nodad
        ip -n "kn$number" route add default via "$API_IP6"
        for other in $(seq "$count"); do
            [ "$number" = "$other" ] || ip -n "kn$number" route add "$(pod_cidr6 "$other")" via "$(node_ip6 "$other")"
        done
        ip netns exec "kn$number" sh -c 'echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'
    done
}

# Those of an earlier, larger cluster whose state was kept.
forget_nodes_above() {
    local node
    for node in $(k get nodes -o name); do
        [ "${node#node/kn}" -le "$1" ] || k delete "$node" >/dev/null
    done
}

down() {
    require_root
    lock
    down_all
    [ "${1:-}" != --wipe ] || rm -rf "$STATE"
    say "down"
}

down_all() {
    local name
    for name in $(nodes); do stop_node "$name"; done
    for name in coredns kube-scheduler kube-controller-manager kube-apiserver etcd; do stop "$name"; done
    for name in $(cat "$STATE/netns" 2>/dev/null); do [ ! -e "/run/netns/$name" ] || ip netns del "$name"; done
    rm -f "$STATE/netns"
}

# restart apiserver [SECONDS]: kill -9, SECONDS (0) of silence, start. restart node N: a reboot.
restart() {
    local pid since
    require_running
    lock
    case ${1:-} in
    apiserver)
        pid=$(pid_of kube-apiserver)
        kill -9 "$pid"
        sleep "${2:-0}"
        start_apiserver
        ;;
    node)
        [ -n "$(pid_of "kn${2:-}")" ] || die "expected: restart node N, where N runs"
        since=$(date -u +%FT%TZ)
        stop_node "kn$2"
        start_node "$2"
        wait_node "$2" "$since"
        ;;
    *) die "expected: restart apiserver [SECONDS], or restart node N" ;;
    esac
    say "$* done"
}

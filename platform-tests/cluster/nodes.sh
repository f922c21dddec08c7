# Nodes: each a network namespace knN with a process namespace of its own. Sourced by cluster.sh.

# Remembered, so that `down` deletes these and no others.
add_netns() {
    ip netns add "$1"
    echo "$1" >>"$STATE/netns"
    ip -n "$1" link set lo up
}

# The places where a node's cgroups live: every v1 controller (of a hybrid layout too), or the one v2 tree.
cgroup_trees() {
    local tree
    if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
        echo /sys/fs/cgroup/
    else
        for tree in /sys/fs/cgroup/*/; do [ ! -f "$tree/tasks" ] || echo "$tree"; done
    fi
}

# A node's addresses, and those of its pods, with a comma between.
node_ips() { echo "$(node_ip "$1")$(! is_dual || echo ",$(node_ip6 "$1")")"; }
node_cidrs() { echo "$(pod_cidr "$1")$(! is_dual || echo ",$(pod_cidr6 "$1")")"; }

# start_node N: as after a reboot; the network namespace knN exists.
start_node() {
    local number=$1 name=kn$1 folder=$STATE/kn$1 tree file
    client "$name" "/O=system:nodes/CN=system:node:$name" "DNS:$name,IP:$(node_ip "$number")"
    rm -rf "$folder/run" "$folder/varlib-cni"
    for tree in $(cgroup_trees); do
        mkdir -p "${tree}adit-$name"
        # A new v1 cpuset is empty and takes no task.
        for file in cpuset.cpus cpuset.mems; do
            [ ! -f "${tree}tasks" ] || [ ! -f "$tree$file" ] || cat "$tree$file" >"${tree}adit-$name/$file"
        done
    done
    # nsenter, not `ip netns exec`: that one replaces /sys and so hides the cgroup mounts.
    NAME=$name IP=$(node_ip "$number") NODE_IPS=$(node_ips "$number") NODE_CIDRS=$(node_cidrs "$number") \
        POD_CIDRS=$POD_CIDRS CGROUP=/adit-$name DNS_IP=$DNS_IP \
        STATE=$STATE BIN=$BIN IMAGES=$IMAGES LOGS=$LOGS \
        spawn "$name" nsenter --net="/run/netns/$name" \
        unshare -m -u -i -p -f --kill-child --propagation private "$HERE/node.sh"
}

# A node is a process namespace: ending its process 1 ends all of it.
stop_node() {
    local name=$1 init tree
    init=$(node_init "$name") && [ -n "$init" ] && kill -9 "$init" || true
    stop "$name"
    for tree in $(cgroup_trees) /sys/fs/cgroup/unified/; do
        [ -d "${tree}adit-$name" ] || continue
        wait_for 5 find "${tree}adit-$name" -depth -type d -exec rmdir {} + ||
            echo "cluster.sh: the cgroup ${tree}adit-$name is still in use" >&2
    done
}

# wait_node N SINCE: registered, and Ready said after SINCE (the stored status may be of an earlier up).
wait_node() {
    local name=kn$1 cidrs
    cidrs=$(node_cidrs "$1")
    wait_for 60 k get node "$name" || show_and_die "$LOGS/$name-kubelet.log" "$name didn't register within 60 s"
    k patch node "$name" -p "{\"spec\":{\"podCIDR\":\"${cidrs%,*}\",\"podCIDRs\":[\"${cidrs//,/\",\"}\"]}}" >/dev/null
    wait_for 90 node_ready "$name" "$2" || show_and_die "$LOGS/$name-kubelet.log" "$name wasn't Ready within 90 s"
}

node_ready() {
    local condition
    condition=$(k get node "$1" \
        -o jsonpath='{range .status.conditions[?(@.type=="Ready")]}{.status} {.lastHeartbeatTime}{end}')
    [[ $condition == True* ]] && [[ ! ${condition#True } < $2 ]]
}

# Daemons that are recorded, so that only they are ever ended. Sourced by cluster.sh.

# stamp PID: start time and boot id, which guard against a number that was used again. Nothing for a zombie.
stamp() {
    local fields
    fields=$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) && set -- $fields && [ "$1" != Z ] &&
        echo "${20} $(cat /proc/sys/kernel/random/boot_id)"
}

# pid_of NAME: its process id, if it still is the process that was recorded.
pid_of() {
    local pid recorded
    [ -f "$STATE/pids/$1" ] && read -r pid recorded <"$STATE/pids/$1" && [ -n "$recorded" ] &&
        [ "$recorded" = "$(stamp "$pid")" ] && echo "$pid"
}

# spawn NAME COMMAND...: a daemon in a session of its own, with a log of its own.
spawn() {
    local name=$1
    shift
    setsid "$@" >>"$LOGS/$name.log" 2>&1 </dev/null 9>&- &
    echo "$! $(stamp $!)" >"$STATE/pids/$name"
}

has_ended() { ! pid_of "$1"; }

# stop NAME: TERM, after five seconds KILL.
stop() {
    local pid
    if pid=$(pid_of "$1"); then
        kill "$pid" && wait_for 5 has_ended "$1" || kill -9 "$pid" || true
    fi
    rm -f "$STATE/pids/$1"
}

in_control_plane() { ip netns exec kcp "$@"; }
k() { in_control_plane "$BIN/kubectl" --kubeconfig "$STATE/admin.kubeconfig" "$@"; }

require_running() {
    require_root
    pid_of kube-apiserver >/dev/null || die "no cluster runs (state in $STATE); start one: cluster.sh up"
}

# The names of the nodes that were started: kn1, kn2, ...
nodes() {
    local file
    for file in "$STATE"/pids/kn*; do [ ! -f "$file" ] || basename "$file"; done
}

# node_init NODE: process 1 of a node's process namespace, as seen from outside.
node_init() {
    local outer
    outer=$(pid_of "$1") && pgrep -P "$outer" | head -n 1
}

# in_node N COMMAND...: in the node's mount, network, process, host name and IPC namespaces.
in_node() {
    local name=kn${1#kn} init
    shift
    init=$(node_init "$name") && [ -n "$init" ] || die "node $name doesn't run; its log is $LOGS/$name.log"
    nsenter -t "$init" -m -n -p -u -i -- "$@"
}

status() {
    local name pid
    for name in etcd kube-apiserver kube-controller-manager kube-scheduler coredns $(nodes); do
        if pid=$(pid_of "$name"); then echo "$name runs, pid $pid"; else echo "$name doesn't run"; fi
    done
}

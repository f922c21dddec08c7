# gVisor, for those who ask for it: runsc and its shim for containerd, from Go's module proxy. Sourced by cluster.sh.

# A commit of the branch `go`, which has what the other branches generate. Its go.mod replaces nothing, so its own go.sum holds.
GVISOR_VERSION=${GVISOR_VERSION:-v0.0.0-20260905035102-160fafc42237}

build_gvisor() {
    go_install runsc "$GVISOR_VERSION" gvisor.dev/gvisor/runsc
    go_install shim "$GVISOR_VERSION" gvisor.dev/gvisor/shim
    write_shim
    echo "nodes that start from now on have the handler runsc"
}

# What containerd looks for in PATH. A shim says where it listens; one that is made with containerd 2 says it in JSON, and
# containerd before 1.7, which Debian 12 has, takes the whole for an address. gVisor's also lowers its own oom_score_adj, and
# forgives a refusal, as of root without CAP_SYS_RESOURCE, in a user namespace alone: so it's shown the map of one.
write_shim() {
    echo "0 0 1" >"$BIN/shim-uid-map"
    cat >"$BIN/containerd-shim-runsc-v1" <<C
#!/bin/sh
for last; do :; done
[ "\$last" = start ] || exec "$BIN/shim" "\$@"
said=\$(sh -c 'mount --bind "\$0" /proc/\$\$/uid_map && exec "\$@"' "$BIN/shim-uid-map" "$BIN/shim" "\$@") || exit
printf %s "\$said" | jq -j .address
C
    chmod +x "$BIN/containerd-shim-runsc-v1"
}

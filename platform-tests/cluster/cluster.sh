#!/usr/bin/env bash
# A real Kubernetes cluster on one machine, without a container engine, a registry or a virtual machine.
#
#   cluster.sh build [all|kube|etcd|dns|images|np|gvisor] build or fetch what is missing (not in all: np, the NetworkPolicy
#                                                       suite, and gvisor, a runtime for pods)
#   cluster.sh up [NODES]                               start the control plane and NODES nodes (default 2), DNS included
#   cluster.sh down [--wipe]                            stop everything; --wipe also forgets the cluster's objects and nodes
#   cluster.sh restart apiserver|node N                 kill -9 a part and start it again, its state kept
#   cluster.sh status                                   what runs
#   cluster.sh running                                  ends with 0 if a cluster runs
#   cluster.sh kubectl ARGUMENT...                      kubectl as the cluster's administrator
#   cluster.sh api COMMAND...                           any program in the control plane's network, with KUBECONFIG set
#   cluster.sh node N COMMAND...                        any program inside node N: its files, processes, network
#   cluster.sh go ARGUMENT...                           a Go that is new enough for all of it
#   cluster.sh image NAME:TAG FOLDER [ENTRYPOINT_JSON]  pack a folder as an image, give it to every node, now and at each up
#
# State: $ADIT_CLUSTER_DIR (default ~/.cache/adit-cluster). Versions: KUBE_VERSION, COREDNS_VERSION, CYCLONUS_VERSION,
# GVISOR_VERSION, ETCD_SUITE. Others: DEBIAN_MIRROR, PROXY_MODE (nftables), IP_FAMILIES (single, or dual). README.md beside this file says
# what is known to bite.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

usage() { sed -n '2,/^set /{/^#/!d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

verb=${1:-help}
shift || true
case $verb in help | -h | --help)
    usage
    exit 0
    ;;
esac

. "$HERE/lib.sh"
. "$HERE/process.sh"
case $verb in
build)
    . "$HERE/go.sh"
    . "$HERE/build.sh"
    . "$HERE/gvisor.sh"
    . "$HERE/images.sh"
    build "$@"
    ;;
up)
    . "$HERE/control-plane.sh"
    . "$HERE/nodes.sh"
    . "$HERE/up.sh"
    up "$@"
    ;;
down)
    . "$HERE/nodes.sh"
    . "$HERE/up.sh"
    down "$@"
    ;;
restart)
    . "$HERE/control-plane.sh"
    . "$HERE/nodes.sh"
    . "$HERE/up.sh"
    restart "$@"
    ;;
status) status ;;
running) require_running ;;
kubectl)
    require_running
    exec ip netns exec kcp "$BIN/kubectl" --kubeconfig "$STATE/admin.kubeconfig" "$@"
    ;;
api)
    require_running
    exec ip netns exec kcp env KUBECONFIG="$STATE/admin.kubeconfig" "$@"
    ;;
node)
    (($# >= 2)) || die "expected: node N COMMAND..."
    require_running
    in_node "$@"
    ;;
go)
    . "$HERE/go.sh"
    find_go
    exec go "$@"
    ;;
image)
    . "$HERE/images.sh"
    image "$@"
    ;;
*)
    usage >&2
    exit 2
    ;;
esac

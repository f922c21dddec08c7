#!/bin/sh
# The laptop path of pasta (Debian: passt). See src/bench/path.rs, `external`, for what such a script has to do.
set -eu
command -v pasta >/dev/null || { echo "skip pasta isn't installed (Debian: passt)"; exit; }
# A mount namespace of its own, so that pasta finds a TUN device that it may open.
exec unshare --mount sh -eu -c '
    [ "$ADIT_TUN" = /dev/net/tun ] || mount --bind "$ADIT_TUN" /dev/net/tun
    unshare --net sleep infinity &
    inside=$!
    while [ "$(readlink /proc/$inside/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.01; done
    pasta --quiet --foreground --config-net --runas 0 --netns-only --netns /proc/$inside/ns/net &
    carrier=$!
    trap "kill $inside $carrier" EXIT
    tries=0
    until nsenter --target $inside --net ip -4 route show default | grep -q .; do
        tries=$((tries + 1)); [ $tries -lt 500 ] || { echo "pasta made no default route" >&2; exit 1; }
        sleep 0.01
    done
    echo "{\"namespace\": $inside, \"carriers\": [$carrier]}"
    read -r end || true
'

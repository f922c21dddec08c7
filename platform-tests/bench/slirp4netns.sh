#!/bin/sh
# The laptop path of slirp4netns. README.md says what such a script has to do.
set -eu
command -v slirp4netns >/dev/null || { echo "skip slirp4netns isn't installed (Debian: slirp4netns)"; exit; }
# A mount namespace of its own, so that slirp4netns finds a TUN device that it may open.
exec unshare --mount sh -eu -c '
    [ "$ADIT_TUN" = /dev/net/tun ] || mount --bind "$ADIT_TUN" /dev/net/tun
    unshare --net sleep infinity &
    inside=$!
    while [ "$(readlink /proc/$inside/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.01; done
    slirp4netns --configure --mtu=65520 $inside tap0 >&2 &
    carrier=$!
    trap "kill $inside $carrier" EXIT; trap exit TERM
    tries=0
    until nsenter --target $inside --net ip -4 route show default | grep -q .; do
        tries=$((tries + 1)); [ $tries -lt 500 ] || { echo "slirp4netns made no default route" >&2; exit 1; }
        sleep 0.01
    done
    echo "{\"namespace\": $inside, \"carriers\": [$carrier]}"
    read -r end || true
'

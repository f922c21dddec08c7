#!/bin/sh
# The laptop path of pasta (Debian: passt). README.md says what such a script has to do.
set -eu
command -v pasta >/dev/null || { echo "skip pasta isn't installed (Debian: passt)"; exit; }
# A mount namespace of its own, so that pasta finds a TUN device that it may open. Pasta wants to be an ordinary user and
# makes the namespaces itself. Host B is the default gateway, and must not be taken for host A's own loopback address.
exec unshare --mount sh -eu -c '
    [ "$ADIT_TUN" = /dev/net/tun ] || mount --bind "$ADIT_TUN" /dev/net/tun
    unshare --user --map-user=1000 --map-group=1000 \
        pasta --quiet --stderr --foreground --ipv4-only --no-map-gw --config-net sleep infinity >&2 &
    carrier=$!
    trap "kill $carrier" EXIT; trap exit TERM
    tries=0
    until inside=$(cat /proc/$carrier/task/$carrier/children 2>/dev/null) && [ -n "$inside" ] &&
        nsenter --target $inside --user --net --preserve-credentials ip -4 route show default 2>/dev/null | grep -q .; do
        tries=$((tries + 1)); [ $tries -lt 500 ] || { echo "pasta made no default route" >&2; exit 1; }
        sleep 0.01
    done
    echo "{\"namespace\": $inside, \"carriers\": [$carrier]}"
    read -r end || true
'

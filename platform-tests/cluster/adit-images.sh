#!/usr/bin/env bash
# The images of adit and of its load tool: one static program each, without debug information. Builds them and gives
# them to the nodes of the cluster. ADIT_IMAGE_PROFILE=tools builds without link-time optimisation: faster to build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
HERE=platform-tests/cluster

# Static: the helper copies the program to the node as a CNI plugin, and there it must run with whatever C library the
# node has. The target is named so that the flag doesn't reach build scripts, and so has a folder of its own.
profile=${ADIT_IMAGE_PROFILE:-release}
target=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --profile "$profile" --target "$target" \
    -p adit-agent --bin adit -p adit-platform-tests --bin adit-load
built=target/$target/$profile

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/adit" "$folder/load"
strip -o "$folder/adit/adit" "$built/adit"
"$HERE/cluster.sh" image adit:dev "$folder/adit" '["/adit"]'
strip -o "$folder/load/adit-load" "$built/adit-load"
"$HERE/cluster.sh" image localhost/adit-load:1 "$folder/load" '["/adit-load"]'

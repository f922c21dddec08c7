#!/usr/bin/env bash
# The images of adit and of its load tool: one static program each. Builds them and gives them to the nodes of the
# cluster. ADIT_IMAGE_PROFILE=tools builds without link-time optimisation: faster to build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# The executable that `just dist` packs, byte for byte. Static, since the helper copies it to the node as a CNI plugin,
# where it must run with whatever C library the node has.
packaging/build.sh --profile "${ADIT_IMAGE_PROFILE:-release}" adit adit-load
built=target/static/$(uname -m)

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/adit" "$folder/load"
install -m 0755 "$built/adit" "$folder/adit/adit"
platform-tests/cluster/cluster.sh image adit:dev "$folder/adit" '["/adit"]'
install -m 0755 "$built/adit-load" "$folder/load/adit-load"
platform-tests/cluster/cluster.sh image localhost/adit-load:1 "$folder/load" '["/adit-load"]'

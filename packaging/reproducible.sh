#!/usr/bin/env bash
# Builds adit in two folders whose paths differ in length, from the files of the last commit, and compares the bytes.
#
#   packaging/reproducible.sh [PROFILE]
#
# Without a profile, release: as long as two builds take, and 3 GB of disk meanwhile.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile=${1:-release}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
hashes=()
for folder in "$work/a" "$work/another-folder-with-a-longer-name"; do
    mkdir "$folder"
    git archive HEAD | tar -x -C "$folder"
    # Neither this folder's CARGO_TARGET_DIR nor what was built before.
    (cd "$folder" && env -u CARGO_TARGET_DIR packaging/build.sh --profile "$profile" adit)
    hashes+=("$(sha256sum <"$folder/target/static/$(uname -m)/adit")")
    hashes+=("$(sha256sum <"$folder/target/static/$(uname -m)/adit.debug")")
    rm -rf "$folder/target/$(uname -m)-unknown-linux-gnu"
done
printf '%s\n' "${hashes[@]}"
if [ "${hashes[0]}" = "${hashes[2]}" ]; then
    echo "reproducible: both folders gave the same executable"
else
    diff <(cd "$work/a/target/static" && readelf -SW */adit) \
        <(cd "$work"/another*/target/static && readelf -SW */adit) | head -20 || true
    echo "not reproducible: the executables differ" >&2
    exit 1
fi

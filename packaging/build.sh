#!/usr/bin/env bash
# Static executables: a kernel is all that they need.
#
#   packaging/build.sh [--profile PROFILE] [--arch x86_64|aarch64] [adit|adit-load|adit-cells]...
#
# Leaves target/static/ARCH/NAME, stripped, and NAME.debug with its debug information beside it. Without a name, adit;
# without an architecture, this machine's; without a profile, release. The same source gives the same bytes, in
# whatever folder: `just reproducible` shows it. docs/adr/0030-one-static-executable.md says why it's made so.
set -euo pipefail
# Without symbolic links, as the compiler sees it.
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

profile=release
arch=$(uname -m)
names=()
while (($#)); do
    case $1 in
    --profile) profile=${2:?--profile needs a name} && shift ;;
    --arch) arch=${2:?--arch needs a name} && shift ;;
    adit | adit-load | adit-cells) names+=("$1") ;;
    *)
        echo "build.sh: expected --profile, --arch, adit, adit-load or adit-cells, got '$1'" >&2
        exit 2
        ;;
    esac
    shift
done
((${#names[@]})) || names=(adit)

target=$arch-unknown-linux-gnu
binutils=
if [ "$arch" != "$(uname -m)" ]; then
    binutils=$arch-linux-gnu-
    command -v "${binutils}gcc" >/dev/null || {
        echo "build.sh: no ${binutils}gcc, which links for $arch; Debian's gcc-${arch/_/-}-linux-gnu has it" >&2
        exit 1
    }
    rustup target list --installed | grep -qx "$target" || rustup target add "$target"
    variable=CARGO_TARGET_$(tr '[:lower:]-' '[:upper:]_' <<<"$target")_LINKER
    export "$variable=${binutils}gcc"
fi

# Names of folders that don't depend on where they are. The standard library has a name of its own for its sources; with
# rustup's component rust-src the compiler would use the folder's instead.
sysroot=$(rustc --print sysroot)
commit=$(rustc -vV | sed -n 's/^commit-hash: //p')
flags=(-C target-feature=+crt-static
    "--remap-path-prefix=$PWD=/adit"
    "--remap-path-prefix=${CARGO_TARGET_DIR:-$PWD/target}=/adit/target"
    "--remap-path-prefix=$sysroot/lib/rustlib/src/rust=/rustc/$commit")
for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
    flags+=("--remap-path-prefix=$registry=/registry")
done
# A bit for each pointer that is moved at start, instead of 24 bytes that stay in memory. Debian 12's linker has it for x86-64 alone.
if [ "$arch" = x86_64 ]; then
    flags+=(-C link-arg=-Wl,-z,pack-relative-relocs)
fi
# The target is named so that the flags don't reach build scripts, and so has a folder of its own. Encoded: a folder's name
# may have spaces.
CARGO_ENCODED_RUSTFLAGS=$(printf '%s\x1f' "${flags[@]}")
export CARGO_ENCODED_RUSTFLAGS=${CARGO_ENCODED_RUSTFLAGS%$'\x1f'}

# Nothing in an executable has a date. What compiles C looks for one all the same, and would do so anew for each commit's.
unset SOURCE_DATE_EPOCH

folder=target/static/$arch
mkdir -p "$folder"
for name in "${names[@]}"; do
    # One at a time: cargo unites the features of what it builds together, and adit would be another one beside adit-load.
    case $name in
    adit) package=adit-agent ;;
    adit-*) package=adit-platform-tests ;;
    esac
    cargo build --locked --profile "$profile" --target "$target" -p "$package" --bin "$name" >&2
    built=${CARGO_TARGET_DIR:-target}/$target/$profile/$name
    # New files in their place: the old ones may be running. What is the same stays, with its time.
    "${binutils}objcopy" --only-keep-debug "$built" "$folder/$name.debug"
    "${binutils}objcopy" --strip-all --add-gnu-debuglink="$folder/$name.debug" "$built" "$folder/$name.new"
    if cmp -s "$folder/$name.new" "$folder/$name"; then
        rm "$folder/$name.new"
    else
        mv "$folder/$name.new" "$folder/$name"
    fi
    echo "$folder/$name"
done

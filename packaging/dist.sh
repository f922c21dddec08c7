#!/usr/bin/env bash
# Everything that a release consists of, in target/dist: executables, .deb and .rpm, the image, and their hashes.
#
#   packaging/dist.sh [--profile PROFILE] [ARCH...]
#
# Architectures are x86_64 and aarch64; without any, this machine's. Completions and manual pages are this machine's
# executable's own. Everything is dated SOURCE_DATE_EPOCH, which is the last commit's time unless it's set. The packages'
# maintainer is ADIT_MAINTAINER (`NAME <ADDRESS>`), or else the workspace's authors, without an address.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
DIST=target/dist
STAGE=$DIST/stage

profile=release
if [ "${1:-}" = --profile ]; then
    profile=${2:?--profile needs a name}
    shift 2
fi
(($#)) || set -- "$(uname -m)"

[ -x target/tools/bin/nfpm ] || {
    echo "dist.sh: no target/tools/bin/nfpm, which packs; \`just dist\` builds it" >&2
    exit 1
}

own=$(uname -m)
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH ADIT_VERSION=$version
authors=$(sed -n '/^\[workspace.package\]/,/^\[/s/^authors = \["\(.*\)"\]/\1/p' Cargo.toml)
export ADIT_MAINTAINER=${ADIT_MAINTAINER:-$authors}
# A changelog's trailer has an address, if need be an empty one.
trailer=$ADIT_MAINTAINER
[[ $trailer == *\> ]] || trailer+=' <>'

# What isn't made anew must not be taken for new.
rm -rf "$DIST"
mkdir -p "$STAGE"/{doc,man}

# As Go, Debian's and the image's architectures are called.
go_arch() {
    case $1 in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *)
        echo "dist.sh: expected x86_64 or aarch64, got '$1'" >&2
        exit 2
        ;;
    esac
}

for arch in "$own" "$@"; do
    go_arch "$arch" >/dev/null
    packaging/build.sh --profile "$profile" --arch "$arch" adit
done

adit=target/static/$own/adit
"$adit" completions bash >"$STAGE/adit.bash"
"$adit" completions fish >"$STAGE/adit.fish"
"$adit" completions zsh >"$STAGE/_adit"
"$adit" man "$STAGE/man"
gzip -9n "$STAGE"/man/*.1
cp packaging/copyright docs/install.md docs/platforms.md "$STAGE/doc/"
packaging/third-party.py "${@/%/-unknown-linux-gnu}" >"$STAGE/doc/third-party.txt"
gzip -9nc CHANGELOG.md >"$STAGE/doc/changelog.gz"
gzip -9n >"$STAGE/changelog.Debian.gz" <<END
adit ($version-1) unstable; urgency=medium

  * What changed in adit itself is in changelog.gz.

 -- $trailer  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END

platforms=()
for arch in "$@"; do
    ADIT_ARCH=$(go_arch "$arch")
    export ADIT_ARCH
    mkdir -p "$STAGE/$ADIT_ARCH"
    install -m 0755 "target/static/$arch/adit" "$STAGE/$ADIT_ARCH/adit"
    install -m 0755 "target/static/$arch/adit" "$DIST/adit-$version-$arch"
    install -m 0644 "target/static/$arch/adit.debug" "$DIST/adit-$version-$arch.debug"
    for packager in deb rpm; do
        target/tools/bin/nfpm package --config packaging/nfpm.yaml --packager "$packager" --target "$DIST/"
    done
    platforms+=("linux/$ADIT_ARCH=$STAGE/$ADIT_ARCH")
done

packaging/oci-image.py "$DIST/adit-$version-oci.tar" "adit:$version" "${platforms[@]}" --gzip \
    --entrypoint '["/adit"]' --user 65532:65532 \
    --label org.opencontainers.image.title=adit \
    --label "org.opencontainers.image.description=A service mesh agent without netfilter, eBPF or root" \
    --label org.opencontainers.image.licenses=Apache-2.0 \
    --label "org.opencontainers.image.version=$version" \
    --label "org.opencontainers.image.revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)"

(cd "$DIST" && find . -maxdepth 1 -type f ! -name '*.debug' ! -name SHA256SUMS -printf '%P\n' | sort | xargs sha256sum >SHA256SUMS)
cat "$DIST/SHA256SUMS"

# A Go that is new enough. Sourced by cluster.sh.

# For machines whose own is older (Debian 12 has 1.19). It comes from the module proxy too.
GO_TOOLCHAIN=go1.26.8

# Go from 1.21 on fetches the toolchain that a module asks for by itself; an older one is replaced by hand.
find_go() {
    local version module folder
    command -v go >/dev/null || need golang-go
    version=$(go env GOVERSION)
    version=${version#go1.}
    ((${version%%.*} < 21)) || return 0
    module=golang.org/toolchain@v0.0.1-$GO_TOOLCHAIN.linux-$(go env GOARCH)
    # Outside of any module, and by hand: this Go knows nothing of toolchains, and its archive has no executable files.
    folder=$(cd "$ROOT" && GOFLAGS=-mod=mod go mod download -json "$module" 2>"$ROOT/toolchain.log" |
        sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    [ -x "$folder/bin/go" ] || chmod -f +x "$folder"/bin/* "$folder"/pkg/tool/*/* || true
    [ -x "$folder/bin/go" ] || show_and_die "$ROOT/toolchain.log" "Go 1.$version is too old, and $module can't be had"
    export PATH=$folder/bin:$PATH GOROOT=$folder
}


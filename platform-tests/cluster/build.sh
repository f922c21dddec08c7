# Binaries: Kubernetes, CoreDNS and cyclonus from Go's module proxy, etcd from Debian. Sourced by cluster.sh.
# Each step is skipped when its result is there in the wanted version.

KUBE_PROGRAMS="kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl"
export CGO_ENABLED=0

build() {
    local what=${1:-all}
    lock
    need "${PACKAGES[@]}"
    find_go
    case $what in
    all)
        build_etcd
        build_kube
        build_dns
        build_images
        ;;
    kube | etcd | dns | images | np | gvisor) "build_$what" ;;
    *) die "expected one of all, kube, etcd, dns, images, np, gvisor to build, got '$what'" ;;
    esac
}

# has NAME VERSION
has() { [ -x "$BIN/$1" ] && [ "$(cat "$BIN/.$1" 2>/dev/null)" = "$2" ]; }

# go_build NAME VERSION COMMAND...: runs the build, says time and size, remembers the version.
go_build() {
    local name=$1 version=$2 begun=$SECONDS
    shift 2
    nice -n 10 "$@" >"$ROOT/build-$name.log" 2>&1 || show_and_die "$ROOT/build-$name.log" "building $name $version failed"
    rm -f "$ROOT/build-$name.log"
    echo "$version" >"$BIN/.$name"
    say "$name $version built in $((SECONDS - begun)) s, $(stat -c %s "$BIN/$name") bytes"
}

# go_install NAME VERSION PACKAGE
go_install() {
    has "$1" "$2" || GOBIN=$BIN go_build "$1" "$2" go install -trimpath -ldflags "-s -w" "$3@$2"
}

# k8s.io/kubernetes replaces its staging modules by folders that its module's archive leaves out. The same modules are
# published as k8s.io/X v0.Y.Z, so a small module of our own names those instead. Sets MODULE, the folder to build in.
kube_module() {
    local version=$KUBE_VERSION mod
    MODULE=$ROOT/mods/kube-$version
    [ ! -f "$MODULE/ready" ] || return 0
    mkdir -p "$MODULE"
    mod=$(cd "$ROOT" && go mod download -json "k8s.io/kubernetes@$version" | jq -r .GoMod)
    [ -f "$mod" ] || die "k8s.io/kubernetes@$version can't be fetched from the module proxy; try another KUBE_VERSION"
    {
        printf 'module cluster.local/kube\n\n%s\n\n' "$(grep -E '^go ' "$mod")"
        printf 'godebug default=%s\n\n' "$(sed -n 's/^godebug default=//p' "$mod")"
        printf 'require k8s.io/kubernetes %s\n\nreplace (\n' "$version"
        grep -oE '^\s+k8s\.io/[a-z0-9-]+ => \./staging' "$mod" |
            awk -v staging="v0.${version#v1.}" '{print "\t" $1 " => " $1 " " staging}'
        printf ')\n'
    } >"$MODULE/go.mod"
    {
        printf '//go:build tools\n\npackage tools\n\nimport ('
        printf '\n\t_ "k8s.io/kubernetes/%s"' $(printf 'cmd/%s ' $KUBE_PROGRAMS) test/images/agnhost
        printf '\n)\n'
    } >"$MODULE/tools.go"
    (cd "$MODULE" && GOFLAGS=-mod=mod go mod tidy >tidy.log 2>&1) ||
        show_and_die "$MODULE/tidy.log" "the modules of Kubernetes $version can't be resolved"
    touch "$MODULE/ready"
}

build_kube() {
    local program package flags="-s -w" minor=${KUBE_VERSION#v1.}
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        flags+=" -X $package.gitVersion=$KUBE_VERSION -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
        flags+=" -X $package.gitTreeState=clean -X $package.buildDate=2026-01-01T00:00:00Z"
    done
    for program in $KUBE_PROGRAMS; do
        has "$program" "$KUBE_VERSION" && continue
        kube_module
        (cd "$MODULE" && go_build "$program" "$KUBE_VERSION" \
            go build -trimpath -ldflags "$flags" -o "$BIN/$program" "k8s.io/kubernetes/cmd/$program")
    done
    has agnhost "$KUBE_VERSION" && return
    kube_module
    (cd "$MODULE" && go_build agnhost "$KUBE_VERSION" \
        go build -trimpath -ldflags "-s -w" -o "$BIN/agnhost" k8s.io/kubernetes/test/images/agnhost)
}

build_dns() { go_install coredns "$COREDNS_VERSION" github.com/coredns/coredns; }
build_np() { go_install cyclonus "$CYCLONUS_VERSION" github.com/mattfenwick/cyclonus/cmd/cyclonus; }

# etcd 3.5 or later is a must: with 3.4 kube-apiserver 1.34 starts, but answers every watch that allows bookmarks with
# 500 "required storage feature RequestWatchProgress is disabled". Trixie's is a static Go binary, good on older suites.
build_etcd() {
    local folder=$ROOT/etcd-deb
    has etcd "$ETCD_SUITE" && return
    rm -rf "$folder"
    mkdir -p "$folder"
    (cd "$folder" && suite_apt "$ETCD_SUITE" apt-get download etcd-server && dpkg-deb -x etcd-server_*.deb .) \
        >"$ROOT/etcd.log" 2>&1 || show_and_die "$ROOT/etcd.log" "etcd can't be fetched from Debian $ETCD_SUITE"
    cp "$folder/usr/bin/etcd" "$BIN/etcd"
    rm -rf "$folder"
    echo "$ETCD_SUITE" >"$BIN/.etcd"
    say "etcd: $("$BIN/etcd" --version | head -n 1)"
}

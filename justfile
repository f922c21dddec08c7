# Every command of the project. CI runs `just ci` and nothing else; `./dev RECIPE` installs what a recipe needs.

set shell := ["bash", "-euo", "pipefail", "-c"]

pure := "adit-flow adit-identity adit-netstack adit-policy"

# The architecture that this machine isn't of.
other := (if arch() == "aarch64" { "x86_64" } else { "aarch64" }) + "-unknown-linux-gnu"

# What tests and benchmarks are of: the executable that is shipped, unless another is given.
export ADIT_BIN := env("ADIT_BIN", justfile_directory() / "target/static" / arch() / "adit")

# The matrix with static programs: the root file system of a cell may hold nothing else.
matrix := "target/debug/adit-matrix --adit " + ADIT_BIN + " --load target/static/" + arch() + "/adit-load --cells target/static/" + arch() + "/adit-cells"

_default:
    @just --list

# Build adit and run the example mesh in the foreground.
demo: (build "release")
    target/release/adit up examples/shop.yaml

# Build the adit binary.
build profile="dev":
    cargo build --locked --profile {{ profile }} -p adit-agent

# The executable as it's shipped: static, stripped, target/static/ARCH/adit. `packaging/build.sh` has the options.
static *args:
    packaging/build.sh {{ args }}

# Executables, .deb, .rpm and image in target/dist: `just dist`, or `just dist x86_64 aarch64`.
dist *args: _nfpm
    packaging/dist.sh {{ args }}

# Two builds in two folders give the same executable: as long as two builds take.
reproducible profile="release":
    packaging/reproducible.sh {{ profile }}

# All checks and all tests, in order of speed.
ci: lint cross test

# All tests.
test: unit purity instructions peers platform-tests chart packages ci-examples matrix-slice fuzz-smoke

# Formatting, lints, documentation: warnings are errors.
lint:
    cargo fmt --all -- --check
    cargo clippy --locked --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

# The executable compiles for the other architecture as well, its C part included: two minutes the first time.
cross:
    if rustup target list --installed | grep -qx {{ other }} || rustup target add {{ other }}; then \
        cargo clippy --locked --profile cross --target {{ other }} -p adit-agent -- -D warnings; \
    else \
        echo "skipped: cross (the standard library of {{ other }} can't be fetched)"; \
    fi

# Unit, property and simulation tests of every crate.
unit:
    cargo test --locked --workspace --exclude adit-platform-tests

# The tunnel, and a running mesh, against an independent HBONE peer, written in Go.
peers: static
    if (cd platform-tests/peers/hbone-go && go mod download); then \
        cargo test --locked --workspace --exclude adit-platform-tests --test go_peer -- --ignored; \
        cargo test --locked -p adit-platform-tests --test go_peer -- --ignored --test-threads=1; \
    else \
        echo "skipped: peers (the Go peer's modules can't be fetched)"; \
    fi

# Programs nobody here wrote, over real namespaces, as an unprivileged user; what carries traffic over packet sockets as well.
platform-tests: static-test
    cargo test --locked -p adit-platform-tests -- --test-threads=1
    ADIT_TEST_LINK=packet cargo test --locked -p adit-platform-tests --test bulk --test ends --test inside \
        --test outside --test real_programs -- --test-threads=1

# The static executable on a disk that holds nothing else.
static-test: (static "adit" "adit-load")
    cargo test --locked -p adit-platform-tests --test bare -- --ignored --test-threads=1

# The packages and the image have what they should, and need nothing.
packages: _nfpm
    if [ -x target/tools/bin/nfpm ]; then \
        packaging/dist.sh; \
        cargo test --locked -p adit-platform-tests --test packages -- --ignored; \
    else \
        echo "skipped: packages (nfpm's modules can't be fetched)"; \
    fi

_nfpm:
    [ -x target/tools/bin/nfpm ] || GOBIN=$PWD/target/tools/bin CGO_ENABLED=0 \
        platform-tests/cluster/cluster.sh go install -trimpath -ldflags "-s -w" \
        github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2 || true

# adit in virtual machines of Debian suites: every kernel, condition, path and link, or those named (`just matrix bookworm node`).
# Root, and some minutes a kernel. `--keep` keeps what earlier runs found of others.
matrix *args: (static "adit" "adit-load" "adit-cells") _matrix-build
    {{ matrix }} {{ args }}

# All of it, and docs/matrix.md of it.
matrix-page: (static "adit" "adit-load" "adit-cells") _matrix-build
    {{ matrix }} --page docs/matrix.md

# One machine and a few cells: that of this machine's own suite, or Debian 12's.
matrix-slice: (static "adit" "adit-load" "adit-cells") _matrix-build
    suite=$(. /etc/os-release 2>/dev/null; echo "${VERSION_CODENAME:-}"); \
    [[ " bullseye bookworm trixie sid " == *" $suite "* ]] || suite=bookworm; \
    if [ "$(id -u)" != 0 ]; then echo "skipped: matrix-slice (root makes the machine's root file system)"; \
    else VM_SECONDS=170 {{ matrix }} --skip-missing --out target/matrix-slice "$suite" \
        laptop/tun/user laptop/packet/user laptop/packet/container laptop/tun/tun-0600 node/tun/root; fi

_matrix-build:
    cargo build --locked -p adit-platform-tests --bin adit-matrix

# The same with more than CI has time for: 200,000 connections opened and closed, certificates of 10 s for ten minutes.
soak: static
    ADIT_TEST_CHURN=200000 ADIT_TEST_ROTATION_SECONDS=600 \
        cargo test --locked -p adit-platform-tests --test scale --test rotation -- --test-threads=1

# The Helm chart renders for every platform, and deploy/*.yaml is what it renders.
chart: _helm
    if [ -x target/tools/bin/helm ]; then \
        cargo test --locked -p adit-platform-tests --test chart -- --ignored; \
    else \
        echo "skipped: chart (helm's modules can't be fetched)"; \
    fi

# The jobs of examples/ci are what GitHub Actions and GitLab CI accept.
ci-examples: _ci-linters
    if [ -x target/tools/bin/actionlint ]; then \
        target/tools/bin/actionlint -color examples/ci/github.yml; \
    else \
        echo "skipped: ci-examples/github (actionlint's modules can't be fetched)"; \
    fi
    if [ -x target/tools/python/bin/check-jsonschema ]; then \
        target/tools/python/bin/check-jsonschema --builtin-schema vendor.gitlab-ci examples/ci/gitlab-ci.yml; \
    else \
        echo "skipped: ci-examples/gitlab (check-jsonschema can't be fetched)"; \
    fi

_ci-linters:
    [ -x target/tools/bin/actionlint ] || GOBIN=$PWD/target/tools/bin CGO_ENABLED=0 \
        platform-tests/cluster/cluster.sh go install -trimpath -ldflags "-s -w" \
        github.com/rhysd/actionlint/cmd/actionlint@v1.7.12 || true
    [ -x target/tools/python/bin/check-jsonschema ] || { python3 -m venv target/tools/python && \
        target/tools/python/bin/pip install --quiet --disable-pip-version-check check-jsonschema==0.39.0; } || true

# Write deploy/adit.yaml and deploy/uninstall.yaml anew from the chart.
manifest: _helm
    cd deploy && { cat namespace.yaml; ../target/tools/bin/helm template adit adit --namespace adit-system \
        --kube-version 1.34.0 --no-hooks; } >adit.yaml.new && mv adit.yaml.new adit.yaml
    cd deploy && ../target/tools/bin/helm template adit adit --namespace adit-system \
        --kube-version 1.34.0 --show-only templates/uninstall.yaml >uninstall.yaml.new && mv uninstall.yaml.new uninstall.yaml

_helm:
    [ -x target/tools/bin/helm ] || GOBIN=$PWD/target/tools/bin CGO_ENABLED=0 \
        platform-tests/cluster/cluster.sh go install -trimpath -ldflags "-s -w" helm.sh/helm/v3/cmd/helm@v3.19.4 || true

# A real Kubernetes cluster of two nodes on this machine, with adit's image on them: root, and half an hour the first time.
cluster-up: && cluster-image
    platform-tests/cluster/cluster.sh build all
    platform-tests/cluster/cluster.sh running || platform-tests/cluster/cluster.sh up 2

# adit's image, and its load tool's, built anew and given to the nodes.
cluster-image:
    platform-tests/cluster/adit-images.sh

# The mesh in that cluster, and the same without the mesh.
cluster-test *names: cluster-up
    cargo test --locked -p adit-platform-tests --test cluster_outside --test cluster -- \
        --ignored --test-threads=1 --nocapture --skip network_policy_case {{ names }}

# The mesh in a cluster whose pods have addresses of both IP versions. It replaces the cluster that runs, and is gone afterwards.
cluster-dual-test:
    platform-tests/cluster/cluster.sh build all
    platform-tests/cluster/cluster.sh down --wipe
    IP_FAMILIES=dual platform-tests/cluster/cluster.sh up 2
    platform-tests/cluster/adit-images.sh
    cargo test --locked -p adit-platform-tests --test cluster_dual -- --ignored --test-threads=1 --nocapture
    platform-tests/cluster/cluster.sh down --wipe

# Pods of gVisor's in the mesh of that cluster, which is started anew for it: with a runtime besides, which takes minutes to build.
cluster-gvisor-test:
    platform-tests/cluster/cluster.sh build all
    platform-tests/cluster/cluster.sh build gvisor
    platform-tests/cluster/cluster.sh down
    platform-tests/cluster/cluster.sh up 2
    platform-tests/cluster/adit-images.sh
    cargo test --locked -p adit-platform-tests --test cluster_gvisor -- --ignored --test-threads=1 --nocapture

# cyclonus' NetworkPolicy cases: all of them take hours, those of a tag (`just cluster-suite deny-all`) minutes.
cluster-suite tag="": cluster-up
    platform-tests/cluster/cluster.sh build np
    ADIT_TEST_CYCLONUS={{ tag }} cargo test --locked -p adit-platform-tests --test cluster_outside --test cluster -- \
        --ignored --test-threads=1 --nocapture network_policy_case

# Stop that cluster; what was built stays.
cluster-down:
    platform-tests/cluster/cluster.sh down

# The pure crates have no runtime and no socket in their trees.
purity:
    for crate in {{ pure }}; do \
        if cargo tree --locked -p $crate -e normal --prefix none | grep -E '^(tokio|mio|socket2|rustix|nix) '; then \
            echo "purity: $crate depends on one of the above"; exit 1; \
        fi; \
    done

# Each fuzz target for a few seconds, from its corpus.
fuzz-smoke seconds="10":
    fuzz/smoke {{ seconds }}

# Dependencies: licences, bans, duplicates, sources. The unit tests check the first three of deny.toml without this tool,
# which takes minutes to build.
deny:
    command -v cargo-deny >/dev/null || cargo install --quiet --locked --root target/tools cargo-deny
    cargo deny --locked check bans licenses sources

# Benchmarks against a direct path in the same run; prints ratios, and leaves a page in target/bench.
bench *args: _bench-build
    target/tools/adit-bench --json target/bench/performance/hosts.json {{ args }}
    target/tools/adit-bench page --docs target/bench

# The node path between pods of the cluster, forwarded and in tunnels, beside pods outside the mesh.
bench-cluster *args: cluster-up _bench-build
    target/tools/adit-bench --cluster --json target/bench/performance/cluster.json {{ args }}
    target/tools/adit-bench page --docs target/bench

# The same with one packet of a hundred lost between the hosts, on every path.
bench-loss *args: _bench-build
    target/tools/adit-bench --loss 1 --json target/bench/performance/loss.json {{ args }}
    target/tools/adit-bench page --docs target/bench

# `just bench` with half of the processors for each of the two hosts.
bench-apart *args: _bench-build
    target/tools/adit-bench --apart --json target/bench/performance/apart.json {{ args }}
    target/tools/adit-bench page --docs target/bench

# Full load on two agents for so many seconds, and whether their memory stays flat.
bench-soak seconds="3600": _bench-build
    target/tools/adit-bench --soak {{ seconds }} --json target/bench/performance/soak.json
    target/tools/adit-bench page --docs target/bench

# Measure all that, but for the cluster, and write docs/performance.md of it: a quiet machine for two hours. What
# `just bench-cluster` has found before is on the page, too.
performance: bench bench-apart bench-loss bench-soak
    mkdir -p docs/performance
    cp target/bench/performance/*.json docs/performance/
    target/tools/adit-bench page

_bench-build: static
    cargo build --locked --profile tools -p adit-platform-tests

# What single calls of the data path cost, in instructions, held to a baseline; `--update` writes it anew.
instructions *args:
    cargo build --locked --release -p adit-instructions
    target/release/adit-instructions {{ args }}

# Benchmarks of single crates: netstack, tunnel, policy.
microbench:
    cargo bench --locked -p adit-netstack -p adit-tunnel -p adit-policy

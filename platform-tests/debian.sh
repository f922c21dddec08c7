# Debian packages, of this machine and of other suites, and how scripts say what they do. Sourced; ROOT is the state folder.

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

STARTED=$EPOCHREALTIME
say() { printf '[%5.1f s] %s\n' "$(awk -v now="$EPOCHREALTIME" -v then="$STARTED" 'BEGIN{print now-then}')" "$*"; }

# show_and_die LOG TEXT: the end of the log first, so that the reason is on the screen.
show_and_die() {
    tail -n 8 "$1" >&2 || true
    die "$2; the log is $1"
}

# need PACKAGE...: installs the Debian packages that are missing.
need() {
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f='${Status}\n' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    require_root
    say "installing ${missing[*]}"
    # RUNLEVEL=1: nothing among them is started as a service.
    { apt-get -q update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get -q install -y --no-install-recommends "${missing[@]}"; } >"$ROOT/apt.log" 2>&1 ||
        show_and_die "$ROOT/apt.log" "apt-get couldn't install ${missing[*]}"
}

# The main Debian archive that this machine's apt is configured with: by its origin or, without lists, by its path.
debian_mirror() {
    local mirror=${DEBIAN_MIRROR:-}
    [ -n "$mirror" ] || mirror=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
        awk -F'|' '(($1=="Debian" && $2=="Debian") || $3 ~ /\/debian\/?$/) && !found {found=$3} END{print found}')
    [ -n "$mirror" ] || die "no Debian archive in this machine's apt configuration; set DEBIAN_MIRROR"
    echo "$mirror"
}

# suite_apt SUITE apt-get ARGUMENT...: apt of another suite, with state of its own; nothing is installed.
suite_apt() {
    local suite=$1 tool=$2 folder=$ROOT/apt/$1 options
    shift 2
    mkdir -p "$folder"/{parts,prefs,state/lists/partial,cache/archives/partial}
    touch "$folder/state/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) $suite main" >"$folder/sources.list"
    options=(-o Dir::Etc::sourcelist="$folder/sources.list" -o Dir::Etc::sourceparts="$folder/parts"
        -o Dir::Etc::preferencesparts="$folder/prefs" -o Dir::State="$folder/state"
        -o Dir::State::status="$folder/state/status" -o Dir::Cache="$folder/cache"
        -o APT::Sandbox::User=root -o Acquire::Languages=none)
    if [ ! -f "$folder/updated" ]; then
        apt-get "${options[@]}" -q update >"$folder/update.log" 2>&1 ||
            show_and_die "$folder/update.log" "the package lists of Debian $suite can't be fetched"
        touch "$folder/updated"
    fi
    "$tool" "${options[@]}" -q "$@"
}

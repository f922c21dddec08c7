#!/usr/bin/env bash
# Debian suites as virtual machines: the suite's own kernel, modules and user space, under qemu.
#
#   vm.sh prepare SUITE                             fetch and make kernel, initrd and disk; once, a minute
#   vm.sh run SUITE FOLDER RESULTS [PARAMETER...]   boot it with FOLDER as /payload and these kernel parameters; /payload/run
#                                                   runs there as root, what it writes to /dev/ttyS1 is in RESULTS
#
# Ends with the status of /payload/run, or with 3 if the machine didn't get so far. Changes on the disk are thrown away.
# Emulated (TCG), so that it works wherever qemu does: in containers and in virtual machines without nested ones, too.
# State: $ADIT_MATRIX_DIR (default ~/.cache/adit-matrix). Others: DEBIAN_MIRROR, VM_SECONDS (the longest that a run may
# take, 900).
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=${ADIT_MATRIX_DIR:-$HOME/.cache/adit-matrix}
mkdir -p "$ROOT"
. "$HERE/../debian.sh"

PACKAGES=(qemu-system-x86 debootstrap debian-archive-keyring busybox-static kmod cpio e2fsprogs xz-utils zstd)
# In the root file system, besides what every Debian has.
INSIDE=kmod,iproute2,procps

require_root() { [ "$(id -u)" = 0 ] || die "'$verb' needs root: it makes a root file system"; }

usage() { sed -n '2,/^set /{/^#/!d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

# The suite's kernel package: the one for virtual machines, which is small.
kernel() {
    local suite=$1 work=$2 image packages package
    image=$(suite_apt "$suite" apt-cache depends linux-image-cloud-amd64 |
        awk '/Depends: linux-image-[0-9]/ && !found {found=$2} END{print found}')
    [ -n "$image" ] || die "Debian $suite has no linux-image-cloud-amd64"
    # Newer suites have the kernel and its modules in packages of their own.
    packages=$(suite_apt "$suite" apt-cache depends "$image" | awk '/Depends: linux-(binary|modules)-[0-9]/ {print $2}')
    (cd "$work/packages" && suite_apt "$suite" apt-get download ${packages:-$image} >"$work/../apt.log" 2>&1) ||
        show_and_die "$work/../apt.log" "$image can't be fetched"
    for package in "$work"/packages/*.deb; do dpkg-deb -x "$package" "$work/kernel"; done
}

# What finds the disk and goes on from there: busybox, and the modules of the disk in the order of their dependencies.
initrd() {
    local work=$1 version=$2 module file
    for module in virtio_pci virtio_blk ext4 crc32c_generic; do
        modprobe -d "$work/root" -S "$version" --show-depends "$module" 2>/dev/null | awk '/^insmod/ {print $2}' || true
    done | awk '!seen[$0]++' | while read -r file; do
        module=$(basename "$file")
        case $file in
        *.xz) xz -dc "$file" >"$work/initrd/modules/${module%.xz}" ;;
        *.zst) zstd -qdc "$file" >"$work/initrd/modules/${module%.zst}" ;;
        *) cp "$file" "$work/initrd/modules/$module" ;;
        esac
        module=${module%.xz}
        echo "${module%.zst}" >>"$work/initrd/modules/list"
    done
    cp /bin/busybox "$work/initrd/bin/"
    install -m 755 "$HERE/initrd-init.sh" "$work/initrd/init"
}

prepare() {
    local suite=$1 folder=$ROOT/$1 work=$ROOT/$1/work modules
    [ ! -f "$folder/ready" ] || return 0
    require_root
    need "${PACKAGES[@]}"
    rm -rf "$folder"
    mkdir -p "$work"/{packages,kernel,initrd/{bin,proc,sys,dev,mnt,modules}}
    say "$suite: kernel"
    kernel "$suite" "$work"
    cp "$(find "$work/kernel" -name 'vmlinuz*' -type f | head -n 1)" "$folder/vmlinuz"
    modules=$(find "$work/kernel" -type d -path '*lib/modules/*' -prune | head -n 1)
    say "$suite: root file system"
    debootstrap --variant=minbase --include="$INSIDE" "$suite" "$work/root" "$(debian_mirror)" \
        >"$folder/debootstrap.log" 2>&1 || show_and_die "$folder/debootstrap.log" "debootstrap of $suite failed"
    rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
    mkdir -p "$work/root/payload" "$work/root/lib/modules"
    cp -a "$modules" "$work/root/lib/modules/"
    depmod -b "$work/root" "$(basename "$modules")"
    say "$suite: initrd and disk"
    initrd "$work" "$(basename "$modules")"
    (cd "$work/initrd" && find . | cpio -o -H newc 2>/dev/null | gzip -1 >"$folder/initrd.gz")
    # Without what old kernels don't know.
    mke2fs -q -t ext4 -O ^metadata_csum,^orphan_file -d "$work/root" "$folder/disk.img" 900M >"$folder/mke2fs.log" 2>&1 ||
        mke2fs -q -t ext4 -O ^metadata_csum -d "$work/root" "$folder/disk.img" 900M >"$folder/mke2fs.log" 2>&1 ||
        show_and_die "$folder/mke2fs.log" "the disk of $suite can't be made"
    rm -rf "$work"
    touch "$folder/ready"
}

run() {
    local suite=$1 payload=$2 results=$3 folder=$ROOT/$1 scratch status
    shift 3
    [ -f "$folder/ready" ] || die "'$suite' isn't prepared: vm.sh prepare $suite"
    scratch=$(mktemp -d "$ROOT/run.XXXX")
    trap 'rm -rf "$scratch"' EXIT
    mkdir "$scratch/payload"
    cp "$payload"/* "$scratch/payload/"
    install -m 755 "$HERE/init.sh" "$scratch/payload/.init"
    # The kernel unpacks one archive after the other. The first isn't compressed: the emulated machine is slow. And it is
    # the first, since one that isn't compressed has to begin at a multiple of four bytes.
    (cd "$scratch" && find payload | cpio -o -H newc 2>/dev/null >initrd && cat "$folder/initrd.gz" >>initrd)
    TMPDIR=$scratch timeout "${VM_SECONDS:-900}" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp 2 \
        -m 1536 -no-reboot -nographic -nodefaults -serial stdio -serial "file:$scratch/results" \
        -kernel "$folder/vmlinuz" -initrd "$scratch/initrd" \
        -drive "file=$folder/disk.img,if=virtio,format=raw,snapshot=on" \
        -append "console=ttyS0 panic=-1 quiet $*" </dev/null >"$scratch/console" 2>&1 || true
    tr -d '\r' <"$scratch/results" >"$results" 2>/dev/null || true
    tr -d '\r' <"$scratch/console" >"$folder/console.log"
    status=$(awk '/^VM-STATUS/ {print $2}' "$folder/console.log")
    [ -n "$status" ] || {
        tail -n 8 "$folder/console.log" >&2
        echo "vm.sh: $suite didn't come to its end within ${VM_SECONDS:-900} s; its console is $folder/console.log" >&2
        exit 3
    }
    exit "$status"
}

verb=${1:-help}
shift || true
case $verb in
prepare)
    (($# == 1)) || die "expected: prepare SUITE"
    exec 9>"$ROOT/$1.lock"
    flock 9
    prepare "$1"
    ;;
run)
    (($# >= 3)) || die "expected: run SUITE FOLDER RESULTS [PARAMETER...]"
    run "$@"
    ;;
help | -h | --help) usage ;;
*)
    usage >&2
    exit 2
    ;;
esac

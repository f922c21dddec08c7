# Images without a daemon and without a registry: folders packed by packaging/oci-image.py. Sourced by cluster.sh.

AGNHOST_IMAGE=localhost/e2e-test-images/agnhost:2.43 # the name that cyclonus asks for with --image-registry localhost

image_file() { echo "$IMAGES/$(tr '/:' '__' <<<"$1").tar"; }

# pack NAME:TAG FOLDER ENTRYPOINT_JSON
pack() {
    local architecture
    architecture=$(dpkg --print-architecture)
    python3 "$HERE/../../packaging/oci-image.py" "$(image_file "$1")" "$1" "linux/$architecture=$2" --entrypoint "$3" ||
        die "packing the image $1 from $2 failed"
}

# Nodes that run take it at once; those of a later up find it in $IMAGES.
import_now() {
    local node
    for node in $(nodes); do
        in_node "$node" ctr -n k8s.io images import "$1" >"$ROOT/import.log" 2>&1 ||
            show_and_die "$ROOT/import.log" "$node couldn't import $1"
    done
}

# image NAME:TAG FOLDER [ENTRYPOINT_JSON]
image() {
    (($# >= 2)) && [[ $1 == *:* ]] || die "expected: image NAME:TAG FOLDER [ENTRYPOINT_JSON]"
    [ -d "$2" ] || die "the folder $2 of image $1 doesn't exist"
    pack "$1" "$2" "${3:-[]}"
    import_now "$(image_file "$1")"
    say "$1: $(stat -c %s "$(image_file "$1")") bytes, on: $(nodes | xargs)"
}

# A folder with busybox, /tmp and root: enough for a shell in a pod.
busybox_folder() {
    local name
    mkdir -p "$1"/{bin,tmp,etc}
    chmod 1777 "$1/tmp"
    cp /bin/busybox "$1/bin/"
    for name in $(/bin/busybox --list); do [ "$name" = busybox ] || ln -sf busybox "$1/bin/$name"; done
    echo 'root:x:0:0:root:/root:/bin/sh' >"$1/etc/passwd"
}

# with_libraries PROGRAM FOLDER: the program and every library that it is linked with, at the same paths.
with_libraries() {
    local file
    for file in "$1" $(ldd "$1" | grep -oE '/[^ ]+'); do install -D "$file" "$2$file"; done
}

build_images() {
    local folder=$ROOT/image-folder
    has_image localhost/pause:1 || {
        fresh "$folder"
        # A shell as init also reaps orphans.
        image localhost/pause:1 "$folder" '["/bin/sh", "-c", "trap exit TERM INT; while :; do sleep 86400 & wait; done"]'
    }
    has_image localhost/busybox:1 || {
        fresh "$folder"
        image localhost/busybox:1 "$folder"
    }
    has_image "$AGNHOST_IMAGE" || {
        fresh "$folder"
        cp "$BIN/agnhost" "$folder/agnhost"
        image "$AGNHOST_IMAGE" "$folder" '["/agnhost"]'
    }
    has_image localhost/redis:1 || {
        fresh "$folder"
        with_libraries "$(command -v redis-server)" "$folder"
        with_libraries "$(command -v redis-cli)" "$folder"
        image localhost/redis:1 "$folder"
    }
    rm -rf "$folder"
}

has_image() { [ -f "$(image_file "$1")" ]; }

fresh() {
    rm -rf "$1"
    busybox_folder "$1"
}

#!/usr/bin/env python3
"""image.py OUT.tar NAME:TAG FOLDER ENTRYPOINT_JSON

Writes a docker-archive image with one layer: the folder's content, owned by root, without times, so that the same
folder gives the same bytes.
"""
import hashlib
import io
import json
import os
import platform
import sys
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def without_owner_and_time(info):
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    return info


def layer_of(folder):
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name in sorted(os.listdir(folder)):
            tar.add(os.path.join(folder, name), arcname=name, filter=without_owner_and_time)
    return layer.getvalue()


def config_of(layer, entrypoint):
    return json.dumps({
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "history": [{"created_by": "image.py"}],
        "config": {
            "Entrypoint": entrypoint or None,
            "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }).encode()


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    out, name, folder, entrypoint = sys.argv[1:]
    layer = layer_of(folder)
    config = config_of(layer, json.loads(entrypoint))
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    # Renamed when it is whole: a node may be reading the old one.
    with tarfile.open(out + ".new", "w") as tar:
        for member, data in ((config_name, config), ("layer.tar", layer), ("manifest.json", manifest)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    os.rename(out + ".new", out)


main()

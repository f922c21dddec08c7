#!/usr/bin/env python3
"""Packs folders as a container image, without a daemon: an OCI image layout in a tar.

One layer for each platform, with the folder's content, owned by root and without times. Several platforms become one image
index, which a runtime chooses from. The same folders give the same bytes.

`ctr images import`, `podman load`, `skopeo copy oci-archive:` and `docker load` (from version 25 on) read it.
"""
import argparse
import datetime
import gzip
import hashlib
import io
import json
import os
import sys
import tarfile

OCI = "application/vnd.oci.image."


class Layout:
    """The blobs of an image layout, by digest."""

    def __init__(self):
        self.blobs = {}

    def add(self, media_type, data):
        """Stores `data` and returns its descriptor."""
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}

    def add_json(self, media_type, value):
        return self.add(media_type, as_json(value))

    def write(self, path, index):
        # Renamed when it is whole: somebody may be reading the old one.
        with tarfile.open(path + ".new", "w") as tar:
            add_file(tar, "oci-layout", as_json({"imageLayoutVersion": "1.0.0"}))
            add_file(tar, "index.json", as_json(index))
            for digest, data in sorted(self.blobs.items()):
                add_file(tar, "blobs/sha256/" + digest, data)
        os.rename(path + ".new", path)


def as_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def add_file(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def without_owner_and_time(info):
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    return info


def tar_of(folder):
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name in sorted(os.listdir(folder)):
            tar.add(os.path.join(folder, name), arcname=name, filter=without_owner_and_time)
    return layer.getvalue()


def add_image(layout, platform, folder, options):
    """Stores the image of one platform and returns its manifest's descriptor."""
    system, architecture = platform.split("/")
    plain = tar_of(folder)
    if options.gzip:
        layer = layout.add(OCI + "layer.v1.tar+gzip", gzip.compress(plain, 9, mtime=0))
    else:
        layer = layout.add(OCI + "layer.v1.tar", plain)
    about = {
        "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
        "WorkingDir": "/",
        "Labels": options.label,
        "User": options.user,
        "Entrypoint": options.entrypoint,
    }
    config = {
        "architecture": architecture,
        "os": system,
        "config": {key: value for key, value in about.items() if value},
        "history": [{"created_by": "oci-image.py"}],
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(plain).hexdigest()]},
    }
    if options.created:
        config["created"] = options.created
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI + "manifest.v1+json",
        "config": layout.add_json(OCI + "config.v1+json", config),
        "layers": [layer],
    }
    if options.label:
        manifest["annotations"] = options.label
    found = layout.add_json(OCI + "manifest.v1+json", manifest)
    return found | {"platform": {"architecture": architecture, "os": system}}


def full_name(name):
    """As runtimes keep it: a name without a host is Docker Hub's."""
    first, slash, _ = name.partition("/")
    has_host = slash and ("." in first or ":" in first or first == "localhost")
    if has_host:
        return name
    return "docker.io/" + (name if slash else "library/" + name)


def index_of(layout, name, images):
    annotations = {
        "io.containerd.image.name": full_name(name),
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    index = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json"}
    if len(images) > 1:
        images = [layout.add_json(OCI + "index.v1+json", index | {"manifests": images})]
    return index | {"manifests": [images[0] | {"annotations": annotations}]}


def pair(text):
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    return key, value


def image_name(text):
    if ":" not in text.rpartition("/")[2]:
        raise argparse.ArgumentTypeError(f"expected NAME:TAG, got {text!r}")
    return text


def platform_folder(text):
    platform, folder = pair(text)
    if platform.count("/") != 1 or not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(f"expected OS/ARCHITECTURE=FOLDER with a folder that exists, got {text!r}")
    return platform, folder


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT.tar")
    parser.add_argument("name", metavar="NAME:TAG", type=image_name)
    parser.add_argument("platforms", metavar="OS/ARCHITECTURE=FOLDER", nargs="+", type=platform_folder)
    parser.add_argument("--entrypoint", metavar="JSON", type=json.loads, default=[], help="a list of words")
    parser.add_argument("--user", metavar="UID[:GID]", help="a number: there may be no /etc/passwd")
    parser.add_argument("--label", metavar="KEY=VALUE", type=pair, action="append", default=[])
    parser.add_argument("--gzip", action="store_true", help="compress the layers: smaller, and slower to make")
    options = parser.parse_args(arguments)
    options.label = dict(options.label)
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = epoch and datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc)
    options.created = moment and moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    return options


def main():
    options = parse(sys.argv[1:])
    layout = Layout()
    images = [add_image(layout, platform, folder, options) for platform, folder in sorted(options.platforms)]
    layout.write(options.out, index_of(layout, options.name, images))


main()

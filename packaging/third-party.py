#!/usr/bin/env python3
"""third-party.py TARGET...

Prints the crates that are linked into adit for these targets, each with its licence and the texts that its author put beside
it. Texts that several crates have in common are printed once.
"""
import collections
import json
import os
import subprocess
import sys

NAMES = ("LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE")


def linked(metadata):
    """The packages that adit-agent is linked with: neither build scripts' nor tests', and none of this workspace."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    todo = [package["id"] for package in metadata["packages"] if package["name"] == "adit-agent"]
    seen = set(todo)
    while todo:
        for dependency in nodes[todo.pop()]["deps"]:
            normal = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if normal and dependency["pkg"] not in seen and not is_macro(packages[dependency["pkg"]]):
                seen.add(dependency["pkg"])
                todo.append(dependency["pkg"])
    found = [packages[package] for package in seen if packages[package]["source"]]
    return sorted(found, key=lambda package: (package["name"], package["version"]))


def is_macro(package):
    return any("proc-macro" in target["kind"] for target in package["targets"])


def texts(package):
    folder = os.path.dirname(package["manifest_path"])
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.upper().startswith(NAMES) and os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                yield file.read().strip()


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    command = ["cargo", "metadata", "--locked", "--format-version=1"]
    for target in sys.argv[1:]:
        command += ["--filter-platform", target]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    users = collections.defaultdict(list)
    print("What is linked into adit: name, version, licence.\n")
    for package in linked(metadata):
        name = f"{package['name']} {package['version']}"
        print(f"{name}  {package['license'] or 'see its text'}")
        for text in texts(package):
            users[text].append(name)
    print("rust-std  MIT OR Apache-2.0\nGNU C library  LGPL-2.1-or-later")
    for text, names in users.items():
        print(f"\n{'=' * 80}\n{', '.join(dict.fromkeys(names))}\n{'-' * 80}\n{text}")


main()

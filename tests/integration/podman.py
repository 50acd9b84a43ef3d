"""A real container engine with a store of its own, and a base for images that comes from no registry of images."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from ast import literal_eval
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.integration.proxy import SOURCES

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tproxy-tests"
DOCKERFILE = SOURCES / "Dockerfile"
BASE = "localhost/base"

# Like the public base: the same release of Debian, a Python with venv, and no bytecode.
MAKE_BASE = """
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates {suite} root
rm -rf root/usr/share/doc/* root/usr/share/man/* root/usr/share/locale/* root/var/cache/apt/* root/var/lib/apt/lists/*
find root -name __pycache__ -prune -exec rm -r {{}} +
tar -C root -cf base.tar .
"""

# crun knows cgroups of version 2 alone. They, and the mounts of the store, are seen by the command and what it starts.
ALONE = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'

# What Kubernetes makes of the Deployment's security context. The limits are such as any root may set.
RESTRICTED = (
    "--read-only",
    "--read-only-tmpfs=false",
    "--tmpfs=/tmp",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--network=host",
    "--cgroups=disabled",
    "--log-driver=none",
    "--ulimit=nofile=1024:4096",
    "--ulimit=nproc=1024:1024",
)


def missing() -> str | None:
    """Why no image can be built and run on this machine, if so."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "an image is built and run here by root, on Linux"
    for program in ("podman", "crun", "debootstrap"):
        if not shutil.which(program):
            return f"there is no {program}: apt-get install {program}"
    made = subprocess.run(["unshare", "--mount", "sh", "-c", ALONE, "sh", "true"], capture_output=True)
    return "this machine allows no mount namespaces" if made.returncode else None


def base() -> Path:
    """The root file system that stands in for the public base: made when first asked for, and kept outside the tree."""
    suite = re.search(r"^ARG BASE=\S+-slim-([a-z]+)$", DOCKERFILE.read_text(), re.MULTILINE)[1]
    make = MAKE_BASE.format(suite=suite)
    kept = CACHE / f"{suite}-{sha256(make.encode()).hexdigest()[:8]}.tar"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as draft:
            subprocess.run(["sh", "-e", "-c", make], cwd=draft, check=True, stdout=subprocess.DEVNULL)
            Path(draft, "base.tar").rename(kept)
    return kept


def pip_settings() -> dict[str, str]:
    """How pip reaches its index on this machine."""
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings: dict[str, str] = {}
    for line in sorted(said.stdout.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = literal_eval(value)
    wanted = ("index-url", "extra-index-url", "trusted-host", "proxy", "cert", "default-timeout")
    return {name: settings[name] for name in wanted if name in settings}


class Podman:
    """The engine: images and containers are in a folder of its own, until `end`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tproxy-podman-"))
        self.folder.chmod(0o755)

    def command(self, *words: str | Path) -> list[str | Path]:
        """The command line for what podman is told with these words."""
        store = (f"--root={self.folder / 'root'}", f"--runroot={self.folder / 'run'}", "--cgroup-manager=cgroupfs")
        return ["/usr/bin/unshare", "--mount", "sh", "-c", ALONE, "sh", "podman", *store, *words]

    def run(self, *words: str | Path) -> str:
        """What podman says, when told these words."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True)
        if done.returncode:
            raise AssertionError(f"podman {words[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def load_base(self) -> None:
        """Have the base as an image."""
        self.run("import", "--quiet", base(), BASE)

    def pip_files(self) -> dict[str, Path]:
        """What pip needs in a build to reach its index as here, by the names of the guide's secrets."""
        settings = pip_settings()
        files = {"pip.conf": self.folder / "pip.conf"}
        if "cert" in settings:
            files["ca.pem"] = Path(settings["cert"])
            settings["cert"] = "/run/secrets/ca.pem"
        lines = (f"{name} = {value}\n" for name, value in settings.items())
        files["pip.conf"].write_text("".join(("[global]\n", *lines)))
        return files

    def build(self, tag: str, context: Path, *options: str) -> None:
        """Build an image."""
        where = ("--isolation=chroot", "--network=host", "--pull=never", "--layers=false")
        self.run("build", *where, *options, f"--tag={tag}", context)

    def restricted(self, tag: str, *words: str, options: tuple[str, ...] = ()) -> list[str | Path]:
        """The command line that runs an image as Kubernetes does."""
        return self.command("run", "--rm", "--pull=never", *RESTRICTED, *options, tag, *words)

    def call(self, tag: str, *words: str, options: tuple[str, ...] = ()) -> str:
        """What a program of the image says, on both streams, when run to its end; that is a success."""
        command = self.restricted(tag, *words, options=options)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise AssertionError(f"{words} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def image(self, tag: str) -> dict[str, Any]:
        """What is known of an image."""
        return json.loads(self.run("image", "inspect", tag))[0]

    def end(self) -> None:
        """End what still runs, and remove all that was made."""
        self.run("rm", "--all", "--force", "--time=0")
        shutil.rmtree(self.folder)

"""The programs that a real cluster is made of: built from Go modules, once, into a folder outside the tree.

`python -m tests.integration.kubernetes.programs` (`make assets`) builds those that are not there yet.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from fcntl import LOCK_EX, flock
from hashlib import sha256
from pathlib import Path

from attrs import frozen

from tests.integration.kubernetes.network import PATH

MODULE = Path(__file__).parent / "assets"
CYCLONUS = MODULE / "cyclonus"


@frozen
class Program:
    """A program, and the Go package that it is built from, in one of the modules here."""

    name: str
    package: str
    module: Path = MODULE


PROGRAMS = (
    Program("etcd", "go.etcd.io/etcd/server/v3"),
    Program("coredns", "."),
    *(
        Program(name, f"k8s.io/kubernetes/cmd/{name}")
        for name in ("kubectl", "kube-proxy", "kube-controller-manager", "kube-apiserver")
    ),
    Program("cyclonus", "github.com/mattfenwick/cyclonus/cmd/cyclonus", CYCLONUS),
)


def _version() -> str:
    return re.search(r"^\tk8s\.io/kubernetes (\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)[1]


def _folder() -> Path:
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if given:
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    sources = (MODULE / "go.mod", MODULE / "main.go", CYCLONUS / "go.mod")
    digest = sha256(b"".join(each.read_bytes() for each in sources)).hexdigest()[:8]
    return cache / "tproxy" / f"kubernetes-{_version()}-{digest}"


FOLDER = _folder()


def _host() -> str | None:
    """Why no cluster can run on this machine, if so."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "a cluster in network namespaces needs Linux and root"
    for program, package in (("ip", "iproute2"), ("nft", "nftables")):
        if not shutil.which(program, path=PATH):
            return f"there is no {program}: apt-get install {package}"
    made = subprocess.run(["unshare", "--net", "true"], capture_output=True)
    return "this machine allows no network namespaces" if made.returncode else None


def _go() -> bool:
    """Whether there is a Go that understands the modules; newer ones than 1.20 get the version that they ask for."""
    if not shutil.which("go"):
        return False
    said = subprocess.run(["go", "version"], cwd=MODULE, capture_output=True, text=True).stdout
    version = re.search(r"\bgo1\.(\d+)", said)
    return version is not None and int(version[1]) >= 26


def _absent() -> list[Program]:
    return [program for program in PROGRAMS if not (FOLDER / program.name).exists()]


def missing() -> str | None:
    """Why the tests that need a cluster can't run, if so."""
    absent = " ".join(program.name for program in _absent())
    return _host() or (f"{FOLDER} has no {absent}: install Go 1.26, then make assets" if absent else None)


def _build(program: Program) -> None:
    print(f"Building {program.name} into {FOLDER}", flush=True)
    draft = FOLDER / f".{program.name}.draft"
    flags = f"-s -w -X k8s.io/component-base/version.gitVersion={_version()}"
    subprocess.run(
        ["go", "build", "-ldflags", flags, "-o", draft, program.package],
        cwd=program.module,
        env={**os.environ, "CGO_ENABLED": "0"},
        check=True,
    )
    draft.rename(FOLDER / program.name)


def main() -> str | None:
    """Build what is missing; returns what went wrong. Where no cluster could run, or without Go, nothing is built."""
    if not _absent():
        return None
    reason = _host() or (None if _go() else "there is no Go 1.26 to build one with")
    if reason:
        print(f"The tests on a cluster are skipped: {reason}")
        return None
    os.nice(19)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock:
        flock(lock, LOCK_EX)
        try:
            for program in _absent():
                _build(program)
        except subprocess.CalledProcessError as error:
            return f"{error.cmd[-1]} was not built: go ended with status {error.returncode}"
    return None


if __name__ == "__main__":
    sys.exit(main())

"""The programs of the cluster are built once, and whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import tests
from tests.integration.kubernetes.programs import PROGRAMS, missing

# Fails with the program that is to be BROKEN, half way through.
GO = """#!/bin/sh
case $1 in
    version) echo "go version go1.26.0 linux/amd64" ;;
    build)
        echo "$CGO_ENABLED" > "$5"
        [ "${6##*/}" != "$BROKEN" ]
esac
"""


class ProgramsTests(SynchronousTestCase):
    """`make assets`, with a Go that only pretends to build."""

    skip = missing()

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.assets = self.folder / "assets"
        self.folder.mkdir()
        go = self.folder / "go"
        go.write_text(GO)
        go.chmod(0o755)

    def make(self, broken: str = "") -> subprocess.CompletedProcess[str]:
        env = {
            **os.environ,
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "PYTHONPATH": os.fspath(Path(tests.__file__).parent.parent),
            "KUBEBUILDER_ASSETS": os.fspath(self.assets),
            "BROKEN": broken,
        }
        command = [sys.executable, "-m", "tests.integration.kubernetes.programs"]
        return subprocess.run(command, env=env, capture_output=True, text=True)

    def built(self) -> set[str]:
        return {path.name for path in self.assets.iterdir() if not path.name.startswith(".")}

    def test_all(self):
        """All are built where KUBEBUILDER_ASSETS says, without C; then there is nothing to do, and nothing is said."""
        self.assertEqual(0, self.make().returncode)
        self.assertEqual({program.name for program in PROGRAMS}, self.built())
        self.assertEqual("0\n", (self.assets / "etcd").read_text())
        again = self.make("etcd")
        self.assertEqual((0, "", ""), (again.returncode, again.stdout, again.stderr))

    def test_failed(self):
        """A build that fails is said, and leaves no half program; the next time it goes on from there."""
        failed = self.make("kube-proxy")
        self.assertEqual(1, failed.returncode)
        self.assertEqual("k8s.io/kubernetes/cmd/kube-proxy was not built: go ended with status 1\n", failed.stderr)
        self.assertEqual({"etcd", "coredns", "kubectl"}, self.built())
        (self.assets / "etcd").write_text("kept")
        self.assertEqual(0, self.make().returncode)
        self.assertEqual({program.name for program in PROGRAMS}, self.built())
        self.assertEqual("kept", (self.assets / "etcd").read_text())

    def test_no_go(self):
        """Without Go, or with one too old, nothing is built, and the reason is said."""
        (self.folder / "go").write_text('#!/bin/sh\necho "go version go1.19.8 linux/amd64"\n')
        done = self.make()
        self.assertEqual((0, ""), (done.returncode, done.stderr))
        said = "The tests on a cluster are skipped: there is no Go 1.26 to build one with\n"
        self.assertEqual(said, done.stdout)
        self.assertFalse(self.assets.exists())

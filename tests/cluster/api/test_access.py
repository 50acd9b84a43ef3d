"""Credentials of a pod."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.logs import logged
from tproxy.cluster.api import access
from tproxy.cluster.api.access import FILE_LIMIT, FILE_SECONDS, Access, in_cluster
from tproxy.config import ConfigError
from tproxy.model import Secret, Trust
from tproxy.testing.certificates import Authority

ENVIRON = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
ONE, TWO = (Authority.create().pem for _ in range(2))


class InClusterTests(SynchronousTestCase):
    """What a pod finds."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        for name, text in (("token", "first\n"), ("ca.crt", ONE), ("namespace", "mail\n")):
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def load(self, environ: dict[str, str] = ENVIRON) -> Access:
        return in_cluster(environ, self.clock, self.folder)

    def test_reads(self) -> None:
        """Address, authorities, token, namespace."""
        found = self.load()
        self.assertEqual((found.host, found.port, found.namespace, found.path), ("10.96.0.1", 443, "mail", ""))
        self.assertEqual((found.trust(), found.token(False)), (Trust((ONE,)), Secret("first")))
        self.assertNotIn("first", repr(found))

    def test_rotation(self) -> None:
        """A new token is seen after a minute at most, and at once when the old one was refused; authorities, too."""
        found = self.load()
        self.write("token", "second")
        self.write("ca.crt", TWO)
        self.clock.advance(FILE_SECONDS - 1)
        self.assertEqual((found.token(False), found.trust()), (Secret("first"), Trust((ONE,))))
        self.assertEqual(found.token(True), Secret("second"))
        self.clock.advance(1)
        self.assertEqual(found.trust(), Trust((TWO,)))
        self.write("token", "third")
        self.clock.advance(FILE_SECONDS - 1)
        self.assertEqual(found.token(False), Secret("third"))

    def test_unreadable_later(self) -> None:
        """What cannot be read any more stays in force, and that is said once a minute."""
        found = self.load()
        with logged(access.log) as logs:
            for text in ("", "two words", "\u00fc", None):
                if text is None:
                    (self.folder / "token").unlink()
                else:
                    self.write("token", text)
                self.clock.advance(FILE_SECONDS)
                for _ in range(3):
                    self.assertEqual(found.token(False), Secret("first"))
        self.assertEqual([event["event"] for event in logs], ["kubernetes.credentials"] * 4)
        self.assertEqual({event["file"] for event in logs}, {str(self.folder / "token")})
        self.assertNotIn("words", str(logs))

    def test_no_pod(self) -> None:
        """Outside of a pod, or in one without a service account."""
        for change in (
            {"KUBERNETES_SERVICE_HOST": ""},
            {"KUBERNETES_SERVICE_PORT": ""},
            {"KUBERNETES_SERVICE_PORT": "0"},
            {"KUBERNETES_SERVICE_PORT": "65536"},
            {"KUBERNETES_SERVICE_PORT": "1" * 5000},
            {"KUBERNETES_SERVICE_PORT": "tcp://10.96.0.1:443"},
            {"KUBERNETES_SERVICE_PORT": "\u0664\u0664\u0663"},
        ):
            error = self.assertRaises(ConfigError, self.load, ENVIRON | change)
            self.assertIn("KUBERNETES_SERVICE_HOST", str(error))
        for name, texts in (("token", ("", "a b")), ("ca.crt", ("", "no")), ("namespace", ("", "\u00fc"))):
            before = (self.folder / name).read_text()
            for text in texts:
                self.write(name, text)
                self.assertIn(name, str(self.assertRaises(ConfigError, self.load)))
            (self.folder / name).unlink()
            self.assertIn(name, str(self.assertRaises(ConfigError, self.load)))
            self.write(name, before)

    def test_bounded(self) -> None:
        """No more of a file is read than a token can be."""
        self.write("token", "x" * FILE_LIMIT + "y")
        token = self.load().token(False)
        self.assertEqual(len(token.reveal()), FILE_LIMIT)

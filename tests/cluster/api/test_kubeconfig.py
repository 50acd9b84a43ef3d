"""Kubeconfigs, read by the official client's loader."""

from __future__ import annotations

import sys
from base64 import b64encode
from pathlib import Path
from typing import Any, ClassVar

import yaml
from twisted.trial.unittest import SynchronousTestCase
from twisted.trial.util import suppress

from tproxy.cluster.api.access import Access
from tproxy.cluster.api.kubeconfig import kubeconfig
from tproxy.config import ConfigError
from tproxy.model import Secret, Trust
from tproxy.testing.certificates import Authority

AUTHORITY = Authority.create()
CERTIFICATE = AUTHORITY.issue("somebody")


def data(text: str) -> str:
    return b64encode(text.encode()).decode()


CLUSTER = {"server": "https://10.0.0.1:6443", "certificate-authority-data": data(AUTHORITY.pem)}
TOKEN = {"token": "s3cret"}


class KubeconfigTests(SynchronousTestCase):
    """What contexts say."""

    suppress: ClassVar = [suppress(category=BytesWarning)]  # the loader makes text of what it decoded

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.file = self.folder / "config"

    def write(self, cluster: Any = None, user: Any = None, context: Any = None, **fields: Any) -> None:
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "c", "cluster": CLUSTER if cluster is None else cluster}],
            "users": [
                {"name": "u", "user": TOKEN if user is None else user},
                {"name": "v", "user": {"token": "other"}},
            ],
            "contexts": [
                {"name": "here", "context": {"cluster": "c", "user": "u", **(context or {})}},
                {"name": "there", "context": {"cluster": "c", "user": "v", "namespace": "shop"}},
            ],
            **fields,
        }
        self.file.write_text(yaml.safe_dump(content))

    def load(self, context: str | None = None, **content: Any) -> Access:
        self.write(**content)
        return kubeconfig(str(self.file), context)

    def refused(self, words: str, context: str | None = None, **content: Any) -> None:
        error = self.assertRaises(ConfigError, self.load, context, **content)
        self.assertIn(words, str(error))
        self.assertIn(str(self.file), str(error))
        self.assertNotIn("s3cret", str(error))

    def test_token(self) -> None:
        """Server, authorities and a token."""
        found = self.load()
        self.assertEqual((found.host, found.port, found.path, found.namespace), ("10.0.0.1", 6443, "", "default"))
        self.assertEqual((found.trust(), found.token(False)), (Trust((AUTHORITY.pem,)), Secret("s3cret")))
        self.assertEqual(found.token(True), Secret("s3cret"))

    def test_context(self) -> None:
        """Another context than the current one, with its namespace."""
        found = self.load("there")
        self.assertEqual((found.token(False), found.namespace), (Secret("other"), "shop"))

    def test_path(self) -> None:
        """A server behind a path, at the usual port."""
        found = self.load(cluster={**CLUSTER, "server": "https://ranch.example.com/k8s/clusters/c-1/"})
        self.assertEqual((found.host, found.port, found.path), ("ranch.example.com", 443, "/k8s/clusters/c-1"))

    def test_certificate(self) -> None:
        """A client's certificate instead of a token."""
        user = {
            "client-certificate-data": data(CERTIFICATE.chain_pem),
            "client-key-data": data(CERTIFICATE.key_pem),
        }
        found = self.load(user=user)
        identity = found.trust().identity
        self.assertEqual(identity.certificates, CERTIFICATE.chain_pem)
        self.assertEqual(identity.key, Secret(CERTIFICATE.key_pem))
        self.assertIsNone(found.token(False))

    def test_files(self) -> None:
        """The same from files beside the kubeconfig; a token's file is read again after a refusal."""
        certificate, key = CERTIFICATE.write(self.folder, "mine")
        (self.folder / "ca.pem").write_text(AUTHORITY.pem)
        (self.folder / "token").write_text("first")
        found = self.load(
            cluster={"server": "https://10.0.0.1", "certificate-authority": "ca.pem"},
            user={"client-certificate": certificate.name, "client-key": key.name, "tokenFile": "token"},
        )
        self.assertEqual(found.trust().authorities, (AUTHORITY.pem,))
        self.assertIsNotNone(found.trust().identity)
        self.assertEqual(found.token(False), Secret("first"))
        (self.folder / "token").write_text("second")
        self.assertEqual(found.token(True), Secret("second"))

    def test_program(self) -> None:
        """A program that gives the token; one that fails gives none."""
        status = '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "t"}}'
        program = {"apiVersion": "client.authentication.k8s.io/v1", "command": "echo", "args": [status]}
        program |= {"interactiveMode": "Never", "env": None}
        self.assertEqual(self.load(user={"exec": program}).token(False), Secret("t"))
        self.refused("does its program run", user={"exec": {**program, "command": "false"}})

    def test_trust(self) -> None:
        """Without authorities the system's count; without verification none."""
        found = self.load(cluster={"server": "https://10.0.0.1"})
        self.assertEqual(found.trust(), Trust())
        found = self.load(cluster={**CLUSTER, "insecure-skip-tls-verify": True})
        self.assertEqual(found.trust(), Trust(verify=False))

    def test_unusable(self) -> None:
        """What cannot be used says so, and which context that was."""
        for words, cluster in (
            ("no https URL", {"server": "http://10.0.0.1:8001"}),
            ("no https URL", {"server": "https://"}),
            ("no https URL", {}),
            ("no URL", {"server": "https://10.0.0.1:port"}),
            ("tls-server-name", {**CLUSTER, "tls-server-name": "kubernetes"}),
            ("proxy-url", {**CLUSTER, "proxy-url": "http://proxy.example.com"}),
            ("certificate-authority", {"server": "https://10.0.0.1", "certificate-authority-data": data("none")}),
        ):
            self.refused(words, cluster=cluster)
        for words, user in (
            ("neither a token nor", {}),
            ("user name and a password", {"username": "s3cret", "password": "s3cret"}),
            ("its token is none", {"token": "s3cret s3cret"}),
            ("client-key cannot be read", {"client-certificate-data": data("\u00fc"), "client-key-data": data("x")}),
        ):
            self.refused(words, user=user)
        self.refused("nowhere of the kubeconfig cannot be used: it has no context of that name", context="nowhere")
        self.refused("cannot be read", contexts=7)
        self.file.unlink()
        self.assertRaises(ConfigError, kubeconfig, str(self.file))
        self.file.write_text("{")
        self.assertRaises(ConfigError, kubeconfig, str(self.file))

    def test_not_installed(self) -> None:
        """The loader is asked for where it is needed, and only there."""
        self.write()
        hidden = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "kubernetes"}
        self.addCleanup(sys.modules.update, hidden)
        self.addCleanup(sys.modules.pop, "kubernetes")
        for name in hidden:
            del sys.modules[name]
        sys.modules["kubernetes"] = None
        error = self.assertRaises(ConfigError, kubeconfig, str(self.file))
        self.assertIn("tproxy[kubeconfig]", str(error))

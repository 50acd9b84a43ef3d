"""Authorities that are believed: how they are read, and read again."""

from __future__ import annotations

import ssl
from pathlib import Path

from OpenSSL import SSL, crypto
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.net.handshakes import HOST, HandshakeTestCase, no_system
from tproxy.config import ConfigError
from tproxy.model import Trust
from tproxy.net.trust import AuthoritiesError, Peer, TrustStore, load_system_authorities, read_authorities
from tproxy.testing.certificates import Authority


class Refreshing(HandshakeTestCase):
    """`TrustStore.refresh`."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.old, self.new = Authority.create("Old"), Authority.create("New")
        self.path.write_text(self.old.pem)
        self.trust = TrustStore(self.path, no_system)
        self.events: list[dict[str, object]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def trusted(self) -> set[str]:
        """Which of the two is believed."""
        return {
            authority.certificate.subject.rfc4514_string()
            for authority in (self.old, self.new)
            if isinstance(self.shake(authority.issue(HOST), store=self.trust), Peer)
        }

    def logged(self) -> list[object]:
        return [event["event"] for event in self.events if "event" in event]

    def test_unchanged(self) -> None:
        """A file that is as it was changes nothing, nor does one that says the same in other bytes."""
        context = self.context()
        self.assertFalse(self.trust.refresh())
        self.path.write_text("# ours\n" + self.old.pem)
        self.assertFalse(self.trust.refresh())
        self.assertIs(self.context(), context)
        self.assertEqual(self.logged(), [])

    def test_changed(self) -> None:
        """A changed file counts for connections from then on, in both directions."""
        self.assertEqual(self.trusted(), {"CN=Old"})
        self.path.write_text(self.new.pem)
        self.assertEqual(self.trusted(), {"CN=Old"})
        self.assertTrue(self.trust.refresh())
        self.assertEqual(self.trusted(), {"CN=New"})
        self.path.write_text(self.new.pem + self.old.pem)
        self.assertTrue(self.trust.refresh())
        self.assertEqual(self.trusted(), {"CN=Old", "CN=New"})
        self.assertEqual(self.logged(), ["trust.changed"] * 2)

    def test_broken(self) -> None:
        """A broken or missing file, or one without certificates, changes nothing and is logged once, with its line."""
        for content, line in (
            (f"# one\n{self.new.pem}-----BEGIN CERTIFICATE-----\nnonsense\n", 2 + self.new.pem.count("\n")),
            (None, 1),
            ("junk", 1),
        ):
            self.events.clear()
            if content is None:
                self.path.unlink()
            else:
                self.path.write_text(content)
            self.assertFalse(self.trust.refresh())
            self.assertFalse(self.trust.refresh())
            self.assertEqual(self.trusted(), {"CN=Old"})
            self.assertEqual(self.logged(), ["trust.broken"])
            event = next(event for event in self.events if "event" in event)
            self.assertEqual((event["file"], event["line"]), (str(self.path), line))
        self.path.write_text(self.new.pem)
        self.assertTrue(self.trust.refresh())
        self.assertEqual(self.trusted(), {"CN=New"})

    def test_no_file(self) -> None:
        """Without a file there is nothing to read again."""
        self.assertFalse(TrustStore(None, no_system).refresh())

    def test_at_start(self) -> None:
        """A file that is missing or broken at the start is one clear line."""
        self.path.write_text("\n\n-----BEGIN CERTIFICATE-----\n")
        error = self.assertRaises(ConfigError, TrustStore, self.path)
        self.assertIn(f"{self.path}:3: additionalCAs.file: ", str(error))
        self.path.unlink()
        error = self.assertRaises(ConfigError, TrustStore, self.path)
        self.assertIn(f"{self.path}:1: additionalCAs.file: no certificate in PEM form", str(error))

    def context(self) -> SSL.Context:
        return self.trust.client(Trust(), HOST).connection(self.socket()).get_context()


class Authorities(SynchronousTestCase):
    """`read_authorities` and `load_system_authorities`."""

    def test_read(self) -> None:
        """Every certificate, whatever stands between them."""
        first, second = Authority.create("A"), Authority.create("B")
        text = f"junk\n{first.pem}\nA comment: ü\n{second.pem}{first.key_pem}"
        self.assertEqual(read_authorities(text.encode()), (first.certificate, second.certificate))

    def test_unreadable(self) -> None:
        """No certificate, or one that cannot be read, with its line."""
        good = Authority.create().pem
        self.assertEqual(self.assertRaises(AuthoritiesError, read_authorities, b"junk").line, 1)
        broken = (good + good.replace("MII", "!!!")).encode()
        self.assertEqual(self.assertRaises(AuthoritiesError, read_authorities, broken).line, good.count("\n") + 1)

    def trusts(
        self, authority: Authority, *, cafile: Path | None = None, capath: Path | None = None, bundles=()
    ) -> bool:
        """Whether the fallback, that is `authority`, is taken for such a system."""
        fallback = Path(self.mktemp())
        fallback.write_text(authority.pem)
        paths = ssl.DefaultVerifyPaths(cafile and str(cafile), capath and str(capath), "", "", "", "")
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        load_system_authorities(context, paths, bundles, str(fallback))
        store = context.get_cert_store()
        assert store is not None
        try:
            crypto.X509StoreContext(store, crypto.X509.from_cryptography(authority.certificate)).verify_certificate()
        except crypto.X509StoreContextError:
            return False
        return True

    def test_system(self) -> None:
        """The fallback is for systems that have no authorities at all."""
        authority = Authority.create()
        empty = Path(self.mktemp())
        empty.mkdir()
        self.assertTrue(self.trusts(authority))
        self.assertTrue(self.trusts(authority, capath=empty))
        (empty / "0a1b2c3d.0").write_text(authority.pem)
        self.assertFalse(self.trusts(authority, capath=empty))
        self.assertFalse(self.trusts(authority, cafile=empty / "0a1b2c3d.0"))
        self.assertFalse(self.trusts(authority, bundles=("/nowhere", str(empty / "0a1b2c3d.0"))))

    def test_defaults(self) -> None:
        """As it is called in earnest, it does not fail, with whatever this system has."""
        load_system_authorities(SSL.Context(SSL.TLS_CLIENT_METHOD))
        load_system_authorities(
            SSL.Context(SSL.TLS_CLIENT_METHOD), ssl.DefaultVerifyPaths(None, None, "", "", "", ""), ()
        )

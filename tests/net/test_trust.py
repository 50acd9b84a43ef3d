"""Real handshakes with good and bad certificates: only the good ones pass, and each failure says which it is."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import socket, socketpair

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from OpenSSL import SSL, crypto
from twisted.internet.error import ConnectionLost
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tproxy.config import ConfigError
from tproxy.model import Code, Identity, Reason, Refusal, RefusedError, Secret, Stage, Trust
from tproxy.net.trust import (
    CONTEXT_LIMIT,
    AuthoritiesError,
    ClientTLS,
    Peer,
    TrustStore,
    load_system_authorities,
    read_authorities,
)
from tproxy.testing.certificates import DAY, Authority, Certificate, self_signed

HOST = "mail.example"
SAN = x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME
INSTALLATION = Trust()
SECRET = b"AUTHENTICATE PLAIN c2VjcmV0"


def no_system(context: SSL.Context) -> None:
    """A system without authorities."""


class Conversation:
    """A client and a server with a socket pair between them."""

    def __init__(self, test: SynchronousTestCase, tls: ClientTLS, server: SSL.Context | None) -> None:
        self.tls = tls
        ours, self.theirs = socketpair()
        for each in (ours, self.theirs):
            each.setblocking(False)
            test.addCleanup(each.close)
        self.client = tls.connection(ours)
        self.server = SSL.Connection(server, self.theirs) if server is not None else None
        if self.server is not None:
            self.server.set_accept_state()

    def shake_hands(self) -> Peer | Refusal:
        """Until the client is through, or fails."""
        try:
            for _ in range(10):
                server_done = self._step(self.server)
                if self._step(self.client) and server_done:
                    break
            self.tls.verify(self.client)
        except (SSL.Error, RefusedError) as error:
            return self.tls.refusal(self.client, error)
        return self.tls.peer(self.client)

    def _step(self, connection: SSL.Connection | None) -> bool:
        if connection is None:
            return True
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error:
            if connection is self.client:
                raise
        return True

    def received(self) -> bytes:
        """What the server's application gets."""
        assert self.server is not None
        try:
            return self.server.recv(1000)
        except SSL.Error:
            return b""


class TrustTests(SynchronousTestCase):
    """`TrustStore.client` and `ClientTLS`."""

    authority = Authority.create("Example Root")

    def store(self, *authorities: Certificate) -> TrustStore:
        if not authorities:
            return TrustStore(None, no_system)
        path = Path(self.mktemp())
        path.write_text("".join(each.pem for each in authorities))
        return TrustStore(path, no_system)

    def shake(
        self,
        certificate: Certificate | SSL.Context,
        host: str = HOST,
        trust: Trust = INSTALLATION,
        store: TrustStore | None = None,
    ) -> Peer | Refusal:
        context = certificate if isinstance(certificate, SSL.Context) else certificate.server_context()
        store = self.store(self.authority) if store is None else store
        return Conversation(self, store.client(trust, host), context).shake_hands()

    def assert_refused(self, outcome: Peer | Refusal, reason: Reason, *words: str) -> None:
        assert isinstance(outcome, Refusal), f"{outcome} was accepted"
        self.assertEqual((outcome.stage, outcome.reason), (Stage.TLS, reason), outcome.message)
        for word in words:
            self.assertIn(word, outcome.message)
        self.assertTrue(outcome.remedy)
        self.assertTrue(str(outcome).isprintable())
        self.assertLess(len(str(outcome)), 512)

    def test_good(self) -> None:
        """A certificate of a known authority for this host passes; what it showed can be asked for."""
        peer = self.shake(self.authority.issue(HOST, "imap.example", "192.0.2.1"))
        assert isinstance(peer, Peer), peer
        self.assertEqual(peer.names, (HOST, "imap.example", "192.0.2.1"))
        self.assertLess(abs(peer.not_after - datetime.now(UTC) - 30 * DAY), timedelta(minutes=1))
        self.assertEqual(peer.version, "TLSv1.3")
        self.assertTrue(peer.cipher)

    def test_names(self) -> None:
        """A wildcard stands for one label; case and the root's dot don't matter; names may be international."""
        for host, name in {
            "imap.mail.example": "*.mail.example",
            "MAIL.Example.": HOST,
            "bücher.example": "xn--bcher-kva.example",
            "192.0.2.1": "192.0.2.1",
            "2001:db8::1": "2001:db8:0::1",
        }.items():
            with self.subTest(host):
                self.assertIsInstance(self.shake(self.authority.issue(name), host), Peer)

    def test_intermediate(self) -> None:
        """A server that sends its intermediate certificates passes; one that keeps them back does not."""
        certificate = self.authority.subordinate("Example Issuing").subordinate("Example Issuing 2").issue(HOST)
        self.assertIsInstance(self.shake(certificate), Peer)
        alone = Certificate(certificate.certificate, certificate.key)
        self.assert_refused(self.shake(alone), Reason.CERTIFICATE_UNTRUSTED, HOST, '"Example Issuing 2"', "not trusted")

    def test_intermediate_as_anchor(self) -> None:
        """An intermediate authority, or a self-signed certificate, that was named is trusted as it is."""
        issuing = self.authority.subordinate()
        self.assertIsInstance(self.shake(issuing.issue(HOST), store=self.store(issuing)), Peer)
        own = self_signed(HOST)
        self.assertIsInstance(self.shake(own, store=self.store(own)), Peer)

    def test_own_authorities(self) -> None:
        """A destination's authorities count for it alone, beside the installation's."""
        theirs = Authority.create("Their Root")
        store = self.store(self.authority)
        own = Trust((theirs.pem,))
        self.assertIsInstance(self.shake(theirs.issue(HOST), trust=own, store=store), Peer)
        self.assertIsInstance(self.shake(self.authority.issue(HOST), trust=own, store=store), Peer)
        self.assert_refused(self.shake(theirs.issue(HOST), store=store), Reason.CERTIFICATE_UNTRUSTED, "Their Root")

    def test_unknown_authority(self) -> None:
        """An authority that nobody named, also one of the same name as a known one."""
        for authority, reason in (
            (Authority.create("Other Root"), Reason.CERTIFICATE_UNTRUSTED),
            (Authority.create("Example Root"), Reason.CERTIFICATE_UNTRUSTED),
        ):
            outcome = self.shake(authority.issue(HOST))
            self.assert_refused(outcome, reason, HOST, str(authority.certificate.subject.rfc4514_string())[3:])

    def test_root_sent_along(self) -> None:
        """An unknown root in the server's own chain is not trusted because of that."""
        other = Authority.create("Other Root")
        certificate = other.issue(HOST)
        chain = Certificate(certificate.certificate, certificate.key, (other.certificate,))
        self.assert_refused(self.shake(chain), Reason.CERTIFICATE_UNTRUSTED, "Other Root")

    def test_self_signed(self) -> None:
        """A certificate that vouches for itself."""
        self.assert_refused(self.shake(self_signed(HOST)), Reason.CERTIFICATE_UNTRUSTED, HOST, "self-signed")

    def test_expired(self) -> None:
        """A certificate of the past, with its date."""
        yesterday = (datetime.now(UTC) - DAY).strftime("%Y-%m-%d")
        outcome = self.shake(self.authority.expired(HOST))
        self.assert_refused(outcome, Reason.CERTIFICATE_EXPIRED, HOST, "expired", yesterday)

    def test_not_yet_valid(self) -> None:
        """A certificate of the future."""
        outcome = self.shake(self.authority.not_yet_valid(HOST))
        self.assert_refused(outcome, Reason.CERTIFICATE_NOT_YET_VALID, HOST, "valid only from")

    def test_expired_authority(self) -> None:
        """An authority of the past, told apart from the server's own certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Old Root")])
        now = datetime.now(UTC)
        root = (
            x509.CertificateBuilder(name, name, key.public_key(), 1, now - 9 * DAY, now - DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, SHA256())
        )
        old = Authority(root, key)
        outcome = self.shake(old.issue(HOST), store=self.store(old))
        self.assert_refused(outcome, Reason.CERTIFICATE_EXPIRED, '"Old Root" in the chain of mail.example')

    def test_not_an_authority(self) -> None:
        """A server's certificate that signs another one."""
        server = self.authority.issue("server.example")
        forged = Authority(server.certificate, server.key, server.chain).issue(HOST)
        self.assert_refused(self.shake(forged), Reason.CERTIFICATE_INVALID, "server.example", "no authority")

    def test_other_host(self) -> None:
        """A certificate for others; the message tells for whom."""
        outcome = self.shake(self.authority.issue("other.example", "*.mail.example", "192.0.2.1"))
        self.assert_refused(
            outcome, Reason.CERTIFICATE_NAME_MISMATCH, HOST, "meant for other.example, *.mail.example, 192.0.2.1"
        )
        outcome = self.shake(self.authority.issue(*(f"host{number}.example" for number in range(100))))
        self.assert_refused(outcome, Reason.CERTIFICATE_NAME_MISMATCH, "host3.example and 96 more")

    def test_each_connection_is_judged(self) -> None:
        """That a certificate passed once helps neither another host, nor another certificate, nor another trust."""
        good, store = self.authority.issue(HOST, "192.0.2.1"), self.store(self.authority)
        for _ in range(2):
            self.assertIsInstance(self.shake(good, store=store), Peer)
            for host in ("other.example", "192.0.2.2", f"x.{HOST}"):
                self.assert_refused(self.shake(good, host, store=store), Reason.CERTIFICATE_NAME_MISMATCH, host)
            other = self.authority.issue("other.example")
            self.assert_refused(self.shake(other, store=store), Reason.CERTIFICATE_NAME_MISMATCH, HOST)
            stranger = Authority.create("Example Root").issue(HOST, "192.0.2.1")
            self.assert_refused(self.shake(stranger, store=store), Reason.CERTIFICATE_UNTRUSTED)
            self.assert_refused(self.shake(good, store=self.store()), Reason.CERTIFICATE_UNTRUSTED)

    def test_common_name(self) -> None:
        """A host in the common name alone does not count."""
        outcome = self.shake(self.authority.common_name_only(HOST))
        self.assert_refused(
            outcome, Reason.CERTIFICATE_NAME_MISMATCH, "no subjectAltName", 'common name "mail.example" does not count'
        )

    def test_addresses(self) -> None:
        """An address as host needs that address in the certificate: as an address, not as a name."""
        for names in ((HOST,), ("192.0.2.2",)):
            outcome = self.shake(self.authority.issue(*names), "192.0.2.1")
            self.assert_refused(outcome, Reason.CERTIFICATE_NAME_MISMATCH, "192.0.2.1", *names)
            assert isinstance(outcome, Refusal)
            self.assertIn("the IP address 192.0.2.1", outcome.remedy)

    def test_hostile_names(self) -> None:
        """Names in a certificate are shown escaped and cut."""
        nasty = "\x1b[2J\r\n* OK " + "x" * 50
        outcome = self.shake(self.authority.issue("other.example"), store=self.store())
        self.assert_refused(outcome, Reason.CERTIFICATE_UNTRUSTED)
        self.assert_refused(self.shake(Authority.create(nasty).issue(HOST)), Reason.CERTIFICATE_UNTRUSTED, "\\x1b")
        self.assert_refused(self.shake(self.authority.common_name_only(nasty)), Reason.CERTIFICATE_NAME_MISMATCH)
        long_name = ".".join(["x" * 60] * 4)
        outcome = self.shake(self.authority.issue(*[long_name] * 4))
        self.assert_refused(outcome, Reason.CERTIFICATE_NAME_MISMATCH, "x...")

    def test_unreadable_names(self) -> None:
        """A subjectAltName that is no list of names."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        subject = x509.Name([])
        certificate = (
            x509.CertificateBuilder(self.authority.certificate.subject, subject, key.public_key(), 7, now, now + DAY)
            .add_extension(x509.UnrecognizedExtension(SAN, b"\x30\x03\x82\x01\xff"), critical=False)
            .sign(self.authority.key, SHA256())
        )
        outcome = self.shake(Certificate(certificate, key))
        self.assert_refused(outcome, Reason.CERTIFICATE_INVALID, "subjectAltName")

    def test_old_version(self) -> None:
        """A server that has not learned TLS 1.2."""
        context = self.authority.issue(HOST).server_context()
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        context.set_min_proto_version(SSL.TLS1_VERSION)
        context.set_max_proto_version(SSL.TLS1_1_VERSION)
        self.assert_refused(self.shake(context), Reason.TLS_FAILED, "no TLS version of 1.2 or later")

    def test_tls_1_2(self) -> None:
        """TLS 1.2 with forward secrecy is fine; without it, or with SHA-1, it is not."""
        for ciphers, good in {
            b"ECDHE-ECDSA-AES128-GCM-SHA256": True,
            b"ECDHE-ECDSA-AES256-SHA:@SECLEVEL=0": False,
        }.items():
            context = self.authority.issue(HOST).server_context()
            context.set_max_proto_version(SSL.TLS1_2_VERSION)
            context.set_cipher_list(ciphers)
            outcome = self.shake(context)
            if good:
                assert isinstance(outcome, Peer), outcome
                self.assertEqual(outcome.version, "TLSv1.2")
            else:
                self.assert_refused(outcome, Reason.TLS_FAILED, "no cipher")

    def test_plain_text(self) -> None:
        """A server that speaks first, and in plain text."""
        for greeting in (b"* OK ready\r\n", b"220 mx ESMTP\r\n", b"+OK\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"):
            with self.subTest(greeting):
                conversation = Conversation(self, self.store().client(Trust(), HOST), None)
                conversation.theirs.send(greeting)
                self.assert_refused(conversation.shake_hands(), Reason.TLS_FAILED, "plain text")

    def test_alerts(self) -> None:
        """What a server says with an alert instead of a certificate."""
        for number, words in {
            40: "no cipher",
            70: "no TLS version",
            112: "does not know the name",
            80: "failed",
        }.items():
            with self.subTest(number):
                conversation = Conversation(self, self.store().client(Trust(), HOST), None)
                conversation.theirs.send(bytes([0x15, 3, 3, 0, 2, 2, number]))
                self.assert_refused(conversation.shake_hands(), Reason.TLS_FAILED, words)

    def test_closed(self) -> None:
        """A server that hangs up."""
        conversation = Conversation(self, self.store().client(Trust(), HOST), None)
        conversation.theirs.close()
        self.assert_refused(conversation.shake_hands(), Reason.TLS_FAILED, "closed the connection")

    def test_other_errors(self) -> None:
        """Failures of the transport are explained without their text."""
        tls = self.store().client(Trust(), HOST)
        connection = tls.connection(self.socket())
        self.assert_refused(tls.refusal(connection, ConnectionResetError(104, "x")), Reason.TLS_FAILED, "closed")
        self.assert_refused(tls.refusal(connection, ConnectionLost("secret")), Reason.TLS_FAILED, "ConnectionLost")
        self.assertNotIn("secret", str(tls.refusal(connection, ConnectionLost("secret"))))

    def test_not_secured(self) -> None:
        """Judging before the handshake refuses."""
        tls = self.store().client(Trust(), HOST)
        error = self.assertRaises(RefusedError, tls.verify, tls.connection(self.socket()))
        self.assert_refused(error.refusal, Reason.CERTIFICATE_INVALID, "no certificate")

    def test_nothing_is_sent(self) -> None:
        """After a chain that failed, not even a careless caller gets a byte across."""
        for certificate in (
            self_signed(HOST),
            Authority.create().issue(HOST),
            self.authority.expired(HOST),
            self.authority.not_yet_valid(HOST),
        ):
            conversation = Conversation(
                self, self.store(self.authority).client(Trust(), HOST), certificate.server_context()
            )
            self.assertIsInstance(conversation.shake_hands(), Refusal)
            self.assertRaises(SSL.Error, conversation.client.send, SECRET)
            self.assertEqual(conversation.received(), b"")

    def test_trust_all(self) -> None:
        """Without verification any certificate passes, still with TLS 1.2 at least."""
        store = self.store()
        careless = Trust(verify=False)
        for certificate in (self_signed("other.example"), self.authority.expired(HOST)):
            self.assertIsInstance(self.shake(certificate, trust=careless, store=store), Peer)
        context = self.authority.issue(HOST).server_context()
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        context.set_min_proto_version(SSL.TLS1_VERSION)
        context.set_max_proto_version(SSL.TLS1_1_VERSION)
        self.assert_refused(self.shake(context, trust=careless, store=store), Reason.TLS_FAILED)

    def test_server_name(self) -> None:
        """The server is told the name in A-labels, and never an address."""
        for host, told in {"Bücher.example.": b"xn--bcher-kva.example", "192.0.2.1": None, "2001:db8::1": None}.items():
            with self.subTest(host):
                context = self.authority.issue(host if told is None else told.decode()).server_context()
                conversation = Conversation(self, self.store(self.authority).client(Trust(), host), context)
                self.assertIsInstance(conversation.shake_hands(), Peer)
                assert conversation.server is not None
                self.assertEqual(conversation.server.get_servername(), told)

    def test_no_host(self) -> None:
        """What is no host name is refused at once."""
        for host in ("", "a b", "fe80::1%eth0", "fe80::1%\r\n", "[::1]"):
            with self.subTest(host):
                error = self.assertRaises(RefusedError, self.store().client, Trust(), host)
                self.assert_refused(error.refusal, Reason.NAME_NOT_RESOLVED)

    def test_shared(self) -> None:
        """One context for each distinct trust, whatever the host."""
        store = self.store(self.authority)
        own = Trust((self.authority.pem,))
        contexts = [
            store.client(trust, host).connection(self.socket()).get_context()
            for trust in (Trust(), own, Trust(verify=False))
            for host in (HOST, "other.example", "192.0.2.1")
        ]
        self.assertEqual(len(set(contexts)), 3)
        self.assertIs(
            contexts[3], store.client(Trust((self.authority.pem,)), HOST).connection(self.socket()).get_context()
        )

    def test_bounded(self) -> None:
        """The trust that was not asked for the longest is forgotten."""
        store = self.store()
        trusts = [Trust((str(number),), verify=False) for number in range(CONTEXT_LIMIT + 1)]

        def context(trust: Trust) -> SSL.Context:
            return store.client(trust, HOST).connection(self.socket()).get_context()

        first, second = context(trusts[0]), context(trusts[1])
        for trust in trusts[2:]:
            context(trust)
            self.assertIs(context(trusts[0]), first)
        self.assertIsNot(context(trusts[1]), second)

    def test_findings_are_apart(self) -> None:
        """Connections of one context keep their own failures."""
        store = self.store(self.authority)
        bad = Conversation(self, store.client(Trust(), HOST), self.authority.expired(HOST).server_context())
        good = Conversation(self, store.client(Trust(), HOST), self.authority.issue(HOST).server_context())
        self.assert_refused(bad.shake_hands(), Reason.CERTIFICATE_EXPIRED)
        self.assertIsInstance(good.shake_hands(), Peer)
        self.assert_refused(bad.tls.refusal(bad.client, SSL.Error()), Reason.CERTIFICATE_EXPIRED)
        self.assert_refused(good.tls.refusal(good.client, SSL.Error()), Reason.TLS_FAILED)

    def test_broken_authorities(self) -> None:
        """A destination's authorities that cannot be read refuse that destination."""
        error = self.assertRaises(RefusedError, self.store().client, Trust(("no PEM",)), HOST)
        self.assert_refused(error.refusal, Reason.DOCUMENT_INVALID, "line 1", "no certificate")

    def socket(self) -> socket:
        ours, theirs = socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        return ours


class MutualTests(SynchronousTestCase):
    """A client that shows a certificate of its own."""

    def setUp(self) -> None:
        self.root = Authority.create("Example Root")
        self.client = self.root.subordinate("Example Issuing").subordinate("tproxy")
        self.store = TrustStore(None, no_system)

    def demanding(self) -> SSL.Context:
        """A server that believes clients whose chain leads to the root alone."""
        context = self.root.issue(HOST).server_context()
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *found: bool(found[-1]))
        store = context.get_cert_store()
        assert store is not None
        store.add_cert(crypto.X509.from_cryptography(self.root.certificate))
        return context

    def shown(self, identity: Identity | None) -> x509.Certificate | None:
        """What the server saw and believed of the client, after a word of the client arrived."""
        tls = self.store.client(Trust((self.root.pem,), identity=identity), HOST)
        conversation = Conversation(self, tls, self.demanding())
        self.assertIsInstance(conversation.shake_hands(), Peer)
        conversation.client.send(b"hello")
        assert conversation.server is not None
        if conversation.received() != b"hello":
            return None
        return conversation.server.get_peer_certificate(as_cryptography=True)

    def test_shown(self) -> None:
        """A server that demands a certificate gets it, with the chain that it lacks."""
        identity = Identity(self.client.chain_pem, Secret(self.client.key_pem))
        self.assertEqual(self.shown(identity), self.client.certificate)
        alone = Identity(self.client.pem, Secret(self.client.key_pem))
        self.assertIsNone(self.shown(alone))
        self.assertIsNone(self.shown(None))

    def test_unusable(self) -> None:
        """An identity that cannot be used is refused before there is a connection, in words without the key."""
        good, key = self.client.chain_pem, self.client.key_pem
        locked = self.client.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
        odd = x25519.X25519PrivateKey.generate()
        now, name = datetime.now(UTC), self.root.certificate.subject
        odd_pem = (
            x509.CertificateBuilder(name, name, odd.public_key(), 7, now, now + DAY)
            .sign(self.root.key, SHA256())
            .public_bytes(Encoding.PEM)
            .decode()
        )
        odd_key = odd.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        for certificates, secret, words in (
            ("", key, "certificate cannot be read"),
            ("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", key, "certificate cannot be read"),
            (good + "-----BEGIN CERTIFICATE-----\nx\n", key, "certificate cannot be read"),
            ("\ud800", key, "certificate cannot be read"),
            (good, "", "key cannot be read"),
            (good, "\ud800", "key cannot be read"),
            (good, good, "key cannot be read"),
            (good, locked.decode(), "key cannot be read"),
            (good, Authority.create().key_pem, "not that of the first certificate"),
            (self.root.pem + good, key, "not that of the first certificate"),
            (odd_pem, odd_key, "too weak"),
        ):
            trust = Trust(identity=Identity(certificates, Secret(secret)))
            error = self.assertRaises(RefusedError, self.store.client, trust, HOST)
            refusal = error.refusal
            self.assertIn(words, refusal.message)
            self.assertEqual(
                (refusal.stage, refusal.reason, refusal.code),
                (Stage.RESOLVE, Reason.SERVICE_KEY_INVALID, Code.CONTACT_ADMIN),
            )
            self.assertTrue(refusal.remedy)
            self.assertIsNone(error.__cause__)
            self.assertTrue(error.__suppress_context__)

    def test_contexts_are_apart(self) -> None:
        """What one identity shows, another trust does not."""
        identity = Identity(self.client.chain_pem, Secret(self.client.key_pem))
        other = self.root.subordinate("other")
        self.assertEqual(self.shown(identity), self.client.certificate)
        self.assertEqual(self.shown(Identity(other.chain_pem, Secret(other.key_pem))), other.certificate)
        self.assertIsNone(self.shown(None))


class Refreshing(SynchronousTestCase):
    """`TrustStore.refresh`."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.old, self.new = Authority.create("Old"), Authority.create("New")
        self.path.write_text(self.old.pem)
        self.store = TrustStore(self.path, no_system)
        self.events: list[dict[str, object]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def trusted(self) -> set[str]:
        """Which of the two is believed."""
        return {
            authority.certificate.subject.rfc4514_string()
            for authority in (self.old, self.new)
            if isinstance(
                Conversation(
                    self, self.store.client(Trust(), HOST), authority.issue(HOST).server_context()
                ).shake_hands(),
                Peer,
            )
        }

    def logged(self) -> list[object]:
        return [event["event"] for event in self.events if "event" in event]

    def test_unchanged(self) -> None:
        """A file that is as it was changes nothing, nor does one that says the same in other bytes."""
        context = self.context()
        self.assertFalse(self.store.refresh())
        self.path.write_text("# ours\n" + self.old.pem)
        self.assertFalse(self.store.refresh())
        self.assertIs(self.context(), context)
        self.assertEqual(self.logged(), [])

    def test_changed(self) -> None:
        """A changed file counts for connections from then on, in both directions."""
        self.assertEqual(self.trusted(), {"CN=Old"})
        self.path.write_text(self.new.pem)
        self.assertEqual(self.trusted(), {"CN=Old"})
        self.assertTrue(self.store.refresh())
        self.assertEqual(self.trusted(), {"CN=New"})
        self.path.write_text(self.new.pem + self.old.pem)
        self.assertTrue(self.store.refresh())
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
            self.assertFalse(self.store.refresh())
            self.assertFalse(self.store.refresh())
            self.assertEqual(self.trusted(), {"CN=Old"})
            self.assertEqual(self.logged(), ["trust.broken"])
            event = next(event for event in self.events if "event" in event)
            self.assertEqual((event["file"], event["line"]), (str(self.path), line))
        self.path.write_text(self.new.pem)
        self.assertTrue(self.store.refresh())
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
        ours, theirs = socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        return self.store.client(Trust(), HOST).connection(ours).get_context()


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

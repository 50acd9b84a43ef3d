"""Real handshakes: what else may fail, what the server is told and shown, and what contexts share."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL, crypto
from twisted.internet.error import ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from tests.net.handshakes import HOST, Conversation, HandshakeTestCase, no_system
from tproxy.model import Code, Identity, Reason, RefusedError, Secret, Stage, Trust
from tproxy.net.trust import CONTEXT_LIMIT, Peer, TrustStore
from tproxy.testing.certificates import DAY, Authority


class TrustTests(HandshakeTestCase):
    """`TrustStore.client` and `ClientTLS`."""

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

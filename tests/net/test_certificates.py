"""Real handshakes with good and bad certificates: only the good ones pass, and each failure says which it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL

from tests.net.handshakes import HOST, Conversation, HandshakeTestCase
from tproxy.model import Reason, Refusal, Trust
from tproxy.net.trust import Peer
from tproxy.testing.certificates import DAY, Authority, Certificate, self_signed

SAN = x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME

SECRET = b"AUTHENTICATE PLAIN c2VjcmV0"


class CertificateTests(HandshakeTestCase):
    """`ClientTLS` judges certificates."""

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

"""Only a good certificate gets a credential; every other ends the connection before a byte of it is sent."""

from __future__ import annotations

from OpenSSL import SSL
from twisted.trial.unittest import TestCase

from tests.integration import canaries
from tests.integration.mailserver import MailServer, listen, old
from tests.integration.proxy import Proxy, basic
from tests.integration.wire import connect
from tproxy.model import Reason
from tproxy.testing.certificates import Authority, Certificate, self_signed


class CertificateTests(TestCase):
    timeout = 60

    def setUp(self):
        self.authority = Authority.create()

    async def outcome(
        self, certificate: Certificate | SSL.Context, host: str = "127.0.0.1", protocol: str = "imap4s", **more: str
    ) -> tuple[MailServer, bytes, Proxy]:
        """The mail server with this certificate, after one connection; what the application heard; the proxy."""
        server = self.server = MailServer()
        proxy = Proxy(self)
        proxy.trust(self.authority.pem)
        proxy.offer("mail", basic(await listen(self, server, certificate), "ann", host=host, **more))
        proxy.start()
        wire = await connect(self, await proxy.port("mail"))
        return server, await wire.hears(rb"\n"), proxy

    async def refused(self, reason: Reason, certificate: Certificate | SSL.Context, host: str = "127.0.0.1") -> None:
        server, heard, proxy = await self.outcome(certificate, host)
        self.assertRegex(heard, rb"^\* BYE \[UNAVAILABLE\] ")
        event = await proxy.logged(event="session.refused")
        self.assertEqual(("tls", reason.value), (event["stage"], event["reason"]), event)
        self.assertTrue(event["message"] and event["remedy"], event)
        await server.ended()
        self.assertEqual(b"", server.received)
        self.assertEqual(1, len(server.connections))

    async def test_good(self):
        """A certificate for the IP address, issued by a CA that is trusted: the login is made."""
        server, heard, _ = await self.outcome(self.authority.issue("127.0.0.1"))
        self.assertRegex(heard, rb"^\* PREAUTH ")
        self.assertRegex(server.received, rb"^\w+ AUTHENTICATE PLAIN \S+\r\n$")

    async def test_good_name_and_intermediate(self):
        """A certificate for the host name, issued by an authority below the trusted one."""
        server, heard, _ = await self.outcome(self.authority.subordinate().issue("localhost"), "localhost")
        self.assertRegex(heard, rb"^\* PREAUTH ")
        self.assertEqual(1, server.logins)

    def test_self_signed(self):
        """A certificate that vouches for itself."""
        return self.refused(Reason.CERTIFICATE_UNTRUSTED, self_signed("127.0.0.1"))

    def test_unknown_authority(self):
        """A certificate of a CA that nobody trusts."""
        return self.refused(Reason.CERTIFICATE_UNTRUSTED, Authority.create().issue("127.0.0.1"))

    def test_other_host(self):
        """A certificate for another name."""
        return self.refused(Reason.CERTIFICATE_NAME_MISMATCH, self.authority.issue("other.test"), "localhost")

    def test_other_address(self):
        """A certificate for another IP address, and for a name that is this host's but not the destination's."""
        return self.refused(Reason.CERTIFICATE_NAME_MISMATCH, self.authority.issue("127.0.0.2", "localhost"))

    def test_expired(self):
        """A certificate of yesterday."""
        return self.refused(Reason.CERTIFICATE_EXPIRED, self.authority.expired("127.0.0.1"))

    def test_not_yet_valid(self):
        """A certificate of tomorrow."""
        return self.refused(Reason.CERTIFICATE_NOT_YET_VALID, self.authority.not_yet_valid("127.0.0.1"))

    def test_common_name_only(self):
        """A certificate that names the host in its common name alone."""
        return self.refused(Reason.CERTIFICATE_NAME_MISMATCH, self.authority.common_name_only("localhost"), "localhost")

    def test_old_tls(self):
        """A server that speaks nothing newer than TLS 1.1."""
        return self.refused(Reason.TLS_FAILED, old(self.authority.issue("127.0.0.1").server_context()))

    async def test_no_tls(self):
        """A server that speaks no TLS at all: it gets a ClientHello, and nothing of a login."""
        server, proxy = MailServer(), Proxy(self)
        proxy.offer("mail", basic(await listen(self, server), "ann"))
        proxy.start()
        wire = await connect(self, await proxy.port("mail"))
        self.assertRegex(await wire.hears(rb"\n"), rb"^\* BYE \[UNAVAILABLE\] ")
        await server.ended()
        self.assertEqual(b"\x16\x03", server.received[:2])
        self.assertEqual([], canaries.found(server.received))

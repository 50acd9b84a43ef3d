"""Where credentials do not go: to addresses that are not allowed, and over connections that are not encrypted."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from tests.integration import canaries
from tests.integration.dovecot import MISSING, dovecot, free_port
from tests.integration.mailserver import MailServer, listen
from tests.integration.messages import FIRST
from tests.integration.proxy import Proxy, basic
from tests.integration.wire import Wire, connect

UPGRADES = b"* OK [CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN SASL-IR] ready\r\n"


class AddressTests(TestCase):
    timeout = 60

    def setUp(self):
        self.proxy = Proxy(self)

    async def test_loopback(self):
        """Without leave in the configuration no way leads to this machine itself, however it is spelled."""
        server = MailServer()
        port = await listen(self, server)
        self.proxy.configuration["config"]["security"] = {}
        refused = {"plain": "127.0.0.1", "other": "127.8.9.10", "name": "localhost", "mapped": "::ffff:127.0.0.1"}
        dialled = {"unspecified": "0.0.0.0", "link": "169.254.169.254", "private": "10.0.0.1"}
        for name, host in (refused | dialled).items():
            self.proxy.offer(name, basic(port, "ann", host=host))
        self.proxy.start()
        for name in refused:
            event = await self.proxy.logged(event="listener.refused", listener=f"tests/{name}")
            self.assertRegex(event["reason"], "LoopbackUrlNotSupported$")
        for name in dialled:
            wire = await connect(self, await self.proxy.port(name))
            self.assertRegex(await wire.hears(rb"\n"), rb"^\* BYE \[UNAVAILABLE\] ")
            event = await self.proxy.logged(event="session.refused", listener=f"tests/{name}")
            self.assertEqual(("connect", "address-refused"), (event["stage"], event["reason"]), event)
        self.assertEqual([], server.connections)

    async def test_own_port(self):
        """A destination that leads back to one of the proxy's own ports is refused, where loopback is allowed."""
        port = free_port()
        self.proxy.document("loop", basic(port, "ann"))
        self.proxy.resource("loop", port=port)
        self.proxy.start()
        self.assertEqual(port, await self.proxy.port("loop"))
        wire = await connect(self, port)
        self.assertRegex(await wire.hears(rb"\n"), rb"^\* BYE \[UNAVAILABLE\] ")
        event = await self.proxy.logged(event="session.refused")
        self.assertEqual(("connect", "address-refused"), (event["stage"], event["reason"]), event)


class EncryptionTests(TestCase):
    """`imap4`: a plain port that is upgraded with STARTTLS."""

    timeout = 60

    def setUp(self):
        self.proxy = Proxy(self)

    async def heard(self, port: int, **more: str) -> Wire:
        """The application's connection through the proxy to the mail server at `port`, once it heard a line."""
        self.proxy.offer("mail", basic(port, more.pop("user", "ann"), protocol="imap4", **more))
        self.proxy.start()
        wire = await connect(self, await self.proxy.port("mail"))
        await wire.hears(rb"\n")
        return wire

    async def refused(self, server: MailServer, reason: str) -> None:
        wire = await self.heard(await listen(self, server))
        self.assertRegex(bytes(wire.received), rb"^\* BYE \[\w+\] ")
        event = await self.proxy.logged(event="session.refused")
        self.assertEqual(reason, event["reason"], event)
        await server.ended()
        self.assertEqual(0, server.logins)
        self.assertEqual([], canaries.found(server.received))

    def test_not_offered(self):
        """A server without STARTTLS gets no credential."""
        return self.refused(MailServer(), "encryption-not-offered")

    def test_not_done(self):
        """A server that offers STARTTLS and then refuses it gets no credential."""
        return self.refused(MailServer(UPGRADES, {b"STARTTLS": b"%s NO not now\r\n"}), "encryption-not-offered")

    def test_injection(self):
        """Bytes between the OK of STARTTLS and the handshake are an attack."""
        injected = b"%s OK go\r\n* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] evil\r\n"
        return self.refused(MailServer(UPGRADES, {b"STARTTLS": injected}), "protocol-violation")

    async def test_allowed(self):
        """A host that `plaintextHosts` names gets the credential, and the log warns of that at the start."""
        self.proxy.configuration["config"]["security"]["plaintextHosts"] = ["127.0.0.1"]
        server = MailServer()
        wire = await self.heard(await listen(self, server))
        self.assertRegex(bytes(wire.received), rb"^\* PREAUTH ")
        self.assertEqual(1, server.logins)
        loosened = [event["message"] for event in self.proxy.events if event.get("event") == "config.loosened"]
        self.assertTrue(any("plaintextHosts" in message for message in loosened), loosened)

    async def test_untrusted(self):
        """A certificate that is not trusted ends it after STARTTLS as well."""
        user = dovecot().mailbox(FIRST)
        wire = await self.heard(dovecot().plain, user=user)
        self.assertRegex(bytes(wire.received), rb"^\* BYE \[UNAVAILABLE\] ")
        event = await self.proxy.logged(event="session.refused")
        self.assertEqual(("tls", "certificate-untrusted"), (event["stage"], event["reason"]), event)
        self.assertNotIn(f"user=<{user}>", dovecot().log)

    test_untrusted.skip = MISSING

"""What changes while the proxy runs: resources, documents, tenants, restarts, and its end."""

from __future__ import annotations

import json
import signal
import socket

from twisted.internet import reactor
from twisted.internet.error import ConnectionRefusedError
from twisted.trial.unittest import TestCase

from tests.integration.dovecot import MISSING, ODD, ODD_PASSWORD, dovecot, free_port
from tests.integration.mailserver import MailServer, listen
from tests.integration.messages import FIRST, MESSAGES
from tests.integration.proxy import Proxy, basic, serving
from tests.integration.wire import connect
from tproxy.testing.certificates import Authority


class LifecycleTests(TestCase):
    """With mail servers of the tests' own."""

    timeout = 60

    def setUp(self):
        self.authority = Authority.create()
        self.proxy = Proxy(self)
        self.proxy.trust(self.authority.pem)

    async def serve(self, user: str = "ann") -> tuple[MailServer, dict[str, str]]:
        """A mail server, and a document that leads to it."""
        server = MailServer()
        return server, basic(await listen(self, server, self.authority.issue("127.0.0.1")), user)

    async def greeted(self, name: str) -> bytes:
        wire = await connect(self, await self.proxy.port(name))
        greeting = await wire.hears(rb"\n")
        wire.say(b"1 LOGOUT\r\n")
        await wire.received.closed()
        return greeting

    async def test_removed_resource(self):
        """A resource that is taken away: its port closes and its sessions end, within 5 s; others go on."""
        server, document = await self.serve()
        self.proxy.document("mail", document)
        gone, stays = self.proxy.resource("gone", destination="mail"), self.proxy.resource("stays", destination="mail")
        self.proxy.start()
        port = await self.proxy.port("gone")
        idle, busy = await connect(self, port), await connect(self, port)
        other = await connect(self, await self.proxy.port("stays"))
        await other.hears(rb"\n")
        await idle.hears(rb"\n")
        await busy.ask(b"1 SELECT INBOX\r\n", rb"^1 OK ")
        begun = reactor.seconds()
        gone.unlink()
        await busy.received.closed()
        await idle.received.closed()
        self.assertLess(reactor.seconds() - begun, 5)
        await server.ended(2)
        with self.assertRaises(ConnectionRefusedError):
            await connect(self, port)
        await other.ask(b"1 SELECT INBOX\r\n", rb"^1 OK ")
        self.assertTrue(stays.exists())
        event = await self.proxy.logged(event="session.revoked")
        self.assertEqual("tests/gone", event["listener"])

    async def test_removed_document(self):
        """A document that is taken away: the port closes and the sessions end, within 5 s; put back, it opens again."""
        server, document = await self.serve()
        self.proxy.offer("mail", document)
        self.proxy.start()
        port = await self.proxy.port("mail")
        wire = await connect(self, port)
        await wire.ask(b"1 SELECT INBOX\r\n", rb"^1 OK ")
        begun, before = reactor.seconds(), len(self.proxy.events)
        (self.proxy.folder / "destinations" / "mail.json").unlink()
        await wire.received.closed()
        self.assertLess(reactor.seconds() - begun, 5)
        await server.ended()
        await self.proxy.logged(before, event="listener.refused", listener="tests/mail")
        with self.assertRaises(ConnectionRefusedError):
            await connect(self, port)
        before = len(self.proxy.events)
        self.proxy.document("mail", document)
        event = await self.proxy.logged(before, event="listener.opened", listener="tests/mail")
        self.assertEqual(port, event["port"])

    async def test_added_resource(self):
        """A resource that is added is served within 2 s."""
        _, document = await self.serve()
        self.proxy.offer("first", document)
        self.proxy.start()
        await self.proxy.port("first")
        begun = reactor.seconds()
        self.proxy.offer("second", document)
        self.assertRegex(await self.greeted("second"), rb"^\* PREAUTH .* second ready")
        self.assertLess(reactor.seconds() - begun, 2.5)

    async def test_changed_document(self):
        """A changed document concerns new connections, within 2 s; a session that is open goes on."""
        _, document = await self.serve()
        after, changed = await self.serve()
        self.proxy.offer("mail", document)
        self.proxy.start()
        wire = await connect(self, await self.proxy.port("mail"))
        await wire.ask(b"1 SELECT INBOX\r\n", rb"^1 OK ")
        self.proxy.document("mail", changed)
        begun = reactor.seconds()
        while not after.logins:
            self.assertLess(reactor.seconds() - begun, 2.5)
            self.assertRegex(await self.greeted("mail"), rb"^\* PREAUTH ")
        await wire.ask(b"2 SELECT INBOX\r\n", rb"^2 OK ")

    async def test_changed_greeting(self):
        """A changed greeting annotation concerns new connections."""
        _, document = await self.serve()
        self.proxy.document("mail", document)
        port = free_port()
        self.proxy.resource("mail", port=port)
        self.proxy.start()
        self.assertRegex(await self.greeted("mail"), rb"^\* PREAUTH ")
        self.proxy.resource("mail", port=port, greeting="open")
        begun = reactor.seconds()
        while not (await self.greeted("mail")).startswith(b"* OK "):
            self.assertLess(reactor.seconds() - begun, 2.5)

    async def test_broken_files(self):
        """A file that breaks leaves what it said before in force, with an error that names file and line."""
        _, document = await self.serve()
        self.proxy.offer("mail", document)
        self.proxy.start()
        await self.greeted("mail")
        for folder, name, text in (
            ("destinations", "mail.json", '{"Name": "mail",\n "Type" "MAIL"}'),
            ("resources", "mail.yaml", "kind: Destination\nmetadata: [\n"),
        ):
            path = self.proxy.folder / folder / name
            good = path.read_text()
            path.write_text(text)
            event = await self.proxy.logged(file=str(path))
            self.assertGreaterEqual(event["line"], 2, event)
            self.assertEqual("error", event["level"], event)
            self.assertRegex(await self.greeted("mail"), rb"^\* PREAUTH ")
            path.write_text(good)

    async def test_broken_neighbours(self):
        """Malformed resources and documents say what is wrong with them; the others are served."""
        _, document = await self.serve()
        self.proxy.offer("good", document)
        self.proxy.offer("no-type", {key: value for key, value in document.items() if key != "Type"})
        self.proxy.offer("http", {**document, "Type": "HTTP"})
        self.proxy.offer("cloud", {**document, "ProxyType": "OnPremise"})
        self.proxy.offer("loop", {**document, "mail.imap4s.port": "99999"})
        self.proxy.resource("nowhere")
        self.proxy.resource("tenants", destination="good", tenants='["acme"]')
        self.proxy.resource("greets", destination="good", greeting="loudly")
        (self.proxy.folder / "resources" / "list.yaml").write_text("- a\n- b\n")
        (self.proxy.folder / "destinations" / "list.json").write_text("[]")
        self.proxy.start()
        self.assertRegex(await self.greeted("good"), rb"^\* PREAUTH ")
        for name in ("no-type", "http", "cloud", "loop", "nowhere", "tenants", "greets"):
            event = await self.proxy.logged(listener=f"tests/{name}", level="warn")
            self.assertTrue(event["message"], event)

    async def test_restart_keeps_ports(self):
        """A restart gives each resource the port that it had, though another one wants it now."""
        _, document = await self.serve()
        self.proxy.document("mail", document)
        port = free_port()
        for name in ("b", "a"):
            self.proxy.resource(name, destination="mail", port=port)
        self.proxy.start()
        ports = {name: await self.proxy.port(name) for name in ("a", "b")}
        self.assertEqual(port, ports["a"])
        self.assertNotEqual(port, ports["b"])
        await self.proxy.stop()
        (self.proxy.folder / "resources" / "a.yaml").unlink()
        self.proxy.resource("aa", destination="mail", port=port)
        self.proxy.start()
        self.assertEqual(ports["b"], await self.proxy.port("b"))
        self.assertNotEqual(port, await self.proxy.port("aa"))
        state = json.loads((self.proxy.folder / "state.json").read_text())
        recorded = {each["name"]: each["port"] for each in state["ports"]}
        self.assertEqual({**ports, "aa": await self.proxy.port("aa")}, recorded)

    async def test_port_taken(self):
        """A port that somebody else has is replaced by another, with a log line."""
        _, document = await self.serve()
        self.proxy.document("mail", document)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            self.proxy.resource("mail", port=taken.getsockname()[1])
            self.proxy.start()
            port = await self.proxy.port("mail")
            self.assertNotEqual(taken.getsockname()[1], port)
            self.assertTrue(10000 <= port <= 32767, port)
            self.assertRegex(await self.greeted("mail"), rb"^\* PREAUTH ")

    async def test_stops(self):
        """SIGTERM and SIGINT end it with status 0, with sessions open."""
        _, document = await self.serve()
        self.proxy.offer("mail", document)
        for number in (signal.SIGTERM, signal.SIGINT):
            self.proxy.start()
            wire = await connect(self, await self.proxy.port("mail"))
            await wire.hears(rb"\n")
            self.assertEqual(0, await self.proxy.child.end(number), str(self.proxy.child.output))
            await wire.received.closed()

    async def test_stops_plainly(self):
        """At its end no byte is added to a session, which may be in the middle of a message; a login hears BYE."""
        begun = b"* 1 FETCH (BODY[] {100}\r\nSubject: cut"
        relayed, silent = MailServer(answers={b"FETCH": begun}), MailServer(answers={b"AUTHENTICATE": b""})
        for name, server in (("mail", relayed), ("slow", silent)):
            self.proxy.offer(name, basic(await listen(self, server, self.authority.issue("127.0.0.1")), "ann"))
        self.proxy.start()
        session, login = [await connect(self, await self.proxy.port(name)) for name in ("mail", "slow")]
        greeting = await session.hears(rb"\n")
        await session.ask(b"1 FETCH 1 BODY[]\r\n", b"cut")
        await (await silent.connected()).received.until(rb"AUTHENTICATE")
        self.assertEqual(0, await self.proxy.child.end(signal.SIGTERM), str(self.proxy.child.output))
        for wire in (session, login):
            await wire.received.closed()
        self.assertEqual(greeting + begun, bytes(session.received))
        self.assertRegex(bytes(login.received), rb"^\* BYE \[UNAVAILABLE\] [^\r\n]+\r\n$")

    async def test_new_authority(self):
        """A CA that is added to the file of additional CAs is believed without a restart."""
        server = MailServer()
        later = Authority.create("another CA")
        self.proxy.offer("mail", basic(await listen(self, server, later.issue("127.0.0.1")), "ann"))
        self.proxy.start()
        self.assertRegex(await self.greeted("mail"), rb"^\* BYE ")
        self.proxy.trust(self.authority.pem, later.pem)
        begun = reactor.seconds()
        while not (await self.greeted("mail")).startswith(b"* PREAUTH"):
            self.assertLess(reactor.seconds() - begun, 5)


class TenantTests(TestCase):
    """With Dovecot: whose mailbox it is."""

    skip = MISSING
    timeout = 60

    async def test_shared(self):
        """In shared mode each tenant has a port of its own, and finds its own mailbox there."""
        mail = dovecot()
        proxy = Proxy(self)
        proxy.trust(mail.authority)
        proxy.configuration["config"]["tenantMode"] = "shared"
        users = {
            tenant: mail.mailbox(b"Subject: %s\r\n\r\nFor you.\r\n" % tenant.encode()) for tenant in ("acme", "globex")
        }
        for tenant, user in users.items():
            proxy.document("mail", basic(mail.tls, user), tenant)
        users["initech"] = mail.mailbox(b"Subject: everybody\r\n\r\nFor you.\r\n")
        proxy.document("mail", basic(mail.tls, users["initech"]))
        proxy.resource("mail", tenants='["acme", "globex", "initech"]')
        proxy.start()
        for tenant, subject in (("acme", b"acme"), ("globex", b"globex"), ("initech", b"everybody")):
            wire = await connect(self, await proxy.port(f"mail-{tenant}"))
            self.assertIn(b" mail-%s ready" % tenant.encode(), await wire.hears(rb"\n"))
            wire.say(b"1 SELECT INBOX\r\n2 FETCH 1 BODY.PEEK[]\r\n")
            self.assertIn(b"Subject: %s\r\n" % subject, await wire.hears(rb"^2 OK "))
        self.assertEqual([1, 1, 1], [await mail.logins(user, 1) for user in users.values()])

    async def test_removed_tenant(self):
        """A tenant that is taken out of the annotation loses its port and its sessions; the others keep theirs."""
        mail = dovecot()
        proxy = Proxy(self)
        proxy.trust(mail.authority)
        proxy.configuration["config"]["tenantMode"] = "shared"
        proxy.document("mail", basic(mail.tls, mail.mailbox(*MESSAGES)))
        proxy.resource("mail", tenants='["acme", "globex"]')
        proxy.start()
        port = await proxy.port("mail-acme")
        leaves, stays = await connect(self, port), await connect(self, await proxy.port("mail-globex"))
        for wire in (leaves, stays):
            await wire.ask(b"1 SELECT INBOX\r\n", rb"^1 OK ")
        proxy.resource("mail", tenants='["globex"]')
        begun = reactor.seconds()
        await leaves.received.closed()
        self.assertLess(reactor.seconds() - begun, 5)
        await stays.ask(b"2 FETCH 1 BODY.PEEK[]\r\n", rb"^2 OK ")
        with self.assertRaises(ConnectionRefusedError):
            await connect(self, port)


class WaysInTests(TestCase):
    """With Dovecot: STARTTLS, the mechanisms, and no login at all."""

    skip = MISSING
    timeout = 60

    async def test_starttls(self):
        """`imap4` upgrades the plain port before the login."""
        user = dovecot().mailbox(FIRST)
        _, port = await serving(self, user, through="imap4")
        wire = await connect(self, port)
        self.assertRegex(await wire.hears(rb"\n"), rb"^\* PREAUTH ")
        await wire.ask(b"1 SELECT INBOX\r\n", rb"^1 OK ")
        self.assertEqual(1, await dovecot().logins(user, 1, ".*, TLS,"))

    async def test_scram(self):
        """SCRAM-SHA-256, where PLAIN is not offered."""
        mail = dovecot("scram-sha-256")
        user = mail.mailbox(FIRST)
        _, port = await serving(self, user, mail=mail)
        wire = await connect(self, port)
        self.assertRegex(await wire.hears(rb"\n"), rb"^\* PREAUTH ")
        self.assertEqual(1, await mail.logins(user, 1, "method=SCRAM-SHA-256,"))

    async def test_sasl_login(self):
        """AUTH=LOGIN, where nothing else is offered."""
        mail = dovecot("login")
        user = mail.mailbox(FIRST)
        _, port = await serving(self, user, mail=mail)
        wire = await connect(self, port)
        self.assertRegex(await wire.hears(rb"\n"), rb"^\* PREAUTH ")
        self.assertEqual(1, await mail.logins(user, 1, "method=LOGIN,"))

    async def test_odd_password(self):
        """A password with quotes, a backslash and letters of other scripts, by each mechanism."""
        for mechanisms in ("plain", "scram-sha-256", "login"):
            _, port = await serving(self, ODD, mail=dovecot(mechanisms), password=ODD_PASSWORD)
            wire = await connect(self, port)
            self.assertRegex(await wire.hears(rb"\n"), rb"^\* PREAUTH ", mechanisms)

    async def test_no_login(self):
        """With `auth: false` the application sees the mail server's own greeting, and logs in itself."""
        mail = dovecot()
        user = mail.mailbox(FIRST)
        for through in ("imap4s", "imap4"):
            _, port = await serving(self, user, through=through, **{f"mail__{through}__auth": "false"})
            wire = await connect(self, port)
            self.assertRegex(await wire.hears(rb"\n"), rb"^\* OK \[CAPABILITY [^\]]*AUTH=PLAIN[^\]]*\] ")
            self.assertNotIn(b"STARTTLS", bytes(wire.received))
            await wire.ask(b'1 LOGIN %s "%s"\r\n' % (user.encode(), b"wrong"), rb"^1 NO ")

"""Mail servers, applications and credentials that mean no good."""

from __future__ import annotations

from base64 import b64decode

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from tests.integration import canaries
from tests.integration.mailserver import GREETING, MailServer, listen
from tests.integration.proxy import Proxy, basic
from tests.integration.wire import connect, together
from tproxy.model import Reason
from tproxy.testing.certificates import Authority

SAID = canaries.also("Canary-upstream-says")
"""What the mail server says in its refusals is nobody's business but its own."""

CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(32)


class HostileTests(TestCase):
    timeout = 90

    def setUp(self):
        self.authority = Authority.create()
        self.certificate = self.authority.issue("127.0.0.1")
        self.proxy = Proxy(self)
        self.proxy.trust(self.authority.pem)
        self.ports = {}

    async def serve(self, server: MailServer, name: str = "mail", **more: str) -> MailServer:
        """Put a mail server behind a resource of the proxy."""
        self.ports[name] = await listen(self, server, self.certificate)
        self.proxy.offer(name, basic(self.ports[name], "ann", **more))
        return server

    async def heard(self, name: str = "mail") -> bytes:
        """All that an application hears that says nothing, to the end."""
        wire = await connect(self, await self.proxy.port(name))
        await wire.received.closed()
        return bytes(wire.received)

    async def test_greetings(self):
        """Each hostile greeting gets one clean refusal, and the server no credential; in 30 s at the latest."""
        greetings = {
            "preauth": b"* PREAUTH [CAPABILITY IMAP4rev1] %s\r\n",
            "bye": b"* BYE [UNAVAILABLE] %s\r\n",
            "no": b"* NO %s\r\n",
            "tagged": b"a1 OK %s\r\n",
            "guessed": b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi\r\n1 OK %s\r\nA001 OK %s\r\n",
            "http": b"HTTP/1.1 400 Bad Request\r\nServer: %s\r\n\r\n",
            "garbage": bytes(range(256)).replace(b"\r", b"") + b"%s\r\n",
            "control": b"* BYE \x1b]0;%s\x07\x1b[2J\r\n",
            "endless": b"* OK " + b"x" * 100_000 + b"%s",
            "empty": b"\r\n\r\n%s\r\n",
            "silent": b"",
            "unfinished": b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] %s",
        }
        servers = {
            name: await self.serve(MailServer(greeting.replace(b"%s", SAID.encode())), name)
            for name, greeting in greetings.items()
        }
        self.proxy.start()
        await self.proxy.port("unfinished")
        begun = reactor.seconds()
        answers = await together(*map(self.heard, greetings))
        self.assertLess(reactor.seconds() - begun, 33)
        for name, answer in zip(greetings, answers, strict=True):
            self.assertRegex(answer, rb"\A\* BYE \[UNAVAILABLE\] [\x20-\x7e]+\r\n\Z", name)
            self.assertEqual([], canaries.found(answer + servers[name].received), name)
            event = await self.proxy.logged(event="session.refused", destination=name)
            self.assertIn(event["stage"], ("greeting", "login"), event)
            expected = Reason.TIMED_OUT if name in ("silent", "unfinished") else None
            self.assertIn(expected, (None, event["reason"]), event)

    async def test_refused_login(self):
        """The application learns a code and our words; the server's own are in no answer and in no log."""
        answers = {
            "AUTHENTICATIONFAILED": b"%s NO [AUTHENTICATIONFAILED] ",
            "EXPIRED": b"%s NO [EXPIRED] ",
            "LIMIT": b"%s NO [LIMIT] ",
            "CONTACTADMIN": b"%s NO [CONTACTADMIN] ",
            "UNAVAILABLE": b"* BYE ",
        }
        for code, answer in answers.items():
            await self.serve(MailServer(answers={b"AUTHENTICATE": answer + SAID.encode() + b"\r\n"}), code.lower())
        self.proxy.start()
        for code in answers:
            self.assertRegex(await self.heard(code.lower()), rb"\A\* BYE \[%s\] [\x20-\x7e]+\r\n\Z" % code.encode())

    async def test_wrong_password(self):
        """A refused password is not tried again for each new connection, until it is another password."""
        wrong = await self.serve(
            MailServer(answers={b"AUTHENTICATE": b"%s NO [AUTHENTICATIONFAILED] no\r\n"}),
            password=canaries.secret("old"),
        )
        good = await self.serve(MailServer(), "good")
        self.proxy.start()
        refused = await together(*(self.heard() for _ in range(8)))
        refused += [await self.heard() for _ in range(3)]
        for answer in refused:
            self.assertRegex(answer, rb"\A\* BYE \[AUTHENTICATIONFAILED\] .*\r\n\Z")
        self.assertEqual(1, wrong.logins)

        other = await connect(self, await self.proxy.port("good"))
        self.assertRegex(await other.hears(rb"\n"), rb"^\* PREAUTH ")
        self.assertEqual(1, good.logins)

        wrong.answers[b"AUTHENTICATE"] = good.answers[b"AUTHENTICATE"]
        begun = reactor.seconds()
        self.proxy.document("mail", basic(self.ports["mail"], "ann", password=canaries.secret("new")))
        greeting = b""
        while not greeting.startswith(b"* PREAUTH") and reactor.seconds() < begun + 5:
            wire = await connect(self, await self.proxy.port("mail"))
            greeting = await wire.hears(rb"\n")
        self.assertRegex(greeting, rb"^\* PREAUTH ")
        self.assertLess(reactor.seconds() - begun, 2.5)
        self.assertEqual(2, wrong.logins)

    async def test_credentials(self):
        """Odd characters in user and password reach the mail server as they are."""
        cases = {
            "quotes": ('a"nn\\', 'canary pass"wo\\rd%s{3}'),
            "letters": ("zoë@пример.example", "canary pässwörd 密码"),
            "commands": ("ann", 'canary" LOGOUT'),
            "controls": ("ann", "canary \x01\x02\x7f\t"),
            "spaces": (" ann ", " canary "),
        }
        servers = {
            name: await self.serve(MailServer(), name, mail__user=user, password=canaries.also(password))
            for name, (user, password) in cases.items()
        }
        plain = MailServer(b"* OK [CAPABILITY IMAP4rev1] no SASL here\r\n")
        plain.answers[b"LOGIN"] = GREETING[:0] + plain.answers[b"LOGIN"]
        await self.serve(plain, "login", mail__user='a"nn\\', password=canaries.also('canary "quoted\\'))
        self.proxy.start()
        for name, (user, password) in cases.items():
            wire = await connect(self, await self.proxy.port(name))
            self.assertRegex(await wire.hears(rb"\n"), rb"^\* PREAUTH ", name)
            (line,) = servers[name].received.splitlines()
            self.assertEqual(f"\0{user}\0{password}".encode(), b64decode(line.split()[3]), name)
        wire = await connect(self, await self.proxy.port("login"))
        await wire.hears(rb"^\* PREAUTH ")
        self.assertRegex(plain.received, rb' LOGIN "a\\"nn\\\\" "canary \\"quoted\\\\"\r\n')

    async def test_credentials_that_cannot_be_sent(self):
        """CR, LF and NUL in user or password are refused with the property's name, before a byte is sent."""
        cases = {
            "user-cr": ("mail.user", "ann\rx"),
            "user-lf": ("mail.user", "ann\n1 LOGOUT"),
            "user-nul": ("mail.user", "ann\0bob"),
            "password-crlf": ("mail.password", canaries.also("canary\r\n2 DELETE INBOX")),
            "password-nul": ("mail.password", canaries.also("canary\0nul")),
            "password-lf": ("mail.password", canaries.also("canary\nlf")),
        }
        servers = {}
        for name, (key, value) in cases.items():
            more = {"password": value} if key == "mail.password" else {"mail__user": value}
            servers[name] = await self.serve(MailServer(), name, **more)
        self.proxy.start()
        for name, (key, _) in cases.items():
            event = await self.proxy.logged(event="listener.refused", listener=f"tests/{name}")
            self.assertIn(key, event["message"])
            self.assertEqual(b"", servers[name].received)
        self.assertEqual([], [name for name, server in servers.items() if server.connections])

    async def test_gone_before_the_greeting(self):
        """An application that leaves before the greeting costs no login: by FIN, by RST, by beginning TLS."""
        server = await self.serve(MailServer(greeting=b""))
        self.proxy.start()
        port = await self.proxy.port("mail")
        for number, leave in enumerate(
            (
                lambda wire: wire.transport.loseConnection(),
                lambda wire: wire.reset(),
                lambda wire: wire.say(CLIENT_HELLO),
            ),
            1,
        ):
            wire = await connect(self, port)
            conversation = await server.connected(number)
            leave(wire)
            await conversation.received.closed()
            await wire.received.closed()
            self.assertEqual(b"", bytes(wire.received))
        self.assertEqual(b"", server.received)
        self.assertEqual(0, server.logins)
        events = [event for event in self.proxy.events if event.get("event") == "session.abandoned"]
        self.assertEqual(3, len(events))
        self.assertIn("TLS", events[-1]["message"])

    async def test_tls_to_the_plain_port(self):
        """A client that begins TLS with its first byte is closed without a word, and costs no login."""
        server = await self.serve(MailServer())
        self.proxy.start()
        port = await self.proxy.port("mail")
        for _ in range(3):
            wire = await connect(self, port)
            wire.say(CLIENT_HELLO)
            await wire.received.closed()
            self.assertEqual(b"", bytes(wire.received))
        self.assertEqual(0, server.logins)

    async def test_dies_in_a_literal(self):
        """A mail server that dies inside a literal: its bytes are delivered, nothing is added, within a second."""
        answer = b"* 1 FETCH (BODY[] {100000}\r\n" + b"half of it"
        names = ("orderly", "torn")
        servers = {name: await self.serve(MailServer(answers={b"FETCH": answer}), name) for name in names}
        self.proxy.start()
        for name, server in servers.items():
            wire = await connect(self, await self.proxy.port(name))
            greeting = await wire.hears(rb"\n")
            self.assertEqual(answer, await wire.ask(b"1 FETCH 1 BODY[]\r\n", b"half of it"))
            transport = server.connections[0].transport
            begun = reactor.seconds()
            transport.loseConnection() if name == "orderly" else transport.abortConnection()
            await wire.received.closed()
            self.assertLess(reactor.seconds() - begun, 1)
            self.assertEqual(greeting + answer, bytes(wire.received))

    async def test_application_resets(self):
        """An application's RST ends the mail server's session at once."""
        server = await self.serve(MailServer())
        self.proxy.start()
        wire = await connect(self, await self.proxy.port("mail"))
        await wire.ask(b"1 SELECT INBOX\r\n", rb"^1 OK ")
        begun = reactor.seconds()
        wire.reset()
        await server.ended()
        self.assertLess(reactor.seconds() - begun, 1)

    async def test_endless_line(self):
        """A command line without an end before the relay is not kept for ever: the client hears of it and is closed."""
        await self.serve(MailServer())
        self.proxy.start()
        wire = await connect(self, await self.proxy.port("mail"))
        await wire.hears(rb"\n")
        wire.say(b"1 LOGIN " + b"x" * 200_000)
        await wire.received.closed()

    async def test_limit(self):
        """One connection too many is refused with LIMIT; once another has ended, there is room again."""
        server = await self.serve(MailServer())
        self.proxy.configuration["config"]["limits"] = {"connectionsPerListener": 3}
        self.proxy.start()
        port = await self.proxy.port("mail")
        wires = [await connect(self, port) for _ in range(3)]
        for wire in wires:
            await wire.hears(rb"^\* PREAUTH ")
        self.assertRegex(await self.heard(), rb"\A\* BYE \[LIMIT\] [\x20-\x7e]+\r\n\Z")
        self.assertEqual(3, server.logins)
        wires[0].say(b"1 LOGOUT\r\n")
        await wires[0].received.closed()
        await server.ended()
        wire = await connect(self, port)
        await wire.hears(rb"^\* PREAUTH ")

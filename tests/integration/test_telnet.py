"""The documented session, as a user types it: telnet, nc, and a bare connection."""

from __future__ import annotations

import re
import shutil

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from tests.integration import canaries
from tests.integration.children import start
from tests.integration.dovecot import MISSING, dovecot
from tests.integration.messages import MESSAGES
from tests.integration.proxy import serving
from tests.integration.wire import Wire, connect, together

TELNET = shutil.which("telnet")
NC = shutil.which("nc")
SHOWN = b"AUTH=PLAIN AUTH=LOGIN AUTH=XOAUTH2 AUTH=OAUTHBEARER SASL-IR"
DOCUMENTED = (b'2 LIST "" "*"', b"3 SELECT INBOX", b"5 FETCH 1 BODY[TEXT]")


def timeless(transcript: bytes) -> bytes:
    """Without what Dovecot says differently each time."""
    transcript = re.sub(rb"\(\d+\.\d+ \+ \d+\.\d+( \+ \d+\.\d+)? secs\)", b"(- secs)", transcript)
    return re.sub(rb"UIDVALIDITY \d+", b"UIDVALIDITY -", transcript)


async def typed(wire: Wire, *commands: bytes) -> bytes:
    """The answers to commands that are sent one after the other, each after the answer to the one before."""
    answers = b""
    for command in commands:
        answers += await wire.ask(command + b"\r\n", rb"^%s [^\r]*\r\n" % command.split()[0])
    return timeless(answers)


class TelnetTests(TestCase):
    """A bare connection, and the tools at hand."""

    skip = MISSING
    timeout = 60

    async def expected(self) -> bytes:
        """What Dovecot itself answers to the documented commands."""
        user = dovecot().mailbox(*MESSAGES)
        wire = await connect(self, dovecot().plain)
        await wire.hears(rb"^\* OK .*\r\n")
        await wire.ask(b'1 LOGIN %s "%s"\r\n' % (user.encode(), canaries.secret(user).encode()), rb"^1 OK .*\r\n")
        return await typed(wire, *DOCUMENTED)

    async def test_documented(self):
        """The greeting says PREAUTH and the name; then each command gets the mail server's own bytes."""
        user = dovecot().mailbox(*MESSAGES)
        _, port = await serving(self, user)
        wire = await connect(self, port)
        greeting = await wire.hears(rb"\n")
        self.assertRegex(greeting, rb"^\* PREAUTH \[CAPABILITY IMAP4rev1 [^\]]*\bIDLE\b[^\]]*\] mail ready\r\n$")
        self.assertIn(SHOWN, greeting)
        answers = await typed(wire, *DOCUMENTED)
        self.assertEqual(await self.expected(), answers)
        self.assertIn(b"{29}\r\nGood morning.\r\nSecond line.\r\n", answers)
        self.assertEqual(1, await dovecot().logins(user, 1))

    async def test_documented_after_a_login(self):
        """A LOGIN is answered, whatever its user and password; then the same follows."""
        _, port = await serving(self, dovecot().mailbox(*MESSAGES))
        wire = await connect(self, port)
        await wire.hears(rb"^\* PREAUTH .*\r\n")
        answer = await wire.ask(b"1 LOGIN anybody anything\r\n", rb"\n")
        self.assertRegex(answer, rb"^1 OK \[CAPABILITY IMAP4rev1 [^\]]*\] \S.*\r\n$")
        self.assertNotIn(b"AUTH=", answer)
        self.assertEqual(await self.expected(), await typed(wire, *DOCUMENTED))

    async def test_end_is_logged(self):
        """The log has the end of a session, with its time and the bytes each way."""
        proxy, port = await serving(self, dovecot().mailbox(*MESSAGES))
        wire = await connect(self, port)
        said = b"1 CAPABILITY\r\n2 SELECT INBOX\r\n3 FETCH 1:* BODY.PEEK[]\r\n4 LOGOUT\r\n"
        wire.say(said)
        await wire.received.closed()
        event = await proxy.logged(event="session.ended", listener="tests/mail", destination="mail")
        self.assertEqual((len(said), len(wire.received.octets)), (event["received"], event["sent"]))
        self.assertTrue(0 < event["seconds"] < 30, event)

    async def test_open_greeting(self):
        """With `tproxy/greeting: open` the greeting says OK, and no login is needed either."""
        _, port = await serving(self, dovecot().mailbox(*MESSAGES), greeting="open")
        wire = await connect(self, port)
        greeting = await wire.hears(rb"\n")
        self.assertRegex(greeting, rb"^\* OK \[CAPABILITY IMAP4rev1 [^\]]*\] mail ready\r\n$")
        self.assertEqual(await self.expected(), await typed(wire, *DOCUMENTED))

    async def test_bare_line_feeds(self):
        """Lines may end with LF alone, in the dialogue and after it."""
        _, port = await serving(self, dovecot().mailbox(*MESSAGES))
        wire = await connect(self, port)
        wire.say(b"0 CAPABILITY\n1 LOGIN anybody anything\n2 NOOP\n3 SELECT INBOX\n")
        await wire.hears(rb"^3 OK ")

    async def test_telnet(self):
        """The documented session in telnet, typed line by line."""
        if not TELNET:
            self.skipTest("there is no telnet: apt-get install telnet")
        _, port = await serving(self, dovecot().mailbox(*MESSAGES))
        telnet = start(self, [TELNET, "127.0.0.1", str(port)], dovecot().folder, pty=True)
        await telnet.output.until(rb"^\* PREAUTH .* mail ready")
        for command in (*DOCUMENTED, b"6 LOGOUT"):
            telnet.transport.write(command + b"\n")
            await telnet.output.until(rb"^%s OK " % command.split()[0])
        await telnet.output.closed()
        self.assertIn(b"Good morning.\nSecond line.\n", bytes(telnet.output).replace(b"\r", b""))

    async def test_nc(self):
        """`printf '2 LIST "" "*"\\r\\n' | nc HOST PORT` prints the answer; so it does where nc sends FIN (-N)."""
        if not NC:
            self.skipTest("there is no nc: apt-get install netcat-openbsd")
        _, port = await serving(self, dovecot().mailbox(*MESSAGES))

        async def printed(*options: str) -> str:
            child = start(self, [NC, *options, "127.0.0.1", str(port)], dovecot().folder)
            child.transport.write(b'2 LIST "" "*"\r\n')
            child.transport.closeStdin()
            await child.output.until(rb"^2 OK .*\r\n")
            return str(child.output)

        for answer in (await printed(), await printed("-N")):
            self.assertRegex(answer, r'\A\* PREAUTH .*\r\n\* LIST \(\\HasNoChildren\) "\." INBOX\r\n2 OK .*\r\n\Z')

    async def test_half_close(self):
        """A client that sends its commands and FIN gets every answer, then the end, 10 s after the last."""
        _, port = await serving(self, dovecot().mailbox(*MESSAGES))

        async def answered(commands: bytes) -> tuple[bytes, float]:
            wire = await connect(self, port)
            wire.say(commands)
            wire.transport.loseWriteConnection()
            begun = reactor.seconds()
            await wire.received.closed()
            return bytes(wire.received), reactor.seconds() - begun

        (dialogue, _), (relayed, seconds), (left, soon) = await together(
            answered(b"1 CAPABILITY\r\n2 LOGIN a b\r\n"),
            answered(b"1 CAPABILITY\r\n2 SELECT INBOX\r\n3 FETCH 1:* BODY.PEEK[]\r\n"),
            answered(b"1 SELECT INBOX\r\n2 LOGOUT\r\n"),
        )
        self.assertRegex(dialogue, rb"\A\* PREAUTH .*\r\n\* CAPABILITY .*\r\n1 OK .*\r\n2 OK .*\r\n\Z")
        for message in MESSAGES:
            self.assertIn(message, relayed)
        self.assertRegex(relayed, rb"\r\n3 OK [^\n]*\r\n\Z")
        self.assertTrue(9 < seconds < 15, seconds)
        self.assertRegex(left, rb"\r\n\* BYE [^\n]*\r\n2 OK [^\n]*\r\n\Z")
        self.assertLess(soon, 5)

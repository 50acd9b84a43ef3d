"""The mail server in memory: as clients see it, on the wire and through imaplib."""

from __future__ import annotations

import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.utils import getProcessOutputAndValue
from twisted.mail.interfaces import IAccountIMAP, IMailboxIMAP, IMessageIMAP, IMessageIMAPFile, IMessageIMAPPart
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from tproxy.testing.mailboxes import Account, Message, Part
from tproxy.testing.mailserver import MailServer
from tproxy.testing.messages import SAMPLES, Entity

TREE = Path(__file__).parent.parent.parent


def now() -> datetime:
    """The time, as far as this server knows."""
    return datetime(2025, 7, 1, tzinfo=UTC)


class Talk(Protocol):
    """A client by hand: commands in, everything up to the tagged answer out."""

    def __init__(self) -> None:
        self.received = b""
        self.awaited: tuple[re.Pattern[bytes], Deferred[str]] | None = None
        self.closed: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._look()

    def connectionLost(self, reason: object = None) -> None:
        self.closed.callback(None)

    def until(self, pattern: bytes) -> Deferred[str]:
        """Everything up to the first line that begins like this."""
        answer: Deferred[str] = Deferred()
        self.awaited = (re.compile(rb"\A(?:.*\r\n)?%b[^\r\n]*\r\n" % pattern, re.DOTALL), answer)
        self._look()
        return answer

    def ask(self, command: str) -> Deferred[str]:
        """Send a command; its answer."""
        assert self.transport is not None
        self.transport.write(b"t " + command.encode() + b"\r\n")
        return self.until(b"t (?:OK|NO|BAD) ")

    def _look(self) -> None:
        if self.awaited and (found := self.awaited[0].match(self.received)):
            answer, self.awaited = self.awaited[1], None
            self.received = self.received[found.end() :]
            answer.callback(found[0].decode())


class MailServerTests(TestCase):
    """Two users, and clients that speak IMAP by hand."""

    timeout = 20

    async def setUp(self) -> None:
        server = MailServer({"ada": "enchantress", "grace": "nanosecond"}, now=now)
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(server)
        self.addCleanup(port.stopListening)
        self.port = port.getHost().port

    async def connect(self, user: str = "") -> Talk:
        talk = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), Talk())

        def close() -> Deferred[None]:
            talk.transport.loseConnection()
            return talk.closed

        self.addCleanup(close)
        self.greeting = await talk.until(rb"\* OK")
        if user:
            await talk.ask(f'LOGIN {user} "{"enchantress" if user == "ada" else "nanosecond"}"')
        return talk

    async def test_greeting(self) -> None:
        """The greeting says what can be done, and not what can't: no initial response, no plus literals."""
        await self.connect()
        self.assertEqual(
            "* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN NAMESPACE IDLE ID CHILDREN] ready\r\n",
            self.greeting,
        )

    async def test_login(self) -> None:
        """The right password opens the mailbox, another does not."""
        talk = await self.connect()
        self.assertEqual("t NO LOGIN failed\r\n", await talk.ask("LOGIN ada nanosecond"))
        self.assertEqual("t NO LOGIN failed\r\n", await talk.ask("LOGIN nobody x"))
        self.assertEqual("t OK LOGIN succeeded\r\n", await talk.ask("LOGIN ada enchantress"))

    def test_messages(self) -> None:
        """Each user finds what is meant for that user; where nothing is said, the samples."""
        users = {"ada": "enchantress", "grace": "nanosecond"}
        for server, *expected in (
            (MailServer(users), SAMPLES, SAMPLES),
            (MailServer(users, lambda user: (user.encode(),)), (b"ada",), (b"grace",)),
        ):
            inboxes = [account.folders["INBOX"].messages for account in server.accounts.values()]
            self.assertEqual(expected, [tuple(message.content.raw for message in inbox) for inbox in inboxes])

    async def test_authenticate_plain(self) -> None:
        """AUTHENTICATE PLAIN works, in two steps."""
        talk = await self.connect()
        talk.transport.write(b"t AUTHENTICATE PLAIN\r\n")
        await talk.until(rb"\+")
        talk.transport.write(b"AGdyYWNlAG5hbm9zZWNvbmQ=\r\n")
        self.assertEqual("t OK Authentication successful\r\n", await talk.until(b"t "))

    async def test_folders(self) -> None:
        """Folders are listed by pattern, made, renamed, subscribed to and removed, under names as they were given."""
        talk = await self.connect("ada")
        self.assertEqual(
            '* LIST (\\HasNoChildren) "/" "INBOX"\r\n'
            '* LIST (\\HasNoChildren) "/" "Sent"\r\n'
            '* LIST (\\HasNoChildren) "/" "Trash"\r\n'
            '* LIST (\\HasChildren) "/" "Projekte"\r\n'
            "t OK LIST completed\r\n",
            await talk.ask('LIST "" %'),
        )
        self.assertIn('"/" "Projekte/B&APw-ro M&APw-nchen"\r\n', await talk.ask('LIST Projekte/ "*"'))
        self.assertEqual('* LIST (\\Noselect) "/" ""\r\nt OK LIST completed\r\n', await talk.ask('LIST "" ""'))
        self.assertIn("t OK ", await talk.ask("CREATE Reports/2025"))
        self.assertIn("t NO ", await talk.ask("CREATE inbox"))
        self.assertIn("t NO ", await talk.ask("DELETE Reports"))
        self.assertIn("t OK ", await talk.ask("RENAME Reports Old"))
        self.assertIn("t OK ", await talk.ask("SUBSCRIBE Old/2025"))
        self.assertIn('"Old/2025"', await talk.ask('LSUB "" *'))
        self.assertIn("t OK ", await talk.ask("UNSUBSCRIBE Old/2025"))
        self.assertNotIn('"Old/2025"', await talk.ask('LSUB "" *'))
        self.assertIn("t OK ", await talk.ask("DELETE Old/2025"))
        self.assertIn("t NO ", await talk.ask("SELECT Old/2025"))
        self.assertIn("t NO ", await talk.ask("RENAME nothing something"))

    async def test_select(self) -> None:
        """SELECT tells all that RFC 3501 requires; EXAMINE and STATUS look without touching."""
        talk = await self.connect("ada")
        answer = await talk.ask("SELECT inbox")
        for line in (
            "* 4 EXISTS",
            "* OK [UIDNEXT 5]",
            "* OK [UIDVALIDITY ",
            "PERMANENTFLAGS (\\Answered",
            "[READ-WRITE]",
        ):
            self.assertIn(line, answer)
        answer = await talk.ask("EXAMINE INBOX")
        self.assertIn("[READ-ONLY]", answer)
        self.assertIn("PERMANENTFLAGS ()", answer)
        self.assertIn("t BAD ", await talk.ask("STORE 1 +FLAGS (\\Deleted)"))
        self.assertIn("t NO ", await talk.ask("EXPUNGE"))
        await talk.ask("FETCH 1 BODY[]")
        self.assertIn("FLAGS (\\Recent)", await talk.ask("FETCH 1 FLAGS"))
        status = await talk.ask("STATUS INBOX (MESSAGES UNSEEN UIDNEXT)")
        self.assertIn("* STATUS INBOX (MESSAGES 4 UNSEEN 4 UIDNEXT 5)\r\n", status)

    async def test_sections(self) -> None:
        """Each section is the bytes of the message, whole or a part of them."""
        talk = await self.connect("ada")
        await talk.ask("SELECT INBOX")
        message = Entity(SAMPLES[2])
        picture = message.parts[2]
        for item, name, octets in (
            ("BODY.PEEK[]", "BODY[]", message.raw),
            ("RFC822", "RFC822", message.raw),
            ("BODY[HEADER]", "BODY[HEADER]", message.header),
            ("RFC822.HEADER", "RFC822.HEADER", message.header),
            ("BODY[TEXT]", "BODY[TEXT]", message.body),
            ("RFC822.TEXT", "RFC822.TEXT", message.body),
            ("BODY[3]", "BODY[3]", picture.body),
            ("BODY[3.MIME]", "BODY[3.MIME]", picture.header),
            ("BODY[]<10.20>", "BODY[]<10>", message.raw[10:30]),
            ("BODY[3]<90.4096>", "BODY[3]<90>", picture.body[90:]),
            (
                "BODY[HEADER.FIELDS (Subject)]",
                "BODY[HEADER.FIELDS (Subject)]",
                b"Subject: Your invoice 2025-0042\r\n\r\n",
            ),
        ):
            answer = await talk.ask(f"UID FETCH 3 {item}")
            expected = f"* 3 FETCH ({name} {{{len(octets)}}}\r\n{octets.decode()} UID 3)\r\nt OK FETCH completed\r\n"
            self.assertEqual(expected, answer, item)
        for item in ("BODY[9]", "BODY[1.TEXT]"):
            self.assertIn(f"{item} NIL)", await talk.ask(f"FETCH 3 {item}"))

    async def test_structure(self) -> None:
        """Structure, envelope, size and date, of every message and as quoted ASCII."""
        talk = await self.connect("ada")
        await talk.ask("SELECT INBOX")
        answer = await talk.ask("FETCH 1:* (UID BODYSTRUCTURE BODY ENVELOPE RFC822.SIZE INTERNALDATE)")
        self.assertIn('"filename*" "utf-8\'\'Bestellung%20f%C3%BCr%20M%C3%BCnchen.csv"', answer)
        self.assertIn('"=?utf-8?q?Gr=C3=B6=C3=9Fere_Bestellung_f=C3=BCr_M=C3=BCnchen?="', answer)
        self.assertIn('INTERNALDATE "03-Jun-2025 09:30:00 +0200"', answer)
        self.assertIn(f"RFC822.SIZE {len(SAMPLES[3])}", answer)
        self.assertIn("t OK ", answer)

    async def test_seen(self) -> None:
        """Reading a message marks it as read; peeking does not."""
        talk = await self.connect("ada")
        await talk.ask("SELECT INBOX")
        await talk.ask("FETCH 1 BODY.PEEK[TEXT]")
        self.assertEqual("* SEARCH 1 2 3 4\r\nt OK SEARCH completed\r\n", await talk.ask("SEARCH UNSEEN"))
        await talk.ask("FETCH 1 BODY[TEXT]")
        self.assertEqual("* SEARCH 2 3 4\r\nt OK SEARCH completed\r\n", await talk.ask("UID SEARCH UNSEEN"))

    async def test_append_and_copy(self) -> None:
        """A message is kept as it came, with flags and date or without; where there is no mailbox, that is said."""
        talk = await self.connect("ada")
        message = b"Subject: \xff odd\r\n\r\n\x00\r\nbody without an end"
        for options, date in (
            ("", "01-Jul-2025 00:00:00 +0000"),
            ('(\\Seen) "02-Feb-2020 03:04:05 +0100" ', "02-Feb-2020"),
        ):
            talk.transport.write(b"t APPEND Sent %b{%d}\r\n" % (options.encode(), len(message)))
            await talk.until(rb"\+")
            talk.transport.write(message + b"\r\n")
            self.assertIn("t OK APPEND completed\r\n", await talk.until(b"t "))
            await talk.ask("SELECT Sent")
            self.assertIn(date, await talk.ask("FETCH * INTERNALDATE"))
            self.assertIn(f"RFC822.SIZE {len(message)}", await talk.ask("FETCH * (RFC822.SIZE BODYSTRUCTURE ENVELOPE)"))
        self.assertIn("t OK ", await talk.ask("COPY 1:2 INBOX"))
        self.assertIn("* 6 EXISTS", await talk.ask("SELECT INBOX"))
        self.assertIn("[TRYCREATE]", await talk.ask("COPY 1 Nowhere"))
        talk.transport.write(b"t APPEND Nowhere {1}\r\n")
        await talk.until(rb"\+")
        talk.transport.write(b"x\r\n")
        self.assertIn("[TRYCREATE]", await talk.until(b"t "))

    async def test_two_sessions(self) -> None:
        """What one session does, another of the same user is told, also in IDLE; another user is not."""
        one, two, other = await self.connect("ada"), await self.connect("ada"), await self.connect("grace")
        for talk in (one, two, other):
            await talk.ask("SELECT INBOX")
        two.transport.write(b"i IDLE\r\n")
        await two.until(rb"\+")
        await one.ask("STORE 1:2 +FLAGS.SILENT (\\Deleted)")
        self.assertIn("* 2 FETCH (FLAGS (\\Deleted \\Recent))\r\n", await two.until(rb"\* 2 FETCH"))
        self.assertEqual("* 2 EXPUNGE\r\n* 1 EXPUNGE\r\nt OK EXPUNGE completed\r\n", await one.ask("EXPUNGE"))
        self.assertEqual("* 2 EXPUNGE\r\n* 1 EXPUNGE\r\n", await two.until(rb"\* 1 EXPUNGE"))
        await one.ask("COPY 1 INBOX")
        self.assertEqual("* 3 EXISTS\r\n", await two.until(rb"\* 3 EXISTS"))
        self.assertEqual("t OK NOOP No operation performed\r\n", await other.ask("NOOP"))

    async def test_flags(self) -> None:
        """Flags are added, removed and replaced, by number and by UID."""
        talk = await self.connect("ada")
        await talk.ask("SELECT INBOX")
        self.assertIn("* 1 FETCH (FLAGS (\\Flagged \\Recent))", await talk.ask("STORE 1 +FLAGS (\\Flagged)"))
        self.assertIn("* 1 FETCH (FLAGS (\\Draft \\Recent) UID 1)", await talk.ask("UID STORE 1 FLAGS (\\Draft)"))
        self.assertIn("* 1 FETCH (FLAGS (\\Recent))", await talk.ask("STORE 1 -FLAGS (\\Draft)"))

    async def test_identity(self) -> None:
        """ID and NAMESPACE are answered."""
        talk = await self.connect("ada")
        self.assertIn('* ID ("name" ', await talk.ask("ID NIL"))
        self.assertIn('* NAMESPACE (("" "/")) NIL NIL', await talk.ask("NAMESPACE"))

    async def test_imaplib(self) -> None:
        """Python's own client finds its way: a program of its own, in a process of its own."""
        out, err, status = await getProcessOutputAndValue(
            sys.executable,
            ["-m", "tests.testing.with_imaplib", str(self.port)],
            env={**os.environ, "PYTHONPATH": str(TREE)},
        )
        self.assertEqual((b"done\n", b"", 0), (out, err, status))


class InterfaceTests(SynchronousTestCase):
    """What Twisted's server asks for is there."""

    def test_interfaces(self) -> None:
        """Every implementer keeps its promise."""
        account = Account(SAMPLES, now)
        verifyObject(IAccountIMAP, account)
        verifyObject(IMailboxIMAP, account.select("INBOX"))
        message = Message(1, SAMPLES[1], (), now())
        verifyObject(IMessageIMAP, message)
        verifyObject(IMessageIMAPFile, message)
        verifyObject(IMessageIMAPPart, Part(message.content))

    def test_part(self) -> None:
        """A message in parts is one to Twisted's server too."""
        message = Message(1, SAMPLES[1], (), now())
        self.assertTrue(message.isMultipart())
        part = message.getSubPart(1)
        self.assertFalse(part.isMultipart())
        self.assertEqual({"content-type"}, set(part.getHeaders(False, b"Content-Type")))
        self.assertNotIn("content-type", part.getHeaders(True, "content-type"))
        self.assertEqual(part.getSize(), len(part.getBodyFile().read()))

"""What a slow peer costs: the bytes wait where they come from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.integration.dovecot import MISSING, dovecot
from tests.integration.mailserver import GREETING, MailServer, listen
from tests.integration.messages import digest
from tests.integration.proxy import Proxy, basic, serving
from tests.integration.wire import Wire, connect
from tproxy.testing.certificates import Authority

SIZE = 60 * 1024 * 1024
ALLOWED = 1024 * 1024
LINE = b"%s\r\n" % (b"x" * 998)


def held(pid: int) -> int:
    """The memory that a process has for itself, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024


async def settled(pid: int) -> None:
    """Waits until a process has not used the CPU for half a second."""
    before, calm = "", 0
    while calm < 5:
        await deferLater(reactor, 0.1)
        now = " ".join(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])
        calm = calm + 1 if now == before else 0
        before = now


class MemoryTests(TestCase):
    timeout = 90
    if MISSING:
        skip = MISSING
    elif not Path("/proc/self/status").exists():
        skip = "memory is read from /proc, which Linux has"

    async def test_application_that_does_not_read(self):
        """A client that stops reading during a FETCH of 60 MB costs less than 1 MiB; then it gets every byte."""
        message = b"Subject: large\r\n\r\n" + LINE * (SIZE // len(LINE))
        user = dovecot().mailbox(message)
        proxy, port = await serving(self, user)
        pid = proxy.child.pid

        warm = await connect(self, port)
        warm.say(b"1 SELECT INBOX\r\n2 LOGOUT\r\n")
        await warm.received.closed()

        wire = await connect(self, port)
        await wire.ask(b"1 SELECT INBOX\r\n", rb"^1 OK ")
        before = held(pid)
        wire.transport.pauseProducing()
        wire.say(b"2 FETCH 1 BODY.PEEK[]\r\n")
        await settled(pid)
        while_stalled = held(pid) - before
        wire.transport.resumeProducing()
        end = b")\r\n2 OK Fetch completed"
        await wire.received.until(lambda octets: octets.rfind(end, -200) + 1 or None)
        octets = bytes(wire.received)
        begin = octets.index(b"{%d}\r\n" % len(message)) + len(b"{%d}\r\n" % len(message))
        self.assertEqual(digest(message), digest(octets[begin : octets.rindex(end)]))
        self.assertLess(while_stalled, ALLOWED)
        self.assertLess(held(pid) - before, ALLOWED)


class FloodTests(TestCase):
    """With a mail server of the test's own."""

    timeout = 90
    if not Path("/proc/self/status").exists():
        skip = "memory is read from /proc, which Linux has"

    async def greeted(self, greeting: bytes = GREETING) -> Wire:
        """An application's connection through a proxy that has had a session before; it has its own greeting."""
        authority = Authority.create()
        self.server = MailServer(greeting)
        self.proxy = Proxy(self)
        self.proxy.trust(authority.pem)
        self.proxy.offer("mail", basic(await listen(self, self.server, authority.issue("127.0.0.1")), "ann"))
        self.proxy.start()
        port = await self.proxy.port("mail")
        warm = await connect(self, port)
        await warm.ask(b"1 SELECT INBOX\r\n2 LOGOUT\r\n", rb"^2 OK ")
        await warm.received.closed()
        wire = await connect(self, port)
        await wire.hears(rb"\n")
        self.conversation = self.server.connections[1]
        return wire

    async def cost(self, flood: Callable[[], None]) -> int:
        """What a flood costs the proxy, in bytes, once nothing moves any more."""
        before = held(self.proxy.child.pid)
        flood()
        await settled(self.proxy.child.pid)
        return held(self.proxy.child.pid) - before

    async def test_mail_server_that_does_not_read(self):
        """A mail server that stops reading during an APPEND of 60 MB costs less than 1 MiB."""
        wire = await self.greeted()
        await wire.ask(b"1 SELECT INBOX\r\n", rb"^1 OK ")
        self.conversation.transport.pauseProducing()
        append = b"2 APPEND INBOX {%d+}\r\n" % SIZE + LINE * (SIZE // len(LINE))
        self.assertLess(await self.cost(lambda: wire.say(append)), ALLOWED)

    async def test_mail_server_that_talks(self):
        """60 MB of unasked lines during the dialogue, to an application that does not read."""
        wire = await self.greeted()
        wire.transport.pauseProducing()
        lines = b"* OK [ALERT] " + LINE
        cost = await self.cost(lambda: self.conversation.transport.write(lines * (SIZE // len(lines))))
        self.assertLess(cost, ALLOWED)

    async def test_application_that_only_asks(self):
        """An application that sends commands of the dialogue without end, and reads no answer."""
        wire = await self.greeted()
        wire.transport.pauseProducing()
        self.assertLess(await self.cost(lambda: wire.say(b"1 CAPABILITY\r\n" * 1_000_000)), ALLOWED)

    async def test_application_that_does_not_wait(self):
        """60 MB of commands before the greeting."""
        wire = await self.greeted()
        self.server.greeting = b""
        early = await connect(self, wire.transport.getPeer().port)
        await self.server.connected(3)
        self.assertLess(await self.cost(lambda: early.say(b"1 NOOP\r\n" * (SIZE // 8))), ALLOWED)
        self.assertEqual(b"", bytes(early.received))

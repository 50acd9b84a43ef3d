"""What a slow peer costs: the bytes wait where they come from."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.integration.dovecot import MISSING, dovecot
from tests.integration.mailserver import MailServer, listen
from tests.integration.messages import digest
from tests.integration.proxy import Proxy, basic, serving
from tests.integration.wire import connect
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

        async def fetched(pause: bool) -> tuple[bytes, int]:
            wire = await connect(self, port)
            await wire.ask(b"1 SELECT INBOX\r\n", rb"^1 OK ")
            before = held(pid)
            if pause:
                wire.transport.pauseProducing()
            wire.say(b"2 FETCH 1 BODY.PEEK[]\r\n")
            if pause:
                await settled(pid)
            cost = held(pid) - before
            wire.transport.resumeProducing()
            end = b")\r\n2 OK Fetch completed"
            await wire.received.until(lambda octets: octets.rfind(end, -200) + 1 or None)
            octets = bytes(wire.received)
            begin = octets.index(b"{%d}\r\n" % len(message)) + len(b"{%d}\r\n" % len(message))
            return digest(octets[begin : octets.rindex(end)]), cost

        expected = digest(message)
        warm, _ = await fetched(False)
        paused, cost = await fetched(True)
        self.assertEqual([expected, expected], [warm, paused])
        self.assertLess(cost, ALLOWED)

    async def test_mail_server_that_does_not_read(self):
        """A mail server that stops reading during an APPEND of 60 MB costs less than 1 MiB."""
        authority = Authority.create()
        server = MailServer()
        proxy = Proxy(self)
        proxy.trust(authority.pem)
        proxy.offer("mail", basic(await listen(self, server, authority.issue("127.0.0.1")), "ann"))
        proxy.start()
        wire = await connect(self, await proxy.port("mail"))
        await wire.ask(b"1 SELECT INBOX\r\n", rb"^1 OK ")
        server.connections[0].transport.pauseProducing()
        before = held(proxy.child.pid)
        wire.say(b"2 APPEND INBOX {%d+}\r\n" % SIZE)
        wire.say(LINE * (SIZE // len(LINE)))
        await settled(proxy.child.pid)
        self.assertLess(held(proxy.child.pid) - before, ALLOWED)

"""A client that says exactly what a test wants it to say."""

from __future__ import annotations

import re
import socket
import struct

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from tests.integration.transcript import Transcript


@implementer(IHalfCloseableProtocol)
class Wire(Protocol):
    """One connection: `received` is what the other side said, and ends when it closed."""

    def __init__(self) -> None:
        self.received = Transcript()

    def dataReceived(self, data: bytes) -> None:
        self.received.feed(data)

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """The other side goes on."""

    def connectionLost(self, reason) -> None:
        if self.received.end is None:
            self.received.close(reason.type.__name__)

    def say(self, octets: bytes) -> None:
        self.transport.write(octets)

    async def hears(self, pattern: bytes) -> bytes:
        """All that was received, once `pattern` (a regular expression) is in it."""
        await self.received.until(pattern)
        return bytes(self.received)

    async def ask(self, octets: bytes, pattern: bytes) -> bytes:
        """What was received after `octets` were said, once `pattern` is in that."""
        before = len(self.received.octets)
        self.say(octets)
        compiled = re.compile(pattern, re.MULTILINE)
        await self.received.until(lambda heard: compiled.search(heard, before))
        return bytes(self.received)[before:]

    def reset(self) -> None:
        """End with RST."""
        self.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abortConnection()


async def connect(test, port: int) -> Wire:
    """A connection to 127.0.0.1; it is closed with the test."""
    wire = await TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(Factory.forProtocol(Wire))

    def close():
        wire.transport.abortConnection()
        return wire.received.closed()

    test.addCleanup(close)
    return wire


def together(*coroutines) -> Deferred:
    """Run coroutines side by side; fires with their results."""
    return gatherResults(map(Deferred.fromCoroutine, coroutines), consumeErrors=True)

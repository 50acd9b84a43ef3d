"""The other ends of connections under test: real sockets on loopback, and what came out of them."""

from __future__ import annotations

import socket

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of one TCP connection on loopback, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


class Recorder(Protocol):
    """Keeps what it hears; a test waits for an amount of bytes or for the end."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.ended: Deferred[type[BaseException] | None] = Deferred()
        self._wanted: list[tuple[int, Deferred[bytes]]] = []

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        ready = [waiting for waiting in self._wanted if waiting[0] <= len(self.heard)]
        for waiting in ready:
            self._wanted.remove(waiting)
            waiting[1].callback(bytes(self.heard))

    def hears(self, length: int) -> Deferred[bytes]:
        """Fires with all that was heard once that is `length` bytes or more."""
        waiting: Deferred[bytes] = Deferred()
        self._wanted.append((length, waiting))
        self.dataReceived(b"")
        return waiting

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(reason.type)


@implementer(IHalfCloseableProtocol)
class HalfClosing(Recorder):
    """A recorder that may go on after the peer's FIN."""

    def __init__(self) -> None:
        super().__init__()
        self.fin: Deferred[None] = Deferred()

    def readConnectionLost(self) -> None:
        self.fin.callback(None)

    def writeConnectionLost(self) -> None:
        """Not used."""


async def turn() -> None:
    """Let the reactor look at its sockets once."""
    waiting: Deferred[None] = Deferred()
    reactor.callLater(0, waiting.callback, None)
    await waiting

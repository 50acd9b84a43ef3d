"""What is done to a socket before and after the connection on it is in use: options, names, endings."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

Reactor = Any
"""IReactorFDSet and IReactorTime at once, which no single interface of Twisted says."""

LINGER_SECONDS = 2.0
DROPPED_AT_ONCE = 64 * 1024

IPAddress = IPv4Address | IPv6Address


def family(address: str) -> socket.AddressFamily:
    """That of an IP address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def address_of(name: Sequence[Any]) -> IPAddress:
    """What a socket calls an address, in Twisted's words."""
    if ":" in name[0]:
        return IPv6Address("TCP", *name)
    return IPv4Address("TCP", *name)


def prepare(sock: socket.socket) -> None:
    """No waiting for more bytes, and a peer that vanished is noticed within two minutes."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)


def reset(sock: socket.socket) -> None:
    """Close so that the peer sees a reset, not an end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()


@implementer(IReadDescriptor)
class Lingering:
    """A connection that we ended: what the peer still sends is read and dropped until it ends, too.

    A close with unread bytes would be a reset, and that may take back what was just delivered.
    """

    def __init__(self, reactor: Reactor, sock: socket.socket, done: Callable[[], None]) -> None:
        self._reactor, self._socket, self._done = reactor, sock, done
        self._timeout = reactor.callLater(LINGER_SECONDS, self.connectionLost)
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            reactor.callLater(0, self.connectionLost)
        else:
            reactor.addReader(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "tproxy"

    def doRead(self) -> None:
        try:
            if not self._socket.recv(DROPPED_AT_ONCE):
                self.connectionLost()
        except BlockingIOError:
            pass
        except OSError:
            self.connectionLost()

    def connectionLost(self, reason: Failure | None = None) -> None:
        if self._socket.fileno() < 0:
            return
        self._reactor.removeReader(self)
        if self._timeout.active():
            self._timeout.cancel()
        self._socket.close()
        self._done()

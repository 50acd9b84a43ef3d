"""Ports: connections are accepted a few at a time, in our own transport, whatever happens to one of them."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReadDescriptor, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tproxy.model import RefusedError
from tproxy.net.endpoints import given
from tproxy.net.sockets import IPAddress, Reactor, address_of, family, prepare

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProtocolFactory

log = Logger()

BACKLOG = 1024
ACCEPTS_PER_EVENT = 64
NO_DESCRIPTORS_SECONDS = 0.1


@implementer(IStreamServerEndpoint)
@frozen
class Listening:
    """An address to accept plain TCP connections at."""

    reactor: Reactor
    address: str
    port: int

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Fails with `CannotListenError` where the port is taken or not permitted."""
        port = _Port(self.reactor, self.address, self.port, protocolFactory)
        try:
            port.startListening()
        except CannotListenError:
            return fail()
        return succeed(port)


@implementer(IListeningPort, IReadDescriptor)
class _Port:
    def __init__(self, reactor: Reactor, address: str, port: int, factory: IProtocolFactory) -> None:
        self._reactor, self._address, self._number, self._factory = reactor, address, port, factory
        self._socket = socket.socket(family(address), socket.SOCK_STREAM)

    def startListening(self) -> None:
        sock = self._socket
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self._address, self._number))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise CannotListenError(self._address, self._number, error) from None
        sock.setblocking(False)
        self._factory.doStart()
        self._reactor.addReader(self)

    def stopListening(self) -> Deferred[None]:
        if self._socket.fileno() >= 0:
            self._reactor.removeReader(self)
            self._socket.close()
            self._factory.doStop()
        return succeed(None)

    def getHost(self) -> IPAddress:
        return address_of(self._socket.getsockname())

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "tproxy"

    def doRead(self) -> None:
        for _ in range(ACCEPTS_PER_EVENT):
            try:
                sock, _name = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._rest()
                return
            try:
                prepare(sock)
                given(self._reactor, sock, None, self._factory)
            except (OSError, RefusedError, CancelledError):
                sock.close()
            except Exception:  # that of one connection: the port stays open
                log.failure("{event}", event="connection.failed", port=self._number)
                sock.close()
            if self._socket.fileno() < 0:
                return

    def connectionLost(self, reason: Failure) -> None:
        self.stopListening()

    def _rest(self) -> None:
        log.error(
            "out of file descriptors: new connections wait; raise the limit (ulimit -n)",
            event="listener.no-descriptors",
            port=self._number,
        )
        self._reactor.removeReader(self)
        self._reactor.callLater(NO_DESCRIPTORS_SECONDS, self._resume)

    def _resume(self) -> None:
        if self._socket.fileno() >= 0:
            self._reactor.addReader(self)

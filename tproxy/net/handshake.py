"""A TLS handshake, on a connected socket of ours."""

from __future__ import annotations

import socket
from typing import cast

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from tproxy.model import RefusedError
from tproxy.net.sockets import Reactor
from tproxy.net.trust import ClientTLS


@implementer(IReadWriteDescriptor)
class Handshaking:
    """A TLS handshake: `done` fires with the verified TLS object, or fails with `RefusedError`.

    Where it fails or is cancelled nothing more is read or written; the socket stays its owner's.
    """

    def __init__(self, reactor: Reactor, sock: socket.socket, tls: ClientTLS) -> None:
        self._reactor, self._socket, self._tls = reactor, sock, tls
        self._connection = tls.connection(sock)
        self.done: Deferred[SSL.Connection] = Deferred(lambda _: self._leave())
        self._advance()

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "tproxy"

    def _advance(self) -> None:
        try:
            self._connection.do_handshake()
            self._tls.verify(self._connection)
        except SSL.WantReadError:
            self._reactor.removeWriter(self)
            self._reactor.addReader(self)
        except SSL.WantWriteError:
            self._reactor.removeReader(self)
            self._reactor.addWriter(self)
        except RefusedError as refused:
            self._leave()
            self.done.errback(refused)
        except (SSL.Error, OSError) as error:
            self._leave()
            self.done.errback(RefusedError(self._tls.refusal(self._connection, error)))
        else:
            self._leave()
            self.done.callback(self._connection)

    doRead = doWrite = _advance

    def connectionLost(self, reason: Failure) -> None:
        self._leave()
        if not self.done.called:
            self.done.errback(RefusedError(self._tls.refusal(self._connection, cast(Exception, reason.value))))

    def _leave(self) -> None:
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)

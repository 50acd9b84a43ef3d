"""A connection that owns its socket and its TLS object.

TLS runs on the non-blocking socket itself, so that one object reads, decrypts and hands over, and
so that both can be given away without taking anything out of Twisted. Each stage of a connection is
a small descriptor of its own: handshaking, open (`Transport`), lingering.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from fcntl import ioctl
from struct import unpack
from termios import TIOCOUTQ
from typing import TYPE_CHECKING, cast

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IPushProducer,
    IReadWriteDescriptor,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from tproxy.net.handshake import Handshaking
from tproxy.net.sockets import IPAddress, Lingering, Reactor, address_of, reset
from tproxy.net.trust import ClientTLS

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProtocol

TLS_RECORD = 16 * 1024
"""The longest TLS record: whoever reads this much at once leaves nothing behind in the TLS object."""

BUFFER = memoryview(bytearray(256 * 1024))
"""What every transport reads into; it is handed on before the next read."""

HEARD_AT_ONCE = BUFFER[: 64 * 1024]
"""What a protocol is told at once: its answers may be much longer than that, and have to wait somewhere."""

RECORDS = tuple(BUFFER[start : start + TLS_RECORD] for start in range(0, 8 * TLS_RECORD, TLS_RECORD))

BLOCKED = (BlockingIOError, SSL.WantReadError, SSL.WantWriteError)
"""Not now: the reactor says when."""

BROKEN = (OSError, SSL.Error)
"""Never again."""


def _ignore(octets: memoryview) -> None:
    """Nobody listens any more."""


@implementer(ITransport, IPushProducer, IReadWriteDescriptor)
class Transport:
    """An open connection: sends at once what the peer takes, and reads only while somebody wants it.

    Where writes pile up, a registered producer is paused until they are gone. A protocol that is
    `IHalfCloseableProtocol` is told of a FIN and may go on writing; for another one that is the end.
    `protocol` may be replaced at any time. `received` and `sent` count bytes.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_connection",
        "_handshake",
        "_hear",
        "_offset",
        "_pause",
        "_pending",
        "_producer",
        "_protocol",
        "_reactor",
        "_read_ended",
        "_reading",
        "_receive",
        "_room",
        "_send",
        "_socket",
        "disconnecting",
        "received",
        "sent",
    )

    def __init__(self, reactor: Reactor, sock: socket.socket, connection: SSL.Connection | None = None) -> None:
        self._reactor = reactor
        self._socket = sock
        self._pending: list[bytes] = []
        self._offset = 0
        self._producer: IPushProducer | None = None
        self._reading = self._read_ended = self._closed = self.disconnecting = False
        self._pause: Callable[[Transport], None] = reactor.removeReader
        self._protocol: IProtocol | None = None
        self._hear: Callable[[memoryview], None] = _ignore
        self._room = HEARD_AT_ONCE
        self._handshake: Deferred[SSL.Connection] | None = None
        self.received = self.sent = 0
        self._speak(connection)

    def _speak(self, connection: SSL.Connection | None) -> None:
        """Send and receive through TLS, or as it is."""
        self._connection = connection
        channel = self._socket if connection is None else connection
        self._receive: Callable[[memoryview], int] = channel.recv_into
        self._send: Callable[[bytes | memoryview], int] = channel.send

    def begin(self, protocol: IProtocol) -> None:
        """Give the connection to `protocol` and start to read."""
        self.protocol = protocol
        self.resumeProducing()
        protocol.makeConnection(self)

    @property
    def protocol(self) -> IProtocol:
        """Who is told what the peer says and how the connection ends."""
        assert self._protocol is not None  # noqa: S101
        return self._protocol

    @protocol.setter
    def protocol(self, protocol: IProtocol) -> None:
        self._protocol = protocol
        self._hear = lambda octets: protocol.dataReceived(bytes(octets))
        self._room = HEARD_AT_ONCE

    def carry_to(self, hear: Callable[[memoryview], None]) -> None:
        """From now on what the peer says goes to `hear`; the protocol is still told of the end.

        The octets are in a buffer that all transports share: `hear` keeps none of it.
        """
        self._hear = hear
        self._room = BUFFER

    def notice_reset(self) -> None:
        """From now on a reset is the end also while nothing is read, and what came before it is dropped.

        Only a hub can tell of that.
        """
        self._pause = self._reactor.pauseReader
        if not self._reading:
            self._pause(self)

    # the reactor's side

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "tproxy"

    def doRead(self) -> None:
        size, end = 0, None
        try:
            if self._connection is None:
                size = self._receive(self._room)
            else:
                for record in RECORDS:
                    read = self._receive(record)
                    size += read
                    if read < TLS_RECORD:  # a short one is most likely the last: the reactor tells of more
                        break
        except BLOCKED:
            if not size:
                return
        except BROKEN as error:
            end = error.with_traceback(None)  # or it would hold this frame, which holds it
        if size:
            self.received += size
            self._hear(BUFFER[:size])
            if end is not None and not self._closed:
                self._read_failed(end)
        elif end is not None:
            self._read_failed(end)
        else:
            self._peer_ended()

    def doWrite(self) -> None:
        try:
            while self._pending:
                first = self._pending[0]
                self._offset += self._send(memoryview(first)[self._offset :])
                if self._offset == len(first):
                    del self._pending[0]
                    self._offset = 0
        except BLOCKED:
            return
        except BROKEN as error:
            self._undeliverable(error)
            return
        self._reactor.removeWriter(self)
        if self.disconnecting:
            self._finish()
        elif self._producer is not None:
            self._producer.resumeProducing()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor found the descriptor in an error or hung up."""
        if not self._closed:
            self._lost(cast(Exception, reason.value))

    # the protocol's side

    def write(self, data: bytes | memoryview) -> None:
        if self._closed or self.disconnecting or not data:
            return
        length = len(data)
        self.sent += length
        if self._pending:
            self._pending.append(bytes(data))
            return
        done = 0
        try:
            done = self._send(data)
            while done < length:
                done += self._send(memoryview(data)[done:])
        except BLOCKED:
            self._pending.append(bytes(memoryview(data)[done:]))
            self._reactor.addWriter(self)
            if self._producer is not None:
                self._producer.pauseProducing()
        except BROKEN as error:
            self._undeliverable(error)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    def loseConnection(self) -> None:
        """Close once what was written is delivered."""
        if self._closed or self.disconnecting:
            return
        self.disconnecting = True
        self.pauseProducing()
        if not self._pending:
            self._finish()

    def abortConnection(self) -> None:
        """Close at once; the peer sees a reset."""
        if not self._closed:
            self._retire()
            reset(self._socket)
            self._tell(ConnectionLost("aborted"))

    @property
    def undelivered(self) -> bool:
        """Whether the peer has not yet taken all that was written."""
        return bool(self._pending)

    @property
    def unacknowledged(self) -> int:
        """How many bytes of what was written have not reached the peer's system yet (SIOCOUTQ of Linux, tcp(7))."""
        (queued,) = unpack("i", ioctl(self._socket, TIOCOUTQ, bytes(4)))
        return sum(map(len, self._pending)) - self._offset + int(queued)

    def getPeer(self) -> IPAddress:
        """While the connection is open."""
        return address_of(self._socket.getpeername())

    def getHost(self) -> IPAddress:
        """While the connection is open."""
        return address_of(self._socket.getsockname())

    def pauseProducing(self) -> None:
        if self._reading:
            self._reading = False
            self._pause(self)

    def resumeProducing(self) -> None:
        if not (self._reading or self._read_ended or self._closed or self.disconnecting):
            self._reading = True
            self._reactor.addReader(self)

    def stopProducing(self) -> None:
        self.loseConnection()

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """Pause `producer` while writes pile up here; only push producers are served."""
        if not streaming:
            raise ValueError("a push producer is needed")
        self._producer = producer
        if self._pending:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def keep_session(self) -> None:
        """The login was accepted: later connections may resume the TLS session of this one."""
        if self._connection is not None:
            self._connection.get_app_data().keep(self._connection)

    def start_tls(self, tls: ClientTLS) -> Deferred[None]:
        """Begin TLS, as a client, on a connection that was plain so far.

        Fires once the certificate is verified; fails with `RefusedError` (stage TLS), the
        connection then is closed, or with `CancelledError` where it is closed meanwhile.
        """
        self.pauseProducing()

        def secured(connection: SSL.Connection) -> None:
            self._handshake = None
            self._speak(connection)
            self.resumeProducing()

        def refused(failure: Failure) -> Failure:
            self._handshake = None
            self.abortConnection()
            return failure

        self._handshake = Handshaking(self._reactor, self._socket, tls).done
        return self._handshake.addCallbacks(secured, refused)

    # endings

    def _read_failed(self, error: Exception) -> None:
        match error:
            case SSL.ZeroReturnError() | SSL.SysCallError(args=(-1, *_)):
                self._peer_ended()  # with a close_notify, or without one, as many servers do
            case _:
                self._lost(ConnectionLost(_words(error)))

    def _peer_ended(self) -> None:
        self.pauseProducing()
        self._read_ended = True
        half = IHalfCloseableProtocol(self.protocol, None) if self._connection is None else None
        if half is not None:
            half.readConnectionLost()
        else:
            self._retire()
            self._say_goodbye()
            self._socket.close()
            self._tell(ConnectionDone())

    def _undeliverable(self, error: Exception) -> None:
        """The peer takes nothing more; what it said before that is still read, up to its end."""
        self._pending.clear()
        self._reactor.removeWriter(self)
        if self._read_ended or self.disconnecting:
            # whoever writes is in the middle of something: tell of the end in the next turn
            self._reactor.callLater(0, self._lost, ConnectionLost(_words(error)))
        elif self._producer is not None:
            self._producer.resumeProducing()

    def _finish(self) -> None:
        """All is delivered: end in a way that does not take it back."""
        self._retire()
        self._say_goodbye()
        if self._read_ended:
            self._socket.close()
            self._tell(ConnectionDone())
        else:
            Lingering(self._reactor, self._socket, lambda: self._tell(ConnectionDone()))

    def _say_goodbye(self) -> None:
        """Say close_notify, if there is TLS and the peer still takes it."""
        if self._connection is not None:
            with suppress(SSL.Error):
                self._connection.shutdown()

    def _lost(self, reason: Exception) -> None:
        if not self._closed:
            self._retire()
            self._socket.close()
            self._tell(reason)

    def _retire(self) -> None:
        self._closed = True
        self._reading = False
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        if self._handshake is not None:  # it watches the socket, whose number is soon another one's
            self._handshake.cancel()
        self._pending.clear()
        self._producer = None
        self._hear = _ignore

    def _tell(self, reason: Exception) -> None:
        if self._connection is not None:  # or OpenSSL would never resume the session of an aborted connection
            self._connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
        protocol, self._protocol = self.protocol, None
        protocol.connectionLost(Failure(reason))


def _words(error: Exception) -> str:
    return error.strerror or "broken" if isinstance(error, OSError) else "broken TLS"

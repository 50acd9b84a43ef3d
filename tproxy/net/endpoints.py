"""Stream endpoints for what we connect to: guarded, raced over a host's addresses, verified, in our own transport."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from attrs import frozen
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IStreamClientEndpoint, IWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from tproxy.model import Reason, Refusal, RefusedError, Stage, Trust
from tproxy.net.handshake import Handshaking
from tproxy.net.resolver import Resolver
from tproxy.net.resumption import Resumption
from tproxy.net.sockets import Reactor, family, prepare, reset
from tproxy.net.transport import Transport
from tproxy.net.trust import ClientTLS, TrustStore

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProtocol, IProtocolFactory

_T = TypeVar("_T")

STAGGER_SECONDS = 0.25


@implementer(IWriteDescriptor)
class _Dialling:
    """A TCP connection on its way to one address: `done` fires with the connected socket."""

    def __init__(self, reactor: Reactor, address: str, port: int) -> None:
        self._reactor = reactor
        self.done: Deferred[socket.socket] = Deferred(lambda _: self._leave())
        self._socket = socket.socket(family(address), socket.SOCK_STREAM)
        prepare(self._socket)
        error = self._socket.connect_ex((address, port))
        if error in (0, errno.EINPROGRESS):
            reactor.addWriter(self)
        else:
            self._fail(error)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "tproxy"

    def doWrite(self) -> None:
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._fail(error)
        else:
            self._reactor.removeWriter(self)
            self.done.callback(self._socket)

    def doRead(self) -> None:
        """Nothing comes yet; Twisted's reactors pass on the news of a socket that had the same number before."""

    def connectionLost(self, reason: Failure) -> None:
        self.doWrite()

    def _fail(self, error: int) -> None:
        self._leave()
        self.done.errback(OSError(error, os.strerror(error)))

    def _leave(self) -> None:
        self._reactor.removeWriter(self)
        self._socket.close()


class _Race:
    """Several addresses of one host (RFC 8305): the next starts when one fails or takes its time; the first wins."""

    def __init__(self, reactor: Reactor, addresses: Sequence[str], port: int) -> None:
        self._reactor, self._port = reactor, port
        self._left = list(addresses)
        self._running: list[Deferred[None]] = []
        self._next = None
        self.done: Deferred[socket.socket] = Deferred(lambda _: self._stop())
        self._start()

    def _start(self) -> None:
        try:
            dialling = _Dialling(self._reactor, self._left.pop(0), self._port).done
        except OSError:  # no sockets of this family, or none at all
            dialling = fail()
        if self._left:
            self._next = self._reactor.callLater(STAGGER_SECONDS, self._start)
        running = cast("Deferred[None]", dialling)
        self._running.append(running)
        dialling.addCallbacks(self._won, self._failed, errbackArgs=(running,))

    def _won(self, sock: socket.socket) -> None:
        self._stop()
        self.done.callback(sock)

    def _failed(self, failure: Failure, running: Deferred[None]) -> None:
        if failure.check(CancelledError):
            return
        self._running.remove(running)
        if self._left:
            self._cancel_next()
            self._start()
        elif not self._running:
            self.done.errback(failure)

    def _cancel_next(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()

    def _stop(self) -> None:
        self._cancel_next()
        running, self._running = self._running, []
        for one in running:
            one.cancel()


def _dialled(reactor: Reactor, addresses: Sequence[str], port: int) -> Deferred[socket.socket]:
    """A connection to the first of the addresses that answers. Raises OSError where there can be no socket."""
    if len(addresses) == 1:
        return _Dialling(reactor, addresses[0], port).done
    return _Race(reactor, addresses, port).done


class _Limit:
    """Cancels what is waited for once it takes too long; `slow` says what that means."""

    _waiting: Deferred[Any]

    def __init__(self, reactor: Reactor, seconds: float, slow: Callable[[], Refusal]) -> None:
        self.exceeded = False
        self.slow = slow
        self._seconds = seconds
        self._timer = reactor.callLater(seconds, self._exceed)

    def on(self, waiting: Deferred[_T]) -> Deferred[_T]:
        """This is what is waited for now."""
        self._waiting = waiting
        return waiting

    def begin_again(self, slow: Callable[[], Refusal]) -> None:
        """There is as much time for what comes next."""
        self.slow = slow
        self._timer.reset(self._seconds)

    def end(self) -> None:
        """Nothing is waited for any more."""
        if not self.exceeded:
            self._timer.cancel()

    def _exceed(self) -> None:
        self.exceeded = True
        self._waiting.cancel()


@frozen
class Connector:
    """Opens connections to the world: resolved, guarded, verified."""

    reactor: Reactor
    resolver: Resolver
    trust: TrustStore
    resumption: Resumption | None = None

    def endpoint(
        self, host: str, port: int, tls: Trust | None, timeout: float = 10.0, scope: Hashable = None
    ) -> IStreamClientEndpoint:
        """An endpoint for one connection: TLS from the first byte where `tls` is given, else plain.

        `timeout` (seconds) is for the way to the connection, and again for the handshake. TLS
        sessions are resumed among connections of one `scope`, not at all where there is none. The
        connection fails with `RefusedError`, its stage CONNECT or TLS.
        """
        return _ClientEndpoint(self, host, port, tls, timeout, scope)

    def start_tls(
        self, transport: Transport, trust: Trust, host: str, port: int, timeout: float = 10.0, scope: Hashable = None
    ) -> Deferred[None]:
        """Turn a plain connection of ours into a verified TLS one; all else is as of `endpoint`."""
        tls = self.client(trust, host, port, scope)
        return _in_time(transport.start_tls(tls), timeout, self.reactor, _slow_handshake)

    def client(self, trust: Trust, host: str, port: int, scope: Hashable) -> ClientTLS:
        """TLS of one connection."""
        tls = self.trust.client(trust, host)
        if scope is None or self.resumption is None:
            return tls
        return tls.resuming(self.resumption, (scope, host, port, trust))

    def forget(self, trust: Trust, host: str, port: int, scope: Hashable) -> None:
        """A login was refused: the next connection of the scope makes a full handshake."""
        if self.resumption is not None:
            self.resumption.forget((scope, host, port, trust))


@implementer(IStreamClientEndpoint)
@frozen
class _ClientEndpoint:
    connector: Connector
    host: str
    port: int
    tls: Trust | None
    timeout: float
    scope: Hashable

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        reactor, limit = self.connector.reactor, _Limit(self.connector.reactor, self.timeout, self._slow)
        connection = None
        try:
            addresses = await limit.on(self.connector.resolver.resolve(self.host, self.port))
            sock = await limit.on(_dialled(reactor, addresses, self.port))
            if self.tls is not None:
                limit.begin_again(_slow_handshake)
                connection = await self._shake_hands(sock, self.tls, limit)
        except CancelledError:
            if limit.exceeded:
                raise RefusedError(limit.slow()) from None
            raise
        except OSError as error:
            raise RefusedError(self._failed(error)) from None
        finally:
            limit.end()
        return given(reactor, sock, connection, factory)

    async def _shake_hands(self, sock: socket.socket, trust: Trust, limit: _Limit) -> SSL.Connection:
        try:
            tls = self.connector.client(trust, self.host, self.port, self.scope)
            return await limit.on(Handshaking(self.connector.reactor, sock, tls).done)
        except BaseException:
            reset(sock)
            raise

    def _failed(self, error: OSError) -> Refusal:
        return Refusal(
            Stage.CONNECT,
            Reason.CONNECTION_FAILED,
            f"{self.host} port {self.port}: {os.strerror(error.errno or 0)}",
            "check host and port, that the server runs, and the firewalls in between",
        )

    def _slow(self) -> Refusal:
        return Refusal(
            Stage.CONNECT,
            Reason.TIMED_OUT,
            f"{self.host} port {self.port} did not answer in {self.timeout:g} s",
            "check host and port, and the firewalls in between",
        )


def _slow_handshake() -> Refusal:
    return Refusal(
        Stage.TLS,
        Reason.TIMED_OUT,
        "the server did not finish the TLS handshake in time",
        "check that the port speaks TLS from the first byte",
    )


def given(
    reactor: Reactor, sock: socket.socket, connection: SSL.Connection | None, factory: IProtocolFactory
) -> IProtocol:
    """The protocol that a factory makes for an open connection, begun.

    @raise RefusedError: the connection is gone already
    @raise CancelledError: the factory wants none
    """
    transport = Transport(reactor, sock, connection)
    try:
        peer = transport.getPeer()
    except OSError:  # reset before it was looked at
        sock.close()
        raise RefusedError(
            Refusal(Stage.CONNECT, Reason.CONNECTION_FAILED, "the connection was reset as soon as it was open")
        ) from None
    protocol = factory.buildProtocol(peer)
    if protocol is None:
        sock.close()
        raise CancelledError
    try:
        transport.begin(protocol)
    except BaseException:
        transport.abortConnection()
        raise
    return protocol


def _in_time(waiting: Deferred[Any], seconds: float, reactor: Reactor, slow: Callable[[], Refusal]) -> Deferred[Any]:
    def late(result: object, _seconds: float) -> NoReturn:
        if isinstance(result, Failure):
            result.trap(CancelledError)
        raise RefusedError(slow())

    return waiting.addTimeout(seconds, reactor, late)

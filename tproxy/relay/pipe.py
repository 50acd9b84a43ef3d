"""Carries the bytes of one session, uninspected, once the dialogue is over."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tproxy.net.transport import Transport

SILENCE_SECONDS = 10.0
"""How long the mail server may be silent after the application has sent its FIN."""

DELIVERY_SECONDS = 4.0
"""How long either side may take for what is left when the session is ended from here."""


class Pipe:
    """Two connections that carry each other's bytes until one ends.

    Back-pressure works both ways: a side is read only while the other takes what it said. The mail
    server's end: what is left is delivered, then the application's connection is closed. The
    application's FIN: the mail server's connection stays open, without a FIN, until it ends or is
    silent and takes nothing for 10 s, since servers drop unanswered commands on a FIN. A reset of either:
    both are reset. `ended` is called once, when both are gone.
    """

    __slots__ = ("_clock", "_downstream", "_ended", "_open", "_owed", "_timeout", "_upstream")

    def __init__(
        self, clock: IReactorTime, downstream: Transport, upstream: Transport, ended: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._ended = ended
        self._open = 2
        self._owed = 0
        self._timeout: IDelayedCall | None = None
        self._downstream, self._upstream = downstream, upstream
        downstream.protocol, upstream.protocol = _Downstream(self), _Upstream(self)
        for near, far in ((downstream, upstream), (upstream, downstream)):
            far.carry_to(near.write)
            near.registerProducer(far, True)
            if not near.undelivered:  # the dialogue may have left off while it did not listen
                far.resumeProducing()

    def half_closed(self) -> None:
        """The application has sent its FIN and may still read."""
        self._wait()
        self._upstream.carry_to(self._listen)

    def _listen(self, data: memoryview) -> None:
        self._wait()
        self._downstream.write(data)

    def _wait(self) -> None:
        self._owed = self._upstream.unacknowledged
        self._limit(SILENCE_SECONDS, self._silent)

    def end(self) -> None:
        """End the session from here: at once, but for what each side is still to be given."""
        self._limit(DELIVERY_SECONDS, self._abort)
        self._upstream.loseConnection()
        self._downstream.loseConnection()

    def _abort(self) -> None:
        for each in (self._downstream, self._upstream):
            each.abortConnection()

    def upstream_lost(self, reason: Failure) -> None:
        self._lost(self._downstream, reason)

    def downstream_lost(self, reason: Failure) -> None:
        self._lost(self._upstream, reason)

    def _silent(self) -> None:
        slow = self._upstream.unacknowledged < self._owed  # to take, and answers after that
        if slow or self._downstream.undelivered:  # or it is the application that is slow
            self._wait()
        else:
            self.end()

    def _limit(self, seconds: float, late: Callable[[], None]) -> None:
        self._unlimit()
        self._timeout = self._clock.callLater(seconds, late)

    def _unlimit(self) -> None:
        if self._timeout is not None and self._timeout.active():
            self._timeout.cancel()
        self._timeout = None

    def _lost(self, other: Transport, reason: Failure) -> None:
        if reason.check(ConnectionDone):
            other.loseConnection()
        else:
            other.abortConnection()
        self._open -= 1
        if self._open == 0:
            self._unlimit()
            self._ended()
            del self._downstream, self._upstream, self._ended


@implementer(IHalfCloseableProtocol)
class _Downstream(Protocol):
    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def readConnectionLost(self) -> None:
        self._pipe.half_closed()

    def writeConnectionLost(self) -> None:
        """Never called: our transports close for writing and reading at once."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._pipe.downstream_lost(reason)


class _Upstream(Protocol):
    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._pipe.upstream_lost(reason)

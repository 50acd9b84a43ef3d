"""Leaves hosts alone that fail, so that a service in trouble is not asked again and again by everybody.

There is one circuit per scheme, host and port. While it is closed, requests go through; after failures in a
row it opens and the host rests; then a single request, the probe, finds out whether it may be closed again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from random import uniform
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tproxy.destinations.pauses import LONGEST_RETRY_AFTER, Jitter, pause, retry_after
from tproxy.model import Reason, Refusal, RefusedError, Stage
from tproxy.names import quoted
from tproxy.net.http import Answer, Client

FAILURES = 5
"""After so many in a row a circuit opens."""

CAPACITY = 10_000
"""How many hosts are remembered that failed; the one not asked for longest goes first."""

_OUT_OF_REACH = frozenset({Reason.NAME_NOT_RESOLVED, Reason.CONNECTION_FAILED, Reason.TIMED_OUT})

log = Logger()


class HostRestsError(RefusedError):
    """The host is left alone for now, for `retry_after` seconds more; nothing was sent."""

    def __init__(self, host: str, seconds: float) -> None:
        super().__init__(
            Refusal(
                Stage.RESOLVE,
                Reason.STORE_UNAVAILABLE,
                f"{host} failed, so it is left alone for a while",
                "wait, or look at the provider's status page",
            )
        )
        self.retry_after = seconds


@frozen(eq=False)
class _Closed:
    """Every request goes through."""

    failures: int = 0


@frozen(eq=False)
class _Resting:
    """No request goes through until `until` (monotonic), and then one."""

    until: float
    rests: int


@frozen(eq=False)
class _Probing:
    """One request finds out."""

    rests: int


_State = _Closed | _Resting | _Probing


@frozen
class _Succeeded:
    """The host gave an answer."""


@frozen
class _Failed:
    """The host gave none, and asks to be left alone for so many seconds, or 0."""

    wanted: float = 0.0


@frozen
class _Unknown:
    """Whoever asked left before, or was refused for what it brought: that says nothing about the host."""


_Outcome = _Succeeded | _Failed | _Unknown


class Circuits:
    """The circuits of all hosts.

    @param clock: monotonic
    @param now: the wall clock, seconds since the epoch, for `Retry-After` dates
    @param jitter: a number between two numbers
    """

    def __init__(
        self,
        clock: IReactorTime,
        now: Callable[[], float],
        jitter: Jitter = uniform,
        capacity: int = CAPACITY,
    ) -> None:
        self._clock = clock
        self._now = now
        self._jitter = jitter
        self._capacity = capacity
        self._states: OrderedDict[str, _State] = OrderedDict()

    def ask(self, client: Client, method: str, url: str, **arguments: Any) -> Deferred[Answer]:
        """As `client.ask`, whose outcome is passed on; while the host rests, it fails at once with L{HostRestsError}.

        That nothing came is a failure of the host, and so is an answer with the status 429, 500 or above.
        """
        try:
            host = _host(url)
            sent = self._permitted(host)
        except (ValueError, HostRestsError):
            return fail()

        def answered(answer: Answer) -> Answer:
            self._ended(host, sent, self._judged(answer))
            return answer

        def failed(failure: Failure) -> Failure:
            self._ended(host, sent, _learned(failure.value))
            request.cancel()
            return failure

        waiter: Deferred[Answer] = Deferred()
        waiter.addCallbacks(answered, failed)
        request = maybeDeferred(client.ask, method, url, **arguments)
        request.chainDeferred(waiter)
        return waiter

    def _permitted(self, host: str) -> _State:
        """The state in which a request is sent; raises L{HostRestsError} where none may be."""
        now = self._clock.seconds()
        if host in self._states:
            self._states.move_to_end(host)
        match self._states.get(host, _Closed()):
            case _Closed() as state:
                return state
            case _Resting(until, _) if now < until:
                raise HostRestsError(host, until - now)
            case _Resting(_, rests):
                probing = _Probing(rests)
                self._set(host, probing)
                return probing
            case _:
                raise HostRestsError(host, 0.0)

    def _judged(self, answer: Answer) -> _Outcome:
        if answer.status in (429, 503):
            return _Failed(retry_after(answer.header("retry-after"), self._now()))
        return _Failed() if answer.status >= 500 else _Succeeded()

    def _ended(self, host: str, sent: _State, outcome: _Outcome) -> None:
        """What becomes of a circuit. Once it rests, only its probe tells how the host is.

        What was sent before may still say for how long the host wants to be left alone.
        """
        now = self._clock.seconds()
        match self._states.get(host, _Closed()), outcome:
            case _Closed(), _Succeeded():
                self._states.pop(host, None)
            case _Closed(failures), _Failed(wanted) if wanted or failures + 1 >= FAILURES:
                seconds = pause(1, wanted, self._jitter)
                self._set(host, _Resting(now + seconds, 1))
                log.warn(
                    "{message}: left alone for {seconds} s",
                    event="circuit.opened",
                    message=f"{host} asked for a pause" if wanted else f"{host} failed {FAILURES} times in a row",
                    seconds=seconds,
                )
            case _Closed(failures), _Failed():
                self._set(host, _Closed(failures + 1))
            case _Probing() as state, _Succeeded() if state is sent:
                del self._states[host]
                log.info("{message}", event="circuit.closed", message=f"{host} answers again")
            case _Probing(rests) as state, _Failed(wanted) if state is sent:
                self._set(host, _Resting(now + pause(rests + 1, wanted, self._jitter), rests + 1))
            case _Probing(rests) as state, _Unknown() if state is sent:
                self._set(host, _Resting(now, rests))
            case _Resting(until, rests), _Failed(wanted):
                self._set(host, _Resting(max(until, now + min(wanted, LONGEST_RETRY_AFTER)), rests))

    def _set(self, host: str, state: _State) -> None:
        self._states[host] = state
        if len(self._states) > self._capacity:
            self._states.popitem(last=False)


def _learned(error: BaseException | None) -> _Outcome:
    """What an exception says about the host: nothing where the asker's own trust or URL was the reason."""
    match error:
        case CancelledError():
            return _Unknown()
        case RefusedError(refusal=Refusal(reason=reason)) if reason not in _OUT_OF_REACH:
            return _Unknown()
        case _:
            return _Failed()


def _host(url: str) -> str:
    """The scheme, host and port of a URL, fit for a log; raises ValueError where the URL is none."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return quoted(f"{parts.scheme}://{parts.hostname}:{port}", 200)

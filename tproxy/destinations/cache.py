"""Tokens kept while they are good: asked for once for all who wait, renewed before they run out.

Times of day (when a token expires) come from the wall clock, durations (pauses, timers) from the
monotonic one. An entry is keyed by its whole grant: another credential or another tenant's URL is another entry.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from random import uniform

from attrs import Factory, define, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tproxy.destinations.oauth import Token
from tproxy.model import Grant, Reason, Refusal, RefusedError, Secret, Stage

CAPACITY = 10_000
"""How many tokens are kept; the one not used for longest goes first."""

FRESH = 0.9
"""The part of a token's life in which it is handed out without asking."""

REFRESH = (0.75, 0.9)
"""Between which parts of its life a token in use is renewed in the background."""

SHORTEST_PAUSE, FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0, 30.0
"""Pauses after failures, in seconds: never less, after the first one, never more of our own accord."""

LONGEST_RETRY_AFTER = 3600.0
"""The longest pause that an endpoint gets by asking for it, in seconds."""

RENEWAL_PACE = 10.0
"""How far apart renewals of refused tokens are, for one grant, in seconds."""

Jitter = Callable[[float, float], float]
log = Logger()


@frozen
class Issued:
    """A token to use now; `cached` says that it was not fetched for this call."""

    token: Secret
    cached: bool


@frozen
class _Held:
    """A token with the times of day at which it stops being fresh and being valid."""

    token: Secret
    fresh_until: float
    expires: float


@frozen
class _Pause:
    """Nothing is asked until then (monotonic); in the meantime this is the answer."""

    refusal: Refusal
    until: float
    failures: int


@define(eq=False)
class _Flight:
    """A request that is under way since `asked` (wall clock), and who waits for it."""

    asked: float
    waiters: list[Deferred[Issued]] = Factory(list)
    request: Deferred[None] | None = None


@define(eq=False)
class _Entry:
    held: _Held | None = None
    pause: _Pause | None = None
    flight: _Flight | None = None
    timer: IDelayedCall | None = None
    uses: int = 0
    renewable: float = float("-inf")


class TokenCache:
    """The tokens of all destinations.

    @param fetch: one request to a token endpoint
    @param clock: monotonic
    @param now: the wall clock, seconds since the epoch
    @param jitter: a number between two numbers
    """

    def __init__(
        self,
        fetch: Callable[[Grant], Deferred[Token]],
        clock: IReactorTime,
        now: Callable[[], float],
        jitter: Jitter = uniform,
        capacity: int = CAPACITY,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._now = now
        self._jitter = jitter
        self._capacity = capacity
        self._entries: OrderedDict[Grant, _Entry] = OrderedDict()

    def get(self, grant: Grant) -> Deferred[Issued]:
        """A valid token; fails with L{RefusedError}. Cancelling concerns this waiter alone."""
        entry = self._entry(grant)
        entry.uses += 1
        now = self._now()
        if entry.held is not None and now < entry.held.fresh_until:
            return succeed(Issued(entry.held.token, cached=True))
        if entry.flight is None and entry.pause is not None and self._clock.seconds() < entry.pause.until:
            if entry.held is not None and now < entry.held.expires:
                return succeed(Issued(entry.held.token, cached=True))
            return fail(RefusedError(entry.pause.refusal))
        waiter: Deferred[Issued] = Deferred()
        if entry.flight is not None:
            entry.flight.waiters.append(waiter)
        else:
            self._ask(grant, entry, waiter)
        return waiter

    def renew(self, grant: Grant, refused: Secret) -> Deferred[Secret | None]:
        """Another token than the one that a mail server refused; None where there is none for now."""
        entry = self._entry(grant)
        if entry.held is not None and entry.held.token == refused:
            now = self._clock.seconds()
            if now < entry.renewable:
                return succeed(None)
            entry.renewable = now + RENEWAL_PACE
            entry.held = None
        return self.get(grant).addCallback(lambda issued: None if issued.token == refused else issued.token)

    def stop(self) -> None:
        """Forgets everything and ends what is under way."""
        while self._entries:
            _, entry = self._entries.popitem()
            _disarm(entry)
            if entry.flight is not None and entry.flight.request is not None:
                entry.flight.request.cancel()

    def _entry(self, grant: Grant) -> _Entry:
        entry = self._entries.setdefault(grant, _Entry())
        self._entries.move_to_end(grant)
        while len(self._entries) > self._capacity:
            _disarm(self._entries.popitem(last=False)[1])
        return entry

    def _ask(self, grant: Grant, entry: _Entry, *waiters: Deferred[Issued]) -> None:
        flight = entry.flight = _Flight(self._now(), list(waiters))
        _disarm(entry)

        def arrived(token: Token) -> None:
            entry.flight, entry.pause, entry.uses = None, None, 0
            entry.held = _Held(token.value, flight.asked + FRESH * token.seconds, expires=flight.asked + token.seconds)
            self._arm(grant, entry, token.seconds * self._jitter(*REFRESH))
            for waiter in flight.waiters:
                waiter.callback(Issued(token.value, cached=False))

        def failed(failure: Failure) -> None:
            entry.flight = None
            refusal = _refusal(failure)
            failures = entry.pause.failures + 1 if entry.pause is not None else 1
            seconds = pause(failures, getattr(failure.value, "retry_after", 0.0), self._jitter)
            entry.pause = _Pause(refusal, self._clock.seconds() + seconds, failures)
            outage = refusal.reason is Reason.TOKEN_UNAVAILABLE
            if outage and entry.held is not None and self._now() < entry.held.expires:
                self._arm(grant, entry, seconds)
            else:
                entry.held = None
            log.warn(
                "no token: {message}",
                event="token.failed",
                stage=refusal.stage,
                reason=refusal.reason,
                message=refusal.message,
                remedy=refusal.remedy,
                seconds=seconds,
            )
            for waiter in flight.waiters:
                if entry.held is not None:
                    waiter.callback(Issued(entry.held.token, cached=True))
                else:
                    waiter.errback(RefusedError(refusal))

        flight.request = self._fetch(grant).addCallbacks(arrived, failed)

    def _arm(self, grant: Grant, entry: _Entry, seconds: float) -> None:
        """Renews in the background after `seconds`, if the token was used in the meantime."""
        if self._entries.get(grant) is not entry:
            return

        def due() -> None:
            entry.timer = None
            if entry.uses and entry.flight is None:
                self._ask(grant, entry)

        entry.timer = self._clock.callLater(max(SHORTEST_PAUSE, seconds), due)


def pause(failures: int, retry_after: float, jitter: Jitter) -> float:
    """How long to leave an endpoint alone after so many failures in a row, in seconds."""
    own = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 16))
    return max(SHORTEST_PAUSE, own * jitter(0.5, 1.0), min(retry_after, LONGEST_RETRY_AFTER))


def _disarm(entry: _Entry) -> None:
    if entry.timer is not None:
        entry.timer.cancel()
        entry.timer = None


def _refusal(failure: Failure) -> Refusal:
    if isinstance(failure.value, RefusedError):
        return failure.value.refusal
    name = type(failure.value).__name__
    return Refusal(Stage.RESOLVE, Reason.INTERNAL_ERROR, f"asking for a token failed with {name}", "report this")

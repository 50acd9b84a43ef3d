"""What was fetched from outside, kept while it is good: asked for once for all who wait, renewed before it runs out.

Times of day (when a value expires) come from the wall clock, durations (pauses, timers) from the monotonic
one. A key says all that a value depends on: with another credential, or for another tenant, it is another key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Hashable
from random import uniform
from typing import Generic, TypeVar

from attrs import Factory, define, evolve, frozen
from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tproxy.destinations.pauses import SHORTEST_PAUSE, Jitter, pause
from tproxy.model import Reason, Refusal, RefusedError, Stage

CAPACITY = 10_000
"""How many values are kept; the one not used for longest goes first."""

REFRESH = (0.8, 1.0)
"""Between which parts of the time in which it is fresh a value in use is renewed in the background."""

RENEWAL_PACE = 10.0
"""How far apart renewals of refused values are, for one key, in seconds."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
T = TypeVar("T")
log = Logger()


@frozen
class Fetched(Generic[V]):
    """What a fetch brings; both times are seconds from when it was asked for.

    While it is `fresh`, the value is handed out without asking again, and while it is `valid` (as long, or
    longer) during an outage.
    """

    value: V
    fresh: float
    valid: float


@frozen
class Cached(Generic[V]):
    """A value to use now; `cached` says that it was not fetched for this call."""

    value: V
    cached: bool


@frozen
class _Held(Generic[V]):
    """A value with the times of day at which it was asked for, and stops being fresh and being valid."""

    value: V
    asked: float
    fresh_until: float
    valid_until: float


@frozen
class _Pause:
    """Nothing is asked until then (monotonic); in the meantime this is the answer."""

    error: RefusedError
    until: float
    failures: int


@define(eq=False)
class _Flight(Generic[V]):
    """A fetch that is under way since `asked` (wall clock), and who waits for it."""

    asked: float
    waiters: list[Deferred[Cached[V]]] = Factory(list)


@define(eq=False)
class _Entry(Generic[V]):
    fetch: Callable[[], Deferred[Fetched[V]]] | None = None
    held: _Held[V] | None = None
    pause: _Pause | None = None
    flight: _Flight[V] | None = None
    timer: IDelayedCall | None = None
    uses: int = 0
    renewable: float = float("-inf")

    def disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def release(self) -> None:
        """Nothing comes into this entry any more; a flight under way still serves who waits for it."""
        self.disarm()
        self.flight = None


class Cache(Generic[K, V]):
    """Values of one kind, bounded in number.

    A fetch fails with L{RefusedError}, of which everybody gets a copy; anything else is taken for an error of ours.

    @param clock: monotonic
    @param now: the wall clock, seconds since the epoch
    @param what: one such value, in the words of the log
    @param outages: the reasons of failures that say nothing about a value, so that what is held is served on
        while it is valid; a failure for any other reason is an answer, and ends its use
    @param changed: is told the key when a fetch brought another value than the one held, or an answer ended its use
    @param jitter: a number between two numbers
    """

    def __init__(
        self,
        clock: IReactorTime,
        now: Callable[[], float],
        *,
        what: str,
        outages: Container[Reason],
        changed: Callable[[K], None] = lambda key: None,
        jitter: Jitter = uniform,
        capacity: int = CAPACITY,
    ) -> None:
        self._clock = clock
        self._now = now
        self._what = what
        self._outages = outages
        self._changed = changed
        self._jitter = jitter
        self._capacity = capacity
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._requests: set[Deferred[None]] = set()

    def get(self, key: K, fetch: Callable[[], Deferred[Fetched[V]]], once: bool = False) -> Deferred[Cached[V]]:
        """A value that may be used; fails with L{RefusedError}. Cancelling concerns this waiter alone.

        @param fetch: asks for the value, now where need be, and later to renew it, unless it works only `once`
        """
        entry = self._entry(key)
        entry.fetch = None if once else fetch
        entry.uses += 1
        now, held = self._now(), entry.held
        if held is not None and now < held.fresh_until:
            return succeed(Cached(held.value, cached=True))
        if entry.pause is not None and (entry.flight is not None or self._clock.seconds() < entry.pause.until):
            if held is not None and now < held.valid_until:
                return succeed(Cached(held.value, cached=True))
            if entry.flight is None:
                return fail(entry.pause.error.again())
        waiter: Deferred[Cached[V]] = Deferred()
        if entry.flight is not None:
            entry.flight.waiters.append(waiter)
        else:
            self._ask(key, entry, fetch, waiter)
        return waiter

    def peek(self, key: K) -> V | None:
        """The value while it is fresh; nothing is asked."""
        entry = self._entries.get(key)
        if entry is None or entry.held is None or self._now() >= entry.held.fresh_until:
            return None
        self._entries.move_to_end(key)
        entry.uses += 1
        return entry.held.value

    def held(self, key: K) -> tuple[V, float] | None:
        """The value while it is valid, and its age in seconds; to look at it is no use of it."""
        entry, now = self._entries.get(key), self._now()
        if entry is None or entry.held is None or now >= entry.held.valid_until:
            return None
        return entry.held.value, now - entry.held.asked

    def put(self, key: K, fetched: Fetched[V]) -> None:
        """Keep a value that came along with something else, just now."""
        self._hold(self._entry(key), key, fetched, self._now())

    def drop(self, key: K) -> None:
        """Hand out what is held no more; who waits for a fetch under way still gets its outcome, and nobody else."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.held = None
            entry.release()

    def renew(
        self, key: K, fetch: Callable[[], Deferred[Fetched[V]]], refused: Callable[[V], bool], keep: bool = False
    ) -> Deferred[V | None]:
        """Another value than the one that was refused elsewhere; None where there is none for now.

        @param refused: tells the refused value
        @param keep: whether that one may still be handed out if there turns out to be an outage
        """
        entry = self._entry(key)
        held = entry.held
        if held is not None and refused(held.value):
            now = self._clock.seconds()
            if entry.flight is None:
                if now < entry.renewable:
                    return succeed(None)
                entry.renewable = now + RENEWAL_PACE
            entry.held = evolve(held, fresh_until=0.0, valid_until=held.valid_until if keep else 0.0)
        return self.get(key, fetch).addCallback(lambda cached: None if refused(cached.value) else cached.value)

    def retry(self) -> None:
        """What could not be fetched may be asked for again at once; what is asked for is asked for anew."""
        for key, entry in list(self._entries.items()):
            entry.pause = None
            if entry.flight is not None and entry.fetch is not None:
                waiters, entry.flight.waiters = entry.flight.waiters, []
                self._ask(key, entry, entry.fetch, *waiters)

    def forget(self) -> None:
        """Drops everything and renews nothing of it; who waits for a fetch under way still gets its outcome."""
        while self._entries:
            self._entries.popitem()[1].release()

    def stop(self) -> None:
        """Forgets everything and ends what is under way."""
        self.forget()
        for request in list(self._requests):
            request.cancel()

    def _entry(self, key: K) -> _Entry[V]:
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)[1].release()
        return entry

    def _ask(
        self, key: K, entry: _Entry[V], fetch: Callable[[], Deferred[Fetched[V]]], *waiters: Deferred[Cached[V]]
    ) -> None:
        flight = entry.flight = _Flight(self._now(), list(waiters))
        entry.disarm()

        def lands() -> bool:
            if entry.flight is not flight:
                return False
            entry.flight = None
            return True

        def arrived(fetched: Fetched[V]) -> None:
            before, landed = entry.held, lands()
            if landed:
                self._hold(entry, key, fetched, flight.asked)
            for waiter in flight.waiters:
                waiter.callback(Cached(fetched.value, cached=False))
            if landed and before is not None and before.value != fetched.value:
                self._changed(key)

        def failed(failure: Failure) -> None:
            before, landed = entry.held, lands()
            error = self._error(failure)
            refusal = error.refusal
            failures = entry.pause.failures + 1 if entry.pause is not None else 1
            seconds = pause(failures, getattr(error, "retry_after", 0.0), self._jitter)
            outage = refusal.reason in self._outages
            stale = before if outage and before is not None and self._now() < before.valid_until else None
            if landed:
                entry.pause = _Pause(error, self._clock.seconds() + seconds, failures)
                entry.held = stale
                if stale is not None:
                    self._arm(entry, key, seconds)
            if not failure.check(CancelledError):  # that is `stop`
                log.warn(
                    f"no {self._what}: {{message}}",
                    event=f"{self._what.replace(' ', '-')}.failed",
                    stage=refusal.stage,
                    reason=refusal.reason,
                    message=refusal.message,
                    remedy=refusal.remedy,
                    seconds=seconds,
                )
            for waiter in flight.waiters:
                if stale is not None:
                    waiter.callback(Cached(stale.value, cached=True))
                else:
                    waiter.errback(error.again())
            if landed and before is not None and not outage:
                self._changed(key)

        def ended(result: T) -> T:
            self._requests.discard(request)
            return result

        request: Deferred[None] = maybeDeferred(fetch).addCallbacks(arrived, failed)
        self._requests.add(request)
        request.addBoth(ended)

    def _hold(self, entry: _Entry[V], key: K, fetched: Fetched[V], asked: float) -> None:
        entry.pause, entry.uses = None, 0
        entry.held = _Held(fetched.value, asked, asked + fetched.fresh, asked + fetched.valid)
        self._arm(entry, key, asked + fetched.fresh * self._jitter(*REFRESH) - self._now())

    def _arm(self, entry: _Entry[V], key: K, seconds: float) -> None:
        """Renews in the background after `seconds`, if the value was used in the meantime."""

        def due() -> None:
            entry.timer = None
            if entry.uses and entry.flight is None and entry.fetch is not None:
                self._ask(key, entry, entry.fetch)

        entry.disarm()
        entry.timer = self._clock.callLater(max(SHORTEST_PAUSE, seconds), due)

    def _error(self, failure: Failure) -> RefusedError:
        if isinstance(failure.value, RefusedError):
            return failure.value.again()
        message = f"asking for a {self._what} failed with {type(failure.value).__name__}"
        return RefusedError(Refusal(Stage.RESOLVE, Reason.INTERNAL_ERROR, message, "report this"))

"""Runs the election of `lease`: reads and writes the Lease, keeps its times, and tells who leads."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from random import uniform
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tproxy.cluster.api.client import Client
from tproxy.cluster.api.lease import (
    LEASES,
    Due,
    Elected,
    Event,
    Expired,
    Failed,
    Follower,
    Leave,
    Left,
    Look,
    Lost,
    Read,
    Rest,
    State,
    Write,
    Written,
    step,
)
from tproxy.cluster.api.objects import APIError, Key, Object, Why

REQUEST_SECONDS = 5.0
"""How long one read or write of the lease may take."""

SPREAD = (1.0, 1.5)
"""What a pause is multiplied by, so that replicas do not ask at the same time."""

Jitter = Callable[[float, float], float]
log = Logger()


class Election(Service):
    """Takes part in an election from when it is started until it is stopped.

    @param client: best one of its own, so that no other traffic delays a renewal
    @param me: our identity, which no other process has or had: a pod's name and something random
    @param clock: monotonic
    @param now: wall-clock time in seconds since the epoch, for people to read in the lease
    @param elected: called when we begin to lead
    @param lost: called when we no longer do
    """

    def __init__(
        self,
        client: Client,
        lease: Key,
        me: str,
        clock: IReactorTime,
        now: Callable[[], float],
        elected: Callable[[], None],
        lost: Callable[[], None],
        jitter: Jitter = uniform,
    ) -> None:
        self._client, self._lease, self._me = client, lease, me
        self._clock, self._now, self._jitter = clock, now, jitter
        self._elected, self._lost = elected, lost
        self._state: State = Follower()
        self._until: float | None = None
        self._left: Deferred[None] = Deferred()
        self._said: tuple[Why, str] | None = None
        self._rest: IDelayedCall | None = None
        self._term: IDelayedCall | None = None
        self._asking: Deferred[Any] = succeed(None)

    @property
    def leading(self) -> bool:
        """Whether we lead at this very moment, even where the process stood still and nobody could tell it yet."""
        return self._until is not None and self._clock.seconds() < self._until

    def startService(self) -> None:
        Service.startService(self)
        self._take(Due(self._clock.seconds()))

    def stopService(self) -> Deferred[None]:
        """Stop to lead, and give the lease back: fires when that is done, or could not be done in a few seconds."""
        Service.stopService(self)
        self._asking.cancel()
        _cancel(self._rest)
        self._take(Leave(self._clock.seconds()))
        return self._left

    def _take(self, event: Event) -> None:
        self._state, effects = step(self._state, event, self._me)
        for effect in effects:
            match effect:
                case Look():
                    self._ask(self._look())
                case Write():
                    self._ask(self._write(effect))
                case Rest(seconds):
                    if not isinstance(event, Failed):
                        self._said = None
                    self._rest = self._clock.callLater(
                        seconds * self._jitter(*SPREAD), lambda: self._take(Due(self._clock.seconds()))
                    )
                case Elected(until):
                    self._lead(until)
                case Lost():
                    self._until = None
                    _cancel(self._term)
                    log.info("this replica leads no more", event="election.lost", key="/".join(self._lease))
                    _tell(self._lost)
                case Left():
                    self._left.callback(None)

    def _lead(self, until: float) -> None:
        first, self._until = self._until is None, until
        _cancel(self._term)
        left = max(0.0, until - self._clock.seconds())  # the process may have stood still just now
        self._term = self._clock.callLater(left, lambda: self._take(Expired(self._clock.seconds())))
        if first:
            log.info("this replica leads", event="election.elected", key="/".join(self._lease))
            _tell(self._elected)

    def _ask(self, asking: Coroutine[Any, Any, Event]) -> None:
        asked = Deferred.fromCoroutine(asking).addTimeout(REQUEST_SECONDS, self._clock)
        self._asking = asked
        asked.addCallbacks(self._take, self._failed)

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        reason = failure.value.reason if isinstance(failure.value, APIError) else Why.TOO_SLOW
        said = (reason, str(failure.value))
        if said != self._said and reason not in (Why.CONFLICT, Why.ALREADY_EXISTS):
            self._said = said
            log.error(
                "the lease {key} cannot be read or written: {message}",
                event="election.failed",
                key="/".join(self._lease),
                reason=str(reason),
                message=str(failure.value) or f"no answer in {REQUEST_SECONDS:g} s",
            )
        self._take(Failed(self._clock.seconds()))

    async def _look(self) -> Event:
        lease: Object | None
        try:
            lease = await self._client.get(LEASES, self._lease)
        except APIError as error:
            if error.reason is not Why.NOT_FOUND:
                raise
            lease = None
        return Read(self._clock.seconds(), lease)

    async def _write(self, write: Write) -> Event:
        sent = self._clock.seconds()
        today = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {**write.spec, "renewTime": today, **({"acquireTime": today} if write.acquired else {})}
        if write.lease is None:
            namespace, name = self._lease
            await self._client.create(LEASES, {"metadata": {"namespace": namespace, "name": name}, "spec": spec})
        else:
            await self._client.patch(LEASES, write.lease, {"spec": spec})
        return Written(self._clock.seconds(), sent)


def _tell(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        log.failure("what follows an election failed", event="election.failed")


def _cancel(call: IDelayedCall | None) -> None:
    if call is not None and call.active():
        call.cancel()

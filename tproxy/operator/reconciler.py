"""Makes the world what it should be: observe, plan, perform, and again after each change."""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Generator, Hashable, Mapping, Sequence, Set
from functools import cached_property
from itertools import groupby
from typing import Any, Generic, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, gatherResults, inlineCallbacks, maybeDeferred
from twisted.internet.error import TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from tproxy.interfaces import ICluster, IDestinationStore
from tproxy.listeners import Listeners
from tproxy.model import Destination, DestinationRequest, ListenerKey, Reason, Refusal, RefusedError, Stage
from tproxy.operator.fates import TRANSIENT
from tproxy.operator.manifests import Name, Resource, Status
from tproxy.operator.plan import (
    Action,
    Claim,
    Close,
    Known,
    Observed,
    Open,
    Rebind,
    SetStatus,
    Snapshot,
    plan,
    subject,
)

log = Logger()

LOOK_UP_SECONDS = 30.0
"""How long a store may take to describe a destination."""
PERFORM_SECONDS = 60.0
"""How long the actions of one resource may take."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0
"""How long what failed rests, in seconds: at first, and at most."""


T = TypeVar("T", bound=Hashable)


class Pauses(Generic[T]):
    """What failed and rests: each alone, longer each time, and never all for the same time.

    @param awake: is told what may be tried again
    @param chance: gives a number from 0 to 1
    """

    def __init__(self, clock: IReactorTime, awake: Callable[[T], None], chance: Callable[[], float]) -> None:
        self._clock = clock
        self._awake = awake
        self._chance = chance
        self._counts: dict[T, int] = {}
        self._calls: dict[T, IDelayedCall] = {}

    def __contains__(self, what: object) -> bool:
        return what in self._calls

    @property
    def resting(self) -> Set[T]:
        """What rests now."""
        return self._calls.keys()

    def rest(self, what: T) -> float:
        """It failed: gives the seconds that it rests."""
        self._cancel(what)
        count = self._counts[what] = self._counts.get(what, 0) + 1
        seconds = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(count - 1, 16)) * (0.5 + self._chance() / 2)
        self._calls[what] = self._clock.callLater(seconds, self._wake, what)
        return seconds

    def forget(self, what: T) -> None:
        """It succeeded, or is not wanted any more."""
        self._cancel(what)
        self._counts.pop(what, None)

    def keep(self, wanted: Container[T]) -> None:
        """Forget all else."""
        for what in [what for what in self._counts if what not in wanted]:
            self.forget(what)

    def _wake(self, what: T) -> None:
        del self._calls[what]
        self._awake(what)

    def _cancel(self, what: T) -> None:
        call = self._calls.pop(what, None)
        if call is not None:
            call.cancel()


class Descriptions:
    """What is known of the destinations that are asked for: what their ports depend on, or a refusal.

    A store that does not answer is no verdict: what was known before stays known.

    @param changed: called when something is known that was not
    """

    def __init__(
        self,
        store: IDestinationStore,
        protocols: Mapping[str, int],
        clock: IReactorTime,
        changed: Callable[[], None],
        chance: Callable[[], float],
    ) -> None:
        self._store = store
        self._protocols = protocols
        self._clock = clock
        self._changed = changed
        self._asked: dict[DestinationRequest, object] = {}
        self._pauses: Pauses[DestinationRequest] = Pauses(clock, self._ask, chance)
        self._known: dict[DestinationRequest, Known | Refusal] = {}

    def want(self, requests: Set[DestinationRequest]) -> None:
        """Ask for what was not asked for yet, and forget what is not wanted any more."""
        for request in self._asked.keys() - requests:
            del self._asked[request]
            self._learn(request, None)
            self._pauses.forget(request)
        for request in sorted(requests - self._asked.keys(), key=lambda request: (request.name, request.tenant)):
            self._ask(request)

    @cached_property
    def known(self) -> Mapping[DestinationRequest, Known | Refusal]:
        """What is known now: the same mapping for as long as nothing changes."""
        return self._known.copy()

    def _learn(self, request: DestinationRequest, answer: Known | Refusal | None) -> None:
        if answer is None:
            self._known.pop(request, None)
        else:
            self._known[request] = answer
        self.__dict__.pop("known", None)

    @property
    def complete(self) -> bool:
        """Whether something is known of all that is wanted."""
        return self._asked.keys() <= self._known.keys()

    def refresh(self) -> None:
        """Ask for everything again."""
        for request in list(self._asked):
            self._ask(request)

    def stop(self) -> None:
        """Forget everything."""
        self.want(frozenset())

    def _ask(self, request: DestinationRequest) -> None:
        token = self._asked[request] = object()
        description: Deferred[Destination] = maybeDeferred(self._store.describe, request)
        description.addTimeout(LOOK_UP_SECONDS, self._clock)
        answer: Deferred[Known | Refusal] = description.addCallback(self._read).addErrback(_refusal)
        answer.addCallback(self._answered, request, token)

    def _read(self, destination: Destination) -> Known:
        protocol = destination.route.protocol
        return Known(protocol, self._protocols[protocol], destination.asks)

    def _answered(self, answer: Known | Refusal, request: DestinationRequest, token: object) -> None:
        if self._asked.get(request) is not token:
            return
        before = self._known.get(request)
        if isinstance(answer, Refusal) and answer.reason in TRANSIENT:
            seconds = self._pauses.rest(request)
            log.warn(
                "the destination {destination} is not known for now: {message}",
                event="destination.unanswered",
                destination=request.name,
                tenant=request.tenant,
                reason=answer.reason.value,
                message=str(answer),
                seconds=round(seconds, 1),
            )
            if before is not None:
                return
        else:
            self._pauses.forget(request)
        if answer != before:
            self._learn(request, answer)
            self._changed()


class Reconciler(Service):
    """Brings resources, records and open ports together, plan by plan.

    A pass never waits: the actions of a resource run beside those of the others, and until they are done, later
    passes leave that resource alone.

    `passes` and `seconds` say how often it planned and how long that took, `failures` how many actions failed.

    @param protocols: the default port of each protocol that a plug-in serves, by its name
    @param interval: after how many seconds everything is looked at again unasked
    @param chance: gives a number from 0 to 1, so that what failed together is not tried again together
    """

    def __init__(
        self,
        cluster: ICluster,
        store: IDestinationStore,
        listeners: Listeners,
        protocols: Mapping[str, int],
        clock: IReactorTime,
        interval: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._cluster = cluster
        self._listeners = listeners
        self._clock = clock
        self._interval = interval
        self._descriptions = Descriptions(store, protocols, clock, self.poke, chance)
        self._resync = LoopingCall(self.refresh)
        self._resync.clock = clock
        self._next: IDelayedCall | None = None
        self._busy: dict[Name, Deferred[None]] = {}
        self._blocked: set[int] = set()
        self._failures: dict[ListenerKey | Name, Refusal] = {}
        self._pauses: Pauses[ListenerKey | Name] = Pauses(clock, lambda _: self.poke(), chance)
        self._caught_up = False
        self.passes = self.failures = 0
        self.seconds = 0.0

    @property
    def ready(self) -> bool:
        """Whether all that was there at the start is carried out, or rests after a failure, and it is not stopping."""
        return bool(self.running) and self._caught_up

    def startService(self) -> None:
        """Begin with what is there."""
        Service.startService(self)
        self._cluster.watch(self.poke)
        self._resync.start(self._interval, now=False)
        self.poke()

    @inlineCallbacks
    def stopService(self) -> Generator[Deferred[Any], Any, None]:
        """Plan no more, and close every port."""
        Service.stopService(self)
        self._resync.stop()
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._pauses.keep(frozenset())
        self._descriptions.stop()
        yield self._listeners.close_all()
        yield DeferredList(list(self._busy.values()))
        yield self._listeners.close_all()

    def poke(self) -> None:
        """Something may have changed: there will be a pass."""
        if self.running and self._next is None:
            self._next = self._clock.callLater(0, self._pass)

    def refresh(self) -> None:
        """Destinations may have changed: look them up again, and try ports again that could not be bound."""
        self._blocked.clear()
        self._descriptions.refresh()
        self.poke()

    def _pass(self) -> None:
        self._next = None
        began = self._clock.seconds()
        snapshot = self._cluster.observe()
        if snapshot is None:
            return
        bindings = [binding for each in snapshot.resources if isinstance(each, Resource) for binding in each.bindings]
        self._descriptions.want({binding.request for binding in bindings})
        keys = {binding.key for binding in bindings} | {record.key for record in snapshot.records if record.active}
        self._pauses.keep(keys | {(each.namespace, each.name) for each in snapshot.resources})
        observed = Observed(
            snapshot,
            self._descriptions.known,
            self._listeners.listening,
            {key: self._failures[key] for key in keys if key in self._pauses},
            frozenset(self._blocked),
        )
        for name, actions in groupby(plan(observed), key=subject):
            steps = [each for each in actions if isinstance(each, Close) or what(each) not in self._pauses]
            if steps and name not in self._busy:
                self._busy[name] = self._settle(name, steps, snapshot)
                self._busy[name].addBoth(self._settled, name)
        self._caught_up |= not self._busy and self._descriptions.complete
        self.passes += 1
        self.seconds += self._clock.seconds() - began

    @inlineCallbacks
    def _settle(self, name: Name, actions: Sequence[Action], before: Snapshot) -> Generator[Deferred[Any], Any, None]:
        """Carry out the actions of a resource: those of its listeners side by side, then what it is told."""
        done = yield gatherResults(
            [self._attempt(key, list(steps)) for key, steps in groupby(actions, what) if isinstance(key, ListenerKey)]
        )
        for action in actions:
            if isinstance(action, SetStatus) and all(done) and (yield self._attempt(name, [action])):
                self._tell(action.status, before.statuses.get(name))

    def _settled(self, result: object, name: Name) -> None:
        del self._busy[name]
        if isinstance(result, Failure):
            log.critical("Actions were left undone ({reason})", event="actions.undone", reason=_kind(result))
        self.poke()

    @inlineCallbacks
    def _attempt(self, whose: ListenerKey | Name, steps: Sequence[Action]) -> Generator[Deferred[Any], Any, bool]:
        """Carry out actions of one listener or resource, up to the first that fails."""
        for step in steps:
            if not self.running:
                return False
            try:
                yield maybeDeferred(self._perform, step).addTimeout(PERFORM_SECONDS, self._clock)
            except Exception:
                self._failed(whose, step, _refusal(Failure(), f"the action {type(step).__name__} failed"))
                return False
        self._pauses.forget(whose)
        return True

    def _failed(self, whose: ListenerKey | Name, step: Action, refusal: Refusal) -> None:
        if isinstance(step, Claim | Open) and refusal.reason is Reason.PORT_NOT_AVAILABLE:
            self._blocked.add(step.port)
            log.warn(
                "{listener}: {message}",
                event="port.blocked",
                listener=str(whose),
                port=step.port,
                message=refusal.message,
            )
            return
        seconds = self._pauses.rest(whose)
        self.failures += 1
        self._failures[whose] = refusal
        log.error(
            "{key}: {message}; tried again in {seconds} s",
            event="action.failed",
            key="/".join(whose) if isinstance(whose, tuple) else str(whose),
            reason=refusal.reason.value,
            message=str(refusal),
            seconds=round(seconds, 1),
        )

    def _perform(self, action: Action) -> object:
        match action:
            case Open(binding, address, port):
                return self._listeners.open(binding, address, port)
            case Rebind(binding):
                self._listeners.rebind(binding)
                return None
            case Close(key, reason):
                return self._listeners.close(key, reason)
            case Claim(key, port, _, instead) if instead:
                log.warn(
                    "{listener}: {message}",
                    event="port.other",
                    listener=str(key),
                    port=port,
                    message=f"port {instead} is not free for it, it gets {port}",
                )
        return self._cluster.perform(action)

    def _tell(self, status: Status, before: Status | None) -> None:
        """Log what is new about listeners that do not serve."""
        for row in status.listeners:
            if not row.available and (before is None or row not in before.listeners):
                log.warn(
                    "{listener} is not served: {message}",
                    event="listener.refused",
                    listener=str(row.key),
                    tenant=row.key.tenant,
                    reason=row.reason,
                    message=row.message,
                )


def what(action: Action) -> ListenerKey | Name:
    """What rests when an action fails."""
    return action.name if isinstance(action, SetStatus) else action.key


def _kind(failure: Failure) -> str:
    return failure.type.__name__ if failure.type else ""


def _refusal(failure: Failure, message: str = "the destination could not be looked up") -> Refusal:
    if isinstance(failure.value, RefusedError):
        return failure.value.refusal
    reason = Reason.TIMED_OUT if failure.check(TimeoutError) else Reason.INTERNAL_ERROR
    return Refusal(Stage.RESOLVE, reason, f"{message} ({_kind(failure)})")

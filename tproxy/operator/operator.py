"""Runs an installation in a cluster: every replica serves what is recorded, and the one that leads writes it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from itertools import zip_longest
from operator import is_
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from tproxy.interfaces import IDestinationStore, IInstallation
from tproxy.listeners import Listeners
from tproxy.model import Reason, Refusal, RefusedError, Stage, spare
from tproxy.operator.leading import lead
from tproxy.operator.manifests import Rejected, Resource
from tproxy.operator.memory import Memory
from tproxy.operator.plan import Close, Observed, Open, Rebind
from tproxy.operator.ports import Bounds
from tproxy.operator.reconciler import PERFORM_SECONDS, Descriptions, Pauses
from tproxy.operator.serving import serve
from tproxy.operator.steps import Look, Narrow, OutdatedError, Step, Steps, Take, Tell, recorded

log = Logger()

WRITERS = 16
"""So many writes are under way at once, and with them what begins with a look."""

TICK_SECONDS = 5.0
"""How often time alone may change what is to be done."""

STATUS_SECONDS = 2.0
"""The least time between two statuses of a resource."""

FAREWELL_SECONDS = 5.0
"""How long nodes may still send connections to a replica that is named nowhere any more."""

LOOK_SECONDS = 0.2

BUSY_SECONDS = 0.5
"""Where passes took longer than that of late, with less weight to those that are longer ago, they rest as long."""


class Operator(Service):
    """Brings the ports of this replica, and, while it leads, the objects of the cluster to what they should be.

    A pass never waits. `passes` and `seconds` say how often it planned and how long that took, `failures` how many
    steps failed.

    @param protocols: the default port of each protocol that a plug-in serves, by its name
    @param interval: after how many seconds destinations are looked at again unasked
    @param sessions: how many there are
    @param drain_seconds: how long sessions may go on once this replica is to stop
    @param chance: gives a number from 0 to 1, so that what failed together is not tried again together
    """

    def __init__(
        self,
        cluster: IInstallation,
        store: IDestinationStore,
        listeners: Listeners,
        protocols: Mapping[str, int],
        clock: IReactorTime,
        interval: float,
        bounds: Bounds,
        sessions: Callable[[], int] = lambda: 0,
        drain_seconds: float = 0.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._cluster, self._listeners, self._clock, self._bounds = cluster, listeners, clock, bounds
        self._interval, self._sessions, self._drain_seconds = interval, sessions, drain_seconds
        self._leaving = False
        self._descriptions = Descriptions(store, protocols, clock, self.poke, chance)
        self._calls = [LoopingCall(self.poke), LoopingCall(self.refresh)]
        for call in self._calls:
            call.clock = clock
        self._next: IDelayedCall | None = None
        self._after = self._since = self._load = 0.0
        self._busy: set[Hashable] = set()
        self._holds: set[IDelayedCall] = set()
        self._running: set[Deferred[Any]] = set()
        self._writes = 0
        self._queue: deque[Steps] = deque()
        self._pauses: Pauses[Hashable] = Pauses(clock, lambda _: self.poke(), chance)
        self._refusals: dict[Hashable, Refusal] = {}
        self._foreign: set[int] = set()
        self._memory = Memory()
        self._resources: tuple[Resource | Rejected, ...] = ()
        self.passes = self.failures = 0
        self.seconds = 0.0
        self._caught_up = False

    @property
    def ready(self) -> bool:
        """Whether all that was there at the start is served, or rests after a failure, and it is not stopping."""
        return bool(self.running) and self._caught_up and not self._leaving

    def startService(self) -> None:
        """Begin with what is there."""
        Service.startService(self)
        self._cluster.watch(self.poke)
        for call, seconds in zip(self._calls, (TICK_SECONDS, self._interval), strict=True):
            call.start(seconds, now=False)
        self.poke()

    def stopService(self) -> Deferred[None]:
        """Leave in good order: be named nowhere, let sessions end, then close every port."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._leaving = True
        if self.running:
            await self._drain()
        Service.stopService(self)
        for call in self._calls:
            call.stop()
        for delayed in (*self._holds, *([self._next] if self._next else [])):
            delayed.cancel()
        self._next = None
        self._queue.clear()
        self._pauses.keep(frozenset())
        self._descriptions.stop()
        await self._listeners.close_all()
        await DeferredList(list(self._running))
        await self._listeners.close_all()

    async def _drain(self) -> None:
        """Wait until nobody is sent here any more, and then for the sessions; in the meantime all goes on."""
        until = self._clock.seconds() + self._drain_seconds
        self._cluster.leave()
        await self._while(self._cluster.named, until)
        await self._cluster.resign()
        await deferLater(self._clock, max(0.0, min(FAREWELL_SECONDS, until - self._clock.seconds())))
        await self._while(self._sessions, until)

    async def _while(self, condition: Callable[[], object], until: float) -> None:
        while self._clock.seconds() < until and condition():
            await deferLater(self._clock, LOOK_SECONDS)

    def poke(self) -> None:
        """Something may have changed: there will be a pass, after a rest."""
        if self.running and self._next is None:
            self._next = self._clock.callLater(max(0.0, self._after - self._clock.seconds()), self._pass)

    def refresh(self) -> None:
        """Destinations may have changed: look them up again."""
        self._foreign.clear()
        self._descriptions.refresh()
        self.poke()

    def _pass(self) -> None:
        self._next = None
        began = self._clock.seconds()
        snapshot = self._cluster.observe()
        if snapshot is None:
            return
        self._describe(snapshot.resources)
        resting = {subject: refusal for subject, refusal in self._refusals.items() if subject in self._pauses}
        observed = Observed(
            snapshot,
            self._descriptions.known,
            self._listeners.listening,
            resting,
            frozenset(self._foreign.union(port for port in map(recorded, [*self._busy, *resting]) if port)),
            self._listeners.used if snapshot.objects and snapshot.objects.leading else {},
            frozenset(self._busy),
        )
        self._memory.see(observed)
        serving = serve(observed, self._memory)
        looking = []
        for steps in serving:
            if isinstance(steps.steps[0], Look):
                looking.append(steps)
            elif self._free(steps):
                self._begin(steps)
        leading = lead(observed, self._bounds, self._memory)
        # What is under way now was planned again without it: should it end before its turn comes, it was done already.
        turns = zip_longest(looking, leading)
        self._queue = deque(steps for pair in turns for steps in pair if steps and self._free(steps))
        planned = {subject for steps in (*serving, *leading) for subject in steps.subjects}
        concerned = planned.union(self._pauses.resting, self._busy)
        self._pauses.keep(concerned)
        self._refusals = {subject: refusal for subject, refusal in self._refusals.items() if subject in concerned}
        self._write()
        if not self._caught_up:
            self._caught_up = self._descriptions.complete and not any(self._free(steps) for steps in serving)
        self._ended(began)

    def _describe(self, resources: tuple[Resource | Rejected, ...]) -> None:
        """Have all destinations described that these resources ask for."""
        if len(resources) != len(self._resources) or not all(map(is_, resources, self._resources)):
            bindings = [binding for each in resources if isinstance(each, Resource) for binding in each.bindings]
            self._descriptions.want({binding.request for binding in bindings})
            self._resources = resources

    def _ended(self, began: float) -> None:
        """Rest after a pass: as long as it took, and longer where one has followed the other for some time."""
        now = self._clock.seconds()
        took = now - began
        self.passes += 1
        self.seconds += took
        self._load = self._load * 0.5 ** (now - self._since) + took
        self._since, self._after = now, now + (took if self._load < BUSY_SECONDS else self._load)

    def _free(self, steps: Steps) -> bool:
        return not any(subject in self._busy or subject in self._pauses for subject in steps.subjects)

    def _write(self) -> None:
        """Begin as many writes as there may be."""
        while self._queue and self._writes < WRITERS:
            steps = self._queue.popleft()
            if self._free(steps):
                self._writes += 1
                self._begin(steps).addBoth(self._written)

    def _written(self, result: object) -> None:
        self._writes -= 1
        if self.running:
            self._write()

    def _begin(self, steps: Steps) -> Deferred[None]:
        self._busy.update(steps.subjects)
        running = Deferred.fromCoroutine(self._take(steps))
        self._running.add(running)
        running.addErrback(lambda failure: log.failure("steps were left undone", failure, event="actions.undone"))
        return running.addCallback(lambda _: self._running.discard(running))

    async def _take(self, steps: Steps) -> None:
        """Take steps, up to the first that fails."""
        held = STATUS_SECONDS if isinstance(steps.steps[-1], Tell) else 0.0
        try:
            for step in steps.steps:
                await maybeDeferred(self._perform, step).addTimeout(PERFORM_SECONDS, self._clock)
        except Exception:
            self._failed(steps, Failure())
        else:
            for subject in steps.subjects:
                self._pauses.forget(subject)
                self._refusals.pop(subject, None)
        if held and self.running:
            self._hold(steps.subjects, held)
        else:
            self._release(steps.subjects)

    def _hold(self, subjects: Iterable[Hashable], seconds: float) -> None:
        def over() -> None:
            self._holds.discard(call)
            self._release(subjects)

        call = self._clock.callLater(seconds, over)
        self._holds.add(call)

    def _release(self, subjects: Iterable[Hashable]) -> None:
        self._busy.difference_update(subjects)
        self.poke()

    def _failed(self, steps: Steps, failure: Failure) -> None:
        if isinstance(failure.value, RefusedError):
            refusal = failure.value.refusal
        else:
            words = f"a step failed ({failure.type.__name__ if failure.type else ''})"
            refusal = Refusal(Stage.RESOLVE, Reason.INTERNAL_ERROR, words)
        if refusal.reason is Reason.NAME_ALREADY_PRESENT:
            self._foreign.update(port for port in map(recorded, steps.subjects) if port)
        seconds = max(self._pauses.rest(subject) for subject in steps.subjects)
        if isinstance(failure.value, OutdatedError):
            log.debug("{message}", event="action.outdated", message=refusal.message, seconds=round(seconds, 1))
            return
        self.failures += 1
        if isinstance(steps.steps[-1], Open) and refusal != self._refusals.get(steps.subjects[0]):
            self._cluster.report(refusal)
        self._refusals |= dict.fromkeys(steps.subjects, refusal)
        log.error(
            "{message}; tried again in {seconds} s",
            event="action.failed",
            reason=refusal.reason.value,
            message=str(refusal),
            seconds=round(seconds, 1),
        )

    def _perform(self, step: Step) -> object:
        match step:
            case Open(binding, address, port):
                return self._listeners.open(binding, address, port)
            case Take(binding, port):
                self._listeners.take(spare(port).key, binding)
                return None
            case Rebind(binding):
                self._listeners.rebind(binding)
                return None
            case Narrow(binding):
                self._listeners.narrow(binding, "the scope was narrowed")
                return None
            case Close(key, reason):
                return self._listeners.close(key, reason)
        return self._cluster.perform(step)

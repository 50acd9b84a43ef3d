"""Who leads: each transition, and three candidates in whatever weather."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tproxy.cluster.api.lease import (
    DURATION,
    LEAVE_RETRY,
    LEAVE_SECONDS,
    RELEASED,
    RENEW_DEADLINE,
    Away,
    Due,
    Effect,
    Elected,
    Event,
    Expired,
    Failed,
    Follower,
    Leader,
    Leave,
    Leaving,
    Left,
    Look,
    Lost,
    Read,
    Rest,
    Seen,
    State,
    Write,
    Written,
    step,
)

ME = "pod-0_1"
RENEWAL = {"holderIdentity": ME, "leaseDurationSeconds": 15}


def lease(holder: Any = "other", seconds: Any = 15, **spec: Any) -> dict[str, Any]:
    return {"spec": {"holderIdentity": holder, "leaseDurationSeconds": seconds, **spec}}


def claim(transitions: int) -> dict[str, Any]:
    return {**RENEWAL, "leaseTransitions": transitions}


OTHER, MINE = lease(), lease(ME)
SEEN = Seen(OTHER["spec"], 100.0)
LEADER = Leader(Seen(MINE["spec"], 100.0), 100.0)


class StepTests(SynchronousTestCase):
    """The machine, transition by transition."""

    def steps(self, state: State, event: Event, then: State, *effects: Effect) -> None:
        self.assertEqual(step(state, event, ME), (then, effects))

    def test_look(self) -> None:
        """Every pause ends with a look."""
        for state in (Follower(), LEADER, Leaving(9.0)):
            self.steps(state, Due(101.0), state, Look())

    def test_free(self) -> None:
        """A lease that is not there is made; one that was given back is taken at once."""
        self.steps(Follower(), Read(1.0, None), Follower(), Write(None, claim(0), acquired=True))
        free = lease("", 1, leaseTransitions=4)
        self.steps(Follower(), Read(1.0, free), Follower(Seen(free["spec"], 1.0)), Write(free, claim(5), acquired=True))

    def test_held(self) -> None:
        """Another's lease counts from when we saw it change, whatever it says of the time."""
        first = lease(renewTime="1999-01-01T00:00:00.000000Z")
        seen = Seen(first["spec"], 100.0)
        self.steps(Follower(), Read(100.0, first), Follower(seen), Rest())
        self.steps(Follower(seen), Read(114.9, first), Follower(seen), Rest())
        self.steps(Follower(seen), Read(115.0, first), Follower(seen), Write(first, claim(0), acquired=True))
        renewed = lease(renewTime="1999-01-01T00:00:00.000001Z")
        self.steps(Follower(seen), Read(115.0, renewed), Follower(Seen(renewed["spec"], 115.0)), Rest())

    def test_odd(self) -> None:
        """How long a lease lasts is its holder's word, if it is one; a lease that says nothing is free."""
        for seconds, lasts in ((40, 40), (0, DURATION), (-1, DURATION), ("40", DURATION), (None, DURATION)):
            thing = lease(seconds=seconds)
            seen = Seen(thing["spec"], 0.0)
            self.steps(Follower(seen), Read(lasts - 0.1, thing), Follower(seen), Rest())
            self.assertIsInstance(step(Follower(seen), Read(lasts, thing), ME)[1][0], Write)
        for thing in ({}, {"spec": None}, lease(7)):
            self.assertIsInstance(step(Follower(), Read(0.0, thing), ME)[1][0], Write)

    def test_elected(self) -> None:
        """What was written makes us the leader from when it was sent, unless that is too long ago."""
        until = 100.0 + RENEW_DEADLINE
        self.steps(Follower(SEEN), Written(101.0, 100.0), Leader(SEEN, 100.0), Elected(until), Rest())
        self.steps(Follower(SEEN), Written(until, 100.0), Follower(SEEN), Rest())

    def test_renewal(self) -> None:
        """Our own lease is renewed, also where nobody told us that we had it."""
        self.steps(LEADER, Read(102.0, MINE), LEADER, Write(MINE, RENEWAL))
        self.steps(LEADER, Written(103.0, 102.0), Leader(LEADER.seen, 102.0), Elected(112.0), Rest())
        self.steps(Follower(), Read(102.0, MINE), Follower(Seen(MINE["spec"], 102.0)), Write(MINE, RENEWAL))
        self.steps(LEADER, Read(102.0, None), LEADER, Write(None, claim(0), acquired=True))

    def test_failed(self) -> None:
        """Trouble changes nothing until the time is up."""
        for state in (Follower(SEEN), LEADER):
            self.steps(state, Failed(105.0), state, Rest())
        self.steps(LEADER, Expired(109.9), LEADER)
        self.steps(LEADER, Expired(110.0), Follower(LEADER.seen), Lost())
        self.steps(Follower(SEEN), Expired(110.0), Follower(SEEN))

    def test_lost(self) -> None:
        """Another's name in the lease ends our term at once."""
        self.steps(LEADER, Read(102.0, OTHER), Follower(Seen(OTHER["spec"], 102.0)), Lost(), Rest())
        free = lease("", 1)
        taken = Write(free, claim(0), acquired=True)
        self.steps(LEADER, Read(102.0, free), Follower(Seen(free["spec"], 102.0)), Lost(), taken)

    def test_leave(self) -> None:
        """A leader gives the lease back; a follower makes sure that it has none."""
        leaving = Leaving(105.0 + LEAVE_SECONDS)
        self.steps(LEADER, Leave(105.0), leaving, Lost(), Look())
        self.steps(Follower(SEEN), Leave(105.0), leaving, Look())
        self.steps(leaving, Read(105.0, MINE), leaving, Write(MINE, RELEASED))
        self.steps(leaving, Written(105.0, 105.0), Away(), Left())
        for nothing in (OTHER, None):
            self.steps(leaving, Read(105.0, nothing), Away(), Left())
        self.steps(leaving, Failed(109.9), leaving, Rest(LEAVE_RETRY))
        self.steps(leaving, Failed(110.0), Away(), Left())

    def test_late(self) -> None:
        """What comes too late changes nothing."""
        for state, event in ((Away(), Due(1.0)), (Away(), Leave(1.0)), (Leaving(1.0), Expired(2.0))):
            self.steps(state, event, state)


@define(eq=False)
class Candidate:
    """A process in the simulation: its clock has another origin, its requests take time, get lost or fail."""

    world: World
    me: str
    offset: float
    state: State = field(factory=Follower)
    until: float | None = None
    waiting: int = 0

    def now(self) -> float:
        return self.world.clock.seconds() + self.offset

    def leads(self) -> bool:
        return self.until is not None and self.now() < self.until

    def take(self, event: Event) -> None:
        self.state, effects = step(self.state, event, self.me)
        for effect in effects:
            match effect:
                case Look() | Write():
                    self.ask(effect)
                case Rest(seconds):
                    self.waiting += 1
                    self.world.clock.callLater(seconds, self.due)
                case Elected(until):
                    self.until = until
                    self.world.clock.callLater(until - self.now(), lambda: self.take(Expired(self.now())))
                case Lost() | Left():
                    self.until = None

    def due(self) -> None:
        self.waiting -= 1
        self.take(Due(self.now()))

    def ask(self, effect: Look | Write) -> None:
        """There, at the server, and back: each way may take long, and either message may be lost."""
        there, back, fate = self.world.weather()
        sent = self.now()

        def arrive() -> None:
            answer = self.world.server(effect) if fate != "lost on the way" else None
            answered = answer is not None and fate == "fine" and there + back < 5.0
            self.world.clock.callLater(back if answered else 5.0 - there, reply, answer if answered else None)

        def reply(answer: Any) -> None:
            if answer is None:
                self.take(Failed(self.now()))
            elif isinstance(effect, Look):
                self.take(Read(self.now(), answer[0]))
            else:
                self.take(Written(self.now(), sent))

        self.world.clock.callLater(there, arrive)


@define(eq=False)
class World:
    """A lease at a server, whose writes hold only for the version that was read."""

    draws: list[tuple[float, float, str]]
    clock: Clock = field(factory=Clock)
    lease: dict[str, Any] | None = None
    version: int = 0

    def weather(self) -> tuple[float, float, str]:
        return self.draws.pop() if self.draws else (0.01, 0.01, "fine")

    def server(self, effect: Look | Write) -> tuple[Any] | None:
        if isinstance(effect, Look):
            return (self.lease,)
        known = effect.lease and effect.lease["version"]
        if known != (self.lease and self.lease["version"]):
            return None
        self.version += 1
        before = {} if self.lease is None else self.lease["spec"]
        self.lease = {"version": self.version, "spec": {**before, **effect.spec, "renewTime": self.version}}
        return (self.lease,)


weather = st.tuples(
    st.sampled_from([0.01, 0.5, 4.0]),
    st.sampled_from([0.01, 0.5, 4.0]),
    st.sampled_from(["fine", "fine", "fine", "lost on the way", "lost on the way back"]),
)


class ElectionTests(SynchronousTestCase):
    """Three candidates."""

    @given(st.lists(weather, max_size=120), st.lists(st.sampled_from([0, 1, 2]), max_size=2, unique=True))
    @settings(deadline=None, max_examples=60)
    def test_one_leader(self, draws: list[tuple[float, float, str]], leavers: list[int]) -> None:
        """There are never two leaders at a time; and once the weather is fine, there is one, who stays."""
        world = World(draws)
        candidates = [Candidate(world, f"pod-{number}", 1000.0 * number) for number in range(3)]
        for candidate in candidates:
            candidate.take(Due(candidate.now()))
        leaving = dict(zip([15.0, 40.0], leavers, strict=False))
        for tick in range(4 * 1200):
            world.clock.advance(0.25)
            self.assertLessEqual(sum(candidate.leads() for candidate in candidates), 1)
            if tick / 4 in leaving:
                gone = candidates[leaving[tick / 4]]
                if gone.waiting == 1:  # between two requests: those that are under way are the shell's to break off
                    gone.take(Leave(gone.now()))
            if not world.draws and tick > 4 * 60:
                break
        world.clock.pump([0.25] * 4 * 60)
        leaders = [candidate for candidate in candidates if candidate.leads()]
        self.assertEqual(len(leaders), 1)
        world.clock.pump([0.25] * 4 * 30)
        self.assertTrue(leaders[0].leads())

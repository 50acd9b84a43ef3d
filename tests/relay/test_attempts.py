from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tproxy.model import Reason, Refusal, RefusedError, Stage
from tproxy.relay.attempts import REMEMBERED, Attempt, Attempts

WRONG = Refusal(Stage.LOGIN, Reason.LOGIN_REFUSED, "wrong password")
BUSY = Refusal(Stage.LOGIN, Reason.LOGIN_UNAVAILABLE, "too busy")


class AttemptsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.attempts = Attempts(self.clock)

    def turn(self, key: str = "mail") -> Deferred[Attempt]:
        return Deferred.fromCoroutine(self.attempts.turn(key))

    def now(self, key: str = "mail") -> Attempt:
        return self.successResultOf(self.turn(key))

    def refusal(self, turn: Deferred[Attempt]) -> Refusal:
        return self.failureResultOf(turn, RefusedError).value.refusal

    def test_alone_first_then_everybody(self) -> None:
        """The first login with a credential goes alone; once it worked all who waited go, and all after them."""
        first = self.now()
        waiting = [self.turn() for _ in range(3)]
        for turn in waiting:
            self.assertNoResult(turn)
        first.accepted()
        for turn in waiting:
            self.successResultOf(turn).accepted()
        self.now()
        self.now()

    def test_refused_for_all_who_wait(self) -> None:
        """Whoever waited for a login that is refused gets its refusal, as do later ones for 10 s."""
        first = self.now()
        waiting = [self.turn() for _ in range(3)]
        first.refused(WRONG)
        for turn in waiting:
            self.assertEqual(self.refusal(turn), WRONG)
        self.clock.advance(9.9)
        self.assertEqual(self.refusal(self.turn()), WRONG)
        self.clock.advance(0.1)
        self.now()

    def test_rests_grow(self) -> None:
        """Each further refusal doubles the rest, up to a quarter of an hour."""
        for seconds in (10, 20, 40, 80, 160, 320, 640, 900, 900):
            self.now().refused(WRONG)
            self.clock.advance(seconds - 1)
            self.refusal(self.turn())
            self.clock.advance(1)
        self.now().accepted()
        self.now().refused(WRONG)
        self.clock.advance(10)
        self.now()

    def test_other_failures_only_pace(self) -> None:
        """A server that is busy or gone is asked again after a second, however often it failed."""
        for _ in range(20):
            self.now().refused(BUSY)
            self.assertEqual(self.refusal(self.turn()), BUSY)
            self.clock.advance(1)
        self.now()

    def test_pacing_keeps_the_count_of_refusals(self) -> None:
        self.now().refused(WRONG)
        self.clock.advance(10)
        self.now().refused(BUSY)
        self.clock.advance(1)
        self.now().refused(WRONG)
        self.clock.advance(19)
        self.refusal(self.turn())
        self.clock.advance(1)
        self.now()

    def test_pacing_does_not_end_a_rest(self) -> None:
        """Of two logins at once one is refused, and the other one's server is gone: the credential rests."""
        self.now().accepted()
        first, second = self.now(), self.now()
        first.refused(WRONG)
        second.refused(BUSY)
        self.clock.advance(1)
        self.assertEqual(self.refusal(self.turn()), WRONG)
        self.clock.advance(9)
        self.now()

    def test_keys_are_independent(self) -> None:
        """Another tenant, or the same with a new password, does not wait."""
        self.now("old").refused(WRONG)
        self.now("new").accepted()

    def test_abandoned(self) -> None:
        """An application that leaves before the outcome makes room for the next one, alone again."""
        first = self.now()
        second, third = self.turn(), self.turn()
        first.abandoned()
        self.successResultOf(second)
        self.assertNoResult(third)
        first.abandoned()
        self.assertNoResult(third)

    def test_abandoned_while_proven(self) -> None:
        self.now().accepted()
        self.now().abandoned()
        self.now()
        self.now()

    def test_waiting_cancelled(self) -> None:
        """Whoever leaves while it waits is forgotten."""
        first = self.now()
        waiting = self.turn()
        waiting.cancel()
        self.failureResultOf(waiting)
        first.accepted()

    def test_bounded(self) -> None:
        """The memory of credentials is bounded; one that is forgotten while somebody tries lets the others try."""
        self.now("first")
        waiting = self.turn("first")
        for number in range(REMEMBERED):
            self.now(f"{number}")
        self.successResultOf(waiting)

"""What is remembered of refusals: the last ones, never more than there is room for, and what sessions add."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import fail
from twisted.trial.unittest import SynchronousTestCase

from tests.relay.sessions import BINDING, SessionTestCase
from tproxy.model import ListenerKey, Reason, Refusal, RefusedError, Stage
from tproxy.relay.refusals import Refusals, Refused

BINDINGS = [evolve(BINDING, key=ListenerKey("shop", name)) for name in "abc"]
EXPIRED = Refusal(Stage.TLS, Reason.CERTIFICATE_EXPIRED, "it expired yesterday", "renew it")
SILENT = Refusal(Stage.TLS, Reason.TIMED_OUT, "nobody answers")


class Remembered(SynchronousTestCase):
    """The list of a process."""

    def test_newest_first(self) -> None:
        """What happened again is where it happened last, in its last words, with how often it did."""
        refusals = Refusals()
        again = evolve(EXPIRED, message="it expired two days ago")
        for at, refusal in enumerate((EXPIRED, SILENT, again)):
            refusals.note(BINDINGS[0], refusal, at)
        refusals.note(BINDINGS[1], SILENT, 3)
        self.assertEqual(
            refusals.latest,
            (
                Refused(BINDINGS[1], SILENT, 3),
                Refused(BINDINGS[0], again, 2, times=2),
                Refused(BINDINGS[0], SILENT, 1),
            ),
        )

    def test_bounded(self) -> None:
        """There is room for so many; which happened longest ago goes."""
        refusals = Refusals(2)
        for at, binding in enumerate((BINDINGS[0], BINDINGS[1], BINDINGS[0], BINDINGS[2])):
            refusals.note(binding, EXPIRED, at)
        self.assertEqual([each.binding for each in refusals.latest], [BINDINGS[2], BINDINGS[0]])


class OfSessions(SessionTestCase):
    """What a real session adds."""

    async def test_refused(self) -> None:
        """The refusal as the log has it, and when it was."""
        self.store.answer = lambda: fail(RefusedError(EXPIRED))
        self.clock.advance(7)
        application = await self.application()
        await self.over(application)
        self.assertEqual(self.services.refusals.latest, (Refused(self.binding, EXPIRED, 7),))

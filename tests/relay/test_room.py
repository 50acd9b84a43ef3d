"""Room for connections, as it gets scarce."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tproxy.model import Code, Reason
from tproxy.relay.room import LOOK_EACH, Room


class RoomTests(SynchronousTestCase):
    """At most 100 connections and 1,000 bytes."""

    def setUp(self) -> None:
        self.used = None
        self.room = Room(100, 1000, lambda: self.used)

    def refused(self) -> str:
        refusal = self.room.refusal()
        assert refusal is not None
        self.assertEqual((refusal.reason, refusal.code), (Reason.LIMIT_REACHED, Code.LIMIT))
        return str(refusal)

    def test_connections(self) -> None:
        """It says that it gets scarce before it refuses anybody."""
        for opened, scarce in ((0, False), (94, False), (95, True), (99, True)):
            self.room.opened = opened
            self.assertEqual((self.room.scarce, self.room.refusal()), (scarce, None))
        self.room.opened = 100
        self.assertTrue(self.room.scarce)
        self.assertIn("config.limits.connections", self.refused())

    def test_memory(self) -> None:
        """What is used counts as it was when somebody looked; where nobody can tell, nothing is refused."""
        for used, scarce in ((None, False), (949, False), (950, True), (999, True)):
            self.used = used
            self.room.look()
            self.assertEqual((self.room.scarce, self.room.refusal()), (scarce, None))
        self.used = 1000
        self.assertIsNone(self.room.refusal())
        self.room.look()
        self.assertTrue(self.room.scarce)
        self.assertIn("config.limits.memory", self.refused())

    def test_burst(self) -> None:
        """Many connections at once are not all let in on what was used before they came."""
        room = Room(10_000, 1000, lambda: room.opened)
        room.look()
        while room.refusal() is None:
            room.opened += 1
        self.assertLess(room.opened, 1000 + LOOK_EACH)

    def test_untold(self) -> None:
        """A look that sees nothing, for want of descriptors, say, takes nothing back."""
        self.used = 1000
        self.room.look()
        self.used = None
        self.room.look()
        self.assertTrue(self.room.scarce)
        self.refused()

    def test_unbounded(self) -> None:
        """Without a limit memory is nobody's concern."""
        room = Room(100, None, lambda: 10**12)
        room.look()
        self.assertEqual((room.scarce, room.refusal()), (False, None))

"""Connections that there is no room for."""

from __future__ import annotations

from attrs import evolve

from tests.peers import HalfClosing, turn
from tests.relay.sessions import BINDING, SessionTestCase
from tproxy.model import Reason, Stage, spare
from tproxy.relay.factory import PATIENCE_SECONDS
from tproxy.relay.room import FAREWELLS, Room


class TurnedAwayTests(SessionTestCase):
    """Each is told so, but for those that come while very many take their time to hear it."""

    async def setUp(self) -> None:
        await super().setUp()
        self.services = evolve(self.services, room=Room(0))
        self.factory._services = self.services

    async def told(self, application: HalfClosing) -> None:
        self.assertRegex(await self.line(application), rb"^\* BYE ")
        await application.fin

    async def leave(self, *applications: HalfClosing) -> None:
        for application in applications:
            application.transport.abortConnection()
        while self.services.room.farewells:
            await turn()

    async def test_flood(self) -> None:
        """Who does not close takes no more descriptors than are kept for that, and all are counted."""
        applications = [await self.application() for _ in range(FAREWELLS + 20)]
        for application in applications[:FAREWELLS]:
            await self.told(application)
        for application in applications[FAREWELLS:]:
            await application.fin
            self.assertEqual(b"", application.heard)
        tally = self.services.tallies.of(BINDING.key)
        self.assertEqual({(Stage.ACCEPT, Reason.LIMIT_REACHED): FAREWELLS + 20}, tally.refusals)
        self.assertEqual(FAREWELLS, len(tally.live))
        await self.leave(*applications)
        self.assertEqual(0, len(tally.live))
        latecomer = await self.application()
        await self.told(latecomer)
        await self.leave(latecomer)

    async def test_at_a_spare(self) -> None:
        """Those that waited for nothing, too."""
        self.services = evolve(self.services, room=Room(10))
        self.factory._services = self.services
        self.factory.binding = spare(4000)
        applications = [await self.application() for _ in range(2)]
        while len(self.factory.waiting) < 2:
            await turn()
        self.services.room.farewells = FAREWELLS - 1
        self.clock.advance(PATIENCE_SECONDS)
        self.assertEqual((0, FAREWELLS), (self.services.room.opened, self.services.room.farewells))
        heard = []
        for application in applications:
            await (application.ended if application.ended.called else application.fin)
            heard.append(bytes(application.heard[:5]))
        self.assertEqual([b"", b"* BYE"], sorted(heard))
        self.services.room.farewells = 1
        await self.leave(*applications)

"""Connections to a port that nobody has claimed yet."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import Deferred

from tests.peers import turn
from tests.relay.sessions import BINDING, SessionTestCase
from tproxy.model import spare
from tproxy.relay.factory import PATIENCE_SECONDS
from tproxy.relay.room import Room


class SpareTests(SessionTestCase):
    """They wait for a while."""

    binding = spare(4000)

    async def waiting_for(self, count: int) -> None:
        while len(self.factory.waiting) != count:
            await turn()

    async def test_claimed(self) -> None:
        """Who waits is served once the port is claimed, with what it said meanwhile."""
        application = await self.application()
        application.transport.write(b"1 CAPABILITY\r\n")
        await self.waiting_for(1)
        self.assertFalse(self.factory.sessions)
        coming = self.server()
        self.factory.binding = BINDING
        self.assertFalse(self.factory.waiting)
        server = await coming
        await self.log_in(server)
        self.assertTrue((await self.line(application)).startswith(b"* PREAUTH"))
        self.assertTrue((await self.line(application)).startswith(b"* CAPABILITY"))
        server.transport.loseConnection()
        await self.over(application)

    async def test_unclaimed(self) -> None:
        """After a while it is told that nobody is there."""
        application = await self.application()
        await self.waiting_for(1)
        self.clock.advance(PATIENCE_SECONDS)
        self.assertTrue((await self.line(application)).startswith(b"* BYE"))
        await self.over(application)
        self.assertEqual("revoked", self.logged("session.refused")["reason"])
        tallies = self.services.tallies
        self.assertEqual((1, None), (tallies.others.accepted, tallies.own(self.binding.key)))

    async def test_spare_again(self) -> None:
        """Another binding of a spare claims nothing."""
        application = await self.application()
        await self.waiting_for(1)
        self.factory.binding = spare(4001)
        self.assertEqual(1, len(self.factory.waiting))
        self.factory.revoke("going down")
        await application.ended
        await self.waiting_for(0)
        self.assertEqual([], self.clock.getDelayedCalls())

    async def test_many(self) -> None:
        """No more wait than a listener may have."""
        applications = [await self.application() for _ in range(6)]
        await self.waiting_for(5)
        self.assertTrue((await self.line(applications[5])).startswith(b"* BYE [LIMIT]"))
        for application in applications:
            application.transport.abortConnection()
        self.factory.revoke("going down")
        await self.waiting_for(0)


class FullTests(SessionTestCase):
    """They count where the process has room for two."""

    binding = spare(4000)

    async def setUp(self) -> None:
        await super().setUp()
        self.services = evolve(self.services, room=Room(2))
        self.factory._services = self.services

    async def test_full(self) -> None:
        """There is no room for a third, and those that wait have theirs when the port is claimed."""
        applications = [await self.application() for _ in range(3)]
        self.assertTrue((await self.line(applications[2])).startswith(b"* BYE [LIMIT]"))
        self.assertTrue(self.services.room.scarce)
        self.assertEqual(2, len(self.factory.waiting))
        first = self.server()
        self.factory.binding = BINDING
        server = await first
        second = Deferred.fromCoroutine(self.server())
        await self.log_in(server)
        await self.log_in(await second)
        for application in applications[:2]:
            self.assertTrue((await self.line(application)).startswith(b"* PREAUTH"))
        self.assertEqual(2, self.services.room.opened)
        for application in applications:
            application.transport.abortConnection()
        while self.factory.sessions:
            await turn()
        self.assertEqual(0, self.services.room.opened)

    async def test_left(self) -> None:
        """Whoever leaves, is told that nobody is there, or is sent away makes room."""
        applications = [await self.application() for _ in range(2)]
        while self.services.room.opened != 2:
            await turn()
        self.clock.advance(PATIENCE_SECONDS)
        self.assertEqual(0, self.services.room.opened)
        for application in applications:
            self.assertTrue((await self.line(application)).startswith(b"* BYE [UNAVAILABLE]"))
            await self.over(application)
        application = await self.application()
        while not self.factory.waiting:
            await turn()
        self.factory.revoke("going down")
        await application.ended
        self.assertEqual((0, set()), (self.services.room.opened, self.factory.waiting))

"""Sessions whose application brings the credential, or does not: time, limits, and who goes."""

from __future__ import annotations

import socket
import weakref

from twisted.internet.defer import Deferred, fail, succeed

from tests.peers import turn
from tests.relay.asking import AskingTestCase, authenticate, refused
from tproxy.model import Offered, Reason, Resolution, Secret, Stage
from tproxy.relay.session import GREETING_SECONDS


class Endings(AskingTestCase):
    async def test_nothing_offered(self) -> None:
        """Thirty seconds after the accept an application that offered nothing is sent away, however busy it is."""
        application = await self.greeted()
        application.transport.write(b"1 NOOP\r\n2 AUTHENTICATE XOAUTH2\r\n")
        await self.line(application)
        self.assertEqual(await self.line(application), b"+ \r\n")
        self.clock.advance(GREETING_SECONDS - 1)
        application.transport.write(b"*\r\n")
        await self.line(application)
        self.clock.advance(1)
        self.assertEqual(await self.line(application), b"* BYE nobody logged in in time\r\n")
        await self.over(application)
        told = self.logged("session.refused")
        self.assertEqual((told["stage"], told["reason"]), (Stage.LOGIN, Reason.TIMED_OUT))

    async def test_times(self) -> None:
        """An offer, and a refusal, begin a time of their own."""
        waiting: list[Deferred[Resolution]] = []

        def answer() -> Deferred[Resolution]:
            waiting.append(Deferred())
            return waiting[-1]

        self.store.answer = answer
        application = await self.greeted()
        self.clock.advance(GREETING_SECONDS - 1)
        application.transport.write(authenticate(b"1"))
        while not waiting:
            await turn()
        self.clock.advance(GREETING_SECONDS - 1)
        waiting.pop().errback(refused(Reason.TOKEN_UNAVAILABLE))
        self.assertTrue((await self.line(application)).startswith(b"1 NO "))
        self.clock.advance(GREETING_SECONDS - 1)
        application.transport.write(authenticate(b"2"))
        while not waiting:
            await turn()
        self.clock.advance(GREETING_SECONDS)
        self.assertTrue((await self.line(application)).startswith(b"2 NO [UNAVAILABLE] "))
        self.clock.advance(GREETING_SECONDS)
        self.assertEqual(await self.line(application), b"* BYE nobody logged in in time\r\n")
        await self.over(application)

    async def test_silent_server(self) -> None:
        """A mail server that does not answer costs one attempt."""
        application = await self.greeted()
        coming = Deferred.fromCoroutine(self.server())
        application.transport.write(authenticate(b"1"))
        server = await coming
        self.clock.advance(GREETING_SECONDS)
        self.assertTrue((await self.line(application)).startswith(b"1 NO [UNAVAILABLE] "))
        await server.ended
        self.assertEqual(self.logged("session.refused")["stage"], Stage.GREETING)
        ok = await self.attempt(application, b"2", b"OK [CAPABILITY IMAP4rev1] in", Offered("me", Secret("other")))
        self.assertTrue(ok.startswith(b"2 OK "), ok)
        application.transport.abortConnection()
        await self.gone()

    async def test_gone(self) -> None:
        """A peer that leaves, resets or starts TLS before its login is gone, whatever it said; the log tells once."""
        for said in (b"", b"1 NOOP\r\n", b"1 AUTHENTICATE XOAUTH2 "):
            for leave in (
                lambda transport: transport.loseConnection(),
                lambda transport: transport.abortConnection(),
                lambda transport: transport._socket.shutdown(socket.SHUT_WR),
            ):
                application = await self.greeted()
                application.transport.write(said)
                if said.endswith(b"\n"):
                    await self.line(application)
                leave(application.transport)
                await self.gone()
                self.logged("session.abandoned")
                self.events.clear()
                application.transport.abortConnection()
        application = await self.greeted()
        application.transport.write(b"\x16\x03\x01\x02\x00\x01")
        await application.fin
        self.assertEqual(application.heard, b"")
        self.logged("session.abandoned")
        application.transport.abortConnection()
        await self.gone()
        self.assertEqual(self.store.offers, [])

    async def test_gone_while_it_is_exchanged(self) -> None:
        """A peer that resets while its login is under way ends it."""
        application = await self.greeted()
        coming = Deferred.fromCoroutine(self.server())
        application.transport.write(authenticate(b"1"))
        server = await coming
        application.transport.abortConnection()
        await server.ended
        await self.gone()
        self.logged("session.abandoned")
        self.assertEqual(server.heard, b"")

    async def test_logout(self) -> None:
        """Who says good bye is no incident."""
        application = await self.greeted()
        application.transport.write(b"1 LOGOUT\r\n")
        self.assertTrue((await self.line(application)).startswith(b"* BYE"))
        self.assertTrue((await self.line(application)).startswith(b"1 OK"))
        await self.over(application)
        self.assertEqual([event["event"] for event in self.events if "event" in event], [])

    async def test_limit(self) -> None:
        """One connection more than allowed is told so instead of being greeted."""
        applications = [await self.greeted() for _ in range(5)]
        sixth = await self.application()
        self.assertTrue((await self.line(sixth)).startswith(b"* BYE [LIMIT] "))
        for application in (sixth, *applications):
            application.transport.abortConnection()
        await self.gone()

    async def test_revoked(self) -> None:
        """Offboarding ends those who are asked, and those whose login is under way."""
        asked = await self.greeted()
        walking = await self.greeted()
        self.store.answer = Deferred
        walking.transport.write(authenticate(b"1"))
        while not self.store.offers:
            await turn()
        self.factory.revoke("the resource is gone")
        self.assertTrue((await self.line(asked)).startswith(b"* BYE [UNAVAILABLE] "))
        self.assertTrue((await self.line(walking)).startswith(b"1 NO [UNAVAILABLE] "))
        self.assertTrue((await self.line(walking)).startswith(b"* BYE [UNAVAILABLE] "))
        for application in (asked, walking):
            await application.fin
            application.transport.loseConnection()
        await self.gone()

    async def test_flood(self) -> None:
        """What an application sends while its login is under way is bounded, and goes on afterwards."""
        self.store.answer = Deferred
        application = await self.greeted()
        application.transport.write(authenticate(b"1") + b"1 NOOP\r\n" * 4_000_000)
        for _ in range(50):
            await turn()
        self.assertTrue(application.transport.undelivered)
        (session,) = self.factory.sessions
        self.assertLess(session._server.held, 200_000)
        application.transport.abortConnection()
        self.clock.advance(GREETING_SECONDS)
        await self.gone()

    async def test_nothing_is_left(self) -> None:
        """However a session ended."""

        async def expired() -> list[weakref.ref[object]]:
            application = await self.greeted()
            watched = self.watch()
            self.clock.advance(GREETING_SECONDS)
            await self.over(application)
            return watched

        async def thrice_refused() -> list[weakref.ref[object]]:
            self.store.answer = lambda: fail(refused(Reason.TOKEN_REFUSED))
            application = await self.greeted()
            watched = self.watch()
            application.transport.write(b"".join(authenticate(b"%d" % number) for number in range(3)))
            await self.over(application)
            self.store.answer = lambda: succeed(self.resolution)
            return watched

        async def logged_in() -> list[weakref.ref[object]]:
            application = await self.greeted()
            await self.attempt(application, b"1", b"OK [CAPABILITY IMAP4rev1] in")
            watched = self.watch()
            application.transport.write(b"2 LOGOUT\r\n")
            await self.over(application)
            return watched

        await self.freed(expired, thrice_refused, logged_in)

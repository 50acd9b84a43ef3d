"""Sessions that do not begin, or that we end: one refusal each, in our words."""

from __future__ import annotations

import weakref

from attrs import evolve
from twisted.internet.defer import Deferred, fail, succeed

from tests.peers import HalfClosing, Recorder, turn
from tests.relay.sessions import SessionTestCase
from tproxy.model import (
    Credential,
    DestinationRequest,
    Offered,
    Password,
    Reason,
    Refusal,
    RefusedError,
    Resolution,
    Secret,
    Stage,
)
from tproxy.relay.session import GREETING_SECONDS


class RefusedTests(SessionTestCase):
    """Sessions that do not begin, or are ended by us."""

    async def test_gone_before_the_greeting(self) -> None:
        """A peer that leaves, resets or starts TLS early is gone without a login."""
        for leave in (
            lambda transport: transport.loseConnection(),
            lambda transport: transport.abortConnection(),
            lambda transport: transport.write(b"\x16\x03\x01\x02\x00\x01"),
        ):
            coming = Deferred.fromCoroutine(self.server())
            application = await self.application()
            server = await coming
            leave(application.transport)
            await server.ended
            while self.factory.sessions:
                await turn()
            self.assertEqual(server.heard, b"")
            self.assertEqual(self.logged("session.abandoned")["listener"], "shop/mail-acme")
            self.events.clear()
            application.transport.abortConnection()
            self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_refused_login(self) -> None:
        """A refused login is one BYE in our words; the next connection gets it without another login."""
        coming = Deferred.fromCoroutine(self.server())
        application = await self.application()
        await self.log_in(await coming, b"NO [AUTHENTICATIONFAILED] pass is wrong")
        bye = await self.line(application)
        self.assertTrue(bye.startswith(b"* BYE [AUTHENTICATIONFAILED] "), bye)
        self.assertNotIn(b"wrong", bye)
        await self.over(application)
        refused = self.logged("session.refused")
        self.assertEqual((refused["stage"], refused["reason"]), (Stage.LOGIN, Reason.LOGIN_REFUSED))
        self.assertEqual(self.store.renewals, 0)
        second = await self.application()
        self.assertEqual(await self.line(second), bye)
        await self.over(second)
        self.assertEqual(len(self.servers), 1)

    async def test_refused_with_a_cached_credential(self) -> None:
        """A login refused with a cached credential is tried once more with a fresh one."""
        self.store.renewed = evolve(self.resolution, credential=Password("user", Secret("fresh")))
        self.resolution = evolve(self.resolution, cached=True)
        coming = Deferred.fromCoroutine(self.server())
        application = await self.application()
        first = await coming
        again = Deferred.fromCoroutine(self.server())
        await self.log_in(first, b"NO [AUTHENTICATIONFAILED] no")
        second = await again
        await self.log_in(second)
        self.assertTrue((await self.line(application)).startswith(b"* PREAUTH"))
        self.assertEqual(self.store.renewals, 1)
        application.transport.write(b"1 LOGOUT\r\n")
        self.assertTrue((await self.line(application)).startswith(b"* BYE"))
        self.assertTrue((await self.line(application)).startswith(b"1 OK"))
        await self.over(application)

    async def test_refused_and_nothing_fresher(self) -> None:
        self.resolution = evolve(self.resolution, cached=True)
        coming = Deferred.fromCoroutine(self.server())
        application = await self.application()
        await self.log_in(await coming, b"NO no")
        self.assertTrue((await self.line(application)).startswith(b"* BYE [AUTHENTICATIONFAILED] "))
        await self.over(application)
        self.assertEqual(self.store.renewals, 1)

    async def test_unresolved(self) -> None:
        """A destination that is not to be had is a BYE; so is a bug, without its words."""
        refusal = Refusal(Stage.RESOLVE, Reason.DESTINATION_NOT_FOUND, "no such destination")
        for error, stage, reason in (
            (RefusedError(refusal), Stage.RESOLVE, Reason.DESTINATION_NOT_FOUND),
            (ValueError("hunter2"), Stage.RESOLVE, Reason.INTERNAL_ERROR),
        ):
            self.store.answer = lambda error=error: fail(error)
            application = await self.application()
            bye = await self.line(application)
            self.assertTrue(bye.startswith(b"* BYE [UNAVAILABLE] "), bye)
            await self.over(application)
            refused = self.logged("session.refused")
            self.assertEqual((refused["stage"], refused["reason"]), (stage, reason))
            self.assertNotIn("hunter2", str(refused))
            self.events.clear()
        self.flushLoggedErrors(ValueError)

    async def test_deadline(self) -> None:
        """Thirty seconds after the accept there is a greeting or a BYE, whatever is waited for."""
        self.store.answer = Deferred
        application = await self.application()
        while not self.factory.sessions:
            await turn()
        self.clock.advance(GREETING_SECONDS)
        self.assertTrue((await self.line(application)).startswith(b"* BYE [UNAVAILABLE] "))
        await self.over(application)
        self.assertEqual(self.logged("session.refused")["reason"], Reason.TIMED_OUT)

    async def test_deadline_of_a_silent_server(self) -> None:
        coming = Deferred.fromCoroutine(self.server())
        application = await self.application()
        server = await coming
        self.clock.advance(GREETING_SECONDS)
        self.assertTrue((await self.line(application)).startswith(b"* BYE [UNAVAILABLE] "))
        await self.over(application)
        await server.ended
        refused = self.logged("session.refused")
        self.assertEqual((refused["stage"], refused["reason"]), (Stage.GREETING, Reason.TIMED_OUT))

    async def test_deadline_of_the_second_attempt(self) -> None:
        """The deadline also holds where a refused login is tried again: here the store does not answer."""
        self.resolution = evolve(self.resolution, cached=True)
        asked: Deferred[None] = Deferred()
        never: Deferred[Resolution | None] = Deferred()

        def renew(
            request: DestinationRequest, refused: Credential, offered: Offered | None = None
        ) -> Deferred[Resolution | None]:
            asked.callback(None)
            return never

        self.store.renew = renew
        coming = Deferred.fromCoroutine(self.server())
        application = await self.application()
        await self.log_in(await coming, b"NO no")
        await asked
        self.clock.advance(GREETING_SECONDS)
        self.assertTrue((await self.line(application)).startswith(b"* BYE [UNAVAILABLE] "))
        await self.over(application)
        refused = self.logged("session.refused")
        self.assertEqual((refused["stage"], refused["reason"]), (Stage.RESOLVE, Reason.TIMED_OUT))

    async def consented(self) -> tuple[HalfClosing, Recorder]:
        """An application whose mail server has consented to TLS, and is silent since."""
        coming = Deferred.fromCoroutine(self.server())
        application = await self.application()
        server = await coming
        server.transport.write(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n")
        line = await self.line(server)
        server.transport.write(line.split()[0] + b" OK go on\r\n")
        while not server.heard:  # the client's part of the handshake
            await turn()
        return application, server

    async def test_deadline_in_the_handshake(self) -> None:
        """A mail server that consents to TLS and says nothing more is given up like any other."""
        application, server = await self.consented()
        self.clock.advance(GREETING_SECONDS)
        self.assertTrue((await self.line(application)).startswith(b"* BYE [UNAVAILABLE] "))
        await self.over(application)
        await server.ended
        self.assertEqual(self.logged("session.refused")["reason"], Reason.TIMED_OUT)

    async def test_gone_in_the_handshake(self) -> None:
        """Nothing goes on for an application that leaves while its mail server is silent."""
        application, server = await self.consented()
        await self.gone(application)
        await server.ended
        self.logged("session.abandoned")

    async def test_limit(self) -> None:
        """One connection more than allowed is told so, and the others do not notice."""
        self.store.answer = Deferred
        applications = [await self.application() for _ in range(5)]
        while len(self.factory.sessions) < 5:
            await turn()
        self.clock.advance(1)
        sixth = await self.application()
        self.assertTrue((await self.line(sixth)).startswith(b"* BYE [LIMIT] "))
        await sixth.fin
        sixth.transport.loseConnection()
        self.assertEqual(len(self.factory.sessions), 5)
        self.assertEqual(self.factory.used, self.clock.seconds())
        for application in applications:
            application.transport.loseConnection()
            await application.ended
        while self.factory.sessions:
            await turn()

    async def test_revoked(self) -> None:
        """Offboarding ends sessions at once, wherever they stand."""
        relayed, relayed_server = await self.session()
        relayed.transport.write(b"1 IDLE\r\n")
        await relayed_server.hears(8)
        talking, talking_server = await self.session()
        self.store.answer = Deferred
        waiting = await self.application()
        while len(self.factory.sessions) < 3:
            await turn()
        self.factory.revoke("the resource is gone")
        self.assertTrue((await self.line(waiting)).startswith(b"* BYE "))
        for application in (relayed, talking, waiting):
            await application.fin
            application.transport.loseConnection()
        for server in (relayed_server, talking_server):
            await server.ended
        while self.factory.sessions:
            await turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(relayed.heard, b"")

    async def test_nothing_is_left(self) -> None:
        """However early it was over."""

        async def gone_while_it_is_resolved() -> list[weakref.ref[object]]:
            self.store.answer = Deferred
            application = await self.application()
            while not self.factory.sessions:
                await turn()
            return await self.gone(application)

        async def gone_in_the_handshake() -> list[weakref.ref[object]]:
            self.store.answer = lambda: succeed(self.resolution)
            application, _ = await self.consented()
            return await self.gone(application)

        async def expired() -> list[weakref.ref[object]]:
            self.store.answer = Deferred
            application = await self.application()
            while not self.factory.sessions:
                await turn()
            watched = self.watch()
            self.clock.advance(GREETING_SECONDS)
            await self.over(application)
            return watched

        await self.freed(gone_while_it_is_resolved, gone_in_the_handshake, expired)

    async def gone(self, application: HalfClosing) -> list[weakref.ref[object]]:
        """The application leaves without a word; what was there of its session."""
        watched = self.watch()
        application.transport.abortConnection()
        while self.factory.sessions:
            await turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return watched

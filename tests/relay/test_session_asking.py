"""Sessions whose application brings the credential."""

from __future__ import annotations

import gc
import socket
from base64 import b64decode, b64encode

from attrs import evolve
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.peers import HalfClosing, turn
from tests.relay.sessions import BINDING, GRANT, SessionTestCase
from tproxy.interfaces import IProtocolPlugin
from tproxy.model import (
    Bearer,
    GrantKind,
    GreetingMode,
    NoCredential,
    Offered,
    Password,
    Reason,
    Refusal,
    RefusedError,
    Resolution,
    Secret,
    Stage,
)
from tproxy.protocols.imap4 import imap4
from tproxy.relay.session import GREETING_SECONDS
from tproxy.session import Login, Machine

ME = Offered("me", Secret("hunter2"))


def authenticate(tag: bytes, offered: Offered = ME) -> bytes:
    """The application's login."""
    said = f"user={offered.user}\x01auth=Bearer {offered.secret.reveal()}\x01\x01".encode()
    return tag + b" AUTHENTICATE XOAUTH2 " + b64encode(said) + b"\r\n"


def refused(reason: Reason, stage: Stage = Stage.RESOLVE) -> RefusedError:
    return RefusedError(Refusal(stage, reason, "no"))


@implementer(IProtocolPlugin)
class HandingOver:
    """IMAP whose client half never logs in."""

    name, default_port, encrypted = imap4.name, imap4.default_port, imap4.encrypted
    greet, probe = imap4.greet, imap4.probe

    def log_in(self, login: Login) -> Machine:
        return imap4.log_in(evolve(login, credential=NoCredential()))


class AskingTestCase(SessionTestCase):
    binding = evolve(BINDING, greeting=GreetingMode.LOGIN)

    async def setUp(self) -> None:
        await super().setUp()
        self.password = self.resolution
        self.resolution = Resolution(
            evolve(self.resolution.destination, login=GRANT), Bearer("me@example.com", Secret("access"))
        )

    async def greeted(self) -> HalfClosing:
        """An application that is asked for its credential."""
        application = await self.application()
        greeting = await self.line(application)
        self.assertTrue(
            greeting.startswith(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2 LOGINDISABLED ID] mail-acme "),
            greeting,
        )
        return application

    async def attempt(self, application: HalfClosing, tag: bytes, answer: bytes, offered: Offered = ME) -> bytes:
        """An offer that gets as far as the mail server, which answers it."""
        coming = Deferred.fromCoroutine(self.server())
        application.transport.write(authenticate(tag, offered))
        await self.log_in(await coming, answer)
        return await self.line(application)

    async def gone(self) -> None:
        while self.factory.sessions:
            await turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Logins(AskingTestCase):
    async def test_a_whole_session(self) -> None:
        """Greeted before anything is done; what it brings is exchanged, and its own tag is answered; then the relay."""
        application = await self.greeted()
        application.transport.write(b"1 CAPABILITY\r\n")
        await self.line(application)
        await self.line(application)
        self.assertEqual((self.store.offers, self.servers), ([], []))
        coming = Deferred.fromCoroutine(self.server())
        application.transport.write(authenticate(b"2") + b"3 NOOP\r\n")
        server = await coming
        sent = await self.log_in(server)
        self.assertEqual(b64decode(sent.split()[3]), b"user=me@example.com\x01auth=Bearer access\x01\x01")
        self.assertEqual(await self.line(application), b"2 OK [CAPABILITY IMAP4rev1 IDLE ID] logged in\r\n")
        self.assertEqual(self.store.offers, [ME])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(await server.hears(8), b"3 NOOP\r\n")
        server.transport.write(b"3 OK done\r\n")
        self.assertEqual(await self.line(application), b"3 OK done\r\n")
        application.transport.write(authenticate(b"4") + b"5 SELECT INBOX\r\n")
        self.assertEqual(await self.line(application), b"4 BAD you are logged in already\r\n")
        self.assertEqual(await server.hears(24), b"3 NOOP\r\n5 SELECT INBOX\r\n")
        server.transport.loseConnection()
        await self.over(application)
        self.assertEqual(
            [event["event"] for event in self.events if "event" in event], ["session.started", "session.ended"]
        )
        for secret in ("hunter2", "access"):
            self.assertNotIn(secret, str(self.events))

    async def test_second_attempt(self) -> None:
        """A refused login is answered, and logged, as such; the next may be better."""
        application = await self.greeted()
        no = await self.attempt(application, b"1", b"NO [AUTHENTICATIONFAILED] canary")
        self.assertEqual(no, b"1 NO [AUTHENTICATIONFAILED] the login was refused\r\n")
        told = self.logged("session.refused")
        self.assertEqual((told["stage"], told["reason"]), (Stage.LOGIN, Reason.LOGIN_REFUSED))
        ok = await self.attempt(application, b"2", b"OK [CAPABILITY IMAP4rev1] in", Offered("me", Secret("better")))
        self.assertTrue(ok.startswith(b"2 OK "), ok)
        application.transport.write(b"3 LOGOUT\r\n")
        await self.line(application)
        await self.line(application)
        await self.over(application)

    async def test_three_attempts(self) -> None:
        """After the third the session ends; each is in the log. They may come all at once."""
        self.store.answer = lambda: fail(refused(Reason.TOKEN_REFUSED))
        application = await self.greeted()
        application.transport.write(b"".join(authenticate(b"%d" % number) for number in range(4)))
        for number in range(3):
            self.assertTrue((await self.line(application)).startswith(b"%d NO [UNAVAILABLE] " % number))
        self.assertTrue((await self.line(application)).startswith(b"* BYE [LIMIT] "))
        await self.over(application)
        told = [event["reason"] for event in self.events if event.get("event") == "session.refused"]
        self.assertEqual(told, [Reason.TOKEN_REFUSED] * 3)
        self.assertEqual((len(self.store.offers), self.servers), (3, []))

    async def test_renewed(self) -> None:
        """A token of the cache that is refused is fetched anew with what was offered."""
        self.store.renewed = evolve(self.resolution, credential=Bearer("me@example.com", Secret("fresh")))
        self.resolution = evolve(self.resolution, cached=True)
        application = await self.greeted()
        coming = Deferred.fromCoroutine(self.server())
        application.transport.write(authenticate(b"1"))
        first = await coming
        again = Deferred.fromCoroutine(self.server())
        await self.log_in(first, b"NO [AUTHENTICATIONFAILED] no")
        server = await again
        await self.log_in(server)
        self.assertTrue((await self.line(application)).startswith(b"1 OK "))
        self.assertEqual(self.store.offers, [ME, ME])
        server.transport.loseConnection()
        await self.over(application)

    async def test_bad_token_of_another(self) -> None:
        """One user's refused token rests alone: it is refused again without a login, and nobody else waits."""
        application = await self.greeted()
        await self.attempt(application, b"1", b"NO [AUTHENTICATIONFAILED] no")
        application.transport.write(authenticate(b"2"))
        self.assertTrue((await self.line(application)).startswith(b"2 NO [AUTHENTICATIONFAILED] "))
        self.assertEqual(len(self.servers), 1)
        for offered in (Offered("me", Secret("other")), Offered("you", ME.secret)):
            other = await self.greeted()
            ok = await self.attempt(other, b"1", b"OK [CAPABILITY IMAP4rev1] in", offered)
            self.assertTrue(ok.startswith(b"1 OK "), ok)
            other.transport.abortConnection()
        application.transport.abortConnection()
        await self.gone()
        self.assertNotIn("hunter2", repr(self.services.attempts._states))

    async def test_half_close_behind_the_credential(self) -> None:
        """`printf ... | nc`: the login is answered although the application's FIN came with it."""
        application = await self.greeted()
        coming = Deferred.fromCoroutine(self.server())
        application.transport.write(authenticate(b"1"))
        application.transport._socket.shutdown(socket.SHUT_WR)
        server = await coming
        await self.log_in(server)
        self.assertTrue((await self.line(application)).startswith(b"1 OK "))
        await server.ended
        await self.over(application)


class Changed(AskingTestCase):
    """The document changed a moment ago, and the listener does not know yet."""

    def refusal(self) -> tuple[object, object]:
        told = self.logged("session.refused")
        return told["stage"], told["reason"]

    async def test_own_credential(self) -> None:
        """A destination with a credential of its own does not lend it to who was asked for one."""
        for resolution in (
            self.password,
            evolve(
                self.password,
                credential=NoCredential(),
                destination=evolve(self.password.destination, login=NoCredential()),
            ),
            evolve(self.resolution, credential=Password("user", Secret("pass"))),
            evolve(
                self.resolution,
                destination=evolve(self.resolution.destination, login=evolve(GRANT, kind=GrantKind.CLIENT_CREDENTIALS)),
            ),
        ):
            self.resolution = resolution
            application = await self.greeted()
            application.transport.write(authenticate(b"1"))
            self.assertTrue((await self.line(application)).startswith(b"1 NO [UNAVAILABLE] "))
            self.assertEqual(self.refusal(), (Stage.RESOLVE, Reason.DESTINATION_CHANGED))
            self.assertEqual(self.servers, [])
            self.events.clear()
            application.transport.abortConnection()
            await self.gone()

    async def test_renewed_with_own_credential(self) -> None:
        """Nor where the change is seen by the second look only."""
        self.store.renewed = self.password
        self.resolution = evolve(self.resolution, cached=True)
        application = await self.greeted()
        no = await self.attempt(application, b"1", b"NO [AUTHENTICATIONFAILED] no")
        self.assertTrue(no.startswith(b"1 NO [UNAVAILABLE] "), no)
        self.assertEqual(self.refusal(), (Stage.RESOLVE, Reason.DESTINATION_CHANGED))
        self.assertEqual(len(self.servers), 1)
        application.transport.abortConnection()
        await self.gone()

    async def test_store_refuses(self) -> None:
        """So it is where the store sees the change itself."""
        self.store.answer = lambda: fail(refused(Reason.DESTINATION_CHANGED))
        application = await self.greeted()
        application.transport.write(authenticate(b"1"))
        self.assertTrue((await self.line(application)).startswith(b"1 NO [UNAVAILABLE] "))
        self.assertEqual(self.refusal(), (Stage.RESOLVE, Reason.DESTINATION_CHANGED))
        application.transport.abortConnection()
        await self.gone()

    async def test_asks_now(self) -> None:
        """Who was to be greeted as logged in is not let in to a destination that asks by now."""
        self.factory.binding = BINDING
        application = await self.application()
        self.assertTrue((await self.line(application)).startswith(b"* BYE [UNAVAILABLE] "))
        await self.over(application)
        self.assertEqual(self.refusal(), (Stage.RESOLVE, Reason.DESTINATION_CHANGED))
        self.assertEqual(self.servers, [])

    async def test_nobody_logged_in(self) -> None:
        """A mail server that nobody logged in to is not handed over to who brought a credential."""
        plugin = HandingOver()
        verifyObject(IProtocolPlugin, plugin)
        self.services.plugins["imap4"] = plugin
        application = await self.greeted()
        coming = Deferred.fromCoroutine(self.server())
        application.transport.write(authenticate(b"1"))
        server = await coming
        server.transport.write(b"* OK [CAPABILITY IMAP4rev1] hello\r\n")
        self.assertTrue((await self.line(application)).startswith(b"1 NO [UNAVAILABLE] "))
        self.assertEqual(self.refusal(), (Stage.RESOLVE, Reason.DESTINATION_CHANGED))
        await server.ended
        application.transport.abortConnection()
        await self.gone()


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
        """A session that is over is freed at once, without the garbage collector's help, however it ended."""

        async def expired() -> None:
            application = await self.greeted()
            self.watched = self.watch()
            self.clock.advance(GREETING_SECONDS)
            await self.over(application)

        async def thrice_refused() -> None:
            self.store.answer = lambda: fail(refused(Reason.TOKEN_REFUSED))
            application = await self.greeted()
            self.watched = self.watch()
            application.transport.write(b"".join(authenticate(b"%d" % number) for number in range(3)))
            await self.over(application)
            self.store.answer = lambda: succeed(self.resolution)

        async def logged_in() -> None:
            application = await self.greeted()
            await self.attempt(application, b"1", b"OK [CAPABILITY IMAP4rev1] in")
            self.watched = self.watch()
            application.transport.write(b"2 LOGOUT\r\n")
            await self.over(application)

        for way in (expired, thrice_refused, logged_in):
            gc.collect()
            gc.disable()
            self.addCleanup(gc.enable)
            await way()
            self.servers.clear()
            self.events.clear()
            await turn()
            self.assertEqual([each() for each in self.watched if each() is not None], [], way.__name__)
            gc.enable()

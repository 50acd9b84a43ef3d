from __future__ import annotations

import gc
import socket
import weakref

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IPushProducer
from zope.interface.verify import verifyObject

from tests.peers import turn
from tests.relay.sessions import REQUEST, SessionTestCase
from tproxy.model import (
    Credential,
    DestinationRequest,
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
from tproxy.net.sockets import Lingering
from tproxy.relay.session import GREETING_SECONDS


class SessionTests(SessionTestCase):
    """One session in all its ways."""

    async def test_a_whole_session(self) -> None:
        """Login, greeting, dialogue, relay and end; the log tells duration and bytes."""
        application, server = await self.session()
        application.transport.write(b"1 CAPABILITY\r\n2 LOGIN any thing\r\n")
        self.assertTrue((await self.line(application)).startswith(b"* CAPABILITY IMAP4rev1"))
        self.assertTrue((await self.line(application)).startswith(b"1 OK"))
        self.assertTrue((await self.line(application)).startswith(b"2 OK"))
        self.assertEqual(server.heard, b"")
        application.transport.write(b'3 LIST "" "*"\n4 LOGIN a b\r\n')
        self.assertEqual(await server.hears(27), b'3 LIST "" "*"\n4 LOGIN a b\r\n')
        server.transport.write(b"3 OK done\r\n")
        self.assertEqual(await self.line(application), b"3 OK done\r\n")
        server.transport.loseConnection()
        await self.over(application)
        ended = self.logged("session.ended")
        self.assertEqual(
            (ended["listener"], ended["destination"], ended["tenant"]), ("shop/mail-acme", REQUEST.name, "acme")
        )
        self.assertEqual(ended["received"], 14 + 19 + 27)
        self.assertGreater(ended["sent"], 11)

    async def test_silence(self) -> None:
        """A session in which nobody says anything lives on: no time runs, neither in the dialogue nor in the relay."""
        application, server = await self.session()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        application.transport.write(b"1 IDLE\r\n")
        await server.hears(8)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        server.transport.loseConnection()
        await self.over(application)

    async def test_pipelined_before_the_greeting(self) -> None:
        """Commands that came early are answered after the greeting, in order."""
        coming = Deferred.fromCoroutine(self.server())
        application = await self.application()
        application.transport.write(b"".join(b"%d CAPABILITY\r\n" % number for number in range(100)))
        application.transport.write(b"x SELECT INBOX\r\n")
        server = await coming
        await self.log_in(server)
        self.assertTrue((await self.line(application)).startswith(b"* PREAUTH"))
        for number in range(100):
            self.assertTrue((await self.line(application)).startswith(b"* CAPABILITY"))
            self.assertTrue((await self.line(application)).startswith(b"%d OK" % number))
        self.assertEqual(await server.hears(16), b"x SELECT INBOX\r\n")
        server.transport.loseConnection()
        await self.over(application)

    async def test_bytes_with_the_tagged_ok(self) -> None:
        """What the server sends right behind its OK reaches the application after the greeting, once."""
        coming = Deferred.fromCoroutine(self.server())
        application = await self.application()
        server = await coming
        await self.log_in(server, b"OK [CAPABILITY IMAP4rev1] in\r\n* 1 EXISTS\r\n* ALER")
        self.assertTrue((await self.line(application)).startswith(b"* PREAUTH"))
        self.assertEqual(await self.line(application), b"* 1 EXISTS\r\n")
        application.transport.write(b"1 IDLE\r\n")
        await server.hears(8)
        server.transport.write(b"T x\r\n")
        self.assertEqual(await self.line(application), b"* ALER\r\n")
        self.assertEqual(await self.line(application), b"T x\r\n")
        server.transport.loseConnection()
        await self.over(application)

    async def test_half_close_behind_commands(self) -> None:
        """`printf ... | nc`: the commands run although the application's FIN came with them."""
        coming = Deferred.fromCoroutine(self.server())
        application = await self.application()
        application.transport.write(b'2 LIST "" "*"\r\n')
        application.transport._socket.shutdown(socket.SHUT_WR)
        server = await coming
        await self.log_in(server)
        self.assertEqual(await server.hears(15), b'2 LIST "" "*"\r\n')
        server.transport.write(b"2 OK\r\n")
        self.assertTrue((await self.line(application)).startswith(b"* PREAUTH"))
        self.assertEqual(await self.line(application), b"2 OK\r\n")
        self.clock.advance(10)
        await server.ended
        await self.over(application)

    async def test_over_with_the_greeting(self) -> None:
        """`echo 1 LOGOUT | nc -N`: what came early ends the session as it begins, and nothing goes wrong."""
        coming = Deferred.fromCoroutine(self.server())
        application = await self.application()
        application.transport.write(b"1 LOGOUT\r\n")
        application.transport._socket.shutdown(socket.SHUT_WR)
        server = await coming
        await self.log_in(server)
        self.assertTrue((await self.line(application)).startswith(b"* PREAUTH"))
        self.assertEqual(await self.line(application), b"* BYE good bye\r\n")
        self.assertTrue((await self.line(application)).startswith(b"1 OK"))
        await server.ended
        await self.over(application)
        told = [event["event"] for event in self.events if "event" in event]
        self.assertEqual(told, ["session.started", "session.ended"])

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

    async def test_without_login(self) -> None:
        """With `auth: false` the server's own greeting is the first the application hears."""
        self.resolution = evolve(
            self.resolution,
            credential=NoCredential(),
            destination=evolve(self.resolution.destination, login=NoCredential()),
        )
        coming = Deferred.fromCoroutine(self.server())
        application = await self.application()
        server = await coming
        server.transport.write(b"* OK [CAPABILITY IMAP4rev1] hello\r\n* more")
        application.transport.write(b"1 LOGIN me mine\r\n")
        self.assertEqual(await self.line(application), b"* OK [CAPABILITY IMAP4rev1] hello\r\n")
        self.assertEqual(await server.hears(17), b"1 LOGIN me mine\r\n")
        server.transport.write(b"!\r\n")
        self.assertEqual(await self.line(application), b"* more!\r\n")
        server.transport.loseConnection()
        await self.over(application)

    async def test_server_leaves_during_the_dialogue(self) -> None:
        """Its BYE is passed on, and the session ends with it."""
        application, server = await self.session()
        server.transport.write(b"* BYE shutting down\r\n")
        server.transport.loseConnection()
        self.assertEqual(await self.line(application), b"* BYE shutting down\r\n")
        await self.over(application)

    async def test_application_leaves_during_the_dialogue(self) -> None:
        application, server = await self.session()
        application.transport.abortConnection()
        await server.ended
        while self.factory.sessions:
            await turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_asks_and_does_not_read(self) -> None:
        """An application that asks without reading the answers is not listened to until it reads."""
        application, server = await self.session()
        application.transport.pauseProducing()
        (session,) = self.factory.sessions
        verifyObject(IPushProducer, session)
        application.transport.write(b"1 CAPABILITY\n" * 1_000_000)
        while not session.downstream.transport.undelivered:
            await turn()
        for _ in range(20):
            await turn()
        self.assertTrue(application.transport.undelivered)
        self.assertLess(sum(map(len, session.downstream.transport._pending)), 4_000_000)
        server.transport.write(b"* 1 EXISTS\r\n" * 1_000_000)
        for _ in range(20):
            await turn()
        self.assertTrue(server.transport.undelivered)
        heard = len(application.heard)
        application.transport.resumeProducing()
        await application.hears(heard + 10_000_000)
        application.transport.abortConnection()
        await server.ended
        while self.factory.sessions or any(isinstance(each, Lingering) for each in reactor.getReaders()):
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

    async def test_first_login_alone(self) -> None:
        """Five applications at once make one login first; a wrong password is tried once."""
        coming = Deferred.fromCoroutine(self.server())
        applications = [await self.application() for _ in range(5)]
        server = await coming
        while len(self.factory.sessions) < 5:
            await turn()
        await self.log_in(server, b"NO [AUTHENTICATIONFAILED] no")
        for application in applications:
            self.assertTrue((await self.line(application)).startswith(b"* BYE [AUTHENTICATIONFAILED]"))
            await application.fin
            application.transport.loseConnection()
        while self.factory.sessions:
            await turn()
        self.assertEqual(len(self.servers), 1)

    async def test_flood_before_the_greeting(self) -> None:
        """What an application sends before the greeting is bounded: the rest waits in its own socket."""
        self.store.answer = Deferred
        application = await self.application()
        application.transport.write(b"1 NOOP\r\n" * 4_000_000)
        for _ in range(50):
            await turn()
        self.assertTrue(application.transport.undelivered)
        (session,) = self.factory.sessions
        self.assertLess(session._server.held, 200_000)
        application.transport.abortConnection()
        self.clock.advance(GREETING_SECONDS)
        while self.factory.sessions:
            await turn()

    async def test_much_before_the_greeting(self) -> None:
        """Of more than is held before the greeting, the rest is heard in the relay."""
        coming = Deferred.fromCoroutine(self.server())
        application = await self.application()
        said = b'1 LIST "" "*"\r\n' * 20_000
        application.transport.write(said)
        server = await coming
        for _ in range(20):
            await turn()
        await self.log_in(server)
        self.assertEqual(len(await server.hears(len(said))), len(said))
        self.assertEqual(server.heard, said)
        server.transport.loseConnection()
        await self.over(application)

    async def test_not_read_before_the_relay(self) -> None:
        """An application that read no answer in the dialogue is heard in the relay, once it reads."""
        application, server = await self.session()
        (session,) = self.factory.sessions
        session.downstream.transport._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        application.transport.pauseProducing()
        application.transport.write(b"1 CAPABILITY\n" * 4_000 + b"2 SELECT INBOX\r\n")
        while not session.downstream.transport.undelivered:
            await turn()
        application.transport.resumeProducing()
        await server.hears(16)
        application.transport.write(b"3 NOOP\r\n")
        self.assertEqual(await server.hears(24), b"2 SELECT INBOX\r\n3 NOOP\r\n")
        server.transport.loseConnection()
        await self.over(application)

    async def test_nothing_is_left(self) -> None:
        """A session that is over is freed at once, without the garbage collector's help, however it ended."""

        async def relayed() -> list[weakref.ref[object]]:
            application, server = await self.session()
            application.transport.write(b"1 IDLE\r\n")
            await server.hears(8)
            watched = self.watch()
            server.transport.loseConnection()
            await self.over(application)
            return watched

        async def talked() -> list[weakref.ref[object]]:
            application, server = await self.session()
            watched = self.watch()
            application.transport.write(b"1 LOGOUT\r\n")
            await server.ended
            await self.over(application)
            return watched

        async def refused() -> list[weakref.ref[object]]:
            self.store.answer = lambda: fail(RefusedError(Refusal(Stage.RESOLVE, Reason.DOCUMENT_INVALID, "no")))
            application = await self.application()
            while not self.factory.sessions:
                await turn()
            watched = self.watch()
            await self.over(application)
            return watched

        async def refused_upstream() -> list[weakref.ref[object]]:
            coming = Deferred.fromCoroutine(self.server())
            application = await self.application()
            server = await coming
            watched = self.watch()
            await self.log_in(server, b"NO no")
            await self.over(application)
            return watched

        for way in (relayed, talked, refused_upstream, refused):
            gc.collect()
            gc.disable()
            self.addCleanup(gc.enable)
            watched = await way()
            self.servers.clear()
            self.events.clear()
            await turn()
            self.assertEqual([each() for each in watched if each() is not None], [], way.__name__)
            gc.enable()

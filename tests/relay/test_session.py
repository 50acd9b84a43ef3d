"""Sessions that begin: dialogue, relay and end."""

from __future__ import annotations

import socket
import weakref

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IPushProducer
from zope.interface.verify import verifyObject

from tests.peers import turn
from tests.relay.sessions import REQUEST, SessionTestCase
from tproxy.model import NoCredential, Reason, Refusal, RefusedError, Stage
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
        """However a session ended."""

        async def relayed() -> list[weakref.ref[object]]:
            application, server = await self.session()
            application.transport.write(b"1 IDLE\r\n")
            await server.hears(8)
            watched = self.watch()
            server.transport.loseConnection()
            await self.over(application)
            return watched

        async def reset() -> list[weakref.ref[object]]:
            application, server = await self.session()
            application.transport.write(b"1 IDLE\r\n")
            await server.hears(8)
            watched = self.watch()
            application.transport.abortConnection()
            await server.ended
            while self.factory.sessions:
                await turn()
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

        await self.freed(relayed, reset, talked, refused_upstream, refused)

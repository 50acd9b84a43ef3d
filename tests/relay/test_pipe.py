from __future__ import annotations

import contextlib
import gc
import random
import socket
import tracemalloc
from typing import TypeVar

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from tests.peers import HalfClosing, Recorder, tcp_pair, turn
from tproxy.model import Trust
from tproxy.net.hub import Hub
from tproxy.net.transport import Transport
from tproxy.net.trust import TrustStore
from tproxy.relay.pipe import DELIVERY_SECONDS, SILENCE_SECONDS, Pipe
from tproxy.testing.certificates import Authority

AUTHORITY = Authority.create()
SERVER = AUTHORITY.issue("localhost").server_context()

R = TypeVar("R", bound=Recorder)


class PipeTests(TestCase):
    """An application and a mail server, both real sockets, with a pipe between."""

    timeout = 60

    def setUp(self) -> None:
        self.reactor = Hub(reactor)
        self.addCleanup(self.reactor.close)
        self.clock = Clock()
        ended: Deferred[None] = Deferred()
        self.application, downstream = self.side(HalfClosing())
        self.server, upstream = self.upstream_side(Recorder())
        downstream.notice_reset()
        self.pipe = Pipe(self.clock, downstream, upstream, lambda: ended.callback(None))
        self.ended = ended
        downstream.resumeProducing()
        upstream.resumeProducing()
        self.downstream, self.upstream = downstream, upstream

    def side(self, recorder: R) -> tuple[R, Transport]:
        near, far = tcp_pair()
        Transport(self.reactor, far).begin(recorder)
        return recorder, Transport(self.reactor, near)

    upstream_side = side

    async def end(self) -> None:
        """The mail server ends, and with it everything."""
        self.server.transport.loseConnection()
        await self.application.fin
        self.application.transport.loseConnection()
        await self.ended
        self.assertIs(await self.server.ended, ConnectionDone)
        self.assertIs(await self.application.ended, ConnectionDone)

    async def test_both_ways_at_once(self) -> None:
        """Megabytes in pieces of any size arrive as they were sent, both ways at once, and are counted."""
        rng = random.Random(7)
        down, up = rng.randbytes(8_000_000), rng.randbytes(8_000_000)

        def send(recorder: Recorder, data: bytes) -> None:
            at = 0
            while at < len(data):
                size = rng.choice((1, 17, 1500, 16384, 70_000, 400_000))
                recorder.transport.write(data[at : at + size])
                at += size

        send(self.server, down)
        send(self.application, up)
        self.assertEqual(await self.application.hears(len(down)), down)
        self.assertEqual(await self.server.hears(len(up)), up)
        self.assertEqual((self.downstream.received, self.downstream.sent), (len(up), len(down)))
        await self.end()

    async def test_what_is_left_is_delivered(self) -> None:
        """The mail server ends while the application is not reading: it still gets every byte, then a FIN."""
        self.application.transport.pauseProducing()
        data = b"0123456789abcdef" * 300_000
        self.server.transport.write(data)
        self.server.transport.loseConnection()
        self.application.transport.resumeProducing()
        self.assertEqual(await self.application.hears(len(data)), data)
        await self.application.fin
        self.application.transport.loseConnection()
        await self.ended
        self.assertEqual(bytes(self.application.heard), data)

    async def test_half_close(self) -> None:
        """The application's FIN does not reach the mail server, whose answer still arrives."""
        self.application.transport.write(b"2 LIST\r\n")
        self.application.transport._socket.shutdown(socket.SHUT_WR)
        await self.server.hears(8)
        self.assertFalse(self.server.ended.called)
        self.server.transport.write(b"2 OK\r\n")
        self.assertEqual(await self.application.hears(6), b"2 OK\r\n")
        await self.end()

    async def test_half_closed_and_silent(self) -> None:
        """After a FIN the session ends once the mail server was silent for ten seconds, not before."""
        self.application.transport._socket.shutdown(socket.SHUT_WR)
        while not self.clock.getDelayedCalls():
            await turn()
        self.clock.advance(SILENCE_SECONDS - 1)
        self.server.transport.write(b"* 1 EXISTS\r\n")
        await self.application.hears(12)
        self.clock.advance(SILENCE_SECONDS - 1)
        self.assertFalse(self.server.ended.called)
        self.clock.advance(1)
        await self.ended_from_here()

    async def ended_from_here(self) -> None:
        """The mail server hears of the end, and with it everything ends."""
        await self.server.ended
        self.server.transport.loseConnection()
        await self.application.fin
        self.application.transport.loseConnection()
        await self.ended

    async def test_half_closed_and_slow(self) -> None:
        """A mail server that still takes what was said before the FIN has not been silent."""
        server, said = self.server.transport, b"0123456789" * 30_000
        server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        server.pauseProducing()
        self.application.transport.write(said)
        self.application.transport._socket.shutdown(socket.SHUT_WR)
        while not self.clock.getDelayedCalls():
            await turn()
        for _ in range(2):
            left = self.upstream.unacknowledged
            while self.upstream.unacknowledged >= left:
                server.resumeProducing()
                await turn()
                server.pauseProducing()
            self.clock.advance(SILENCE_SECONDS)
            self.assertFalse(self.upstream.disconnecting)
        self.clock.advance(SILENCE_SECONDS)
        self.assertTrue(self.upstream.disconnecting)
        server.resumeProducing()
        self.assertEqual(said, await self.server.hears(len(said)))
        await self.ended_from_here()

    async def test_reset_by_the_application(self) -> None:
        """A reset of one is a reset of both."""
        self.application.transport.abortConnection()
        self.assertIs(await self.server.ended, ConnectionLost)
        await self.ended

    async def test_reset_by_the_mail_server(self) -> None:
        self.server.transport.abortConnection()
        self.assertIs(await self.application.ended, ConnectionLost)
        await self.ended

    async def test_reset_by_the_application_while_the_mail_server_stalls(self) -> None:
        """A mail server that takes nothing keeps nobody from noticing it."""
        self.server.transport.pauseProducing()
        self.application.transport.write(b"x" * 30_000_000)
        while not self.upstream.undelivered:
            await turn()
        self.application.transport.abortConnection()
        await self.ended
        self.server.transport.resumeProducing()
        self.assertIs(await self.server.ended, ConnectionLost)

    async def test_reset_by_the_application_after_its_fin(self) -> None:
        """Nobody waits for the mail server's answers any more."""
        self.application.transport._socket.shutdown(socket.SHUT_WR)
        while not self.clock.getDelayedCalls():
            await turn()
        self.application.transport.abortConnection()
        self.assertIs(await self.server.ended, ConnectionLost)
        await self.ended
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_reset_by_the_mail_server_while_the_application_stalls(self) -> None:
        """What the mail server had said before is still delivered."""
        self.application.transport.pauseProducing()
        data = b"x" * 30_000_000
        self.server.transport.write(data)
        while not self.downstream.undelivered:
            await turn()
        self.upstream.pauseProducing()
        told = self.upstream.received
        self.server.transport.abortConnection()
        await turn()
        self.assertFalse(self.ended.called)
        self.application.transport.resumeProducing()
        self.assertIs(await self.application.ended, ConnectionLost)
        await self.ended
        self.assertGreater(self.upstream.received, told)

    async def test_back_pressure(self) -> None:
        """A mail server that talks to an application that does not read is made to wait."""
        self.application.transport.pauseProducing()
        paused: Deferred[None] = Deferred()

        class Source:
            def pauseProducing(self) -> None:
                if not paused.called:
                    paused.callback(None)

            def resumeProducing(self) -> None: ...

            def stopProducing(self) -> None: ...

        self.server.transport.registerProducer(Source(), True)
        chunk = b"x" * 65536
        written = 0
        while not paused.called:
            self.server.transport.write(chunk)
            written += len(chunk)
            await turn()
        self.assertTrue(self.downstream.undelivered)
        self.assertLess(sum(map(len, self.downstream._pending)), 1_000_000)
        self.server.transport.unregisterProducer()
        self.application.transport.resumeProducing()
        await self.application.hears(written)
        await self.end()

    async def test_ended_from_here(self) -> None:
        """An end from this side closes both; an application that takes nothing is reset after some seconds."""
        self.application.transport.pauseProducing()
        data = b"x" * 30_000_000
        self.server.transport.write(data)
        while not self.downstream.undelivered:
            await turn()
        self.pipe.end()
        self.clock.advance(DELIVERY_SECONDS)
        self.application.transport.resumeProducing()
        self.assertIs(await self.application.ended, ConnectionLost)
        self.server.transport.abortConnection()
        await self.ended
        self.assertLess(len(self.application.heard), len(data))

    async def test_ended_from_here_while_the_mail_server_stalls(self) -> None:
        """Nor does a mail server that takes nothing keep the session."""
        self.server.transport.pauseProducing()
        self.application.transport.write(b"x" * 30_000_000)
        while not self.upstream.undelivered:
            await turn()
        self.pipe.end()
        self.clock.advance(DELIVERY_SECONDS)
        self.server.transport.resumeProducing()
        self.assertIs(await self.server.ended, ConnectionLost)
        self.application.transport.abortConnection()
        await self.ended

    async def test_ended_from_here_at_rest(self) -> None:
        self.pipe.end()
        self.server.transport.loseConnection()
        await self.application.fin
        self.application.transport.loseConnection()
        await self.ended
        self.assertIs(await self.server.ended, ConnectionDone)


class TLSPipeTests(PipeTests):
    """The same with TLS upstream."""

    def upstream_side(self, recorder: R) -> tuple[R, Transport]:
        near, far = tcp_pair()
        client = TrustStore().client(Trust((AUTHORITY.pem,)), "localhost").connection(near)
        server = SSL.Connection(SERVER, far)
        server.set_accept_state()
        for side in (client, server, client, server, client):
            with contextlib.suppress(SSL.WantReadError):
                side.do_handshake()
        Transport(self.reactor, far, server).begin(recorder)
        return recorder, Transport(self.reactor, near, client)

    async def test_in_parallel(self) -> None:
        """Sixty-four sessions at once: each gets its own bytes, both ways."""
        sessions = [(self.application, self.server, self.downstream, self.ended)]
        for _ in range(63):
            self.setUp()
            sessions.append((self.application, self.server, self.downstream, self.ended))
        rng = random.Random(11)
        sent = [(rng.randbytes(1_000_000), rng.randbytes(200_000)) for _ in sessions]
        for start in range(0, 1_000_000, 50_000):
            for (application, server, _, _), (down, up) in zip(sessions, sent, strict=True):
                server.transport.write(down[start : start + 50_000])
                application.transport.write(up[start : start + 50_000])
            await turn()
        for (application, server, _, ended), (down, up) in zip(sessions, sent, strict=True):
            self.assertEqual(await application.hears(len(down)), down)
            self.assertEqual(await server.hears(len(up)), up)
            server.transport.loseConnection()
            await application.fin
            application.transport.loseConnection()
            await ended
            await server.ended

    async def test_a_million_commands(self) -> None:
        """A million commands leave nothing behind: no memory, and not one that was not carried."""
        commands = b"1 NOOP\r\n" * 1000
        carried = 0
        for round in range(1000):
            self.application.transport.write(commands)
            await self.server.hears(len(commands))
            self.assertEqual(self.server.heard, commands)
            carried += self.server.heard.count(b"\n")
            self.server.heard.clear()
            if round == 100:
                gc.collect()
                tracemalloc.start()
                self.addCleanup(tracemalloc.stop)
                before = tracemalloc.get_traced_memory()[0]
            if round == 200:
                gc.collect()
                self.assertLess(tracemalloc.get_traced_memory()[0] - before, 50_000)
                tracemalloc.stop()
        self.assertEqual((carried, self.downstream.received), (1_000_000, 1000 * len(commands)))
        await self.end()

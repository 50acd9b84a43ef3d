from __future__ import annotations

import random
import socket

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from tests.peers import HalfClosing, tcp_pair, turn
from tproxy.net.hub import Hub
from tproxy.net.transport import Transport
from tproxy.relay.pipe import DELIVERY_SECONDS, SILENCE_SECONDS, Pipe


class PipeTests(TestCase):
    """An application and a mail server, both real sockets, with a pipe between."""

    timeout = 60
    reactor = reactor

    def setUp(self) -> None:
        self.clock = Clock()
        self.ended: Deferred[None] = Deferred()
        self.application, downstream = self.side()
        self.server, upstream = self.side()
        self.pipe = Pipe(self.clock, downstream, upstream, lambda: self.ended.callback(None))
        downstream.resumeProducing()
        upstream.resumeProducing()
        self.downstream, self.upstream = downstream, upstream

    def side(self) -> tuple[HalfClosing, Transport]:
        near, far = tcp_pair()
        recorder = HalfClosing()
        Transport(self.reactor, far).begin(recorder)
        return recorder, Transport(self.reactor, near)

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
        down, up = rng.randbytes(8_000_000), rng.randbytes(5_000_000)

        def send(recorder: HalfClosing, data: bytes) -> None:
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
        self.assertFalse(self.server.fin.called)
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
        self.assertFalse(self.server.fin.called)
        self.clock.advance(1)
        await self.server.fin
        self.server.transport.loseConnection()
        await self.application.fin
        self.application.transport.loseConnection()
        await self.ended

    async def test_reset_by_the_application(self) -> None:
        """A reset of one is a reset of both."""
        self.application.transport.abortConnection()
        self.assertIs(await self.server.ended, ConnectionLost)
        await self.ended

    async def test_reset_by_the_mail_server(self) -> None:
        self.server.transport.abortConnection()
        self.assertIs(await self.application.ended, ConnectionLost)
        await self.ended

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

    async def test_ended_from_here_at_rest(self) -> None:
        self.pipe.end()
        await self.server.fin
        self.server.transport.loseConnection()
        await self.application.fin
        self.application.transport.loseConnection()
        await self.ended
        self.assertIs(await self.server.ended, ConnectionDone)


class HubPipeTests(PipeTests):
    """The same behind a hub."""

    def setUp(self) -> None:
        self.reactor = Hub(reactor)
        self.addCleanup(self.reactor.close)
        super().setUp()

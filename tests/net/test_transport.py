"""How connections end."""

from __future__ import annotations

import socket

from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.trial.unittest import TestCase

from tests.net.hubs import behind_a_hub
from tests.peers import Recorder, tcp_pair, turn
from tproxy.model import Trust
from tproxy.net.transport import Transport
from tproxy.net.trust import TrustStore


class TransportTests(TestCase):
    timeout = 60
    reactor = reactor

    def pair(self) -> tuple[Recorder, Transport, socket.socket]:
        near, far = tcp_pair()
        recorder, transport = Recorder(), Transport(self.reactor, near)
        transport.begin(recorder)
        return recorder, transport, far

    async def test_last_words_survive(self) -> None:
        """What was written before the end arrives although the peer's own bytes were not read."""
        recorder, transport, far = self.pair()
        transport.pauseProducing()
        far.send(b"a pipelined command\r\n" * 1000)
        transport.write(b"* BYE no\r\n")
        transport.loseConnection()
        transport.loseConnection()
        while True:
            try:
                self.assertEqual(far.recv(100), b"* BYE no\r\n")
                break
            except BlockingIOError:
                await turn()
        self.assertEqual(far.recv(100), b"")
        far.close()
        self.assertIs(await recorder.ended, ConnectionDone)
        transport.write(b"too late")
        transport.abortConnection()

    async def test_peer_that_never_ends(self) -> None:
        """A peer that keeps its side open after our end is given two seconds."""
        recorder, transport, far = self.pair()
        transport.loseConnection()
        await recorder.ended
        far.close()

    async def test_last_words_after_a_reset(self) -> None:
        """What the peer said before it stopped to listen is still heard when a write fails."""
        recorder, transport, far = self.pair()
        transport.pauseProducing()
        far.send(b"* BYE going\r\n")
        far.close()
        transport.write(b"a NOOP\r\n")
        await turn()
        transport.write(b"b NOOP\r\n")
        transport.write(b"c NOOP\r\n")
        transport.resumeProducing()
        await recorder.hears(13)
        transport.loseConnection()
        await recorder.ended

    async def test_closed_during_the_handshake(self) -> None:
        """A connection that is closed while it becomes one of TLS is let go: its number is soon another one's."""
        recorder, transport, far = self.pair()
        number = transport.fileno()
        starting = transport.start_tls(TrustStore(None).client(Trust(), "mail.example"))
        transport.abortConnection()
        sides = tcp_pair()
        self.assertIn(number, [side.fileno() for side in sides])
        near, end = sorted(sides, key=lambda side: side.fileno() != number)
        other = Recorder()
        Transport(self.reactor, near).begin(other)
        starting.cancel()  # its time is up
        with self.assertRaises(CancelledError):
            await starting
        end.send(b"* OK ready\r\n")
        await other.hears(12)
        other.transport.abortConnection()
        self.assertIs(await recorder.ended, ConnectionLost)
        for each in (far, end):
            each.close()

    async def test_pull_producers_are_declined(self) -> None:
        recorder, transport, far = self.pair()
        with self.assertRaises(ValueError):
            transport.registerProducer(transport, False)
        transport.abortConnection()
        self.assertIs(await recorder.ended, ConnectionLost)
        far.close()


HubTransportTests = behind_a_hub(TransportTests)

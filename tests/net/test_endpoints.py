"""Connections that are dialled: TLS, addresses, limits."""

from __future__ import annotations

import errno
import os
import socket
from ipaddress import ip_network

from OpenSSL import SSL
from twisted.internet import endpoints, reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IOpenSSLServerConnectionCreator,
    IPushProducer,
    IReadWriteDescriptor,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.net.hubs import behind_a_hub
from tests.peers import Recorder, tcp_pair, turn
from tproxy.model import Reason, RefusedError, Stage, Trust
from tproxy.net.endpoints import Connector, _dialled
from tproxy.net.guard import Guard
from tproxy.net.listening import Listening
from tproxy.net.resolver import Resolver
from tproxy.net.trust import TrustStore
from tproxy.testing.certificates import Authority, Certificate

AUTHORITY = Authority.create()
GOOD = AUTHORITY.issue("localhost", "127.0.0.1")
OURS = Trust(authorities=(AUTHORITY.pem,))


@implementer(IOpenSSLServerConnectionCreator)
class TLSServer:
    """Twisted's own TLS as the mail server's, which is another implementation than ours."""

    def __init__(self, certificate: Certificate) -> None:
        self.context = certificate.server_context()

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self.context, None)


class EndpointTests(TestCase):
    timeout = 60
    reactor = reactor

    def setUp(self) -> None:
        guard = Guard([ip_network("127.0.0.0/8")])
        self.connector = Connector(self.reactor, Resolver(reactor, guard), TrustStore(None))
        self.peers: list[Recorder] = []

    async def serve(self, certificate: Certificate | None = GOOD) -> int:
        factory = Factory.forProtocol(self.peer)
        if certificate is None:
            endpoint = endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        else:
            endpoint = endpoints.SSL4ServerEndpoint(reactor, 0, TLSServer(certificate), interface="127.0.0.1")
        port = await endpoint.listen(factory)
        self.addCleanup(port.stopListening)
        return port.getHost().port

    def peer(self) -> Recorder:
        self.peers.append(Recorder())
        return self.peers[-1]

    async def connect(self, port: int, trust: Trust | None = OURS, host: str = "localhost") -> Recorder:
        recorder = Recorder()
        endpoint = self.connector.endpoint(host, port, trust)
        verifyObject(IStreamClientEndpoint, endpoint)
        self.assertIs(await endpoint.connect(Factory.forProtocol(lambda: recorder)), recorder)
        return recorder

    async def refusal(self, connecting: object) -> tuple[Stage, Reason]:
        with self.assertRaises(RefusedError) as caught:
            await connecting
        return caught.exception.refusal.stage, caught.exception.refusal.reason

    async def test_encrypted_both_ways(self) -> None:
        """Through TLS megabytes arrive unchanged, both ways at once."""
        client = await self.connect(await self.serve())
        verifyObject(ITransport, client.transport)
        verifyObject(IPushProducer, client.transport)
        verifyObject(IReadWriteDescriptor, client.transport)
        up, down = os.urandom(3_000_000), os.urandom(5_000_000)
        client.transport.write(up)
        while not self.peers:
            await turn()
        self.peers[0].transport.write(down)
        self.assertEqual(await self.peers[0].hears(len(up)), up)
        self.assertEqual(await client.hears(len(down)), down)
        client.transport.loseConnection()
        self.assertIs(await client.ended, ConnectionDone)
        self.assertIs(await self.peers[0].ended, ConnectionDone)

    async def test_plain(self) -> None:
        client = await self.connect(await self.serve(None), None)
        client.transport.writeSequence([b"a NOOP", b"\r\n"])
        while not self.peers:
            await turn()
        self.assertEqual(await self.peers[0].hears(8), b"a NOOP\r\n")
        client.transport.stopProducing()
        await client.ended

    async def test_options(self) -> None:
        """Small messages go at once, and a peer that vanished is noticed within two minutes, on either side."""
        accepted = Recorder()
        port = await Listening(self.reactor, "127.0.0.1", 0).listen(Factory.forProtocol(lambda: accepted))
        self.addCleanup(port.stopListening)
        dialled = await self.connect(port.getHost().port, None)
        while accepted.transport is None:
            await turn()
        for sock in (accepted.transport._socket, dialled.transport._socket):
            self.assertTrue(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            self.assertTrue(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            idle, interval, count = (sock.getsockopt(socket.IPPROTO_TCP, name) for name in names)
            self.assertLessEqual(idle + interval * count, 120)
        dialled.transport.loseConnection()
        await dialled.ended
        await accepted.ended

    async def test_an_end_within_tls(self) -> None:
        """A close_notify, and an end without one, are both the end, after all that came before."""
        port = await self.serve()
        for number, end in enumerate(("loseConnection", "abrupt")):
            client = await self.connect(port)
            while len(self.peers) <= number:
                await turn()
            server = self.peers[number].transport
            server.write(b"x" * 100_000)
            if end == "loseConnection":
                server.loseConnection()
            else:
                await client.hears(100_000)
                server.transport.socket.shutdown(socket.SHUT_WR)
            self.assertIs(await client.ended, ConnectionDone)
            self.assertEqual(len(client.heard), 100_000)
            if end == "abrupt":
                server.abortConnection()
            await self.peers[number].ended

    async def test_a_reset_within_tls(self) -> None:
        client = await self.connect(await self.serve())
        while not self.peers:
            await turn()
        tcp = self.peers[0].transport.transport
        tcp.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.peers[0].transport.abortConnection()
        self.assertIs(await client.ended, ConnectionLost)

    async def test_rubbish_within_tls(self) -> None:
        client = await self.connect(await self.serve())
        while not self.peers:
            await turn()
        self.peers[0].transport.transport.write(b"\x17\x03\x03\x00\x20" + b"!" * 32)
        self.assertIs(await client.ended, ConnectionLost)
        self.peers[0].transport.abortConnection()
        await self.peers[0].ended

    async def test_certificates(self) -> None:
        """A certificate that fails a check ends the connection before the protocol is even connected."""
        for certificate, trust, reason in (
            (GOOD, Trust(), Reason.CERTIFICATE_UNTRUSTED),
            (AUTHORITY.issue("imap.example"), OURS, Reason.CERTIFICATE_NAME_MISMATCH),
            (AUTHORITY.expired("localhost"), OURS, Reason.CERTIFICATE_EXPIRED),
        ):
            port = await self.serve(certificate)
            self.assertEqual(await self.refusal(self.connect(port, trust)), (Stage.TLS, reason))
        for peer in self.peers:
            await peer.ended
            self.assertEqual(peer.heard, b"")

    async def test_plain_server_on_a_tls_port(self) -> None:
        port = await self.serve(None)
        connecting = Deferred.fromCoroutine(self.connect(port))
        while not self.peers:
            await turn()
        self.peers[0].transport.write(b"* OK ready\r\n")
        self.assertEqual(await self.refusal(connecting), (Stage.TLS, Reason.TLS_FAILED))
        await self.peers[0].ended

    async def test_start_tls(self) -> None:
        """A plain connection becomes a verified TLS one."""
        port = await self.serve(None)
        client = await self.connect(port, None)
        while not self.peers:
            await turn()
        self.peers[0].transport.startTLS(TLSServer(GOOD))
        await self.connector.start_tls(client.transport, OURS, "localhost", port)
        client.transport.write(b"secret")
        self.assertEqual(await self.peers[0].hears(6), b"secret")
        client.transport.loseConnection()
        await client.ended
        await self.peers[0].ended

    async def test_start_tls_refused(self) -> None:
        """Where the certificate is wrong the connection is gone and nothing was sent on it."""
        port = await self.serve(None)
        client = await self.connect(port, None)
        while not self.peers:
            await turn()
        self.peers[0].transport.startTLS(TLSServer(AUTHORITY.issue("other")))
        starting = self.connector.start_tls(client.transport, OURS, "localhost", port)
        self.assertEqual(await self.refusal(starting), (Stage.TLS, Reason.CERTIFICATE_NAME_MISMATCH))
        self.assertIs(await client.ended, ConnectionLost)
        await self.peers[0].ended
        self.assertEqual(self.peers[0].heard, b"")

    async def test_nobody_listens(self) -> None:
        near, far = tcp_pair()
        port = near.getsockname()[1]
        near.close()
        far.close()
        self.assertEqual(await self.refusal(self.connect(port, None)), (Stage.CONNECT, Reason.CONNECTION_FAILED))

    async def test_address_refused(self) -> None:
        """The guard judges the address that would be connected to."""
        connecting = self.connect(993, None, "169.254.169.254")
        self.assertEqual(await self.refusal(connecting), (Stage.CONNECT, Reason.ADDRESS_REFUSED))

    async def test_silent_handshake(self) -> None:
        """A server that accepts and says nothing is given up in time."""
        port = await self.serve(None)
        endpoint = self.connector.endpoint("127.0.0.1", port, OURS, timeout=0.05)
        connecting = endpoint.connect(Factory.forProtocol(Recorder))
        self.assertEqual(await self.refusal(connecting), (Stage.TLS, Reason.TIMED_OUT))
        await self.peers[0].ended

    async def test_slow_address(self) -> None:
        """An address that answers nothing is given up in time: here one whose backlog is full."""
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            fillers = [socket.socket() for _ in range(3)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            endpoint = self.connector.endpoint("127.0.0.1", full.getsockname()[1], None, timeout=0.05)
            connecting = endpoint.connect(Factory.forProtocol(Recorder))
            self.assertEqual(await self.refusal(connecting), (Stage.CONNECT, Reason.TIMED_OUT))
            for filler in fillers:
                filler.close()

    async def test_cancelled(self) -> None:
        """Whoever no longer wants a connection ends it, at each stage."""
        port = await self.serve(None)
        for trust in (None, OURS):
            connecting = self.connector.endpoint("127.0.0.1", port, trust).connect(Factory.forProtocol(Recorder))
            if trust is not None:
                while not self.peers:
                    await turn()
            connecting.cancel()
            with self.assertRaises(CancelledError):
                await connecting
        for peer in self.peers:
            await peer.ended

    async def test_factory_without_protocol(self) -> None:
        port = await self.serve(None)
        factory = Factory()
        factory.buildProtocol = lambda addr: None
        with self.assertRaises(CancelledError):
            await self.connector.endpoint("127.0.0.1", port, None).connect(factory)
        while not self.peers:
            await turn()
        await self.peers[0].ended

    async def test_race(self) -> None:
        """Of several addresses the first that answers is taken; one that fails makes room for the next."""
        port = await self.serve(None)
        sock = await _dialled(self.reactor, ["127.0.0.2", "127.0.0.1"], port)
        self.assertEqual(sock.getpeername()[0], "127.0.0.1")
        sock.close()
        with self.assertRaises(OSError) as caught:
            await _dialled(self.reactor, ["127.0.0.2", "127.0.0.3"], port)
        self.assertEqual(caught.exception.errno, errno.ECONNREFUSED)
        racing = _dialled(self.reactor, ["127.0.0.1", "127.0.0.2"], port)
        racing.cancel()
        with self.assertRaises(CancelledError):
            await racing
        for peer in self.peers:
            await peer.ended


HubEndpointTests = behind_a_hub(EndpointTests)

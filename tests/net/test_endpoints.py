from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
from ipaddress import ip_network

from OpenSSL import SSL
from twisted.internet import endpoints, reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.error import CannotListenError, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IListeningPort,
    IOpenSSLServerConnectionCreator,
    IPushProducer,
    IReadDescriptor,
    IReadWriteDescriptor,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.peers import Recorder, tcp_pair, turn
from tproxy.model import Reason, RefusedError, Stage, Trust
from tproxy.net.endpoints import Connector, Listening, _dialled
from tproxy.net.guard import Guard
from tproxy.net.hub import Hub
from tproxy.net.resolver import Resolver
from tproxy.net.transport import Transport
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


class ListeningTests(TestCase):
    timeout = 60
    reactor = reactor

    async def listen(self, factory: Factory, address: str = "127.0.0.1", port: int = 0) -> IListeningPort:
        endpoint = Listening(self.reactor, address, port)
        verifyObject(IStreamServerEndpoint, endpoint)
        listening = await endpoint.listen(factory)
        verifyObject(IListeningPort, listening)
        verifyObject(IReadDescriptor, listening)
        self.addCleanup(listening.stopListening)
        return listening

    async def test_many_at_once(self) -> None:
        peers: list[Recorder] = []

        def accept() -> Recorder:
            peers.append(Recorder())
            return peers[-1]

        port = (await self.listen(Factory.forProtocol(accept))).getHost().port
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
        while len(peers) < 200:
            await turn()
        for client in clients:
            client.close()
        await DeferredList([peer.ended for peer in peers])

    async def test_ipv6(self) -> None:
        try:
            listening = await self.listen(Factory.forProtocol(Recorder), "::1")
        except CannotListenError:
            return  # a host without IPv6
        self.assertEqual(listening.getHost().host, "::1")

    async def test_taken(self) -> None:
        """A taken port says so, and which."""
        port = (await self.listen(Factory())).getHost().port
        with self.assertRaises(CannotListenError) as caught:
            await Listening(self.reactor, "127.0.0.1", port).listen(Factory())
        self.assertEqual(caught.exception.port, port)
        self.assertEqual(caught.exception.socketError.errno, errno.EADDRINUSE)

    async def test_stopped_twice(self) -> None:
        listening = await self.listen(Factory())
        port = listening.getHost().port
        await listening.stopListening()
        await listening.stopListening()
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))

    async def test_factory_declines(self) -> None:
        factory = Factory()
        factory.buildProtocol = lambda addr: None
        port = (await self.listen(factory)).getHost().port
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setblocking(False)
            while True:
                try:
                    self.assertEqual(client.recv(1), b"")
                    break
                except BlockingIOError:
                    await turn()

    async def test_out_of_descriptors(self) -> None:
        """Without descriptors left connections wait and are accepted later; the port does not spin."""
        accepted: Deferred[None] = Deferred()

        class Peer(Protocol):
            def connectionMade(self) -> None:
                accepted.callback(None)
                self.transport.abortConnection()

        port = (await self.listen(Factory.forProtocol(Peer))).getHost().port
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        await turn()  # the reactor runs, with all descriptors of its own
        client = socket.create_connection(("127.0.0.1", port))
        resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 50, hard))
        taken = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(client.fileno()))
        for _ in range(3):
            await turn()
        self.assertFalse(accepted.called)
        for descriptor in taken:
            os.close(descriptor)
        await accepted
        client.close()


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

    async def test_pull_producers_are_declined(self) -> None:
        recorder, transport, far = self.pair()
        with self.assertRaises(ValueError):
            transport.registerProducer(transport, False)
        transport.abortConnection()
        self.assertIs(await recorder.ended, ConnectionLost)
        far.close()


def behind_a_hub(case: type[TestCase]) -> type[TestCase]:
    """The same tests with a hub between reactor and transports."""

    def __init__(self: TestCase, name: str = "runTest") -> None:
        case.__init__(self, name)
        self.reactor = Hub(reactor)
        self.addCleanup(self.reactor.close)

    return type(f"Hub{case.__name__}", (case,), {"__init__": __init__, "__module__": __name__})


HubEndpointTests = behind_a_hub(EndpointTests)
HubListeningTests = behind_a_hub(ListeningTests)
HubTransportTests = behind_a_hub(TransportTests)

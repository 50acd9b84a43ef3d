"""Ports that accept, on the reactor and behind a hub."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReadDescriptor, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from tests.net.hubs import behind_a_hub
from tests.peers import Recorder, turn
from tproxy.net.listening import Listening


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
        await self.turned_away(port)

    async def turned_away(self, port: int) -> None:
        """A connection is closed, or reset, without a byte."""
        with socket.create_connection(("127.0.0.1", port)) as client, contextlib.suppress(ConnectionResetError):
            client.setblocking(False)
            while True:
                try:
                    self.assertEqual(client.recv(1), b"")
                    break
                except BlockingIOError:
                    await turn()

    async def test_failure(self) -> None:
        """A bug in serving one connection ends that one, and is logged; the port stays open."""

        class Broken(Recorder):
            def connectionMade(self) -> None:
                raise ZeroDivisionError

        class Unbuilt(Recorder):
            def __init__(self) -> None:
                raise ZeroDivisionError

        kinds: list[type[Recorder]] = [Broken, Unbuilt, Recorder]
        peers: list[Recorder] = []

        def accept() -> Recorder:
            peers.append(kinds.pop(0)())
            return peers[-1]

        port = (await self.listen(Factory.forProtocol(accept))).getHost().port
        for _ in range(2):
            await self.turned_away(port)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.send(b"x")
            while len(peers) < 2:
                await turn()
            await peers[1].hears(1)
        await peers[1].ended
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertTrue(peers[0].ended.called)

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


HubListeningTests = behind_a_hub(ListeningTests)

"""Sessions under test: a store that answers as told, and real sockets on either side."""

from __future__ import annotations

import gc
import socket
import weakref
from collections.abc import Awaitable, Callable
from ipaddress import ip_network

from attrs import Factory as Fresh
from attrs import define
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.peers import HalfClosing, Recorder, turn
from tproxy.interfaces import IDestinationStore
from tproxy.model import (
    Binding,
    Credential,
    Destination,
    DestinationRequest,
    Grant,
    GrantKind,
    ListenerKey,
    NoCredential,
    Offered,
    Password,
    Resolution,
    Route,
    Secret,
    Tenant,
)
from tproxy.net.endpoints import Connector
from tproxy.net.guard import Guard
from tproxy.net.hub import Hub
from tproxy.net.listening import Listening
from tproxy.net.resolver import Resolver
from tproxy.net.transport import Transport
from tproxy.net.trust import TrustStore
from tproxy.protocols.imap4 import imap4, imap4s
from tproxy.relay.attempts import Attempts
from tproxy.relay.factory import SessionFactory
from tproxy.relay.room import Room
from tproxy.relay.walk import Services

REQUEST = DestinationRequest("local", "example-dest-imap", Tenant("acme"))
BINDING = Binding(ListenerKey("shop", "mail", Tenant("acme")), REQUEST, protocol="imap4")
HELLO = b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR ID] ready\r\n"

GRANT = Grant("https://token.example", "id", Secret("s"), kind=GrantKind.REFRESH_TOKEN)


@implementer(IDestinationStore)
@define(slots=False)
class OneDestination:
    """A store whose answers the test decides."""

    answer: Callable[[], Deferred[Resolution]]
    renewed: Resolution | None = None
    renewals: int = 0
    offers: list[Offered | None] = Fresh(list)

    def describe(self, request: DestinationRequest) -> Deferred[Destination]:
        return self.answer().addCallback(lambda resolution: resolution.destination)

    def resolve(self, request: DestinationRequest, offered: Offered | None = None) -> Deferred[Resolution]:
        self.offers.append(offered)
        return self.answer()

    def renew(
        self, request: DestinationRequest, refused: Credential, offered: Offered | None = None
    ) -> Deferred[Resolution | None]:
        self.offers.append(offered)
        self.renewals += 1
        return succeed(self.renewed)


class SessionTestCase(TestCase):
    """An application and a scripted mail server, both real sockets, with tproxy's session between."""

    timeout = 60
    binding = BINDING

    async def setUp(self) -> None:
        self.clock = Clock()
        hub = Hub(reactor)
        self.addCleanup(self.emptied, hub)
        self.servers: list[Recorder] = []
        self.waiting: list[Deferred[Recorder]] = []
        listening = await Listening(reactor, "127.0.0.1", 0).listen(Factory.forProtocol(self.serve))
        self.addCleanup(listening.stopListening)
        self.resolution = resolution(listening.getHost().port, Password("user", Secret("pass")))
        self.store = OneDestination(lambda: succeed(self.resolution))
        verifyObject(IDestinationStore, self.store)
        connector = Connector(hub, Resolver(reactor, Guard([ip_network("127.0.0.0/8")])), TrustStore(None))
        plugins = {plugin.name: plugin for plugin in (imap4, imap4s)}
        self.services = Services(
            self.clock,
            self.store,
            connector,
            plugins,
            Attempts(self.clock),
            5,
            frozenset(["127.0.0.1"]),
            Room(100),
        )
        self.factory = SessionFactory(self.binding, self.services)
        verifyObject(IProtocolFactory, self.factory)
        port = await Listening(hub, "127.0.0.1", 0).listen(self.factory)
        self.addCleanup(port.stopListening)
        self.port = port.getHost().port
        self.events: list[dict[str, object]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    async def emptied(self, hub: Hub) -> None:
        """Everybody gets to know how the connections end."""
        while hub.getReaders() or hub.getWriters():
            await turn()
        hub.close()

    def serve(self) -> Recorder:
        server = Recorder()
        self.servers.append(server)
        for waiting in self.waiting:
            waiting.callback(server)
        self.waiting.clear()
        return server

    async def server(self) -> Recorder:
        """The next connection to the mail server."""
        waiting: Deferred[Recorder] = Deferred()
        self.waiting.append(waiting)
        server = await waiting
        await turn()
        return server

    async def application(self) -> HalfClosing:
        sock = socket.create_connection(("127.0.0.1", self.port))
        sock.setblocking(False)
        application = HalfClosing()
        Transport(reactor, sock).begin(application)
        return application

    async def log_in(self, server: Recorder, last: bytes = b"OK [CAPABILITY IMAP4rev1 IDLE ID] in") -> bytes:
        """The mail server's side of a login; what it was sent."""
        server.transport.write(HELLO)
        line = await server.hears(20)
        while not line.endswith(b"\r\n"):
            line = await server.hears(len(line) + 1)
        server.heard.clear()
        server.transport.write(line.split()[0] + b" " + last + b"\r\n")
        return line

    async def session(self) -> tuple[HalfClosing, Recorder]:
        """A greeted application, and its connection to the mail server."""
        coming = Deferred.fromCoroutine(self.server())
        application = await self.application()
        server = await coming
        await self.log_in(server)
        greeting = await self.line(application)
        self.assertTrue(greeting.startswith(b"* PREAUTH [CAPABILITY IMAP4rev1 IDLE ID"), greeting)
        return application, server

    async def line(self, recorder: Recorder) -> bytes:
        while b"\n" not in recorder.heard:
            await recorder.hears(len(recorder.heard) + 1)
        line, _, rest = bytes(recorder.heard).partition(b"\n")
        recorder.heard[:] = rest
        return line + b"\n"

    async def over(self, application: HalfClosing) -> None:
        """The application sees an end, and nothing is left of the session."""
        await application.fin
        application.transport.loseConnection()
        await application.ended
        while self.factory.sessions:
            await turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def logged(self, event: str) -> dict[str, object]:
        (found,) = (each for each in self.events if each.get("event") == event)
        return found

    def watch(self) -> list[weakref.ref[object]]:
        (session,) = self.factory.sessions
        client = session._client or session._walk.client
        upstream = [] if client is None else [client, client.transport]
        return [weakref.ref(each) for each in (session, session.downstream.transport, *upstream)]

    async def freed(self, *ways: Callable[[], Awaitable[list[weakref.ref[object]]]]) -> None:
        """Each way ends a session; what it watched is freed at once, without the garbage collector's help."""
        for way in ways:
            gc.collect()
            gc.disable()
            self.addCleanup(gc.enable)
            watched = await way()
            self.servers.clear()
            self.events.clear()
            await turn()
            self.assertEqual([each() for each in watched if each() is not None], [], way.__name__)
            gc.enable()


def resolution(port: int, credential: Password | NoCredential) -> Resolution:
    destination = Destination("example-dest-imap", Route("imap4", "127.0.0.1", port), "user", credential)
    return Resolution(destination, credential)

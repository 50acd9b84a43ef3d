"""Connections to an API server."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import URI, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IAgentEndpointFactory
from twisted.web.server import Site
from zope.interface.verify import verifyObject

from tests.apiserver.server import CONFIG_MAPS, APIServer
from tests.cluster.api.contract import until
from tests.cluster.api.test_contract import AUTHORITY, Certified
from tproxy.cluster.api.access import Access
from tproxy.cluster.api.client import Client, connect
from tproxy.cluster.api.objects import APIError, Why
from tproxy.cluster.api.transport import KEPT_CONNECTIONS, Body, Endpoints, _opened
from tproxy.model import RefusedError, Secret, Trust
from tproxy.net.guard import Guard
from tproxy.net.sockets import Lingering
from tproxy.testing.certificates import Authority

TRUST = Trust((AUTHORITY.pem,))


class Counting(Site):
    """Counts connections."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.channels = []

    def buildProtocol(self, addr):
        self.channels.append(super().buildProtocol(addr))
        return self.channels[-1]


class ConnectionTests(TestCase):
    """Over real sockets."""

    def setUp(self) -> None:
        self.server = APIServer(reactor)
        self.server.create(CONFIG_MAPS, "default", "one")
        self.site = Counting(self.server)
        self.port = reactor.listenSSL(0, self.site, Certified(), interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.clients: list[Client] = []

    async def tearDown(self) -> None:
        await gatherResults([client.close() for client in self.clients])
        await until(lambda: not any(isinstance(each, Lingering) for each in reactor.getReaders()))

    def connect(self, trust: Trust = TRUST, host: str = "127.0.0.1", clock=reactor) -> Client:
        access = Access(host, self.port.getHost().port, lambda: trust, lambda _: Secret("good"))
        self.clients.append(connect(access, reactor, clock))
        return self.clients[-1]

    def get(self, client: Client) -> Deferred:
        return client.get(CONFIG_MAPS, ("default", "one"))

    async def test_kept(self) -> None:
        """As many connections as requests at one time, and then the same again, up to a number."""
        client = self.connect()
        for _ in range(3):
            await self.get(client)
        self.assertEqual(len(self.site.channels), 1)
        for _ in range(2):
            await gatherResults([self.get(client) for _ in range(KEPT_CONNECTIONS)])
        self.assertEqual(len(self.site.channels), KEPT_CONNECTIONS)

    async def test_closed_meanwhile(self) -> None:
        """A kept connection that the server closed is replaced."""
        client, render, channels = self.connect(), self.server.render, []
        self.server.render = lambda request: (channels.append(request.channel), render(request))[1]
        await self.get(client)
        channels[0].loseConnection()
        await self.get(client)
        self.assertEqual(len(self.site.channels), 2)

    async def test_impostor(self) -> None:
        """Other authorities, and a name that is not the server's: nothing is asked."""
        for client in (self.connect(Trust((Authority.create().pem,))), self.connect(Trust()), self.connect(host="::1")):
            error = await self.assertFailure(self.get(client), APIError)
            self.assertEqual((error.status, error.reason), (0, Why.UNREACHABLE))
        self.assertEqual(self.server.asked, [])


class GuardTests(SynchronousTestCase):
    """What the connector may dial."""

    def allows(self, host: str, address: str) -> bool:
        try:
            Guard(_opened(host)).check(address, 443)
        except RefusedError:
            return False
        return True

    def test_opened(self) -> None:
        """The one address that is named, private or not; for a name, all but what nothing opens."""
        for host, address, allowed in (
            ("10.96.0.1", "10.96.0.1", True),
            ("10.96.0.1", "10.96.0.2", False),
            ("fd00::1", "fd00::1", True),
            ("127.0.0.1", "127.0.0.1", True),
            ("api.example.com", "10.0.0.1", True),
            ("api.example.com", "fd00::1", True),
            ("api.example.com", "169.254.169.254", False),
            ("169.254.169.254", "169.254.169.254", False),
        ):
            self.assertEqual(self.allows(host, address), allowed, (host, address))

    def test_one_host(self) -> None:
        """Whatever URL is asked for, the connection goes to the host of the credentials."""
        asked = []

        class Connector:
            def endpoint(self, *arguments):
                asked.append(arguments)

        endpoints = Endpoints(Access("10.96.0.1", 443, lambda: TRUST, lambda _: None), Connector())
        verifyObject(IAgentEndpointFactory, endpoints)
        endpoints.endpointForURI(URI.fromBytes(b"http://elsewhere.example.com/"))
        self.assertEqual(asked, [("10.96.0.1", 443, TRUST, 10.0)])

    def test_url(self) -> None:
        """Where paths begin."""
        for host, path, url in (
            ("10.96.0.1", "", "https://10.96.0.1:443"),
            ("fd00::1", "/k8s/clusters/c", "https://[fd00::1]:443/k8s/clusters/c"),
        ):
            self.assertEqual(Access(host, 443, lambda: TRUST, lambda _: None, path=path).url, url)


class BodyTests(SynchronousTestCase):
    """The body of an answer."""

    def setUp(self) -> None:
        self.clock, self.transport, self.heard = Clock(), StringTransport(), []
        self.body = Body(self.heard.append, self.clock, 7.0)
        self.body.makeConnection(self.transport)

    def test_silence(self) -> None:
        """Each piece gives new time; what comes after the end is nobody's."""
        for _ in range(3):
            self.clock.advance(6)
            self.body.dataReceived(b"x")
        self.clock.advance(7)
        error = self.failureResultOf(self.body.ended, APIError).value
        self.assertEqual(error.reason, Why.TOO_SLOW)
        self.assertTrue(self.transport.disconnecting)
        self.body.dataReceived(b"y")
        self.body.connectionLost(Failure(ResponseDone()))
        self.assertEqual(self.heard, [b"x"] * 3)

    def test_ends(self) -> None:
        """A body that is whole, or whose length nobody said, and one that is neither."""
        for reason, whole in ((ResponseDone(), True), (PotentialDataLoss(), True), (ResponseFailed([]), False)):
            self.setUp()
            self.body.connectionLost(Failure(reason))
            if whole:
                self.successResultOf(self.body.ended)
            else:
                error = self.failureResultOf(self.body.ended, APIError).value
                self.assertEqual(error.reason, Why.UNREACHABLE)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled(self) -> None:
        """Cancelled, the connection ends and no timer is left."""
        self.body.ended.cancel()
        self.failureResultOf(self.body.ended)
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

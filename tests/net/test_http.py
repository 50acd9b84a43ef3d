"""HTTP requests over real connections on loopback, and what is not taken from the other end."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import URI
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from zope.interface.verify import verifyObject

from tproxy.model import Reason, RefusedError, Trust
from tproxy.net.endpoints import Connector
from tproxy.net.guard import Guard
from tproxy.net.http import (
    BODY_LIMIT,
    Answer,
    Client,
    TooLargeError,
    TooSlowError,
    _Body,
    _Endpoints,
    _Octets,
    _Uncompressed,
    client,
)
from tproxy.net.resolver import Resolver
from tproxy.net.trust import TrustStore
from tproxy.testing.certificates import Authority
from tproxy.testing.tokens import Certified

LOOPBACK = frozenset({"127.0.0.1"})
SYSTEM = Trust()


class Echo(Resource):
    """Says what it was asked, sets a cookie, and sends on whoever asks for /moved."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[bytes, bytes, bytes]] = []
        self.headers: list[dict[bytes, list[bytes]]] = []

    def render(self, request: Request) -> bytes:
        self.heard.append((request.method, request.uri, request.content.read()))
        self.headers.append(dict(request.requestHeaders.getAllRawHeaders()))
        request.setHeader(b"Set-Cookie", b"a=b; Path=/")
        if request.path == b"/moved":
            request.redirect(b"/elsewhere")
        if request.path == b"/packed":
            request.setHeader(b"Content-Encoding", b"gzip")
            return gzip.compress(b"unpacked")
        return b"echo"


class Raw(Protocol):
    """A server that says what a test wants, when a request has come."""

    def __init__(self) -> None:
        self.asked: Deferred[None] = Deferred()
        self.ended: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        if not self.asked.called:
            self.asked.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(None)


async def turns(condition: Callable[[], bool]) -> None:
    while not condition():
        await deferLater(reactor, 0)


def until(condition: Callable[[], bool]) -> Deferred[None]:
    """Fires in the first turn of the reactor in which the condition holds."""
    return Deferred.fromCoroutine(turns(condition))


class HTTPTests(TestCase):
    """Against servers of Twisted's own."""

    def connector(self, *allowed: str) -> Connector:
        return Connector(reactor, Resolver(reactor, Guard([ip_network(each) for each in allowed])), TrustStore(None))

    def client(self, clock: Any = reactor, trust: Trust = SYSTEM, plain: frozenset[str] = LOOPBACK) -> Client:
        return client(self.connector("127.0.0.0/8"), clock, trust=trust, read_seconds=7, plain_hosts=plain)

    @inlineCallbacks
    def listen(self, factory: Any, tls: Any = None) -> Any:
        if tls is None:
            port = yield reactor.listenTCP(0, factory, interface="127.0.0.1")
        else:
            port = yield reactor.listenSSL(0, factory, Certified(tls), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"http{'s' if tls else ''}://127.0.0.1:{port.getHost().port}"

    @inlineCallbacks
    def raw(self) -> Any:
        server = Raw()
        url = yield self.listen(Factory.forProtocol(lambda: server))
        return server, url

    @inlineCallbacks
    def test_asks(self) -> Any:
        """Method, query, headers and form arrive; status, headers and body come back."""
        echo = Echo()
        url = yield self.listen(Site(echo))
        answer: Answer = yield self.client().ask(
            "POST", url + "/a?b=c", headers={"X-One": "1"}, queries=[("d", "e&f")], form=[("g", "h i")]
        )
        self.assertEqual(echo.heard, [(b"POST", b"/a?b=c&d=e%26f", b"g=h+i")])
        self.assertEqual(echo.headers[0][b"X-One"], [b"1"])
        self.assertEqual((answer.status, answer.body), (200, b"echo"))
        self.assertEqual(answer.header("Set-Cookie"), "a=b; Path=/")
        self.assertEqual(answer.header("X-None"), "")

    @inlineCallbacks
    def test_left_out(self) -> Any:
        """Redirects are not followed, cookies not kept, compressed bodies neither asked for nor unpacked."""
        echo = Echo()
        url = yield self.listen(Site(echo))
        asking = self.client()
        moved = yield asking.ask("GET", url + "/moved")
        self.assertEqual(moved.status, 302)
        packed = yield asking.ask("GET", url + "/packed", headers={"Accept-Encoding": "gzip"})
        self.assertEqual(gzip.decompress(packed.body), b"unpacked")
        self.assertEqual([uri for _, uri, _ in echo.heard], [b"/moved", b"/packed"])
        for headers in echo.headers:
            self.assertNotIn(b"Cookie", headers)
            self.assertNotIn(b"Accept-Encoding", headers)

    @inlineCallbacks
    def test_tls(self) -> Any:
        """https is verified with the trust that was given, and nothing is asked of an impostor."""
        authority, echo = Authority.create(), Echo()
        url = yield self.listen(Site(echo), authority.issue("127.0.0.1").server_context())
        answer = yield self.client(trust=Trust((authority.pem,)), plain=frozenset()).ask("GET", url)
        self.assertEqual(answer.body, b"echo")
        refused = yield self.assertFailure(self.client().ask("GET", url), RefusedError)
        self.assertEqual(refused.refusal.reason, Reason.CERTIFICATE_UNTRUSTED)
        self.assertEqual(len(echo.heard), 1)

    @inlineCallbacks
    def test_guarded(self) -> Any:
        """An address that may not be dialled is not."""
        asking = client(self.connector(), reactor, trust=Trust(), plain_hosts=LOOPBACK)
        refused = yield self.assertFailure(asking.ask("GET", "http://127.0.0.1:9/"), RefusedError)
        self.assertEqual(refused.refusal.reason, Reason.ADDRESS_REFUSED)

    @inlineCallbacks
    def test_largest(self) -> Any:
        """A body of the limit is taken, one byte more is not."""
        for size, taken in ((BODY_LIMIT, True), (BODY_LIMIT + 1, False)):
            server, url = yield self.raw()
            asked = self.client().ask("GET", url)
            yield server.asked
            server.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
            if taken:
                answer = yield asked
                self.assertEqual(len(answer.body), size)
            else:
                yield self.assertFailure(asked, TooLargeError)
            yield server.ended

    @inlineCallbacks
    def test_endless_headers(self) -> Any:
        """Headers without end are broken off."""
        server, url = yield self.raw()
        asked = self.client().ask("GET", url)
        yield server.asked
        server.transport.write(b"HTTP/1.1 200 OK\r\n" + b"X-Padding: 0123456789\r\n" * 100_000)
        error = yield self.assertFailure(asked, Exception)
        self.assertIsInstance(error.reasons[0].value, TooLargeError)
        yield server.ended

    @inlineCallbacks
    def patience(self, clock: Clock, server: Raw, asked: Deferred[Answer]) -> Any:
        """The server says one byte in every 6 s of the 7 that it may be silent, until the request is given up."""
        (silence,) = [call for call in clock.getDelayedCalls() if call.getTime() == 7]
        while not asked.called:
            server.transport.write(b".")
            yield until(lambda: asked.called or silence.getTime() == clock.seconds() + 7)
            clock.advance(6)

    @inlineCallbacks
    def test_silence(self) -> Any:
        """A peer that says nothing for too long is left, and the connection closed."""
        server, url = yield self.raw()
        clock = Clock()
        asked = self.client(clock).ask("GET", url)
        yield server.asked
        clock.advance(6.9)
        self.assertNoResult(asked)
        clock.advance(0.2)
        error = yield self.assertFailure(asked, Exception)
        self.assertIsInstance(error.reasons[0].value, TooSlowError)
        yield server.ended

    @inlineCallbacks
    def test_deadline(self) -> Any:
        """An answer that comes byte by byte, in its head or in its body, is left at the deadline."""
        for begun in (b"HTTP/1.1 200 OK\r\nX-Padding: ", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"):
            server, url = yield self.raw()
            clock = Clock()
            asked = self.client(clock).ask("GET", url)
            yield server.asked
            server.transport.write(begun)
            yield self.patience(clock, server, asked)
            self.assertEqual(clock.seconds(), 30)
            yield self.assertFailure(asked, TooSlowError)
            yield server.ended

    @inlineCallbacks
    def test_cut_off(self) -> Any:
        """Half a body is none."""
        server, url = yield self.raw()
        asked = self.client().ask("GET", url)
        yield server.asked
        server.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        server.transport.loseConnection()
        yield self.assertFailure(asked, Exception)

    @inlineCallbacks
    def test_until_the_end(self) -> Any:
        """A body without a length ends with the connection."""
        server, url = yield self.raw()
        asked = self.client().ask("GET", url)
        yield server.asked
        server.transport.write(b"HTTP/1.0 200 OK\r\n\r\nall")
        server.transport.loseConnection()
        answer = yield asked
        self.assertEqual(answer.body, b"all")


class PartsTests(SynchronousTestCase):
    """What is not seen from outside."""

    def endpoints(self) -> _Endpoints:
        connector = Connector(reactor, Resolver(reactor, Guard([])), TrustStore(None))
        return _Endpoints(connector, Clock(), Trust(), 1.0, 1.0, frozenset({"plain.example.com"}))

    def test_interfaces(self) -> None:
        """What Twisted calls provides what Twisted asks for."""
        endpoints = self.endpoints()
        verifyObject(IAgentEndpointFactory, endpoints)
        verifyObject(IAgent, _Uncompressed(None))
        endpoint = endpoints.endpointForURI(URI.fromBytes(b"https://mail.example.com/"))
        verifyObject(IStreamClientEndpoint, endpoint)

    def test_plain(self) -> None:
        """http is for named hosts only, and other schemes are for nobody."""
        endpoints = self.endpoints()
        endpoints.endpointForURI(URI.fromBytes(b"http://PLAIN.example.com/"))
        for url in (b"http://example.com/", b"ftp://example.com/"):
            refused = self.assertRaises(RefusedError, endpoints.endpointForURI, URI.fromBytes(url))
            self.assertIn("not an https URL", refused.refusal.message)

    def test_too_large(self) -> None:
        """What still comes after the limit changes nothing."""
        body = _Body()
        body.makeConnection(StringTransport())
        for _ in range(2):
            body.dataReceived(bytes(BODY_LIMIT))
            body.dataReceived(b".")
        body.connectionLost()
        self.failureResultOf(body.done, TooLargeError)

    def test_body(self) -> None:
        """A request's body is written at once; there is nothing to pause."""
        body, transport = _Octets(b"abc"), StringTransport()
        verifyObject(IBodyProducer, body)
        self.successResultOf(body.startProducing(transport))
        body.pauseProducing()
        body.resumeProducing()
        body.stopProducing()
        self.assertEqual((transport.value(), body.length), (b"abc", 3))

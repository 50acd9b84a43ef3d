"""HTTP requests to the world outside: through guarded addresses and verified TLS, bounded in size and time.

`client` makes a `Client` whose every connection goes through a `Connector`. What the libraries below
offer and nobody here wants is left out: no redirects, no cookies, no compression (a small body
must not become a large one), no proxy of the environment, no connection kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, NoReturn, cast

from attrs import frozen
from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from tproxy.model import Reason, Refusal, RefusedError, Stage, Trust

if TYPE_CHECKING:
    from tproxy.net.endpoints import Connector

BODY_LIMIT = 1024 * 1024
"""The longest body that is taken, in bytes."""

HEAD_LIMIT = 64 * 1024
"""What a connection may bring beside one body (status line, headers, framing of chunks), in bytes."""

DEADLINE = 30.0
"""The longest time for one request, from its first thought to the last byte of the answer, in seconds."""


class TooLargeError(Exception):
    """The answer is longer than what is taken."""


class TooSlowError(Exception):
    """The peer was silent for too long."""


@frozen
class Answer:
    """A whole HTTP response: the status code, the headers and the body as it came."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str:
        """The last value of a header, or the empty string."""
        values = self.headers.getRawHeaders(name.encode("ascii")) or [b""]
        return values[-1].decode("latin-1")


class Client:
    """Asks over an agent, one bounded request at a time.

    @param clock: gives the deadline its time
    """

    def __init__(self, agent: IAgent, clock: IReactorTime) -> None:
        self._clock = clock
        self._client = bare(agent)

    def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        queries: Sequence[tuple[str, str]] = (),
        form: Sequence[tuple[str, str]] | None = None,
    ) -> Deferred[Answer]:
        """Sends one request and takes the whole answer, whatever its status.

        @param queries: are appended to those of `url`
        @param form: becomes the body, `application/x-www-form-urlencoded`
        @return: fails with L{RefusedError} (no connection), L{TooLargeError}, L{TooSlowError}, or what
            twisted.web raises for a broken answer
        """

        async def exchange() -> Answer:
            response = await self._client.request(
                method,
                url,
                params=list(queries),
                headers=Headers({name.encode(): [value.encode()] for name, value in (headers or {}).items()}),
                data=None if form is None else list(form),
                allow_redirects=False,
                unbuffered=True,
                reactor=cast(Any, self._clock),
            )
            return Answer(response.code, response.headers, await _body(response))

        return Deferred.fromCoroutine(exchange()).addTimeout(DEADLINE, self._clock, _too_slow)


def bare(agent: IAgent) -> HTTPClient:
    """treq over an agent, without cookies and compression."""
    cookies = IndexableCookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return HTTPClient(_Uncompressed(agent), cookies, _Octets)


def client(
    connector: Connector,
    clock: IReactorTime,
    *,
    trust: Trust,
    connect_seconds: float = 10.0,
    read_seconds: float = 10.0,
    plain_hosts: frozenset[str] = frozenset(),
) -> Client:
    """A client for `https` URLs, and for `http` URLs of `plain_hosts` alone.

    @param connect_seconds: for address, connection and TLS together
    @param read_seconds: how long the peer may be silent
    """
    endpoints = _Endpoints(connector, clock, trust, connect_seconds, read_seconds, plain_hosts)
    return Client(Agent.usingEndpointFactory(clock, endpoints), clock)


@implementer(IAgentEndpointFactory)
@frozen
class _Endpoints:
    """Decides how a URL is connected to."""

    connector: Connector
    clock: IReactorTime
    trust: Trust
    connect_seconds: float
    read_seconds: float
    plain_hosts: frozenset[str]

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        host = uri.host.decode("ascii")
        if uri.scheme == b"https":
            tls: Trust | None = self.trust
        elif host.lower() in self.plain_hosts:
            tls = None
        else:
            raise RefusedError(
                Refusal(
                    Stage.CONNECT,
                    Reason.ADDRESS_REFUSED,
                    f"the URL of {host} is not an https URL",
                    "use https, or name the host in config.security.httpTokenHosts",
                )
            )
        endpoint = self.connector.endpoint(host, uri.port, tls, self.connect_seconds)
        return _Watching(endpoint, self.clock, self.read_seconds)


@implementer(IStreamClientEndpoint)
@frozen
class _Watching:
    """Connects a protocol under a `_Watch`."""

    endpoint: IStreamClientEndpoint
    clock: IReactorTime
    seconds: float

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        connected: Deferred[IProtocol] = self.endpoint.connect(_WatchFactory(factory, self.clock, self.seconds))
        return connected.addCallback(lambda watch: cast(_Watch, watch).inner)


class _WatchFactory(Factory):
    noisy = False

    def __init__(self, inner: IProtocolFactory, clock: IReactorTime, seconds: float) -> None:
        self._inner = inner
        self._clock = clock
        self._seconds = seconds

    def buildProtocol(self, addr: IAddress | None) -> _Watch | None:
        inner = self._inner.buildProtocol(cast(IAddress, addr))
        return None if inner is None else _Watch(inner, self._clock, self._seconds)


class _Watch(Protocol):
    """Stands between a connection and its protocol and breaks off what is too much or too slow."""

    _silence: IDelayedCall

    def __init__(self, inner: IProtocol, clock: IReactorTime, seconds: float) -> None:
        self.inner = inner
        self._clock = clock
        self._seconds = seconds
        self._room = BODY_LIMIT + HEAD_LIMIT
        self._broken: Exception | None = None

    def makeConnection(self, transport: ITransport) -> None:
        self.transport = transport
        self._silence = self._clock.callLater(self._seconds, self._break_off, TooSlowError())
        self.inner.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room < 0:
            self._break_off(TooLargeError())
        else:
            self._silence.reset(self._seconds)
            self.inner.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._silence.active():
            self._silence.cancel()
        self.inner.connectionLost(reason if self._broken is None else Failure(self._broken))

    def _break_off(self, error: Exception) -> None:
        self._broken = error
        cast(Any, self.transport).abortConnection()


@implementer(IAgent)
@frozen
class _Uncompressed:
    """Neither asks for a compressed body nor lets one be unpacked."""

    agent: IAgent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        headers = Headers() if headers is None else headers.copy()
        headers.removeHeader(b"accept-encoding")

        def as_it_came(response: IResponse) -> IResponse:
            response.headers.removeHeader(b"content-encoding")
            return response

        requested: Deferred[IResponse] = self.agent.request(method, uri, headers, bodyProducer)
        return requested.addCallback(as_it_came)


@implementer(IBodyProducer)
class _Octets:
    """A body that is there at once; the library's own one wants the global reactor."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self.length = len(octets)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._octets)
        return succeed(None)

    def pauseProducing(self) -> None:
        """All is written already."""

    def resumeProducing(self) -> None:
        """All is written already."""

    def stopProducing(self) -> None:
        """All is written already."""


def _too_slow(result: object, seconds: float) -> NoReturn:
    raise TooSlowError


def _body(response: IResponse) -> Deferred[bytes]:
    collector = _Body()
    response.deliverBody(collector)
    return collector.done


class _Body(Protocol):
    """Collects a body up to the limit."""

    def __init__(self) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self._stop())
        self._chunks: list[bytes] = []
        self._room = BODY_LIMIT

    def dataReceived(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room >= 0:
            self._chunks.append(data)
        elif not self.done.called:
            self.done.errback(TooLargeError())
            self._stop()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(b"".join(self._chunks))
        else:
            self.done.errback(reason)

    def _stop(self) -> None:
        cast(Any, self.transport).loseConnection()

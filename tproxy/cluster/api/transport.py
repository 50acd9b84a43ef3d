"""How requests reach an API server: one host alone, over verified TLS, on connections that are kept."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any, cast

from attrs import frozen
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IAgent, IAgentEndpointFactory
from zope.interface import implementer

from tproxy.cluster.api.access import Access
from tproxy.cluster.api.objects import APIError, Why
from tproxy.net.endpoints import Connector
from tproxy.net.guard import Guard
from tproxy.net.names import ip_literal
from tproxy.net.resolver import Resolver
from tproxy.net.sockets import Reactor
from tproxy.net.trust import TrustStore, load_system_authorities

KEPT_CONNECTIONS = 16
"""How many connections are kept for the next request; there are as many as there are requests at one time."""

IDLE_SECONDS = 60.0
"""How long a connection is kept without a request: less than the 90 s after which the API server closes it."""

CONNECT_SECONDS = 10.0


@implementer(IAgentEndpointFactory)
@frozen
class Endpoints:
    """Connects to the host of an `Access`, whatever is asked for: nothing else gets its credentials."""

    access: Access
    connector: Connector

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return self.connector.endpoint(self.access.host, self.access.port, self.access.trust(), CONNECT_SECONDS)


def pooled(
    access: Access, reactor: Any, clock: IReactorTime, sockets: Reactor = None
) -> tuple[IAgent, HTTPConnectionPool]:
    """An agent for one API server, and the pool of its connections.

    The connector is its own, because an API server's address is usually a private one: the guard of the mail
    servers would refuse it, and what opens it for this host must not open it for them. Where `access` names
    authorities these alone are believed, not the system's.

    @param reactor: looks names up
    @param sockets: watches the connections; the reactor, if not given
    """

    def system(context: SSL.Context) -> None:
        if not access.trust().authorities:
            load_system_authorities(context)

    resolver = Resolver(reactor, Guard(_opened(access.host)), clock)
    connector = Connector(reactor if sockets is None else sockets, resolver, TrustStore(None, system))
    pool = HTTPConnectionPool(cast(Any, clock))
    pool.maxPersistentPerHost = KEPT_CONNECTIONS
    pool.cachedConnectionTimeout = cast(int, IDLE_SECONDS)
    return Agent.usingEndpointFactory(clock, Endpoints(access, connector), pool), pool


class Body(Protocol):
    """The body of an answer, handed on as it comes.

    `ended` fires at its end and fails with L{APIError} where it breaks off or is silent for too long, or with
    what `take` raises; cancelling it ends the connection.

    @param seconds: how long the server may be silent
    """

    def __init__(self, take: Callable[[bytes], None], clock: IReactorTime, seconds: float) -> None:
        self.ended: Deferred[None] = Deferred(lambda _: self._leave())
        self._take, self._clock, self._seconds = take, clock, seconds
        self._silence: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._silence = self._clock.callLater(self._seconds, self._silent)

    def dataReceived(self, data: bytes) -> None:
        if self._silence is None:
            return
        self._silence.reset(self._seconds)
        try:
            self._take(data)
        except Exception:
            self._fail(Failure())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._silence is None:
            return
        self._forget()
        if reason.check(ResponseDone, PotentialDataLoss):
            self.ended.callback(None)
        else:
            self.ended.errback(APIError(200, Why.UNREACHABLE, "the API server broke off in the middle of an answer"))

    def _silent(self) -> None:
        said = f"the API server has said nothing for {self._seconds:g} s"
        self._fail(Failure(APIError(200, Why.TOO_SLOW, said)))

    def _fail(self, failure: Failure) -> None:
        self._leave()
        self.ended.errback(failure)

    def _leave(self) -> None:
        self._forget()
        cast(Any, self.transport).loseConnection()

    def _forget(self) -> None:
        if self._silence is not None and self._silence.active():
            self._silence.cancel()
        self._silence = None


def _opened(host: str) -> tuple[Any, ...]:
    """The networks that the guard opens: the host's own address; for a name, all but those that nothing opens.

    The name is the operator's, not a tenant's, and TLS says whether it was the right host that answered.
    """
    literal = ip_literal(host)
    return (ip_network("0.0.0.0/0"), ip_network("::/0")) if literal is None else (ip_network(str(literal)),)

"""A stand-in of SAP BTP, for demos and tests: authorization server, Destination service, and a mail provider.

All three answer on one https port and are told apart by the host:

- `https://<subdomain>.authentication.localhost:PORT/oauth/token` gives tokens for a tenant to who knows the client
  secret; `<subdomain>.authentication.cert.localhost` to who shows the client certificate.
- `https://destination.localhost:PORT` finds destinations (v1 and v2).
- `https://login.localhost:PORT/token` gives mail tokens, as do longer paths that end so and hosts below this one;
  `/introspect` and `/tokeninfo` tell whose they are.

In a test, start a `BTP` and change its `setup` while it runs; `heard` is what it was asked. On the command line:

    python -m tproxy.testing.btp --help

Where the public description of these services is silent, the answer is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

from attrs import evolve, field, frozen
from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.interfaces import IListeningPort, IReactorTime
from twisted.protocols.policies import WrappingFactory
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from tproxy.model import Tenant
from tproxy.testing.btp import destinations
from tproxy.testing.btp.authorization import AuthorizationServer
from tproxy.testing.btp.setup import Account, Endpoint, Fault, Setup
from tproxy.testing.certificates import Authority
from tproxy.testing.tokens import Answer, Asked, Certified, TokenEndpoint, oauth_error, read, say

__all__ = ["BTP", "Account", "Endpoint", "Fault", "Heard", "Setup"]

AUTHENTICATION = "authentication.localhost"
CERTIFIED_AUTHENTICATION = "authentication.cert.localhost"
DESTINATION = "destination.localhost"
LOGIN = "login.localhost"
ONLY_POST = evolve(oauth_error(405, "invalid_request", "this stand-in knows POST alone"), headers=(("Allow", "POST"),))


@frozen
class Heard:
    """One request: the tenant of its host or token, the destination, as in the path, and the `X-` headers."""

    endpoint: Endpoint
    tenant: str
    name: str = ""
    headers: Mapping[str, str] = field(factory=dict, repr=False)


class BTP(Resource):
    """The stand-in. `provider` is the mail provider's token endpoint, `authority` vouches for all certificates.

    `port` is where it listens, or did until it was stopped; it may be started again there.

    @param reactor: IReactorSSL
    @param clock: ages tokens and delays answers, if the reactor is not to
    """

    isLeaf = True

    def __init__(self, reactor: Any, setup: Setup, clock: IReactorTime | None = None) -> None:
        Resource.__init__(self)
        self.authority = Authority.create()
        self.heard: list[Heard] = []
        self._reactor = reactor
        self._clock = reactor if clock is None else clock
        self._authorization = AuthorizationServer(self._clock)
        self.provider = TokenEndpoint(self._clock)
        self.change(setup)
        self.renew_certificate()

    def change(self, setup: Setup) -> None:
        """Know something else from now on; tokens live on."""
        self.setup = setup
        self.provider.clients = setup.mail_clients
        self.provider.seconds = setup.mail_seconds
        for token, username in setup.refresh_tokens.items():
            self.provider.refresh_token(username, token=token)
        for code, username in setup.codes.items():
            self.provider.code(username, code=code)

    def renew_certificate(self) -> None:
        """Give the instance another client certificate; the one before is worthless."""
        self._identity = self.authority.subordinate().issue(common_name=self.setup.client_id[:64])

    def revoke(self, tenant: Tenant | None = None) -> None:
        """Make the authorization server's tokens worthless: one tenant's, or all."""
        self._authorization.revoke(tenant)

    async def start(self, address: str = "127.0.0.1", port: int = 0) -> None:
        """Open the port; raises CannotListenError. No TLS session is resumed: it would not show a certificate again."""
        hosts = (DESTINATION, LOGIN, f"*.{LOGIN}", f"*.{AUTHENTICATION}", f"*.{CERTIFIED_AUTHENTICATION}")
        context = self.authority.issue(*hosts).server_context()
        context.set_tlsext_servername_callback(_ask_for_certificate)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_options(SSL.OP_NO_TICKET)
        self._site = WrappingFactory(Site(self, reactor=self._reactor))
        endpoint = SSL4ServerEndpoint(self._reactor, port, Certified(context), interface=address)
        self._listening: IListeningPort = await endpoint.listen(self._site)
        self.port = cast(IPv4Address, self._listening.getHost()).port

    async def stop(self) -> None:
        """Close the port and every connection."""
        for connection in list(self._site.protocols):
            connection.transport.abortConnection()
        await maybeDeferred(self._listening.stopListening)

    def url(self, host: str, path: str = "") -> str:
        """The URL of a host such as `destination` or `acme.authentication`."""
        return f"https://{host}.localhost:{self.port}{path}"

    def service_key(self) -> dict[str, str]:
        """What a client of the instance has to know, as the values of a service key."""
        key = {
            "clientid": self.setup.client_id,
            "url": self.url(f"{self.setup.provider}.authentication"),
            "uri": self.url("destination"),
        }
        if self.setup.client_secret:
            return key | {"clientsecret": self.setup.client_secret}
        return key | {
            "certurl": self.url(f"{self.setup.provider}.authentication.cert"),
            "certificate": self._identity.chain_pem,
            "key": self._identity.key_pem,
        }

    def render(self, request: Request) -> bytes | int:
        host = request.getRequestHostname().decode("latin-1").lower()
        label, _, domain = host.partition(".")
        match label, domain:
            case _, "authentication.localhost":
                answer = self._token(request, Tenant(label), None)
            case _, "authentication.cert.localhost":
                answer = self._token(request, Tenant(label), self._certified(request))
            case "destination", "localhost":
                answer = self._destination(request)
            case ("login", "localhost") | (_, "login.localhost"):
                if request.path in (b"/introspect", b"/tokeninfo"):
                    post = request.method == b"POST"
                    return self.provider.render_POST(request) if post else self.provider.render_GET(request)
                answer = self._mail(request, label if domain == LOGIN else "")
            case _:
                answer = destinations.error(404, "this stand-in is not this host")
        return say(request, answer, self._clock)

    def _token(self, request: Request, tenant: Tenant, certified: bool | None) -> Answer:
        if request.path != b"/oauth/token":
            return oauth_error(404, "invalid_request", "this stand-in knows /oauth/token alone")
        if request.method != b"POST":
            return ONLY_POST
        asked = read(request)
        self.heard.append(Heard(Endpoint.TOKEN, tenant))
        fault = self._fault(Endpoint.TOKEN, tenant)
        return _spoiled(fault, lambda: self._authorization.answer(self.setup, tenant, asked, certified))

    def _destination(self, request: Request) -> Answer:
        asked, path = read(request), request.path.decode("latin-1")
        tenant = self._authorization.tenant(self.setup, asked.headers.get("authorization", ""))
        interest = {name: value for name, value in asked.headers.items() if name.startswith("x-")}
        self.heard.append(Heard(Endpoint.DESTINATION, tenant or "", destinations.name(path), interest))
        fault = self._fault(Endpoint.DESTINATION, tenant or "")
        if fault is not None and fault.answer is not None:
            return fault.answer
        if tenant is None:
            return destinations.error(401, "the bearer token is missing, wrong or expired")
        if request.method != b"GET":
            return destinations.error(405, "this stand-in knows GET alone", ("Allow", "GET"))
        fetch = partial(self._fetch, tenant)
        token_error = fault.token_error if fault else ""
        search = destinations.Search(self.setup, tenant, path, asked, self.port, fetch, token_error)
        return _spoiled(fault, search.answer)

    def _mail(self, request: Request, tenant: str) -> Answer:
        if not request.path.endswith(b"/token"):
            return oauth_error(404, "invalid_request", "this stand-in knows paths that end in /token")
        if request.method != b"POST":
            return ONLY_POST
        asked = read(request)
        self.heard.append(Heard(Endpoint.MAIL, tenant))
        return _spoiled(self._fault(Endpoint.MAIL, tenant), lambda: self.provider.answer(asked))

    def _fetch(self, tenant: Tenant, url: str, form: Mapping[str, str]) -> Answer:
        """Run a destination's grant where the stand-in can: at its own mail provider, without a detour over the net."""
        scheme, netloc, path, *_ = urlsplit(url)
        login = f"{LOGIN}:{self.port}"
        if scheme != "https" or not f".{netloc}".endswith(f".{login}") or not path.endswith("/token"):
            return oauth_error(400, "invalid_request", f"this stand-in reaches https://{login}/token alone")
        asked = Asked({name: [value] for name, value in form.items()}, {}, {})
        return _spoiled(self._fault(Endpoint.MAIL, tenant), lambda: self.provider.answer(asked))

    def _fault(self, endpoint: Endpoint, tenant: str) -> Fault | None:
        """What is to go wrong with this request: the first fault that fits."""
        for fault in self.setup.faults:
            if fault.endpoint is endpoint and fault.tenant in (None, tenant):
                if fault.requests is not None:
                    fault.requests -= 1
                    if fault.requests == 0:
                        self.setup.faults.remove(fault)
                return fault
        return None

    def _certified(self, request: Request) -> bool:
        """Whether the client showed the certificate of the instance's service key."""
        shown = cast(Any, request.channel).transport.getPeerCertificate()
        own = self._identity.certificate
        return not self.setup.client_secret and shown is not None and shown.to_cryptography() == own


def _spoiled(fault: Fault | None, right: Callable[[], Answer]) -> Answer:
    if fault is None:
        return right()
    return fault.answer or evolve(right(), after=fault.seconds)


def _ask_for_certificate(connection: SSL.Connection) -> None:
    """On the hosts that want one, any certificate passes the handshake: it is judged with the request."""
    if (connection.get_servername() or b"").endswith(CERTIFIED_AUTHENTICATION.encode()):
        connection.set_verify(SSL.VERIFY_PEER, lambda *_: True)

"""A token endpoint for demos and tests: gives opaque bearer tokens, and every fault on demand.

In a test, put a `TokenEndpoint` into a `twisted.web.server.Site`; on the command line:

    python -m tproxy.testing.tokens --port 8443 --certificate server.pem --key server.key

`POST /token` is the grant (RFC 6749): client credentials, a refresh token or an authorization code.
`POST /introspect` tells whether a token is good and whose it is (RFC 7662), as does `GET /tokeninfo?access_token=…`.
"""

from __future__ import annotations

import argparse
import json
import sys
from base64 import b64decode
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from secrets import token_urlsafe
from typing import IO, Any, cast
from urllib.parse import parse_qs, unquote_plus, urlsplit

from attrs import field, frozen
from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IListeningPort, IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.task import react
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

JSON = "application/json"


@frozen
class Answer:
    """What an endpoint says: status, headers, body, and after how many seconds (None: never)."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    after: float | None = 0.0


def oauth_error(status: int, error: str, description: str = "") -> Answer:
    """An error as RFC 6749, section 5.2, has it."""
    fields = {"error": error} | ({"error_description": description} if description else {})
    return Answer(status, (("Content-Type", JSON),), json.dumps(fields).encode())


def busy(retry_after: str = "1") -> Answer:
    return Answer(429, (("Retry-After", retry_after),), b"too many requests")


def redirect(url: str) -> Answer:
    return Answer(302, (("Location", url),))


UNAVAILABLE = Answer(503, (("Content-Type", "text/plain"),), b"come back later")
BROKEN = Answer(500, (("Content-Type", "text/html"),), b"<h1>Internal Server Error</h1>")
SILENT = Answer(after=None)
LOGIN_PAGE = Answer(200, (("Content-Type", "text/html"),), b"<form action=/login>")
TRUNCATED = Answer(200, (("Content-Type", JSON),), b'{"access_token": "abc')
HUGE = Answer(200, (("Content-Type", JSON),), b'{"access_token": "' + b"a" * 2_000_000 + b'"}')


@frozen
class Asked:
    """One request for a token, as it came."""

    form: Mapping[str, Sequence[str]]
    queries: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]


@frozen
class Client:
    """Who may ask for tokens; `username` is whose tokens it gets for its own credentials."""

    secret: str = field(repr=False)
    username: str = ""


@frozen
class _Issued:
    client_id: str
    username: str
    until: float


@frozen
class _Offer:
    """What a refresh token or an authorization code is good for; an empty client is any."""

    username: str
    client_id: str = ""
    redirect_uri: str = ""
    code_verifier: str = ""


class TokenEndpoint(Resource):
    """Issues tokens to its clients.

    `answers` are given first, one a request; `asked` are the requests so far; `clients` may be added to.
    Where `rotates` is set, a refresh token is good once and its successor comes with the access token.

    @param clock: delays answers and ages tokens
    @param client: the first client's id and secret
    @param seconds: the life of a token; None: the answer does not say, and it lives on
    @param username: whose tokens the first client gets, for introspection
    """

    isLeaf = True

    def __init__(
        self,
        clock: IReactorTime,
        client: tuple[str, str] = ("client", "secret"),
        seconds: int | None = 3600,
        username: str = "",
    ) -> None:
        Resource.__init__(self)
        self.asked: list[Asked] = []
        self.answers: deque[Answer] = deque()
        self.seconds = seconds
        self.clients = {client[0]: Client(client[1], username)}
        self.rotates = False
        self._clock = clock
        self._client_id = client[0]
        self._username = username
        self._tokens: dict[str, _Issued] = {}
        self._refresh_tokens: dict[str, _Offer] = {}
        self._codes: dict[str, _Offer] = {}

    def valid(self, token: str) -> bool:
        """Whether this endpoint issued the token and it is still good."""
        return token in self._tokens and self._clock.seconds() < self._tokens[token].until

    def revoke(self) -> None:
        """Makes all access tokens issued so far worthless."""
        self._tokens.clear()

    def issue(self, username: str | None = None, client_id: str | None = None) -> str:
        """A fresh access token: the first client's and its user's, unless others are named."""
        token = token_urlsafe(32)
        self._tokens[token] = _Issued(
            self._client_id if client_id is None else client_id,
            self._username if username is None else username,
            self._clock.seconds() + (float("inf") if self.seconds is None else self.seconds),
        )
        return token

    def refresh_token(self, username: str, client_id: str = "", token: str = "") -> str:
        """A refresh token of a user's (RFC 6749, section 6), for one client or any: the one given, or a fresh one."""
        token = token or token_urlsafe(32)
        self._refresh_tokens[token] = _Offer(username, client_id)
        return token

    def code(
        self, username: str, client_id: str = "", redirect_uri: str = "", code_verifier: str = "", code: str = ""
    ) -> str:
        """An authorization code of a user's (RFC 6749, section 4.1.3, and RFC 7636, section 4.5), good once.

        The request for its token has to bring the same `redirect_uri` and `code_verifier`, or none.
        """
        code = code or token_urlsafe(32)
        self._codes[code] = _Offer(username, client_id, redirect_uri, code_verifier)
        return code

    def answer(self, asked: Asked) -> Answer:
        """The answer to a request for a token, which is noted."""
        self.asked.append(asked)
        return self.answers.popleft() if self.answers else self._grant(asked)

    def render_POST(self, request: Request) -> bytes | int:
        asked = read(request)
        answer = self._introspect(last(asked.form, "token")) if request.path == b"/introspect" else self.answer(asked)
        return say(request, answer, self._clock)

    def render_GET(self, request: Request) -> bytes | int:
        return say(request, self._introspect(last(read(request).queries, "access_token")), self._clock)

    def _grant(self, asked: Asked) -> Answer:
        grant_type = last(asked.form, "grant_type")
        if grant_type not in ("client_credentials", "refresh_token", "authorization_code"):
            return oauth_error(400, "unsupported_grant_type")
        client_id = self._authenticated(asked)
        if client_id is None:
            return oauth_error(401, "invalid_client", "the client is not known or its secret is wrong")
        username: str | None = self.clients[client_id].username
        refresh_token = None
        match grant_type:
            case "refresh_token":
                username, refresh_token = self._refreshed(asked, client_id)
            case "authorization_code":
                username = self._exchanged(asked, client_id)
                refresh_token = None if username is None else self.refresh_token(username, client_id)
        if username is None:
            return oauth_error(400, "invalid_grant", f"the {grant_type.replace('_', ' ')} is not good, or no longer")
        fields: dict[str, object] = {"access_token": self.issue(username, client_id), "token_type": "Bearer"}
        if self.seconds is not None:
            fields["expires_in"] = self.seconds
        if refresh_token is not None:
            fields["refresh_token"] = refresh_token
        if scope := last(asked.form, "scope"):
            fields["scope"] = scope
        return Answer(200, (("Content-Type", JSON), ("Cache-Control", "no-store")), json.dumps(fields).encode())

    def _authenticated(self, asked: Asked) -> str | None:
        in_body = (last(asked.form, "client_id"), last(asked.form, "client_secret"))
        for client_id, secret in (in_body, _basic(asked.headers.get("authorization", ""))):
            if client_id in self.clients and self.clients[client_id].secret == secret:
                return client_id
        return None

    def _refreshed(self, asked: Asked, client_id: str) -> tuple[str | None, str | None]:
        """Whose the refresh token is, and its successor where there is one."""
        token = last(asked.form, "refresh_token")
        offer = self._refresh_tokens.get(token)
        if offer is None or offer.client_id not in ("", client_id):
            return None, None
        if not self.rotates:
            return offer.username, None
        del self._refresh_tokens[token]
        return offer.username, self.refresh_token(offer.username, offer.client_id)

    def _exchanged(self, asked: Asked, client_id: str) -> str | None:
        """Whose the authorization code is; it is spent by the first who asks."""
        offer = self._codes.pop(last(asked.form, "code"), None)
        redirect_uri, code_verifier = last(asked.form, "redirect_uri"), last(asked.form, "code_verifier")
        if offer is None or offer.client_id not in ("", client_id):
            return None
        return offer.username if (offer.redirect_uri, offer.code_verifier) == (redirect_uri, code_verifier) else None

    def _introspect(self, token: str) -> Answer:
        fields: dict[str, object] = {"active": False}
        if self.valid(token):
            issued = self._tokens[token]
            fields = {"active": True, "client_id": issued.client_id, "token_type": "Bearer"}
            fields |= {"username": issued.username, "sub": issued.username} if issued.username else {}
        return Answer(200, (("Content-Type", JSON),), json.dumps(fields).encode())


def say(request: Request, answer: Answer, clock: IReactorTime) -> bytes | int:
    """What a resource returns from its `render` to give an answer, at once, later or never."""
    request.setResponseCode(answer.status)
    for name, value in answer.headers:
        request.setHeader(name.encode(), value.encode())
    request.setHeader(b"Content-Length", str(len(answer.body)).encode())
    if answer.after == 0:
        return answer.body
    gone = request.notifyFinish()
    if answer.after is not None:
        later = clock.callLater(answer.after, _finish, request, answer.body)
        gone.addErrback(lambda _: later.cancel())
    else:
        gone.addErrback(lambda _: None)
    return NOT_DONE_YET


def _finish(request: Request, body: bytes) -> None:
    request.write(body)
    request.finish()


def serve(
    reactor: Any,
    endpoint: TokenEndpoint,
    address: str = "127.0.0.1",
    port: int = 0,
    context: SSL.Context | None = None,
) -> Deferred[IListeningPort]:
    """Opens a port for an endpoint: https with a context, http without.

    @param reactor: IReactorTCP and IReactorSSL
    """
    site = Site(endpoint)
    if context is None:
        return cast("Deferred[IListeningPort]", TCP4ServerEndpoint(reactor, port, interface=address).listen(site))
    server = SSL4ServerEndpoint(reactor, port, Certified(context), interface=address)
    return cast("Deferred[IListeningPort]", server.listen(site))


@implementer(IOpenSSLServerConnectionCreator)
@frozen
class Certified:
    """TLS of a server, from its context."""

    context: SSL.Context

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self.context, None)


def main(arguments: Sequence[str]) -> None:
    """Serves until it is told to stop."""
    parser = argparse.ArgumentParser(prog="tproxy.testing.tokens", description="A token endpoint for tests.")
    parser.add_argument("--listen", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--certificate", type=Path, help="PEM file; without it the endpoint speaks http")
    parser.add_argument("--key", type=Path, help="PEM file of the private key, if the other has none")
    parser.add_argument("--client-id", default="client")
    parser.add_argument("--client-secret", default="secret")
    parser.add_argument("--seconds", type=int, default=3600, help="how long a token lives")
    parser.add_argument("--username", default="", help="whose tokens they are")
    options = parser.parse_args(arguments)
    context = None
    if options.certificate is not None:
        context = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate_chain_file(options.certificate)
        context.use_privatekey_file(options.key or options.certificate)

    async def run(reactor: Any) -> None:
        client = (options.client_id, options.client_secret)
        endpoint = TokenEndpoint(reactor, client, options.seconds, options.username)
        port = await serve(reactor, endpoint, options.listen, options.port, context)
        scheme = "https" if context else "http"
        print(f"{scheme}://{options.listen}:{cast(IPv4Address, port.getHost()).port}/token", flush=True)
        await Deferred()

    react(lambda reactor: Deferred.fromCoroutine(run(reactor)))


def read(request: Request) -> Asked:
    """A request as it came: form and queries with all their values, headers with their last."""
    headers = request.requestHeaders.getAllRawHeaders()
    return Asked(
        _fields(cast(IO[bytes], request.content).read()),
        _fields(urlsplit(request.uri).query),
        {name.decode("latin-1").lower(): values[-1].decode("latin-1") for name, values in headers},
    )


def last(fields: Mapping[str, Sequence[str]], name: str) -> str:
    """The last value of a field, or the empty string."""
    return fields.get(name, [""])[-1]


def _fields(encoded: bytes) -> dict[str, list[str]]:
    return parse_qs(encoded.decode("utf-8", "replace"), keep_blank_values=True)


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, blob = authorization.partition(" ")
    try:
        user, _, password = b64decode(blob if scheme == "Basic" else "").decode().partition(":")
    except ValueError:
        return ("", "")
    return unquote_plus(user), unquote_plus(password)


if __name__ == "__main__":
    main(sys.argv[1:])

"""A token endpoint for demos and tests: gives opaque bearer tokens, and every fault on demand.

In a test, put a `TokenEndpoint` into a `twisted.web.server.Site`; on the command line:

    python -m tproxy.testing.tokens --port 8443 --certificate server.pem --key server.key

`POST /token` is the grant (RFC 6749, section 4.4), `POST /introspect` tells whether a token is good (RFC 7662), as
does `GET /tokeninfo?access_token=…`.
"""

from __future__ import annotations

import argparse
import json
import sys
from base64 import b64decode
from binascii import Error
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from secrets import token_urlsafe
from typing import IO, Any, cast
from urllib.parse import parse_qs, unquote_plus, urlsplit

from attrs import frozen
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


class TokenEndpoint(Resource):
    """Issues tokens to one client.

    `answers` are given first, one a request; `asked` are the requests so far.

    @param clock: delays answers and ages tokens
    @param client: the client's id and secret
    @param seconds: the life of a token; None: the answer does not say, and it lives on
    @param username: whose tokens they are, for introspection
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
        self._clock = clock
        self._client = client
        self._username = username
        self._tokens: dict[str, float] = {}

    def valid(self, token: str) -> bool:
        """Whether this endpoint issued the token and it is still good."""
        return self._clock.seconds() < self._tokens.get(token, float("-inf"))

    def revoke(self) -> None:
        """Makes all tokens issued so far worthless."""
        self._tokens.clear()

    def issue(self) -> str:
        """A fresh token."""
        token = token_urlsafe(32)
        self._tokens[token] = self._clock.seconds() + (float("inf") if self.seconds is None else self.seconds)
        return token

    def render_POST(self, request: Request) -> bytes | int:
        if request.path == b"/introspect":
            return self._say(request, self._introspect(_last(_form(request), "token")))
        form = _form(request)
        headers = request.requestHeaders.getAllRawHeaders()
        self.asked.append(
            Asked(form, _queries(request), {name.decode().lower(): values[-1].decode() for name, values in headers})
        )
        answer = self.answers.popleft() if self.answers else self._grant(request, form)
        return self._say(request, answer)

    def render_GET(self, request: Request) -> bytes | int:
        return self._say(request, self._introspect(_last(_queries(request), "access_token")))

    def _grant(self, request: Request, form: Mapping[str, Sequence[str]]) -> Answer:
        if _last(form, "grant_type") != "client_credentials":
            return oauth_error(400, "unsupported_grant_type")
        in_body = (_last(form, "client_id"), _last(form, "client_secret"))
        if self._client not in (in_body, _basic(request)):
            return oauth_error(401, "invalid_client", "the client is not known or its secret is wrong")
        fields: dict[str, object] = {"access_token": self.issue(), "token_type": "Bearer"}
        if self.seconds is not None:
            fields["expires_in"] = self.seconds
        return Answer(200, (("Content-Type", JSON), ("Cache-Control", "no-store")), json.dumps(fields).encode())

    def _introspect(self, token: str) -> Answer:
        fields: dict[str, object] = {"active": False}
        if self.valid(token):
            fields = {"active": True, "client_id": self._client[0], "token_type": "Bearer"}
            fields |= {"username": self._username, "sub": self._username} if self._username else {}
        return Answer(200, (("Content-Type", JSON),), json.dumps(fields).encode())

    def _say(self, request: Request, answer: Answer) -> bytes | int:
        request.setResponseCode(answer.status)
        for name, value in answer.headers:
            request.setHeader(name.encode(), value.encode())
        request.setHeader(b"Content-Length", str(len(answer.body)).encode())
        if answer.after == 0:
            return answer.body
        gone = request.notifyFinish()
        if answer.after is not None:
            later = self._clock.callLater(answer.after, self._finish, request, answer.body)
            gone.addErrback(lambda _: later.cancel())
        else:
            gone.addErrback(lambda _: None)
        return NOT_DONE_YET

    def _finish(self, request: Request, body: bytes) -> None:
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
    server = SSL4ServerEndpoint(reactor, port, _Certified(context), interface=address)
    return cast("Deferred[IListeningPort]", server.listen(site))


@implementer(IOpenSSLServerConnectionCreator)
@frozen
class _Certified:
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


def _form(request: Request) -> dict[str, list[str]]:
    return parse_qs(cast(IO[bytes], request.content).read().decode(), keep_blank_values=True)


def _queries(request: Request) -> dict[str, list[str]]:
    return parse_qs(urlsplit(request.uri.decode()).query, keep_blank_values=True)


def _last(fields: Mapping[str, Sequence[str]], name: str) -> str:
    return fields.get(name, [""])[-1]


def _basic(request: Request) -> tuple[str, str]:
    scheme, _, blob = (request.getHeader(b"authorization") or b"").decode("latin-1").partition(" ")
    try:
        user, _, password = b64decode(blob if scheme == "Basic" else "").decode().partition(":")
    except (Error, UnicodeDecodeError):
        return ("", "")
    return unquote_plus(user), unquote_plus(password)


if __name__ == "__main__":
    main(sys.argv[1:])

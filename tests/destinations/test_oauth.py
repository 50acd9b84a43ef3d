"""Grants of OAuth 2.0: what is sent, what is understood, what is said about failures."""

from __future__ import annotations

import json
from base64 import b64encode
from itertools import product
from urllib.parse import quote, quote_plus

from attrs import evolve
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tproxy.destinations.answers import DEFAULT_LIFE, LONGEST_LIFE, QUOTE_LIMIT
from tproxy.destinations.circuits import HostRestsError
from tproxy.destinations.oauth import (
    Token,
    TokenService,
    TokenUnavailableError,
    read,
    request,
    shown,
)
from tproxy.model import Code, Grant, GrantKind, Reason, Refusal, RefusedError, Secret, Stage
from tproxy.net.http import Answer, Client, TooLargeError, TooSlowError
from tproxy.testing.tokens import (
    BROKEN,
    LOGIN_PAGE,
    TRUNCATED,
    TokenEndpoint,
    busy,
    oauth_error,
    redirect,
)
from tproxy.testing.tokens import Answer as endpoint_answer

URL = "https://login.example.com/token?v=2"
SECRET = "pässw/rd+&=%canary"
GRANT = Grant(URL, "client", Secret("secret"))
REFRESH = evolve(GRANT, kind=GrantKind.REFRESH_TOKEN, offered=Secret("offered"))
CODE = evolve(GRANT, kind=GrantKind.AUTHORIZATION_CODE, offered=Secret("offered"))
PUBLIC = Secret("")


def answer(status: int, body: object, kind: str = "application/json", **headers: str) -> Answer:
    octets = body if isinstance(body, bytes) else json.dumps(body).encode()
    values = {b"Content-Type": [kind.encode()]} | {
        name.replace("_", "-").encode(): [value.encode()] for name, value in headers.items()
    }
    return Answer(status, Headers(values), octets)


class RequestTests(SynchronousTestCase):
    """What is sent."""

    def test_in_the_body(self) -> None:
        """By default the credentials are form fields and there is no Authorization header."""
        sent = request(evolve(GRANT, scope="mail", body=(("resource", Secret("urn:x")),)))
        self.assertEqual(
            sent.form,
            (
                ("grant_type", "client_credentials"),
                ("client_id", "client"),
                ("client_secret", "secret"),
                ("scope", "mail"),
                ("resource", "urn:x"),
            ),
        )
        self.assertEqual(sent.headers, {"accept": "application/json"})
        self.assertEqual(sent.url, URL)

    def test_in_the_header(self) -> None:
        """addClientCredentialsInBody=false: HTTP Basic, and nothing of them in the body."""
        sent = request(evolve(GRANT, credentials_in_body=False))
        self.assertEqual(sent.form, (("grant_type", "client_credentials"),))
        self.assertEqual(sent.headers["authorization"], "Basic " + b64encode(b"client:secret").decode())
        self.assertNotIn("x-cf-encoded-credentials", sent.headers)

    def test_form_encoded_in_the_header(self) -> None:
        """RFC 6749, section 2.3.1, wants them form-encoded first; UAA wants to be told of that."""
        grant = evolve(GRANT, client_id="a:b", client_secret=Secret(SECRET), credentials_in_body=False)
        sent = request(grant)
        blob = b64encode(f"a%3Ab:{quote_plus(SECRET)}".encode()).decode()
        self.assertEqual(sent.headers["authorization"], "Basic " + blob)
        self.assertEqual(sent.headers["x-cf-encoded-credentials"], "true")

    def test_refresh_token(self) -> None:
        """The application's refresh token is exchanged by the client (RFC 6749, section 6)."""
        client = (("client_id", "client"), ("client_secret", "secret"))
        head = (("grant_type", "refresh_token"), ("refresh_token", "offered"))
        self.assertEqual(request(evolve(REFRESH, scope="mail")).form, (*head, *client, ("scope", "mail")))
        sent = request(evolve(REFRESH, credentials_in_body=False))
        self.assertEqual((sent.form, sent.headers), (head, request(evolve(GRANT, credentials_in_body=False)).headers))

    def test_authorization_code(self) -> None:
        """The application's code is, with the redirect_uri that belongs to it (RFC 6749, section 4.1.3)."""
        client = (("client_id", "client"), ("client_secret", "secret"))
        head = (("grant_type", "authorization_code"), ("code", "offered"))
        self.assertEqual(request(CODE).form, (*head, *client))
        uri = "https://app.example/back"
        self.assertEqual(request(evolve(CODE, redirect_uri=uri)).form, (*head, ("redirect_uri", uri), *client))

    def test_without_a_secret(self) -> None:
        """A client that has none names itself in the body alone, wherever secrets would go."""
        for grant, in_body in product((GRANT, REFRESH, CODE), (True, False)):
            sent = request(evolve(grant, client_secret=PUBLIC, credentials_in_body=in_body))
            self.assertEqual(
                sent.form, tuple(field for field in request(grant).form if field != ("client_secret", "secret"))
            )
            self.assertEqual(sent.headers, {"accept": "application/json"})
        grant = evolve(REFRESH, client_secret=PUBLIC, credentials_in_body=False, user="u", password=Secret("pw"))
        sent = request(grant)
        self.assertEqual(sent.headers["authorization"], "Basic " + b64encode(b"u:pw").decode())
        self.assertIn(("client_id", "client"), sent.form)

    def test_nothing_to_send(self) -> None:
        """A grant that lacks its URL, or what the application brings, is nothing to send."""
        for grant in (
            *(evolve(grant, url="") for grant in (GRANT, REFRESH, CODE)),
            *(evolve(grant, offered=None) for grant in (REFRESH, CODE)),
        ):
            self.assertRaises(ValueError, request, grant)

    def test_user_of_the_token_service(self) -> None:
        """tokenServiceUser has the header for itself."""
        grant = evolve(GRANT, user="us%er", password=Secret(SECRET))
        blob = "Basic " + b64encode(f"us%er:{SECRET}".encode()).decode()
        for in_body, fields in ((True, 3), (False, 1)):
            sent = request(evolve(grant, credentials_in_body=in_body))
            self.assertEqual((sent.headers["authorization"], len(sent.form)), (blob, fields))

    def test_headers_and_queries(self) -> None:
        """The document's own are added; a header of its own replaces ours."""
        grant = evolve(
            GRANT, headers=(("ACCEPT", Secret("*/*")), ("X-Zone", Secret("z"))), queries=(("q", Secret("1")),)
        )
        sent = request(grant)
        self.assertEqual(sent.headers, {"accept": "*/*", "x-zone": "z"})
        self.assertEqual(sent.queries, (("q", "1"),))

    def test_never_printed(self) -> None:
        """A request does not show itself."""
        for grant in (GRANT, REFRESH, CODE):
            self.assertEqual(repr(request(grant)), "TokenRequest('***')")


class ReadTests(SynchronousTestCase):
    """What is understood."""

    def refusal(self, said: Answer, grant: Grant = GRANT) -> Refusal:
        return self.assertRaises(RefusedError, read, said, grant, 0.0).refusal

    def test_token(self) -> None:
        """A bearer token with its life, however the endpoint spells these."""
        for fields, seconds in (
            ({"token_type": "bearer", "expires_in": 3599}, 3599),
            ({"token_type": "BEARER", "expires_in": "60"}, 60),
            ({"expires_in": 1.5}, 1.5),
            ({"expires_in": 10**9}, LONGEST_LIFE),
            ({}, DEFAULT_LIFE),
            ({"expires_in": None}, DEFAULT_LIFE),
            ({"expires_in": True}, DEFAULT_LIFE),
            ({"expires_in": "soon"}, DEFAULT_LIFE),
            ({"expires_in": "nan"}, DEFAULT_LIFE),
            ({"expires_in": 10**400}, DEFAULT_LIFE),
            ({"expires_in": []}, DEFAULT_LIFE),
        ):
            self.assertEqual(
                read(answer(200, {"access_token": "t0k~"} | fields), GRANT, 0.0), Token(Secret("t0k~"), seconds)
            )

    def test_refresh_token_in_the_answer(self) -> None:
        """It belongs to the application, and is left alone."""
        said = answer(200, {"access_token": "t", "refresh_token": "new"})
        self.assertEqual(read(said, REFRESH, 0.0), Token(Secret("t")))

    def test_media_types(self) -> None:
        """JSON under its names, with or without parameters and a byte order mark."""
        body = b'\xef\xbb\xbf{"access_token": "t"}'
        for kind in ("application/json;charset=utf-8", "Application/JSON", "application/vnd.x+json"):
            self.assertEqual(read(answer(200, body, kind), GRANT, 0.0).value, Secret("t"))

    def test_garbage(self) -> None:
        """What holds no usable token is an endpoint that is not there for now."""
        for said, words in (
            (answer(200, {"access_token": "t"}, "text/html"), "without a JSON object"),
            (answer(200, b"{"), "without a JSON object"),
            (answer(200, b"[" * 100_000), "without a JSON object"),
            (answer(200, b"\xff"), "without a JSON object"),
            (answer(200, ["t"]), "without a JSON object"),
            (answer(200, b'{"access_token": "t", "expires_in": NaN}'), "without a JSON object"),
            (answer(200, {"token": "t"}), "without a usable access_token"),
            (answer(200, {"access_token": 1}), "without a usable access_token"),
            (answer(200, {"access_token": "a b"}), "without a usable access_token"),
            (answer(200, {"access_token": "a\x01"}), "without a usable access_token"),
            (answer(200, {"access_token": "t", "token_type": "mac"}), "no bearer token"),
            (answer(200, {"access_token": "t", "token_type": 1}), "no bearer token"),
            (answer(200, {"access_token": "t", "expires_in": 0}), "expired already"),
            (answer(302, b"", Location="https://elsewhere"), "not followed"),
            (answer(400, b"<h1>", "text/html"), "HTTP 400"),
            (answer(418, {"error": 1}), "HTTP 418"),
            (answer(201, {}), "HTTP 201"),
        ):
            refusal = self.refusal(said)
            self.assertEqual(refusal.reason, Reason.TOKEN_UNAVAILABLE)
            self.assertIn(words, refusal.message)
            self.assertIn("login.example.com", refusal.message)

    def test_refused(self) -> None:
        """An answer of OAuth, or of HTTP where it is one about us, is final."""
        for said, words in (
            (answer(400, {"error": "invalid_scope", "error_description": "no such scope"}), "invalid_scope - no such"),
            (answer(401, {"error": "invalid_client"}), "invalid_client"),
            (answer(200, {"error": "bad_verification_code"}), "bad_verification_code"),
            (answer(401, b"", "text/plain"), "HTTP 401"),
            (answer(403, {"error": []}), "HTTP 403"),
            (answer(404, b"<h1>", "text/html"), "HTTP 404"),
        ):
            refusal = self.refusal(said)
            self.assertEqual(refusal.reason, Reason.TOKEN_REFUSED)
            self.assertEqual((refusal.stage, refusal.code), (Stage.RESOLVE, Code.AUTHENTICATION_FAILED))
            self.assertIn(words, refusal.message)
            self.assertTrue(refusal.remedy)

    def test_stale(self) -> None:
        """Where the application's part is no good, the remedy is its; nobody else's grant is told so."""
        said = answer(400, {"error": "invalid_grant", "error_description": "offered is expired"})
        words = "has expired, was revoked or used already, or is for another clientId or redirectUri"
        for grant, kind in ((REFRESH, "refresh token"), (CODE, "authorization code")):
            refusal = self.refusal(said, grant)
            self.assertEqual((refusal.reason, refusal.code), (Reason.TOKEN_REFUSED, Code.AUTHENTICATION_FAILED))
            self.assertEqual(
                refusal.message,
                "the token endpoint at login.example.com refused the grant: invalid_grant - *** is expired",
            )
            self.assertEqual(refusal.remedy, f"have the application send a new {kind}: what it sent {words}")
        self.assertEqual(self.refusal(said).remedy, "correct the destination")

    def test_remedies(self) -> None:
        """What to do names the kind of grant, where that matters."""
        for grant, kind in ((GRANT, "client credentials"), (REFRESH, "refresh token"), (CODE, "authorization code")):
            for error, remedy in (
                ("unauthorized_client", f"allow the {kind} grant for this client at the provider"),
                ("unsupported_grant_type", f"use a tokenServiceURL that knows the {kind} grant"),
                ("unheard_of", "correct the destination"),
            ):
                self.assertEqual(self.refusal(answer(400, {"error": error}), grant).remedy, remedy)

    def test_outages(self) -> None:
        """Too many requests, errors of the server, and those that say so: later, when the endpoint likes."""
        for said, pause in (
            (answer(429, b"", Retry_After="7"), 7),
            (answer(429, {"error": "invalid_client"}), 0),
            (answer(503, b"", Retry_After="Thu, 01 Jan 1970 00:00:30 GMT"), 30),
            (answer(500, b"", Retry_After="never"), 0),
            (answer(400, {"error": "temporarily_unavailable"}), 0),
            (answer(404, b"", X_Cf_RouterError="unknown_route", Retry_After="3"), 3),
        ):
            error = self.assertRaises(TokenUnavailableError, read, said, GRANT, 0.0)
            self.assertEqual((error.refusal.reason, error.retry_after), (Reason.TOKEN_UNAVAILABLE, pause))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("access_token", "token_type", "expires_in", "error", "error_description"), JSON)
)
BODIES = (
    st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | FIELDS.map(lambda value: json.dumps(value).encode())
)
STATUS = st.sampled_from([200, 204, 301, 400, 401, 403, 404, 418, 429, 500, 503]) | st.integers(100, 599)
KINDS = st.sampled_from(["application/json", "application/json; charset=x", "text/html", ""])


class AnyAnswerTests(SynchronousTestCase):
    """Whatever an endpoint sends."""

    @settings(deadline=None)
    @given(STATUS, BODIES, KINDS, st.binary())
    def test_a_token_or_a_refusal(self, status: int, body: bytes, kind: str, pause: bytes) -> None:
        """There is a usable token or a refusal in one printable line, and nothing else is raised."""
        headers = Headers(
            {b"Content-Type": [kind.encode()], b"Retry-After": [pause.replace(b"\n", b"").replace(b"\r", b"")]}
        )
        try:
            token = read(Answer(status, headers, body), GRANT, 0.0)
        except RefusedError as error:
            self.assertIn(error.refusal.reason, (Reason.TOKEN_REFUSED, Reason.TOKEN_UNAVAILABLE))
            self.assertTrue(error.refusal.message.isprintable())
            self.assertLess(len(error.refusal.message), 3 * QUOTE_LIMIT)
        else:
            self.assertTrue(0 < token.seconds <= LONGEST_LIFE)
            self.assertTrue(token.value.reveal().isascii())

    @settings(deadline=None)
    @given(st.data(), st.text('kqxzw-+/=%&é"\\<', min_size=6), st.sampled_from(range(7)))
    def test_no_secret_comes_back(self, data: st.DataObject, secret: str, place: int) -> None:
        """However the endpoint echoes a secret of the grant, the message does not hold it."""
        other = Secret("unrelated")
        grant = [
            evolve(GRANT, client_secret=Secret(secret)),
            evolve(GRANT, user="u", password=Secret(secret)),
            evolve(GRANT, headers=(("X", Secret(secret)), ("Y", other))),
            evolve(GRANT, queries=(("x", Secret(secret)),)),
            evolve(GRANT, body=(("x", Secret(secret)),)),
            evolve(REFRESH, offered=Secret(secret)),
            evolve(CODE, offered=Secret(secret)),
        ][place]
        spelling = data.draw(
            st.sampled_from(
                [
                    secret,
                    quote(secret),
                    quote(secret, safe=""),
                    quote_plus(secret).lower(),
                    b64encode(secret.encode()).decode(),
                    secret.encode().hex().upper(),
                ]
            )
        )
        assume("***" not in spelling)
        around = data.draw(st.text("ab \x1b\n")), data.draw(st.text("ab \x1b\n"))
        said = answer(400, {"error": "invalid_client", "error_description": spelling.join(around)})
        message = self.assertRaises(RefusedError, read, said, grant, 0.0).refusal.message
        for text in (secret, spelling.rstrip("=")):
            self.assertNotIn(text, message)
        self.assertTrue("***" in message or "repeat a secret" in message)


class ShownTests(SynchronousTestCase):
    """Foreign words in a message."""

    def test_escaped(self) -> None:
        """Control characters and what turns the writing direction are spelled out."""
        self.assertEqual(shown("a\x1b[2J\r\n\u202e é", GRANT), "a\\x1b[2J\\r\\n\\u202e é")

    def test_cut(self) -> None:
        """Long words are cut, after the secrets were taken out of them."""
        text = shown("x" * (QUOTE_LIMIT - 8) + "secret" * 2, GRANT)
        self.assertEqual(len(text), QUOTE_LIMIT - 2)
        self.assertTrue(shown("y" * 1000, GRANT).endswith("y…"))
        self.assertEqual(len(shown("\x00" * 1000, GRANT)), QUOTE_LIMIT)

    def test_spelt_otherwise(self) -> None:
        """A secret that cannot be cut out of the text takes the text with it."""
        for text in ("a %73ecret", "a s&#101;cret", "a s\\ecret"):
            self.assertEqual(shown(text, GRANT), "(its words repeat a secret)")

    def test_no_secret(self) -> None:
        """Where there is none to cut out, the words stay as they are."""
        words = "no log of Y2xpZW50Og or 3A"
        for client_id in ("client", ""):
            self.assertEqual(shown(words, evolve(GRANT, client_id=client_id, client_secret=PUBLIC)), words)

    def test_pairs(self) -> None:
        """The Authorization header does not come back either."""
        grant = evolve(GRANT, user="u", password=Secret("pw"))
        for pair in (b"client:secret", b"u:pw"):
            self.assertEqual(shown("got Basic " + b64encode(pair).decode().rstrip("="), grant), "got Basic ***")


@implementer(IAgent)
class Failing:
    """An agent that reaches nobody."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        return fail(self.error)


class TokenServiceTests(SynchronousTestCase):
    """A grant from end to end, with the stand-in endpoint."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = TokenEndpoint(self.clock)
        agent = RequestTraversalAgent(self.endpoint)
        self.service = TokenService(lambda grant: Client(agent, self.clock).ask, lambda: 0.0)

    def test_both_ways_of_authentication(self) -> None:
        """The endpoint knows the client by body or by header."""
        for in_body in (True, False):
            token = self.successResultOf(self.service.fetch(evolve(GRANT, credentials_in_body=in_body)))
            self.assertTrue(self.endpoint.valid(token.value.reveal()))
            self.assertEqual(token.seconds, 3600)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_everything_arrives(self) -> None:
        """Queries beside those of the URL, headers, and the body's bytes."""
        grant = evolve(
            GRANT,
            scope="a b",
            headers=(("X-Zone", Secret("z")),),
            queries=(("api-version", Secret("1&2")),),
            body=(("resource", Secret(SECRET)),),
        )
        self.successResultOf(self.service.fetch(grant))
        (asked,) = self.endpoint.asked
        self.assertEqual(asked.queries, {"v": ["2"], "api-version": ["1&2"]})
        self.assertEqual(asked.form["resource"], [SECRET])
        self.assertEqual(asked.form["scope"], ["a b"])
        self.assertEqual(asked.headers["x-zone"], "z")
        self.assertEqual(asked.headers["content-type"], "application/x-www-form-urlencoded")
        self.assertNotIn("accept-encoding", asked.headers)

    def test_what_the_application_brings(self) -> None:
        """It arrives byte for byte, once."""
        body = json.dumps({"access_token": "t", "refresh_token": "new"}).encode()
        offered = "1/a+b &=%"
        for grant, field in ((REFRESH, "refresh_token"), (CODE, "code")):
            self.endpoint.answers.append(endpoint_answer(200, (("Content-Type", "application/json"),), body))
            token = self.successResultOf(self.service.fetch(evolve(grant, offered=Secret(offered))))
            self.assertEqual(token, Token(Secret("t")))
            asked = self.endpoint.asked.pop()
            self.assertEqual((asked.form["grant_type"], asked.form[field]), ([grant.kind.value], [offered]))
        self.assertEqual(self.endpoint.asked, [])

    def test_nothing_to_send(self) -> None:
        """A grant that cannot be run asks nobody."""
        self.failureResultOf(self.service.fetch(evolve(REFRESH, offered=None)), ValueError)
        self.assertEqual(self.endpoint.asked, [])

    def test_faults(self) -> None:
        """Each fault of the endpoint is the refusal that belongs to it."""
        for fault, reason in (
            (oauth_error(400, "invalid_scope", "x"), Reason.TOKEN_REFUSED),
            (oauth_error(401, "invalid_client"), Reason.TOKEN_REFUSED),
            (busy("3"), Reason.TOKEN_UNAVAILABLE),
            (BROKEN, Reason.TOKEN_UNAVAILABLE),
            (LOGIN_PAGE, Reason.TOKEN_UNAVAILABLE),
            (TRUNCATED, Reason.TOKEN_UNAVAILABLE),
            (redirect("https://login.example.com/elsewhere"), Reason.TOKEN_UNAVAILABLE),
        ):
            self.endpoint.answers.append(fault)
            error = self.failureResultOf(self.service.fetch(GRANT), RefusedError).value
            self.assertEqual(error.refusal.reason, reason)
        self.assertEqual(len(self.endpoint.asked), 7)

    def test_no_answer(self) -> None:
        """What goes wrong below HTTP is told in our words, with the name of the error at most."""
        verifyObject(IAgent, Failing(ConnectionLost()))
        unreachable = RefusedError(Refusal(Stage.CONNECT, Reason.ADDRESS_REFUSED, "10.1.2.3 is private", "allow it"))
        for error, words in (
            (unreachable, "is out of reach: 10.1.2.3 is private"),
            (ConnectionLost("canary"), "broke off or broke HTTP (ConnectionLost)"),
            (ResponseFailed([Failure(TooLargeError())]), "sends more than a token's worth"),
            (ResponseFailed([Failure(TooSlowError())]), "is too slow"),
            (ResponseFailed([Failure(ValueError("canary"))]), "broke HTTP (ValueError)"),
        ):
            agent = Failing(error)
            service = TokenService(lambda grant, agent=agent: Client(agent, self.clock).ask, lambda: 0.0)
            refused = self.failureResultOf(service.fetch(GRANT), TokenUnavailableError).value
            self.assertIn(words, refused.refusal.message)
            self.assertNotIn("canary", refused.refusal.message)

    def test_host_that_rests(self) -> None:
        """How long a host is left alone is known to who asked for a token."""
        service = TokenService(lambda grant: Client(Failing(HostRestsError("login", 7.0)), self.clock).ask, lambda: 0.0)
        refused = self.failureResultOf(service.fetch(GRANT), TokenUnavailableError).value
        self.assertEqual(refused.retry_after, 7.0)

    def test_deadline(self) -> None:
        """An endpoint that never answers is given up."""

        @implementer(IAgent)
        class Silent:
            def request(
                self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: object = None
            ) -> Deferred[IResponse]:
                return Deferred()

        agent = Silent()
        verifyObject(IAgent, agent)
        fetched = TokenService(lambda grant: Client(agent, self.clock).ask, lambda: 0.0).fetch(GRANT)
        self.clock.advance(29)
        self.assertNoResult(fetched)
        self.clock.advance(2)
        self.assertIn("is too slow", self.failureResultOf(fetched, TokenUnavailableError).value.refusal.message)

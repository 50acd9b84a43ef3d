"""Grants of OAuth 2.0: what is sent, and what comes of it."""

from __future__ import annotations

import json
from base64 import b64encode
from itertools import product
from urllib.parse import quote_plus

from attrs import evolve
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

from tests.destinations.grants import CODE, GRANT, PUBLIC, REFRESH, SECRET, URL
from tproxy.destinations.circuits import HostRestsError
from tproxy.destinations.oauth import Token, TokenService, TokenUnavailableError, request
from tproxy.model import Reason, Refusal, RefusedError, Secret, Stage
from tproxy.net.http import Client, TooLargeError, TooSlowError
from tproxy.testing.tokens import BROKEN, LOGIN_PAGE, TRUNCATED, TokenEndpoint, busy, oauth_error, redirect
from tproxy.testing.tokens import Answer as endpoint_answer


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

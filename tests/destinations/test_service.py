"""The Destination service: how it is asked, and whose fault a refusal is."""

from __future__ import annotations

import json

from attrs import evolve
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseFailed
from twisted.web.resource import Resource
from twisted.web.server import Request

from tests.destinations.answers import ACME, DOCUMENT, FOUND, JSON, KEY, NOT_ACCEPTED, NOT_FOUND, REQUEST, answer
from tproxy.destinations.circuits import HostRestsError
from tproxy.destinations.inquiry import token_grant
from tproxy.destinations.keys import ServiceKey
from tproxy.destinations.oauth import TokenRefusedError, TokenUnavailableError
from tproxy.destinations.service import DestinationService
from tproxy.model import (
    PROVIDER,
    Code,
    DestinationRequest,
    Grant,
    GrantKind,
    Offered,
    Reason,
    Refusal,
    RefusedError,
    Secret,
    Stage,
)
from tproxy.net.http import Answer, Client, TooLargeError, TooSlowError

REFUSAL = Refusal(Stage.RESOLVE, Reason.TOKEN_REFUSED, "the endpoint says no", "x", Code.AUTHENTICATION_FAILED)


def no_token(status: int) -> TokenRefusedError:
    return TokenRefusedError(REFUSAL, status)


class World:
    """A Destination service, its authorization server and a cache of tokens in front of that.

    `answers` and `issues` are given in turn, the latter by host; the last of each is given again and again.
    """

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.issues: dict[str, list[str | Exception]] = {"acme": ["t1", "t2", "t3"], "provider": ["p1", "p2", "p3"]}
        self.asked: list[tuple[str, str, dict[str, str], tuple[tuple[str, str], ...]]] = []
        self.issued: list[str] = []
        self.cache: dict[Grant, Secret] = {}
        self.key: ServiceKey | Exception = KEY
        self.service = DestinationService(
            "dest", self.read_key, self.token, self.forget, self.ask, lambda: 10.0, 3.0, 4.0
        )

    def read_key(self) -> ServiceKey:
        if isinstance(self.key, Exception):
            raise self.key
        return self.key

    def token(self, grant: Grant) -> Deferred[Secret]:
        if grant in self.cache:
            return succeed(self.cache[grant])
        host = grant.url.removeprefix("https://").partition(".")[0]
        self.issued.append(host)
        issues = self.issues[host]
        issue = issues.pop(0) if len(issues) > 1 else issues[0]
        if isinstance(issue, Exception):
            return fail(issue)
        self.cache[grant] = Secret(issue)
        return succeed(self.cache[grant])

    def forget(self, grant: Grant, token: Secret) -> None:
        if self.cache.get(grant) == token:
            del self.cache[grant]

    def ask(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str],
        queries: tuple[tuple[str, str], ...],
    ) -> Deferred[Answer]:
        self.asked.append((method, url.removeprefix(KEY.uri), dict(headers), queries))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return fail(answer) if isinstance(answer, Exception) else succeed(answer)

    def bearers(self) -> list[str]:
        return [headers["authorization"].removeprefix("Bearer ") for _, _, headers, _ in self.asked]


class DestinationServiceTests(SynchronousTestCase):
    """`DestinationService.find`."""

    def refusal(
        self,
        world: World,
        request: DestinationRequest = REQUEST,
        reason: Reason = Reason.STORE_UNAVAILABLE,
        pause: float = 0.0,
    ) -> Refusal:
        error = self.failureResultOf(world.service.find(request, tokens=True), RefusedError).value
        refusal = error.refusal
        self.assertEqual(refusal.reason, reason)
        self.assertEqual(refusal.stage, Stage.RESOLVE)
        unavailable = reason is Reason.STORE_UNAVAILABLE
        self.assertEqual(refusal.code, Code.UNAVAILABLE if unavailable else Code.CONTACT_ADMIN)
        self.assertEqual(getattr(error, "retry_after", 0.0), pause)
        self.assertIn("the instance dest", refusal.message)
        self.assertEqual("for the tenant 'acme'" in refusal.message, bool(request.tenant))
        self.assertTrue(refusal.remedy)
        return refusal

    def test_found(self) -> None:
        """One request with the tenant's token."""
        world = World(FOUND)
        found = self.successResultOf(world.service.find(REQUEST, tokens=False))
        self.assertEqual(found.values, DOCUMENT)
        headers = {"accept": JSON, "authorization": "Bearer t1"}
        path = "/destination-configuration/v1/destinations/mail"
        self.assertEqual(world.asked, [("GET", path, headers, (("$skipTokenRetrieval", "true"),))])
        self.assertEqual(world.cache, {token_grant(KEY, ACME, 3.0, 4.0): Secret("t1")})

    def test_offer(self) -> None:
        """What an application brought goes along."""
        world = World(FOUND)
        offer = (GrantKind.AUTHORIZATION_CODE, Offered("u", Secret("c0de")))
        self.successResultOf(
            world.service.find(REQUEST, tokens=True, offer=offer, redirect_uri="https://r", code_verifier="v")
        )
        ((_, _, headers, queries),) = world.asked
        self.assertEqual((headers["x-code"], headers["x-redirect-uri"], queries), ("c0de", "https://r", ()))
        self.assertEqual(headers["x-code-verifier"], "v")

    def test_provider(self) -> None:
        """Without a tenant the provider's own token is used."""
        world = World(FOUND)
        self.successResultOf(world.service.find(evolve(REQUEST, tenant=PROVIDER), tokens=True))
        self.assertEqual(world.bearers(), ["p1"])

    def test_rotated_key(self) -> None:
        """The key is read for each request."""
        world = World(FOUND)
        self.successResultOf(world.service.find(REQUEST, tokens=True))
        world.key = evolve(KEY, client_id="new")
        self.successResultOf(world.service.find(REQUEST, tokens=True))
        self.assertEqual(world.bearers(), ["t1", "t2"])

    def test_no_key(self) -> None:
        """A key that cannot be read or used is told as such, and nobody is asked."""
        for reason, code in (
            (Reason.STORE_UNAVAILABLE, Code.UNAVAILABLE),
            (Reason.SERVICE_KEY_INVALID, Code.CONTACT_ADMIN),
        ):
            world = World(FOUND)
            world.key = RefusedError(Refusal(Stage.RESOLVE, reason, "no key", "give one", code))
            self.assertIn(": no key", self.refusal(world, reason=reason).message)
            self.assertEqual((world.asked, world.issued), ([], []))

    def test_impossible(self) -> None:
        """A resource that cannot be sent is not, nor is a tenant without a host."""
        world = World(FOUND)
        message = self.refusal(world, evolve(REQUEST, fragment="ü"), Reason.RESOURCE_INVALID).message
        self.assertIn("spec.fragmentRef.name", message)
        world.key = evolve(KEY, url="https://192.0.2.1")
        self.refusal(world, reason=Reason.SERVICE_KEY_INVALID)
        self.assertEqual(world.asked, [])

    def test_token_renewed_once(self) -> None:
        """A token that is not accepted is dropped and tried once more anew; not a third time."""
        world = World(NOT_ACCEPTED, FOUND)
        self.successResultOf(world.service.find(REQUEST, tokens=True))
        self.assertEqual(world.bearers(), ["t1", "t2"])
        self.assertEqual(list(world.cache.values()), [Secret("t2")])
        world = World(NOT_ACCEPTED)
        message = self.refusal(world, reason=Reason.STORE_REFUSED).message
        self.assertIn("does not accept the token of the service key", message)
        self.assertEqual(world.bearers(), ["t1", "t2"])
        self.assertEqual(world.cache, {})

    def test_answers(self) -> None:
        """A refusal of the service is passed on, with its pause."""
        self.refusal(World(answer(403)), reason=Reason.STORE_REFUSED)
        self.refusal(World(NOT_FOUND), reason=Reason.DESTINATION_NOT_FOUND)
        self.refusal(World(NOT_FOUND), evolve(REQUEST, tenant=PROVIDER), Reason.DESTINATION_NOT_FOUND)
        self.refusal(World(answer(429, b"", Retry_After="7")), pause=7.0)
        self.refusal(World(answer(503, b"", Retry_After="Thu, 01 Jan 1970 00:00:30 GMT")), pause=20.0)

    def test_no_answer(self) -> None:
        """What goes wrong below HTTP is an outage, in our words."""
        private = RefusedError(Refusal(Stage.CONNECT, Reason.ADDRESS_REFUSED, "10.1.2.3 is private", "allow it"))
        for error, words in (
            (private, "out of reach: 10.1.2.3 is private"),
            (ConnectionLost("canary"), "broke off or broke HTTP (ConnectionLost)"),
            (ResponseFailed([Failure(TooLargeError())]), "sends more than a destination's worth"),
            (TooSlowError(), "is too slow"),
            (ResponseFailed([Failure(ValueError("canary"))]), "broke HTTP (ValueError)"),
        ):
            refusal = self.refusal(World(error))
            self.assertIn(words, refusal.message)
            self.assertNotIn("canary", str(refusal))

    def test_host_rests(self) -> None:
        """How long nobody is to ask is passed on."""
        self.refusal(World(HostRestsError("dest.example", 9.0)), pause=9.0)

    def test_fragment(self) -> None:
        """Where the destination is there without its fragment, it was the fragment that is not."""
        request = evolve(REQUEST, fragment="f", fragment_optional=True, chain="c")
        world = World(NOT_FOUND, FOUND)
        message = self.refusal(world, request, Reason.FRAGMENT_NOT_FOUND).message
        self.assertIn("no fragment 'f'", message)
        first, second = world.asked
        self.assertEqual((first[2]["x-fragment-name"], first[3]), ("f", ()))
        self.assertEqual(second[3], (("$skipTokenRetrieval", "true"),))
        self.assertEqual(second[2], {"accept": JSON, "authorization": "Bearer t1", "x-chain-name": "c"})

    def test_fragment_or_destination(self) -> None:
        """Where it is not, it is the destination; and where nobody can tell, nothing is said of either."""
        levels = evolve(REQUEST, fragment="f", level="instance", fragment_level="subaccount")
        world = World(NOT_FOUND)
        self.refusal(world, levels, Reason.DESTINATION_NOT_FOUND)
        self.assertEqual(len(world.asked), 2)
        self.refusal(World(NOT_FOUND, answer(503)), levels)
        world = World(answer(403))
        self.refusal(world, levels, Reason.STORE_REFUSED)
        self.assertEqual(len(world.asked), 1)

    def test_second_look_does_not_use_up_a_code(self) -> None:
        """An authorization code is sent once."""
        world = World(NOT_FOUND, FOUND)
        offer = (GrantKind.AUTHORIZATION_CODE, Offered("u", Secret("c0de")))
        self.failureResultOf(world.service.find(evolve(REQUEST, fragment="f"), tokens=True, offer=offer), RefusedError)
        self.assertEqual(["x-code" in headers for _, _, headers, _ in world.asked], [True, False])

    def assert_no_token(
        self, reason: Reason, words: str, request: DestinationRequest = REQUEST, **issues: list
    ) -> World:
        world = World(FOUND)
        world.issues |= issues
        self.assertIn(words, self.refusal(world, request, reason).message)
        self.assertEqual(world.asked, [])
        return world

    def test_tenant_not_found(self) -> None:
        """A host that is not there is a tenant that is not there."""
        world = self.assert_no_token(Reason.TENANT_NOT_FOUND, "no such tenant", acme=[no_token(404)])
        self.assertEqual(world.issued, ["acme"])

    def test_tenant_not_subscribed(self) -> None:
        """Where the key is good, the tenant is not subscribed; a kept token does not vouch for the key."""
        world = self.assert_no_token(Reason.TENANT_NOT_SUBSCRIBED, "not subscribed", acme=[no_token(401)])
        self.assertEqual(world.issued, ["acme", "provider", "provider"])

    def test_key_not_accepted(self) -> None:
        """Where it is not, it is the key, whichever host says so."""
        for status in (400, 401, 404):
            self.assert_no_token(
                Reason.SERVICE_KEY_INVALID,
                "the service key is not accepted: the endpoint says no",
                evolve(REQUEST, tenant=PROVIDER),
                provider=[no_token(status)],
            )
        self.assert_no_token(
            Reason.SERVICE_KEY_INVALID, "is not accepted", acme=[no_token(401)], provider=[no_token(401)]
        )
        self.assert_no_token(
            Reason.SERVICE_KEY_INVALID, "is not accepted", acme=[no_token(401)], provider=["kept", no_token(401)]
        )

    def test_other_refusals(self) -> None:
        """Any other refusal of the tenant's host is passed on."""
        self.assert_no_token(Reason.STORE_REFUSED, ": the endpoint says no", acme=[no_token(400)])

    def test_no_token_for_now(self) -> None:
        """An authorization server that is down is an outage, on either host, with its pause."""
        refusal = Refusal(Stage.RESOLVE, Reason.TOKEN_UNAVAILABLE, "it is down", "correct tokenServiceURL")
        down = TokenUnavailableError(refusal, 9.0)
        for issues in ({"acme": [down]}, {"acme": [no_token(401)], "provider": [down]}):
            world = World(FOUND)
            world.issues |= issues
            told = self.refusal(world, pause=9.0)
            self.assertIn(": it is down", told.message)
            self.assertEqual(told.remedy, "correct the url of the service key")


class Heard(Resource):
    """Keeps what it was asked."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.uris: list[bytes] = []
        self.headers: list[dict[bytes, list[bytes]]] = []

    def render(self, request: Request) -> bytes:
        self.uris.append(request.uri)
        self.headers.append(dict(request.requestHeaders.getAllRawHeaders()))
        request.setHeader(b"Content-Type", b"application/json")
        return json.dumps({"destinationConfiguration": {"Name": "a/b c%@"}}).encode()


class OnTheWireTests(SynchronousTestCase):
    """With the client of `tproxy.net.http`."""

    def test_as_it_is_asked(self) -> None:
        """What arrives is what was meant: one segment, one query, the headers."""
        heard = Heard()
        client = Client(RequestTraversalAgent(heard), Clock())

        def ask(*positional: str, **named: object) -> Deferred[Answer]:
            return client.ask(*positional, **named)

        def token(grant: Grant) -> Deferred[Secret]:
            return succeed(Secret("t"))

        service = DestinationService("dest", lambda: KEY, token, lambda *_: None, ask, lambda: 0.0, 3.0, 4.0)
        request = evolve(REQUEST, name="a/b c%@", fragment="f")
        self.successResultOf(service.find(request, tokens=False))
        path = b"/destination-configuration/v1/destinations/a%2Fb%20c%25%40"
        self.assertIn(heard.uris[0], (path + b"?$skipTokenRetrieval=true", path + b"?%24skipTokenRetrieval=true"))
        headers = {name.lower(): values for name, values in heard.headers[0].items()}
        self.assertEqual((headers[b"authorization"], headers[b"x-fragment-name"]), ([b"Bearer t"], [b"f"]))
        self.assertEqual(headers[b"accept"], [b"application/json"])

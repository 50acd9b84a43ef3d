"""Circuits: hosts that fail are left alone, and found again."""

from __future__ import annotations

from email.utils import formatdate

from treq.testing import RequestTraversalAgent
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from twisted.web.resource import Resource
from twisted.web.server import Request
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.logs import logged
from tproxy.destinations import circuits
from tproxy.destinations.circuits import FAILURES, Circuits, HostRestsError
from tproxy.destinations.pauses import LONGEST_RETRY_AFTER, SHORTEST_PAUSE, Jitter
from tproxy.model import Reason, Refusal, RefusedError, Stage
from tproxy.net.http import DEADLINE, Answer, Client, TooSlowError

URL = "https://service.example.com/v1/destinations/mail"
HOST = "'https://service.example.com:443'"
EPOCH = 1_700_000_000.0


def longest(least: float, most: float) -> float:
    return most


def refused(reason: Reason) -> RefusedError:
    return RefusedError(Refusal(Stage.CONNECT, reason, "no"))


class Saying(Resource):
    """Answers as it is told."""

    isLeaf = True

    def __init__(self, status: int, wanted: str) -> None:
        super().__init__()
        self.status = status
        self.wanted = wanted

    def render(self, request: Request) -> bytes:
        request.setResponseCode(self.status)
        if self.wanted:
            request.setHeader(b"Retry-After", self.wanted.encode())
        return b"body"


@implementer(IAgent)
class ByHand:
    """An agent whose requests wait for the test."""

    def __init__(self) -> None:
        self.requests: list[Deferred[IResponse]] = []
        self.asked: list[tuple[bytes, bytes]] = []

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        self.asked.append((method, uri))
        self.requests.append(Deferred())
        return self.requests[-1].addCallback(lambda saying: RequestTraversalAgent(saying).request(method, uri, headers))

    def answer(self, status: int, wanted: str = "", request: int = -1) -> None:
        self.requests[request].callback(Saying(status, wanted))


class CircuitsTests(SynchronousTestCase):
    """Against requests that are answered by hand."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.agent = ByHand()
        self.client = Client(self.agent, self.clock)
        self.circuits = self.make()

    def make(self, jitter: Jitter = longest, capacity: int = 100) -> Circuits:
        return Circuits(self.clock, lambda: EPOCH + self.clock.seconds(), jitter, capacity)

    def ask(self, url: str = URL) -> Deferred[Answer]:
        return self.circuits.ask(self.client, "GET", url)

    def says(self, status: int, wanted: str = "", url: str = URL) -> None:
        """Somebody asks and gets an answer."""
        asked = self.ask(url)
        self.agent.answer(status, wanted)
        self.assertEqual(self.successResultOf(asked).status, status)

    def fails(self, error: Exception | None = None, url: str = URL) -> None:
        """Somebody asks and gets no answer."""
        asked = self.ask(url)
        error = error or ConnectionLost()
        self.agent.requests[-1].errback(error)
        self.assertIs(self.failureResultOf(asked).value, error)

    def rests(self, seconds: float, url: str = URL) -> None:
        """Nobody may ask, and is told for how long; nothing is sent."""
        sent = len(self.agent.requests)
        error = self.failureResultOf(self.ask(url), HostRestsError).value
        self.assertAlmostEqual(error.retry_after, seconds)
        self.assertEqual(len(self.agent.requests), sent)

    def opens(self, url: str = URL) -> None:
        """The host fails often enough."""
        for _ in range(FAILURES):
            self.fails(url=url)

    def test_as_the_client(self) -> None:
        """What is asked and answered goes through as it is."""
        verifyObject(IAgent, self.agent)
        asked = self.circuits.ask(self.client, "GET", URL, queries=[("a", "b")])
        self.agent.answer(200)
        answer = self.successResultOf(asked)
        self.assertEqual((answer.status, answer.body), (200, b"body"))
        self.assertEqual(self.agent.asked, [(b"GET", f"{URL}?a=b".encode())])

    def test_opens_after_failures_in_a_row(self) -> None:
        """Each kind of failure counts, and is handed on; an answer in between makes them forgotten."""
        for _ in range(2):
            self.fails()
            self.fails(refused(Reason.CONNECTION_FAILED))
            self.says(429)
            self.says(500)
            self.says(404)
        self.fails(refused(Reason.NAME_NOT_RESOLVED))
        self.fails(refused(Reason.TIMED_OUT))
        self.says(502)
        self.says(500, "60")
        slow = self.ask()
        self.clock.advance(DEADLINE)
        self.failureResultOf(slow, TooSlowError)
        self.rests(1.0)

    def test_refusal(self) -> None:
        """It is said in words that stay the same, so that a status does not change with every look."""
        self.opens()
        said = set()
        for _ in range(2):
            error = self.failureResultOf(self.ask(), HostRestsError).value
            said.add(error.refusal)
            self.clock.advance(0.5)
        [refusal] = said
        self.assertEqual((refusal.stage, refusal.reason), (Stage.RESOLVE, Reason.STORE_UNAVAILABLE))
        self.assertEqual(refusal.message, f"{HOST} failed, so it is left alone for a while")

    def test_answers_close(self) -> None:
        """Whatever the host says about a request, it is there."""
        for status in (200, 302, 400, 401, 403, 404):
            for _ in range(FAILURES - 1):
                self.fails()
            self.says(status)
        self.fails()
        self.assertNoResult(self.ask())

    def test_what_the_asker_brought(self) -> None:
        """Somebody's own trust or URL says nothing about the host, good or bad."""
        for _ in range(FAILURES - 1):
            self.fails()
        for reason in (Reason.CERTIFICATE_UNTRUSTED, Reason.ADDRESS_REFUSED, Reason.TLS_FAILED):
            self.fails(refused(reason))
        self.fails()
        self.rests(1.0)
        self.clock.advance(1)
        self.fails(refused(Reason.CERTIFICATE_UNTRUSTED))
        self.says(200)
        self.says(200)

    def test_retry_after(self) -> None:
        """A host that asks for a pause gets it at once, in seconds or until a date, up to an hour."""
        for status, wanted, seconds in (
            (429, "120", 120.0),
            (503, formatdate(EPOCH + 90, usegmt=True), 90.0),
            (503, "99999", LONGEST_RETRY_AFTER),
        ):
            self.clock = Clock()
            self.circuits = self.make()
            self.says(status, wanted)
            self.rests(seconds)
            self.clock.advance(seconds - 1)
            self.rests(1.0)
            self.clock.advance(1)
            self.assertNoResult(self.ask())

    def test_no_time(self) -> None:
        """A pause of no seconds is a failure like another."""
        self.says(429, "0")
        self.says(503, "soon")
        self.says(200)

    def test_probe(self) -> None:
        """After the rest one goes first, the others follow when it was answered."""
        self.opens()
        self.clock.advance(0.5)
        self.rests(0.5)
        self.clock.advance(0.5)
        probe = self.ask()
        self.assertNoResult(probe)
        self.rests(0.0)
        self.agent.answer(404)
        self.assertEqual(self.successResultOf(probe).status, 404)
        self.says(200)
        self.fails()
        self.assertNoResult(self.ask())

    def test_rests_longer(self) -> None:
        """Each probe that fails doubles the rest, up to 30 s, and what the host asks for is obeyed."""
        self.opens()
        for seconds in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
            self.rests(seconds)
            self.clock.advance(seconds)
            self.fails()
        self.clock.advance(30)
        self.says(503, "300")
        self.rests(300.0)
        self.clock.advance(300)
        self.says(200)
        self.opens()
        self.rests(1.0)

    def test_jitter(self) -> None:
        """The rest is drawn, and never too short."""
        for jitter, seconds in ((lambda least, most: least, 0.5), (lambda least, most: 0.0, SHORTEST_PAUSE)):
            self.circuits = self.make(jitter)
            self.opens()
            self.rests(seconds)

    def test_cancelled(self) -> None:
        """Who leaves ends the request, which is no failure."""
        for _ in range(FAILURES):
            asked = self.ask()
            asked.cancel()
            self.failureResultOf(asked, CancelledError)
            self.assertTrue(self.agent.requests[-1].called)
        self.says(200)

    def test_cancelled_probe(self) -> None:
        """The next one may try, and the rest does not begin anew."""
        self.opens()
        self.clock.advance(1)
        probe = self.ask()
        probe.cancel()
        self.failureResultOf(probe, CancelledError)
        self.fails()
        self.rests(2.0)

    def test_many_at_once(self) -> None:
        """Of what was sent before the host rested, nothing closes the circuit or lengthens the rest."""
        waiting = [self.ask() for _ in range(FAILURES + 5)]
        for number in range(FAILURES + 1):
            self.agent.requests[number].errback(ConnectionLost())
            self.failureResultOf(waiting[number], ConnectionLost)
        self.rests(1.0)
        self.agent.answer(200, request=FAILURES + 1)
        self.rests(1.0)
        self.clock.advance(1)
        self.assertNoResult(self.ask())
        self.agent.answer(200, request=FAILURES + 2)
        waiting[FAILURES + 3].cancel()
        self.failureResultOf(waiting[FAILURES + 3], CancelledError)
        self.agent.requests[FAILURES + 4].errback(ConnectionLost())
        self.failureResultOf(waiting[FAILURES + 4], ConnectionLost)
        self.rests(0.0)

    def test_late_wish(self) -> None:
        """A host that rests may ask for more, not for less."""
        for _ in range(3):
            self.ask()
        self.says(503, "100")
        self.agent.answer(503, "200", request=0)
        self.rests(200.0)
        self.agent.answer(503, "50", request=1)
        self.rests(200.0)
        self.agent.answer(503, "99999", request=2)
        self.rests(LONGEST_RETRY_AFTER)

    def test_hosts_apart(self) -> None:
        """One circuit per scheme, host and port, however they are written."""
        self.opens()
        for same in (
            "https://SERVICE.example.com",
            "https://service.example.com:443/other?x=y",
            "HTTPS://u:p@" + URL[8:],
        ):
            self.rests(1.0, same)
        for other in ("http://service.example.com", "https://service.example.com:444", "https://acme.example.com"):
            self.says(200, url=other)

    def test_no_url(self) -> None:
        """What is no URL is not asked for."""
        self.failureResultOf(self.ask("https://[::1"), ValueError)
        self.failureResultOf(self.ask("https://example.com:99999"), ValueError)
        self.assertEqual(self.agent.requests, [])

    def test_wrong_arguments(self) -> None:
        """A probe that could not even be sent is a failure, not a probe for ever."""
        self.opens()
        self.clock.advance(1)
        self.failureResultOf(self.circuits.ask(self.client, "GET", URL, colour="red"), TypeError)
        self.rests(2.0)

    def test_bounded(self) -> None:
        """The host not asked for longest is forgotten first."""
        self.circuits = self.make(capacity=2)
        a, b, c = (f"https://{name}.example.com" for name in "abc")
        self.opens(a)
        self.opens(b)
        self.rests(1.0, a)
        self.fails(url=c)
        self.rests(1.0, a)
        self.says(200, url=b)

    def test_forgotten_probe(self) -> None:
        """A probe whose circuit is forgotten counts as any request."""
        self.circuits = self.make(capacity=1)
        self.opens()
        self.clock.advance(1)
        probe = self.ask()
        self.fails(url="https://other.example.com")
        self.agent.answer(500, request=-2)
        self.assertEqual(self.successResultOf(probe).status, 500)
        self.says(200)

    def test_logged(self) -> None:
        """One line when a circuit opens, and one when it closes."""
        with logged(circuits.log) as events:
            self.opens()
            self.clock.advance(1)
            self.fails()
            self.clock.advance(2)
            self.says(200)
            self.says(503, "60")
        self.assertEqual(
            [(event["event"], event["message"], event.get("seconds")) for event in events],
            [
                ("circuit.opened", f"{HOST} failed 5 times in a row", 1.0),
                ("circuit.closed", f"{HOST} answers again", None),
                ("circuit.opened", f"{HOST} asked for a pause", 60.0),
            ],
        )

"""Tokens in the cache: one request for all, renewed in time, paced when it fails."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tproxy.destinations.cache import RENEWAL_PACE, Cache, Cached, Fetched
from tproxy.destinations.oauth import Token, TokenUnavailableError, cacheable
from tproxy.destinations.pauses import Jitter
from tproxy.model import Grant, Reason, Refusal, RefusedError, Secret, Stage

GRANT = Grant("https://login.example.com/token", "client", Secret("secret"))
DOWN = Refusal(Stage.RESOLVE, Reason.TOKEN_UNAVAILABLE, "down")
WRONG = Refusal(Stage.RESOLVE, Reason.TOKEN_REFUSED, "wrong", "correct it")
OUTAGES = {Reason.TOKEN_UNAVAILABLE}


def longest(least: float, most: float) -> float:
    return most


class TokenTests(SynchronousTestCase):
    """Tokens, against requests that are answered by hand."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.requests: list[Deferred[Token]] = []
        self.cache = self.make()

    def make(self, jitter: Jitter = longest, capacity: int = 100) -> Cache[Grant, Secret]:
        return Cache(self.clock, self.now, what="token", outages=OUTAGES, jitter=jitter, capacity=capacity)

    def now(self) -> float:
        return 1e9 + self.clock.seconds()

    def fetch(self) -> Deferred[Fetched[Secret]]:
        self.requests.append(Deferred())
        return self.requests[-1].addCallback(cacheable)

    def get(self, grant: Grant = GRANT) -> Deferred[Cached[Secret]]:
        return self.cache.get(grant, self.fetch)

    def renew(self, refused: str) -> Deferred[Secret | None]:
        return self.cache.renew(GRANT, self.fetch, lambda held: held == Secret(refused))

    def arrives(self, value: str, seconds: float = 100.0) -> None:
        self.requests[-1].callback(Token(Secret(value), seconds))

    def token(self, grant: Grant = GRANT) -> tuple[str, bool]:
        token: Cached[Secret] = self.successResultOf(self.get(grant))
        return token.value.reveal(), token.cached

    def refused(self, deferred: Deferred[object]) -> Refusal:
        refusal: Refusal = self.failureResultOf(deferred, RefusedError).value.refusal
        return refusal

    def holding(self, value: str = "one", seconds: float = 100.0) -> None:
        """A token was fetched, and `seconds` is its life."""
        first = self.get()
        self.arrives(value, seconds)
        self.successResultOf(first)

    def test_single_flight(self) -> None:
        """A thousand who wait cost one request, and all get its token."""
        waiting = [self.get() for _ in range(1000)]
        self.assertEqual(len(self.requests), 1)
        self.arrives("one")
        for each in waiting:
            self.assertEqual(self.successResultOf(each), Cached(Secret("one"), cached=False))
        self.assertEqual(self.token(), ("one", True))
        self.assertEqual(len(self.requests), 1)

    def test_a_thousand_refused(self) -> None:
        """One failure is everybody's failure."""
        waiting = [self.get() for _ in range(1000)]
        self.requests[0].errback(RefusedError(WRONG))
        for each in waiting:
            self.assertEqual(self.refused(each), WRONG)
        self.assertEqual(len(self.requests), 1)

    def test_cancelled_waiter(self) -> None:
        """Who leaves leaves alone; even if all leave, the token that comes is kept."""
        leaves, stays = self.get(), self.get()
        leaves.cancel()
        self.failureResultOf(leaves, CancelledError)
        self.assertNoResult(stays)
        stays.cancel()
        self.failureResultOf(stays, CancelledError)
        self.arrives("one")
        self.assertEqual(self.token(), ("one", True))

    def test_answer_at_once(self) -> None:
        """A request that is answered before it returns is no special case."""
        got = self.cache.get(GRANT, lambda: succeed(cacheable(Token(Secret("now")))))
        self.assertEqual(self.successResultOf(got), Cached(Secret("now"), cached=False))
        self.assertEqual(self.token(), ("now", True))

    def test_grants_apart(self) -> None:
        """Another secret or another tenant's URL is another token."""
        self.holding()
        for other in (evolve(GRANT, client_secret=Secret("x")), evolve(GRANT, url="https://acme.example.com/token")):
            self.assertNoResult(self.get(other))
        self.assertEqual(len(self.requests), 3)

    def test_fresh_until_nine_tenths(self) -> None:
        """A token nobody used is asked for anew after 90 % of its life, counted from the request."""
        first = self.get()
        self.clock.advance(5)
        self.arrives("one")
        self.successResultOf(first)
        self.clock.advance(84.9)
        self.assertEqual(self.token(), ("one", True))
        self.clock.advance(0.2)
        again = self.get()
        self.arrives("two")
        self.assertEqual(self.successResultOf(again), Cached(Secret("two"), cached=False))

    def test_renewed_while_in_use(self) -> None:
        """A token in use is renewed before it runs out, so that nobody waits; one that is not used is left."""
        self.holding()
        self.token()
        self.clock.advance(90)
        self.assertEqual(len(self.requests), 2)
        self.arrives("two")
        self.assertEqual(self.token(), ("two", True))
        self.clock.advance(90)
        self.assertEqual(len(self.requests), 3)
        self.arrives("three")
        self.clock.advance(1000)
        self.assertEqual(len(self.requests), 3)

    def test_renewal_spreads(self) -> None:
        """The moment of renewal is drawn from the last part of the 90 %, which are counted from the request."""
        drawn: list[tuple[float, float]] = []

        def draw(least: float, most: float) -> float:
            drawn.append((least, most))
            return least

        self.cache = self.make(draw)
        self.get()
        self.clock.advance(10)
        self.arrives("one")
        self.assertEqual(drawn, [(0.8, 1.0)])
        self.assertEqual([call.getTime() for call in self.clock.getDelayedCalls()], [72])

    def test_in_use_but_down(self) -> None:
        """While the endpoint is down a valid token is served, and asked for in the background, ever more slowly."""
        self.holding()
        self.token()
        self.clock.advance(90)
        for attempt, seconds in ((2, 1), (3, 2), (4, 4)):
            self.assertEqual(len(self.requests), attempt)
            self.requests[-1].errback(RefusedError(DOWN))
            self.assertEqual(self.token(), ("one", True))
            self.clock.advance(seconds)
        self.requests[-1].errback(RefusedError(DOWN))
        self.clock.advance(10)
        waiting = self.get()
        self.requests[-1].errback(RefusedError(DOWN))
        self.assertEqual(self.refused(waiting), DOWN)

    def test_stale_for_those_who_wait(self) -> None:
        """After 90 % everybody waits for a fresh token, and gets the old one if there is none."""
        self.holding()
        self.clock.advance(95)
        waiting = self.get()
        self.requests[-1].errback(RefusedError(DOWN))
        self.assertEqual(self.successResultOf(waiting), Cached(Secret("one"), cached=True))

    def test_refused_is_an_answer(self) -> None:
        """A refusal, unlike an outage, ends the use of a token that is still valid."""
        self.holding()
        self.clock.advance(95)
        waiting = self.get()
        self.requests[-1].errback(RefusedError(WRONG))
        self.assertEqual(self.refused(waiting), WRONG)
        self.assertEqual(self.refused(self.get()), WRONG)

    def test_negative_answers_are_kept_for_seconds(self) -> None:
        """After a failure nobody asks for a moment; success makes that forgotten."""
        self.get().addErrback(lambda _: None)
        self.requests[-1].errback(RefusedError(WRONG))
        self.clock.advance(0.9)
        self.assertEqual(self.refused(self.get()), WRONG)
        self.assertEqual(len(self.requests), 1)
        self.clock.advance(0.2)
        waiting = self.get()
        self.arrives("one")
        self.successResultOf(waiting)
        self.clock.advance(200)
        self.get().addErrback(lambda _: None)
        self.requests[-1].errback(RefusedError(WRONG))
        self.clock.advance(1.1)
        self.assertNoResult(self.get())

    def test_retry_after(self) -> None:
        """The endpoint's own pause is kept."""
        self.get().addErrback(lambda _: None)
        self.requests[-1].errback(TokenUnavailableError(DOWN, 120.0))
        self.clock.advance(119)
        self.assertEqual(self.refused(self.get()), DOWN)
        self.clock.advance(2)
        self.assertNoResult(self.get())

    def test_other_errors(self) -> None:
        """An error of ours is a refusal that does not repeat its words."""
        waiting = self.get()
        self.requests[-1].errback(ValueError("canary"))
        refusal = self.refused(waiting)
        self.assertEqual(refusal.reason, Reason.INTERNAL_ERROR)
        self.assertIn("ValueError", refusal.message)
        self.assertNotIn("canary", refusal.message)

    def test_renewed_once(self) -> None:
        """All whose token was refused get one fresh token by one request."""
        self.holding()
        waiting = [self.renew("one") for _ in range(100)]
        self.assertEqual(len(self.requests), 2)
        self.arrives("two")
        for each in waiting:
            self.assertEqual(self.successResultOf(each), Secret("two"))
        self.assertEqual(self.successResultOf(self.renew("one")), Secret("two"))
        self.assertEqual(len(self.requests), 2)

    def test_renewed_during_a_renewal(self) -> None:
        """A refused token is not handed out any more while a request is under way."""
        self.holding()
        self.token()
        self.clock.advance(90)
        renewed = self.renew("one")
        self.assertNoResult(renewed)
        self.requests[-1].errback(RefusedError(DOWN))
        self.assertEqual(self.refused(renewed), DOWN)
        self.assertEqual(self.refused(self.get()), DOWN)
        self.assertEqual(len(self.requests), 2)

    def test_renewal_refused(self) -> None:
        """With the token its renewal in the background is off."""
        self.holding()
        renewed = self.renew("one")
        self.requests[-1].errback(RefusedError(WRONG))
        self.assertEqual(self.refused(renewed), WRONG)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_new(self) -> None:
        """The same token again is nothing new."""
        self.holding()
        renewed = self.renew("one")
        self.arrives("one")
        self.assertIsNone(self.successResultOf(renewed))

    def test_renewals_are_paced(self) -> None:
        """A mail server that refuses every token does not become a storm of requests for tokens."""
        self.holding()
        self.renew("one")
        self.arrives("two")
        self.assertIsNone(self.successResultOf(self.renew("two")))
        self.clock.advance(RENEWAL_PACE)
        self.assertNoResult(self.renew("two"))

    def test_bounded(self) -> None:
        """The token not used for longest goes first, with its timer; its waiters are still served."""
        self.cache = self.make(capacity=2)
        a, b, c = (evolve(GRANT, client_id=name) for name in "abc")
        for grant in (a, b):
            self.get(grant)
            self.arrives(grant.client_id)
        self.token(a)
        late = self.get(c)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.assertEqual(self.token(a), ("a", True))
        self.assertNoResult(self.get(b))
        self.requests[2].callback(Token(Secret("c")))
        self.assertEqual(self.successResultOf(late).value, Secret("c"))
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_stopped(self) -> None:
        """Nothing is left behind: no timer, no request, nobody who waits."""
        self.holding()
        waiting = self.get(evolve(GRANT, client_id="other"))
        self.cache.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(self.requests[-1].called)
        self.refused(waiting)

"""The cache: one request for all, renewed in time, paced when it fails."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.logs import logged
from tproxy.destinations import cache
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
        now = lambda: 1e9 + self.clock.seconds()  # noqa: E731
        return Cache(self.clock, now, what="token", outages=OUTAGES, jitter=jitter, capacity=capacity)

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


class CacheTests(SynchronousTestCase):
    """Texts that are fresh for 100 s and valid for 1000 s."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.requests: list[Deferred[Fetched[str]]] = []
        self.changed: list[str] = []
        self.cache: Cache[str, str] = Cache(
            self.clock,
            self.clock.seconds,
            what="service token",
            outages=OUTAGES,
            changed=self.changed.append,
            jitter=longest,
            capacity=2,
        )

    def fetch(self) -> Deferred[Fetched[str]]:
        self.requests.append(Deferred())
        return self.requests[-1]

    def get(self, key: str = "a") -> Deferred[Cached[str]]:
        return self.cache.get(key, self.fetch)

    def arrives(self, value: str, request: int = -1) -> None:
        self.requests[request].callback(Fetched(value, 100.0, 1000.0))

    def fails(self, refusal: Refusal, request: int = -1) -> None:
        self.requests[request].errback(RefusedError(refusal))

    def holding(self, value: str, key: str = "a") -> None:
        got = self.get(key)
        self.arrives(value)
        self.assertEqual(self.successResultOf(got), Cached(value, cached=False))

    def test_stale_at_once_in_an_outage(self) -> None:
        """Only the first to find out waits; until the service is back, or the value is not valid, nobody else does."""
        self.holding("one")
        self.clock.advance(150)
        first = self.get()
        self.fails(DOWN)
        stale = Cached("one", cached=True)
        self.assertEqual(self.successResultOf(first), stale)
        self.clock.advance(1)
        self.assertEqual(len(self.requests), 3)
        self.assertEqual(self.successResultOf(self.get()), stale)
        self.clock.advance(850)
        waits = self.get()
        self.assertNoResult(waits)
        self.arrives("two")
        self.assertEqual(self.successResultOf(waits), Cached("two", cached=False))

    def test_outage_without_a_value(self) -> None:
        """Who comes while the service is asked again waits for what it says."""
        first = self.get()
        self.fails(DOWN)
        self.failureResultOf(first, RefusedError)
        self.clock.advance(1)
        waiting = [self.get(), self.get()]
        self.assertEqual(len(self.requests), 2)
        self.arrives("one")
        for each in waiting:
            self.assertEqual(self.successResultOf(each), Cached("one", cached=False))

    def test_renewed_by_the_last_fetch(self) -> None:
        """What renews in the background is what was given the last time."""
        self.holding("one")
        self.cache.get("a", lambda: succeed(Fetched("other", 100.0, 1000.0)))
        self.clock.advance(100)
        self.assertEqual(self.cache.peek("a"), "other")
        self.assertEqual(len(self.requests), 1)

    def test_changed(self) -> None:
        """Another value than the one held is news; the first one, and the same again, are not."""
        self.holding("one")
        for value, changed in (("one", []), ("two", ["a"]), ("two", ["a"])):
            self.get()
            self.clock.advance(100)
            self.arrives(value)
            self.assertEqual(self.changed, changed)
        self.clock.advance(100)
        self.holding("three")
        self.assertEqual(self.changed, ["a", "a"])

    def test_taken_away(self) -> None:
        """An answer that ends the use of a value is news, an outage is not, nor is the same answer again."""
        self.holding("one")
        self.get()
        self.clock.advance(100)
        self.fails(DOWN)
        self.assertEqual(self.changed, [])
        self.clock.advance(1)
        self.fails(WRONG)
        self.assertEqual(self.changed, ["a"])
        self.clock.advance(30)
        again = self.get()
        self.fails(WRONG)
        self.failureResultOf(again, RefusedError)
        self.assertEqual(self.changed, ["a"])

    def test_peek(self) -> None:
        """A value is seen while it is fresh, and that counts as a use, but never asks."""
        self.assertIsNone(self.cache.peek("a"))
        waiting = self.get()
        self.assertIsNone(self.cache.peek("a"))
        self.arrives("one")
        self.successResultOf(waiting)
        self.assertEqual(self.cache.peek("a"), "one")
        self.clock.advance(100)
        self.assertEqual(len(self.requests), 2)
        self.assertIsNone(self.cache.peek("a"))

    def test_peek_keeps(self) -> None:
        """What was seen is not the next to go."""
        for key in "ab":
            self.holding(key, key)
        self.cache.peek("a")
        self.holding("c", "c")
        self.assertEqual([self.cache.peek(key) for key in "abc"], ["a", None, "c"])

    def test_put(self) -> None:
        """What came along is as good as what was asked for, and makes a failure forgotten."""
        refused = self.get()
        self.fails(DOWN)
        self.failureResultOf(refused, RefusedError)
        self.cache.put("a", Fetched("one", 100.0, 1000.0))
        self.assertEqual(self.successResultOf(self.get()), Cached("one", cached=True))
        self.clock.advance(100)
        self.assertEqual(len(self.requests), 2)
        self.arrives("two")
        self.assertEqual(self.cache.peek("a"), "two")

    def test_put_and_never_asked_for(self) -> None:
        """Nobody said how to renew it, so it just runs out; a second one counts from when it came."""
        self.cache.put("a", Fetched("one", 100.0, 1000.0))
        self.clock.advance(50)
        self.cache.put("a", Fetched("two", 100.0, 1000.0))
        self.assertEqual([call.getTime() for call in self.clock.getDelayedCalls()], [150])
        self.clock.advance(99)
        self.assertEqual(self.cache.peek("a"), "two")
        self.clock.advance(1)
        self.assertIsNone(self.cache.peek("a"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_put_while_asked(self) -> None:
        """A fetch under way when its time comes is not doubled; what arrives last is held."""
        waiting = self.get()
        self.cache.put("a", Fetched("one", 100.0, 1000.0))
        self.get()
        self.clock.advance(100)
        self.assertEqual(len(self.requests), 1)
        self.arrives("two")
        self.assertEqual(self.successResultOf(waiting), Cached("two", cached=False))

    def test_dropped(self) -> None:
        """What is held is gone with its timer, whatever there is to drop."""
        self.cache.drop("a")
        self.holding("one")
        self.cache.drop("a")
        self.assertIsNone(self.cache.peek("a"))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertNoResult(self.get())

    def test_dropped_while_asked(self) -> None:
        """Who waits gets what was asked for before the drop; who comes later does not."""
        early = self.get()
        self.cache.drop("a")
        late = self.get()
        self.arrives("old", 0)
        self.assertEqual(self.successResultOf(early), Cached("old", cached=False))
        self.assertNoResult(late)
        self.assertIsNone(self.cache.peek("a"))
        self.arrives("new", 1)
        self.assertEqual(self.successResultOf(late), Cached("new", cached=False))
        self.assertEqual(self.changed, [])

    def test_dropped_and_failed(self) -> None:
        """A failure of what was asked for before the drop ends nothing that came after it."""
        for refusal, outcome in ((DOWN, Cached("new", cached=True)), (WRONG, None)):
            early = self.get()
            self.cache.drop("a")
            self.holding("new")
            self.fails(refusal, -2)
            if outcome is None:
                self.failureResultOf(early, RefusedError)
            else:
                self.assertEqual(self.successResultOf(early), outcome)
            self.assertEqual(self.cache.peek("a"), "new")
            self.cache.put("a", Fetched("new", 0.0, 0.0))
        self.assertEqual(self.changed, [])

    def test_dropping_does_not_hurry(self) -> None:
        """Neither the pause after a failure nor the pace of renewals is forgotten."""
        self.holding("one")
        self.cache.renew("a", self.fetch, lambda held: held == "one")
        self.arrives("two")
        self.cache.drop("a")
        self.holding("two")
        self.assertIsNone(self.successResultOf(self.cache.renew("a", self.fetch, lambda held: held == "two")))
        self.cache.drop("a")
        refused = self.get()
        self.fails(DOWN)
        self.cache.drop("a")
        for each in (refused, self.get()):
            self.failureResultOf(each, RefusedError)

    def test_evicted_does_not_come_back(self) -> None:
        """A value that arrives after its entry went is for those who wait, and is not kept."""
        waiting = self.get("a")
        for key in "bc":
            self.cache.put(key, Fetched(key, 100.0, 1000.0))
        self.arrives("late")
        self.assertEqual(self.successResultOf(waiting), Cached("late", cached=False))
        self.assertEqual([self.cache.peek(key) for key in "abc"], [None, "b", "c"])
        self.assertEqual(len(self.clock.getDelayedCalls()), 2)

    def test_logged_once(self) -> None:
        """A failure is one line, whoever waits."""
        with logged(cache.log) as events:
            waiting = [self.get() for _ in range(10)]
            self.fails(WRONG)
        for each in waiting:
            self.failureResultOf(each, RefusedError)
        [event] = events
        self.assertEqual(event["log_format"], "no service token: {message}")
        self.assertEqual(
            [event[name] for name in ("event", "stage", "reason", "message", "remedy", "seconds")],
            ["service-token.failed", "resolve", "token-refused", "wrong", "correct it", 1.0],
        )

    def test_fetch_that_raises(self) -> None:
        """A fetch that does not even begin is an error of ours, and the next one is tried after the pause."""
        waiting = self.cache.get("a", lambda: {}["canary"])
        refusal = self.failureResultOf(waiting, RefusedError).value.refusal
        self.assertEqual(refusal.reason, Reason.INTERNAL_ERROR)
        self.assertEqual(str(refusal), "asking for a service token failed with KeyError: report this")
        self.clock.advance(1)
        self.holding("one")

    def test_stopped(self) -> None:
        """Also what was asked for before a drop ends."""
        dropped = self.get()
        self.cache.drop("a")
        self.cache.stop()
        self.failureResultOf(dropped, RefusedError)
        self.assertTrue(self.requests[0].called)

"""The cache, whatever it keeps: what comes along, goes, changes, and is served during an outage."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.logs import logged
from tproxy.destinations import cache
from tproxy.destinations.cache import Cache, Cached, Fetched
from tproxy.destinations.oauth import TokenRefusedError
from tproxy.model import Reason, Refusal, RefusedError, Stage

DOWN = Refusal(Stage.RESOLVE, Reason.TOKEN_UNAVAILABLE, "down")
WRONG = Refusal(Stage.RESOLVE, Reason.TOKEN_REFUSED, "wrong", "correct it")
OUTAGES = {Reason.TOKEN_UNAVAILABLE}


def longest(least: float, most: float) -> float:
    return most


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

    def test_held(self) -> None:
        """Whoever looks is told value and age while it is valid, and uses nothing: it is not renewed for that."""
        self.assertIsNone(self.cache.held("a"))
        self.get()
        self.assertIsNone(self.cache.held("a"))
        self.clock.advance(3)
        self.arrives("one")
        self.clock.advance(100)
        self.assertEqual(self.cache.held("a"), ("one", 103.0))
        self.clock.advance(896)
        self.assertEqual(self.cache.held("a"), ("one", 999.0))
        self.clock.advance(1)
        self.assertIsNone(self.cache.held("a"))
        self.assertEqual(len(self.requests), 1)

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

    def test_refused_elsewhere(self) -> None:
        """A refused value that may be kept is asked for by everybody, and serves on only in an outage."""
        self.holding("one")
        renewed = self.cache.renew("a", self.fetch, "one".__eq__, keep=True)
        waiting = self.get()
        self.assertNoResult(waiting)
        self.fails(DOWN)
        self.assertIsNone(self.successResultOf(renewed))
        stale = Cached("one", cached=True)
        self.assertEqual(self.successResultOf(waiting), stale)
        self.assertEqual(self.successResultOf(self.get()), stale)
        self.assertEqual(self.changed, [])
        self.clock.advance(1)
        self.arrives("two")
        self.assertEqual(self.successResultOf(self.get()), Cached("two", cached=True))
        self.assertEqual((self.changed, len(self.requests)), (["a"], 3))

    def test_renewed_is_news(self) -> None:
        """Another value in place of the refused one is news, and so is that there is none any more."""
        self.holding("one")
        self.cache.renew("a", self.fetch, "one".__eq__)
        self.arrives("two")
        self.assertEqual(self.changed, ["a"])
        self.clock.advance(10)
        refused = self.cache.renew("a", self.fetch, "two".__eq__)
        self.fails(WRONG)
        self.failureResultOf(refused, RefusedError)
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

    def test_each_its_own(self) -> None:
        """Who waits and who comes too soon gets what the fetch failed with, all it says, and shares it with nobody."""
        waiting = [self.get(), self.get()]
        failed = TokenRefusedError(WRONG, 404)
        self.requests[0].errback(failed)
        errors = [self.failureResultOf(each, TokenRefusedError).value for each in (*waiting, self.get())]
        self.assertEqual([(each.refusal, each.status) for each in errors], [(WRONG, 404)] * 3)
        self.assertEqual(len({id(each) for each in (failed, *errors)}), 4)

    def test_fetch_that_raises(self) -> None:
        """A fetch that does not even begin is an error of ours, and the next one is tried after the pause."""
        waiting = self.cache.get("a", lambda: {}["canary"])
        refusal = self.failureResultOf(waiting, RefusedError).value.refusal
        self.assertEqual(refusal.reason, Reason.INTERNAL_ERROR)
        self.assertEqual(str(refusal), "asking for a service token failed with KeyError: report this")
        self.clock.advance(1)
        self.holding("one")

    def test_forgotten(self) -> None:
        """Nothing is held or renewed any more; who waits is served, and nothing is kept of that."""
        self.holding("one")
        self.get()
        waiting = self.get("b")
        self.cache.forget()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.arrives("other")
        self.assertEqual(self.successResultOf(waiting), Cached("other", cached=False))
        self.assertEqual([self.cache.peek(key) for key in "ab"], [None, None])

    def test_asked_anew(self) -> None:
        """Who waits gets what is asked for anew, whatever comes of what was asked for before."""
        for early in (True, False):
            key = f"{early}"
            waits = self.get(key)
            self.cache.retry()
            self.assertNoResult(waits)
            if early:
                self.fails(WRONG, -2)
            self.arrives("new")
            self.assertEqual(self.successResultOf(waits), Cached("new", cached=False))
            if not early:
                self.fails(WRONG, -2)
            self.assertEqual(self.successResultOf(self.get(key)), Cached("new", cached=True))
        self.assertEqual(self.changed, [])

    def test_asked_again_at_once(self) -> None:
        """What failed need not rest; what is held is kept, and what works only once is not asked for again."""
        self.holding("one")
        failed = self.get("b")
        self.fails(WRONG)
        self.failureResultOf(failed, RefusedError)
        self.cache.retry()
        self.cache.get("b", self.fetch, once=True)
        self.cache.retry()
        self.assertEqual(len(self.requests), 3)
        self.assertEqual(self.cache.peek("a"), "one")

    def test_stopped(self) -> None:
        """Also what was asked for before a drop ends."""
        dropped = self.get()
        self.cache.drop("a")
        self.cache.stop()
        self.failureResultOf(dropped, RefusedError)
        self.assertTrue(self.requests[0].called)

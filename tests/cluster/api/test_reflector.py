"""A store that follows the stand-in, in whatever weather."""

from __future__ import annotations

from typing import Any

from twisted.application.service import IService
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.apiserver.server import CONFIG_MAPS, Cut, Fault, Say, Silence
from tests.apiserver.storage import Served, Status
from tests.cluster.api.contract import WIDGETS
from tests.cluster.api.harness import StandInTestCase, middle
from tests.logs import logged
from tproxy.cluster.api import reflector
from tproxy.cluster.api.client import SILENCE
from tproxy.cluster.api.objects import Query, Why
from tproxy.cluster.api.reflector import FIRST_PAUSE, LONGEST_PAUSE, SPREAD, Reflector, pause
from tproxy.cluster.api.store import Store

LIST, WATCH = ("list", "configmaps"), ("watch", "configmaps")
UNAVAILABLE = Status(503, "ServiceUnavailable", "busy")


class PauseTests(SynchronousTestCase):
    """How long to wait."""

    def test_pause(self) -> None:
        """Twice as long each time, up to a limit, spread out; never less than what the server asks for."""
        waits = [pause(failures, 0.0, middle) for failures in (1, 2, 3, 100)]
        self.assertEqual(waits, [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, LONGEST_PAUSE])
        self.assertEqual(pause(1, 7.0, middle), 7.0)
        self.assertEqual(pause(1, 0.0, lambda least, most: most), FIRST_PAUSE * SPREAD[1])


class ReflectorTestCase(StandInTestCase):
    """A reflector on config maps in all namespaces."""

    def setUp(self) -> None:
        super().setUp()
        self.told: list[set[str]] = []
        self.broken = False
        self.server.create(CONFIG_MAPS, "default", "old")

    def changed(self, keys: Any) -> None:
        if self.broken:
            raise ValueError
        self.told.append({name for _, name in keys})

    def start(self, query: Query = Query(CONFIG_MAPS)) -> Reflector:  # noqa: B008
        made = Reflector(self.client, query, Store(self.changed), self.clock, middle)
        self.addCleanup(self.stop, made)
        made.startService()
        self.flush()
        return made

    def stop(self, made: Reflector) -> None:
        if made.running:
            made.stopService()
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def create(self, name: str) -> None:
        self.server.create(CONFIG_MAPS, "default", name)
        self.flush()

    def names(self, made: Reflector) -> set[str]:
        return {name for _, name in made.store.objects}


class FollowingTests(ReflectorTestCase):
    """When all is well."""

    def test_follows(self) -> None:
        """What is there, what comes, changes and goes."""
        made = self.start()
        verifyObject(IService, made)
        self.create("new")
        self.server.change(CONFIG_MAPS, "default", "new", data={"a": "b"})
        self.server.delete(CONFIG_MAPS, "default", "old")
        self.flush()
        self.assertEqual(self.told, [{"old"}, {"new"}, {"new"}, {"old"}])
        self.assertEqual(made.store.objects["default", "new"]["data"], {"a": "b"})
        self.assertEqual(self.verbs(), ["list", "watch"])
        self.assertIsNone(made.problem)

    def test_asks(self) -> None:
        """Selectors go with the list and the watch; the watch has bookmarks, a beginning and an end."""
        self.start(Query(CONFIG_MAPS, "default", "a=b", "metadata.name=old"))
        selectors = {"labelSelector": "a=b", "fieldSelector": "metadata.name=old"}
        listed, watched = self.server.asked
        version = str(self.server.storage.version)
        self.assertEqual(listed.queries, {**selectors, "limit": "100"})
        expected = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version, "timeoutSeconds": "300"}
        self.assertEqual(watched.queries, {**selectors, **expected})
        self.assertEqual({listed.namespace, watched.namespace}, {"default"})

    def test_ends(self) -> None:
        """A watch whose time is up is followed by another one, at once, from where it was: bookmarks tell."""
        made = self.start()
        for _ in range(5):
            self.server.storage.version += 1
        self.pass_time(300)
        self.assertEqual(self.verbs(), ["list", "watch", "watch"])
        self.assertEqual(self.last().queries["resourceVersion"], str(self.server.storage.version))
        self.create("new")
        self.assertIn("new", self.names(made))

    def test_stops(self) -> None:
        """Stopped while it lists, watches or pauses, it asks nothing more."""
        for fault, verb in ((Silence(), LIST), (Silence(), WATCH), (UNAVAILABLE, WATCH), (None, WATCH)):
            self.server.faults[verb].append(fault)
            made = self.start()
            made.stopService()
            self.flush()
            self.assertEqual(self.clock.getDelayedCalls(), [])
            asked = len(self.server.asked)
            self.pass_time(60)
            self.assertEqual(len(self.server.asked), asked)
            self.assertEqual(self.server.watches, [])


class TroubleTests(ReflectorTestCase):
    """When it is not."""

    def test_expired(self) -> None:
        """Told in the stream that the place is lost, it lists anew and tells what differs; that is no trouble."""
        made = self.start()
        with logged(reflector.log) as logs:
            self.server.expire()
            self.server.create(CONFIG_MAPS, "default", "new")
            self.server.delete(CONFIG_MAPS, "default", "old")
            self.server.storage.compact()
            self.flush()
            self.pass_time(1)
        self.assertEqual(self.verbs(), ["list", "watch", "list", "watch"])
        self.assertEqual(self.told, [{"old"}, {"old", "new"}])
        self.assertEqual((logs, made.problem), ([], None))

    def test_expired_meanwhile(self) -> None:
        """The same when it comes back too late, with any answer that is not about the moment."""
        for answer in (None, Status(410, "Gone", "gone"), Status(504, "Timeout", "too large resource version")):
            made = self.start()
            self.server.end()
            if answer is None:
                self.server.storage.compact()
                self.create("newer")
                self.server.storage.compact()
            else:
                self.server.faults[WATCH].append(answer)
            del self.server.asked[:]
            self.flush()
            self.pass_time(2)
            self.assertEqual(self.verbs(), ["watch", "list", "watch"])
            self.stop(made)

    def test_silent(self) -> None:
        """A watch that says nothing for too long is left, and all that it did not say is learnt."""
        made = self.start()
        self.server.silence()
        self.create("new")
        self.pass_time(SILENCE - 1)
        self.assertEqual(self.names(made), {"old"})
        self.pass_time(3)
        self.assertEqual(self.names(made), {"old", "new"})
        self.assertEqual(self.verbs(), ["list", "watch", "watch"])

    def test_cut(self) -> None:
        """A connection that breaks: it goes on where it was."""
        made = self.start()
        self.create("one")
        self.server.cut()
        self.create("two")
        self.assertEqual(self.names(made), {"old", "one"})
        self.assertEqual((made.problem.reason, made.problem.status), (Why.UNREACHABLE, 200))
        self.pass_time(1)
        self.assertEqual(self.names(made), {"old", "one", "two"})
        self.assertEqual(self.told, [{"old"}, {"one"}, {"two"}])
        self.assertEqual(self.verbs(), ["list", "watch", "watch"])
        self.assertIsNone(made.problem)

    def test_nonsense(self) -> None:
        """A watch that says what cannot be understood is not believed any further."""
        made = self.start()
        for octets in (b"}\n", b'{"type": "ADDED", "object": {}}\n', b'{"type": "LATER"}\n'):
            self.server.say(octets)
            self.flush()
            self.assertEqual(made.problem.reason, Why.BROKEN)
            self.pass_time(2)
        self.assertEqual(self.names(made), {"old"})
        self.assertEqual(self.verbs(), ["list", "watch"] * 4)

    def test_nothing_is_deleted(self) -> None:
        """Whatever is wrong with a list, or with its second page, what is known stays."""
        for number in range(150):
            self.server.create(CONFIG_MAPS, "default", f"n{number}")
        made = self.start()
        known = self.names(made)
        self.assertEqual(len(known), 151)
        page = b'{"kind": "ConfigMapList", "metadata": {"resourceVersion": "5"}'
        answers: tuple[Fault, ...] = (
            Status(403, "Forbidden", "no"),
            Status(401, "Unauthorized", "who?"),
            Status(404, "NotFound", "no such kind"),
            Status(429, "TooManyRequests", "later", 1),
            Status(500, "InternalError", "oops"),
            Say(200),
            Say(200, b"{}"),
            Say(200, page + b"}"),
            Say(200, page.replace(b"ConfigMapList", b"SecretList") + b', "items": []}'),
            Say(200, page + b', "items": [{"metadata": {"name": "n1"}}]}'),
            Say(302, b"", (("Location", "https://elsewhere.example.com/"),)),
            Cut(),
            Silence(),
        )
        for answer in answers:
            for before in ((), (None,)):
                self.server.expire()
                self.server.faults[LIST].extend([*before, answer])
                self.flush()
                self.pass_time(1)
                if answer == Silence():
                    self.pass_time(30)
                self.assertEqual(self.names(made), known)
                self.assertIsNotNone(made.problem, answer)
                self.pass_time(8)
                self.assertIsNone(made.problem, answer)
        self.assertEqual(len(self.told), 1)

    def test_never_filled(self) -> None:
        """A store that never got a list does not pretend to be empty."""
        self.server.faults[LIST].append(UNAVAILABLE)
        made = self.start()
        self.assertFalse(made.store.filled)
        self.pass_time(1)
        self.assertTrue(made.store.filled)

    def test_said_once(self) -> None:
        """One line when trouble begins or turns into another one, one when it is over."""
        made = self.start()
        self.server.forbidden.add(WATCH)
        with logged(reflector.log) as logs:
            self.server.end()
            self.flush()
            self.pass_time(30)
            self.server.faults[WATCH].append(UNAVAILABLE)
            self.pass_time(30)
            self.pass_time(40)
            self.server.forbidden.clear()
            self.pass_time(40)
        said = [(event["event"], event.get("reason")) for event in logs]
        stale = "kubernetes.stale"
        expected = [(stale, "Forbidden"), (stale, "ServiceUnavailable"), (stale, "Forbidden")]
        self.assertEqual(said, [*expected, ("kubernetes.fresh", None)])
        self.assertIn("cannot watch resource", logs[0]["message"])
        self.assertEqual(logs[0]["key"], "configmaps")
        self.assertIsNone(made.problem)

    def test_another_right(self) -> None:
        """Who may neither list nor watch hears of both, one after the other."""
        self.server.forbidden |= {LIST, WATCH}
        with logged(reflector.log) as logs:
            self.start()
            self.server.forbidden.discard(LIST)
            self.pass_time(10)
        self.assertEqual(["list", "watch"], [event["message"].split("cannot ")[1].split()[0] for event in logs])

    def test_backs_off(self) -> None:
        """The longer it fails, the less often it asks; what works for a while counts as well."""
        self.start()
        self.server.faults[WATCH].extend([Cut()] * 5)
        self.server.cut()
        self.flush()
        self.pass_time(0.5 + 1 + 2 + 4 + 8)
        self.assertEqual(self.verbs(), ["list"] + ["watch"] * 6)
        self.pass_time(16)
        self.assertEqual(self.verbs(), ["list"] + ["watch"] * 7)
        self.pass_time(5)
        self.server.end()
        self.flush()
        self.assertEqual(self.verbs(), ["list"] + ["watch"] * 8)
        self.pass_time(5)
        self.server.cut()
        self.flush()
        self.pass_time(0.5)
        self.assertEqual(self.verbs(), ["list"] + ["watch"] * 9)

    def test_short_watches(self) -> None:
        """Watches that end as soon as they begin are trouble, too."""
        self.start()
        for _ in range(4):
            self.server.end()
            self.flush()
        self.assertEqual(self.verbs(), ["list", "watch"])
        self.pass_time(0.5)
        self.assertEqual(self.verbs(), ["list", "watch", "watch"])

    def test_retry_after(self) -> None:
        """The pause that the server asks for is kept."""
        self.server.faults[LIST].append(Status(429, "TooManyRequests", "later", 5))
        self.start()
        self.pass_time(4.75)
        self.assertEqual(self.verbs(), ["list"])
        self.pass_time(0.25)
        self.assertEqual(self.verbs(), ["list", "list", "watch"])

    def test_careless(self) -> None:
        """Whoever is told of changes may fail: that is in the log, and the rest goes on."""
        made = self.start()
        self.broken = True
        self.create("new")
        self.broken = False
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.pass_time(1)
        self.create("newer")
        self.assertEqual(self.names(made), {"old", "new", "newer"})

    def test_kind_comes_back(self) -> None:
        """A CRD that is deleted takes its objects along; while there is none nothing changes, then all is anew."""
        served = Served(WIDGETS, status=True, generation=True, custom=True)
        self.server.storage.serve(served)
        self.server.create(WIDGETS, "default", "one")
        made = self.start(Query(WIDGETS))
        self.server.storage.withdraw(served)
        self.server.end()
        self.flush()
        self.assertEqual(self.names(made), set())
        self.pass_time(5)
        self.assertEqual(made.problem.reason, Why.NOT_FOUND)
        self.server.storage.serve(served)
        self.server.create(WIDGETS, "default", "two")
        self.pass_time(10)
        self.assertEqual(self.names(made), {"two"})

"""Passes over a cluster in memory, a store that answers when told to, and ports that are none."""

from __future__ import annotations

import errno
from pathlib import Path

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.logs import logged
from tests.operator.worlds import World, key, refusal, resource
from tests.ports import Endpoint, Sessions
from tproxy.cluster.local import LocalCluster, read_state
from tproxy.config import Config, Local
from tproxy.instances import DirectoryInstance
from tproxy.interfaces import ICluster, IDestinationStore
from tproxy.listeners import Listeners
from tproxy.model import (
    Destination,
    Grant,
    GrantKind,
    GreetingMode,
    NoCredential,
    Reason,
    RefusedError,
    Route,
    Secret,
)
from tproxy.operator import reconciler
from tproxy.operator.manifests import API_VERSION, Status
from tproxy.operator.plan import Claim, Release, SetStatus
from tproxy.operator.reconciler import Pauses, Reconciler

PORTS = {"imap4s": 993, "imap4": 143}


@implementer(IDestinationStore)
class Store:
    """Knows every destination, but for those that have another answer: a refusal, an error, or a Deferred."""

    def __init__(self):
        self.answers = {}
        self.protocol = "imap4s"
        self.login = NoCredential()
        self.asked = []

    def describe(self, request):
        self.asked.append(request.name)
        answer = self.answers.get(request.name)
        if answer is None:
            return succeed(Destination(request.name, Route(self.protocol, "mail.example", 993), "u", self.login))
        return answer if isinstance(answer, Deferred) else fail(answer)

    def resolve(self, request, offered=None):
        raise NotImplementedError

    def renew(self, request, refused, offered=None):
        raise NotImplementedError


@implementer(ICluster)
class Cluster:
    """Holds a world; what it is to perform may fail, or wait."""

    def __init__(self):
        self.world = World()
        self.unknown = False
        self.watchers = []
        self.performed = []
        self.answers = {}
        self.busy = set()

    def observe(self):
        return None if self.unknown else self.world.observed().cluster

    def watch(self, changed):
        self.watchers.append(changed)

    def perform(self, action):
        self.performed.append(action)
        if isinstance(action, Claim) and action.port in self.busy:
            return fail(RefusedError(refusal(Reason.PORT_NOT_AVAILABLE, "taken")))
        answer = self.answers.get((type(action), action.name[1] if isinstance(action, SetStatus) else action.key.name))
        if isinstance(answer, Exception):
            return fail(answer)
        if answer is None or answer.called:
            self.world.perform([action])
            return succeed(None)
        return answer


class ReconcilerTestCase(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.store = Store()
        self.cluster = Cluster()
        self.ports = []
        self.errors = {}
        self.listeners = Listeners(self.endpoint, Sessions)
        self.reconciler = Reconciler(
            self.cluster, self.store, self.listeners, PORTS, self.clock, interval=180, chance=lambda: 1.0
        )

    def endpoint(self, address, port):
        return Endpoint(address, port, self.errors.get(port), self.ports)

    def start(self, *resources):
        self.cluster.world.resources = list(resources)
        self.reconciler.startService()
        self.addCleanup(self.stop)
        self.turn()

    def stop(self):
        if self.reconciler.running:
            stopped = self.reconciler.stopService()
            self.closed()
            return stopped
        return None

    def change(self, *resources):
        self.cluster.world.resources = list(resources)
        for changed in self.cluster.watchers:
            changed()
        self.turn()

    def turn(self):
        """Let everything happen that needs no time."""
        for _ in range(10):
            self.clock.advance(0)

    def closed(self):
        """Ports that were to be closed are."""
        for port in self.ports:
            if port.stopped is not None and not port.stopped.called:
                port.stopped.callback(None)

    @property
    def open(self):
        return {key.service: there.port for key, there in self.listeners.listening.items()}

    def told(self, name) -> Status:
        return self.cluster.world.told(name)


class Passes(ReconcilerTestCase):
    def test_fakes(self):
        """What stands in for store and cluster is like them."""
        verifyObject(IDestinationStore, self.store)
        verifyObject(ICluster, self.cluster)

    def test_first(self):
        """What is there at the start is opened, and told."""
        self.start(resource("a"), resource("b", port=1993))
        self.assertEqual(self.open, {"a": 993, "b": 1993})
        self.assertTrue(self.told("a").available)

    def test_convergence(self):
        """The echo of what was done plans nothing."""
        self.start(resource("a"))
        done = len(self.cluster.performed)
        self.change(*self.cluster.world.resources)
        self.clock.pump([60] * 10)
        self.assertEqual(len(self.cluster.performed), done)

    def test_unknown(self):
        """While the cluster does not know what is there, nothing changes."""
        self.start(resource("a"))
        self.cluster.unknown = True
        self.change()
        self.assertEqual(self.open, {"a": 993})

    def test_coalesced(self):
        """Many pokes make one pass."""
        self.start()
        for _ in range(100):
            self.reconciler.poke()
        self.assertEqual(len([call for call in self.clock.getDelayedCalls() if call.getTime() == 0]), 1)

    def test_gone(self):
        """A resource that is gone: its port is closed and its sessions are revoked."""
        self.start(resource("a"))
        self.change()
        self.assertEqual((self.open, self.ports[0].factory.revoked), ({}, ["the resource is gone"]))
        self.closed()
        self.turn()
        self.assertFalse(self.cluster.world.records[key("a")].active)

    def test_changed(self):
        """Another destination is followed without closing the port; what was asked about the old one is forgotten."""
        self.start(resource("a"))
        self.change(resource("a", destination="other"))
        self.assertEqual(self.ports[0].factory.binding.request.name, "other")
        self.assertEqual(len(self.ports), 1)
        self.reconciler.refresh()
        self.assertEqual(self.store.asked, ["mailbox", "other", "other"])

    def test_asks(self):
        """A document by which applications bring the credential is followed without closing the port, and back."""
        self.start(resource("a"))
        for kind, mode in (
            (GrantKind.REFRESH_TOKEN, GreetingMode.LOGIN),
            (GrantKind.CLIENT_CREDENTIALS, GreetingMode.PREAUTH),
            (GrantKind.AUTHORIZATION_CODE, GreetingMode.LOGIN),
        ):
            self.store.login = Grant("https://token.example", "id", Secret("s"), kind=kind)
            self.reconciler.refresh()
            self.turn()
            self.assertEqual(self.ports[0].factory.binding.greeting, mode)
        self.assertEqual(len(self.ports), 1)

    def test_stopped(self):
        """At the end every port is closed, no timer is left, and later pokes do nothing."""
        self.store.answers["slow"] = RefusedError(refusal(Reason.STORE_UNAVAILABLE))
        self.start(resource("a"), resource("b", destination="slow"))
        self.reconciler.poke()
        stopped = self.reconciler.stopService()
        self.assertNoResult(stopped)
        self.closed()
        self.successResultOf(stopped)
        self.assertEqual(self.open, {})
        self.reconciler.poke()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped_amid(self):
        """What is under way at the end does not go on."""
        waiting = self.cluster.answers[Claim, "a"] = Deferred()
        self.start(resource("a"))
        stopped = self.reconciler.stopService()
        self.assertNoResult(stopped)
        waiting.callback(None)
        self.successResultOf(stopped)
        self.assertEqual((self.open, self.cluster.world.statuses), ({}, {}))

    def test_slow_resource(self):
        """A resource whose actions take their time does not hold up the others, and is left alone meanwhile."""
        waiting = self.cluster.answers[Claim, "a"] = Deferred()
        self.start(resource("a"), resource("b"))
        self.assertEqual(self.open, {"b": 10000})
        self.change(*self.cluster.world.resources, resource("c"))
        self.assertEqual(set(self.open), {"b", "c"})
        self.assertEqual(len([each for each in self.cluster.performed if isinstance(each, Claim)]), 3)
        self.cluster.world.perform([self.cluster.performed[0]])
        waiting.callback(None)
        self.turn()
        self.assertEqual(set(self.open), {"a", "b", "c"})

    def test_ready(self):
        """Once all that was there at the start is carried out, or rests, and until it stops."""
        self.cluster.unknown = True
        waiting = self.cluster.answers[Claim, "a"] = Deferred()
        answer = self.store.answers["slow"] = Deferred()
        self.assertFalse(self.reconciler.ready)
        self.start(resource("a"), resource("b", destination="slow"))
        self.assertFalse(self.reconciler.ready)
        self.cluster.unknown = False
        self.change(*self.cluster.world.resources)
        self.assertFalse(self.reconciler.ready)
        waiting.errback(RefusedError(refusal(Reason.INTERNAL_ERROR)))
        self.turn()
        self.assertFalse(self.reconciler.ready)
        answer.callback(Destination("slow", Route("imap4s", "h", 993), "u", NoCredential()))
        self.turn()
        self.assertTrue(self.reconciler.ready)
        self.cluster.answers[Claim, "c"] = Deferred()
        self.change(*self.cluster.world.resources, resource("c", destination="new"))
        self.assertTrue(self.reconciler.ready)
        self.reconciler.stopService()
        self.assertFalse(self.reconciler.ready)

    def test_nothing_there(self):
        """Where there is nothing to do it is ready at once."""
        self.start()
        self.assertTrue(self.reconciler.ready)

    def test_counted(self):
        """How often it planned, for how long, and what failed."""
        self.start(resource("a"))
        passes, observe = self.reconciler.passes, self.cluster.observe
        self.assertGreater(passes, 0)
        self.cluster.observe = lambda: self.clock.advance(0.25) or observe()
        self.change(*self.cluster.world.resources)
        self.assertEqual((self.reconciler.passes, self.reconciler.seconds), (passes + 1, 0.25))
        self.cluster.observe = observe
        self.assertEqual(self.reconciler.failures, 0)
        self.cluster.answers[Claim, "b"] = RefusedError(refusal(Reason.INTERNAL_ERROR))
        self.change(resource("b"))
        self.assertEqual(self.reconciler.failures, 1)

    def test_endless(self):
        """Actions that never end are given up, and tried again later."""
        self.cluster.answers[Claim, "a"] = Deferred()
        self.start(resource("a"))
        with logged(reconciler.log) as events:
            self.clock.advance(reconciler.PERFORM_SECONDS)
            self.turn()
        self.assertEqual([event["event"] for event in events], ["action.failed", "listener.refused"])
        self.assertIn("TimeoutError", events[0]["message"])
        self.assertIn("Claim", self.told("a").message)
        del self.cluster.answers[Claim, "a"]
        self.clock.advance(1)
        self.turn()
        self.assertTrue(self.told("a").available)


class Ports(ReconcilerTestCase):
    def test_taken(self):
        """A port that is not to be had is passed over, and the log says so."""
        self.cluster.busy = {993, 10000}
        with logged(reconciler.log) as events:
            self.start(resource("a"))
        self.assertEqual(self.open, {"a": 10001})
        self.assertEqual(
            [event["event"] for event in events], ["port.blocked", "port.other", "port.blocked", "port.other"]
        )
        self.assertIn("port 993 is not free for it, it gets 10001", events[-1]["message"])

    def test_recorded_port_busy(self):
        """A recorded port that somebody else has got is replaced, with a log line, and stays reserved."""
        self.start(resource("a"))
        self.stop()
        self.ports.clear()
        self.errors[993] = OSError(errno.EADDRINUSE, "x")
        with logged(reconciler.log) as events:
            self.start(resource("a"))
        self.assertEqual(self.open, {"a": 10000})
        self.assertEqual(self.cluster.world.records[key("a")].ports, (10000, 993))
        self.assertEqual([event["event"] for event in events], ["port.blocked", "port.other"])

    def test_tried_again(self):
        """A port that could not be had may be had after the next look at everything."""
        self.cluster.busy = {1993}
        self.start(resource("a", port=1993))
        self.cluster.busy = set()
        self.change(resource("a", port=1993), resource("b", port=1993))
        self.assertEqual(self.open, {"a": 10000, "b": 10001})
        self.clock.advance(180)
        self.change(*self.cluster.world.resources, resource("c", port=1993))
        self.assertEqual(self.open["c"], 1993)


class Failures(ReconcilerTestCase):
    def test_alone(self):
        """What fails rests alone, each time longer, is told of, and its success is told too."""
        self.errors[993] = OSError(errno.EADDRNOTAVAIL, "x")
        with logged(reconciler.log) as events:
            self.start(resource("a"), resource("b"))
            self.assertEqual(self.open, {"b": 10000})
            self.assertIn("EADDRNOTAVAIL", self.told("a").message)
            for seconds in (1, 2, 4):
                self.clock.advance(seconds - 0.1)
                self.turn()
                before = len([event for event in events if event["event"] == "action.failed"])
                self.clock.advance(0.1)
                self.turn()
                self.assertEqual(len([event for event in events if event["event"] == "action.failed"]), before + 1)
        self.assertEqual(len([event for event in events if event["event"] == "listener.refused"]), 1)
        self.errors.clear()
        self.clock.advance(8)
        self.turn()
        self.assertEqual(self.open, {"a": 993, "b": 10000})
        self.assertTrue(self.told("a").available)

    def test_one_tenant(self):
        """A tenant that fails does not keep the others of its resource from being served."""
        self.errors[993] = OSError(errno.EADDRNOTAVAIL, "x")
        self.start(resource("a", "acme", "globex"))
        self.assertEqual(self.open, {"a-globex": 10000})
        self.assertEqual([row.available for row in self.told("a").listeners], [False, True])

    def test_status(self):
        """A status that cannot be written is tried again, and nothing else with it."""
        self.cluster.answers[SetStatus, "a"] = ValueError("secret")
        with logged(reconciler.log) as events:
            self.start(resource("a"))
        self.assertEqual(self.open, {"a": 993})
        self.assertEqual([(event["event"], event["key"]) for event in events], [("action.failed", "shop/a")])
        self.assertNotIn("secret", str(events))
        count = len(self.cluster.performed)
        self.turn()
        self.assertEqual(len(self.cluster.performed), count)
        self.cluster.answers.clear()
        self.clock.advance(1)
        self.turn()
        self.assertTrue(self.told("a").available)

    def test_release(self):
        """A release that fails is tried again at its time, not at once."""
        self.start(resource("a"))
        self.cluster.answers[Release, "a"] = RefusedError(refusal(Reason.INTERNAL_ERROR))
        self.change()
        self.closed()
        self.turn()
        self.assertEqual([type(each) for each in self.cluster.performed].count(Release), 1)
        self.cluster.answers.clear()
        self.clock.advance(1)
        self.assertFalse(self.cluster.world.records[key("a")].active)

    def test_gone(self):
        """What rests is forgotten with its resource, once that is let go."""
        self.errors[993] = OSError(errno.EADDRNOTAVAIL, "x")
        self.start(resource("a"))
        self.change()
        self.clock.advance(1)
        self.turn()
        self.assertFalse(self.cluster.world.records[key("a")].active)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1, "the next look at everything")


class Lookups(ReconcilerTestCase):
    def refuse(self, reason, name="mailbox"):
        self.store.answers[name] = RefusedError(refusal(reason, f"because of {name}"))

    def test_refused(self):
        """A destination that is not there is told, in the log too, once."""
        self.refuse(Reason.DESTINATION_NOT_FOUND)
        with logged(reconciler.log) as events:
            self.start(resource("a"), resource("b", destination="other"))
            self.clock.advance(180)
            self.turn()
        self.assertEqual(self.open, {"b": 993})
        self.assertEqual(self.told("a").reason, "ConfigurationError-ReferencedDestination-NotFound")
        self.assertEqual([(event["event"], event["listener"]) for event in events], [("listener.refused", "shop/a")])

    def test_refresh(self):
        """When documents change, all are looked up again: what is there now is opened, what is gone is closed."""
        self.refuse(Reason.DESTINATION_NOT_FOUND)
        self.start(resource("a"), resource("b", destination="other"))
        self.store.answers.clear()
        self.refuse(Reason.DESTINATION_NOT_FOUND, "other")
        self.reconciler.refresh()
        self.turn()
        self.assertEqual(self.open, {"a": 10000})
        self.assertEqual(self.ports[0].factory.revoked, ["the destination is gone"])

    def test_interval(self):
        """Everything is looked at again every few minutes."""
        self.start(resource("a"))
        self.store.protocol = "imap4"
        self.clock.advance(180)
        self.turn()
        self.assertEqual(self.ports[0].factory.binding.protocol, "imap4")

    def test_store_away(self):
        """A store that does not answer changes nothing, and is asked again at growing intervals."""
        self.start(resource("a"))
        self.refuse(Reason.STORE_UNAVAILABLE)
        with logged(reconciler.log) as events:
            self.reconciler.refresh()
            self.turn()
            asked = len(self.store.asked)
            for seconds in (1, 2, 4):
                self.clock.advance(seconds)
            self.assertEqual(len(self.store.asked), asked + 3)
        self.assertEqual({event["event"] for event in events}, {"destination.unanswered"})
        self.assertEqual(self.open, {"a": 993})
        self.assertTrue(self.told("a").available)

    def test_last_word(self):
        """A store that goes away after it said that a destination is gone has said so."""
        self.start(resource("a"))
        self.refuse(Reason.DESTINATION_NOT_FOUND)
        self.reconciler.refresh()
        self.turn()
        self.refuse(Reason.STORE_UNAVAILABLE)
        self.reconciler.refresh()
        self.turn()
        self.assertEqual(self.open, {})

    def test_back_again(self):
        """A store that was away from the start: what is recorded was open, and the rest follows when it is back."""
        self.refuse(Reason.STORE_UNAVAILABLE)
        self.start(resource("a"))
        self.assertEqual((self.open, self.told("a").message), ({}, "because of mailbox"))
        self.store.answers.clear()
        self.clock.advance(1)
        self.turn()
        self.assertEqual(self.open, {"a": 993})

    def test_slow(self):
        """A look-up that takes its time holds nobody up; one that takes too long counts as not answered."""
        answer = self.store.answers["mailbox"] = Deferred()
        self.start(resource("a"), resource("b", destination="other"))
        self.assertEqual(self.open, {"b": 993})
        self.clock.advance(reconciler.LOOK_UP_SECONDS)
        self.turn()
        self.assertTrue(answer.called)
        self.assertIn("TimeoutError", self.told("a").message)

    def test_overtaken(self):
        """Of two answers to one question the one to the later look-up counts."""
        early = self.store.answers["mailbox"] = Deferred()
        self.start(resource("a"))
        self.refuse(Reason.TYPE_NOT_SUPPORTED)
        self.reconciler.refresh()
        self.turn()
        early.callback(Destination("mailbox", Route("imap4s", "h", 993), "u", NoCredential()))
        self.turn()
        self.assertEqual(self.open, {})

    def test_broken_store(self):
        """A store that breaks, or names a protocol that nobody serves, concerns its own destinations."""
        self.store.answers["mailbox"] = ZeroDivisionError("secret")
        with logged(reconciler.log) as events:
            self.start(resource("a"), resource("b", destination="other"))
        self.assertIn("ZeroDivisionError", self.told("a").message)
        self.assertNotIn("secret", str(events) + self.told("a").message)
        self.assertEqual(self.open, {"b": 993})
        self.store.protocol = "gopher"
        self.change(resource("c", destination="third"), *self.cluster.world.resources)
        self.assertIn("KeyError", self.told("c").message)
        self.assertEqual(self.open, {"b": 993})


class PausesTests(SynchronousTestCase):
    def test_jitter(self):
        """What failed together is not tried again together: from half the time to the whole."""
        clock, awake = Clock(), []
        for chance, seconds in ((0.0, 0.5), (0.5, 0.75), (1.0, 1.0)):
            self.assertEqual(Pauses(clock, awake.append, lambda chance=chance: chance).rest("x"), seconds)

    def test_growth(self):
        """Pauses double up to the longest; after a success they begin anew."""
        clock, awake = Clock(), []
        pauses = Pauses(clock, awake.append, lambda: 1.0)
        for _ in range(5000):
            last = pauses.rest("x")
        self.assertEqual(last, reconciler.LONGEST_PAUSE)
        self.assertEqual(len(clock.getDelayedCalls()), 1)
        pauses.forget("x")
        self.assertNotIn("x", pauses)
        self.assertEqual((pauses.rest("x"), pauses.rest("x")), (1.0, 2.0))
        clock.advance(2)
        self.assertEqual(awake, ["x"])
        self.assertNotIn("x", pauses)


class Together(ReconcilerTestCase):
    """With a real folder and a real state file."""

    def setUp(self):
        super().setUp()
        self.base = Path(self.mktemp()).absolute()
        (self.base / "resources").mkdir(parents=True)
        self.state = self.base / "state.json"
        self.config = Config(
            "shared", (DirectoryInstance("local", self.base),), "local", Local(self.base / "resources", self.state)
        )
        self.run_again()

    def run_again(self):
        """A new process."""
        self.local = LocalCluster(self.config, self.clock, lambda address, port: None)
        self.listeners = Listeners(self.endpoint, Sessions)
        self.reconciler = Reconciler(self.local, self.store, self.listeners, PORTS, self.clock, 180, lambda: 1.0)
        self.reconciler.startService()
        self.local.startService()
        self.turn()

    def end(self):
        self.reconciler.stopService()
        self.local.stopService()
        self.closed()

    def write(self, name, **spec):
        resource = {"apiVersion": API_VERSION, "kind": "Destination", "metadata": {"name": name}}
        resource["spec"] = {"destinationRef": {"name": "mailbox"}, **spec}
        (self.base / "resources" / f"{name}.yaml").write_text(str(resource))

    def wait(self):
        for _ in range(8):
            self.clock.advance(0.25)
            self.turn()
            self.closed()
            self.turn()

    def test_restart_swaps_nothing(self):
        """Whatever comes and goes between two runs, each resource has its own port."""
        self.write("b")
        self.wait()
        self.write("a")
        self.wait()
        before = dict(self.open)
        self.assertEqual(before, {"b": 993, "a": 10000})
        self.end()
        (self.base / "resources" / "b.yaml").unlink()
        self.write("c", service={"port": 993})
        self.run_again()
        self.wait()
        self.assertEqual(self.open, {"a": 10000, "c": 10001})
        self.write("b")
        self.wait()
        self.assertEqual(self.open, {**before, "c": 10001})
        self.assertEqual({row.key.name: row.port for row in read_state(self.state)}, self.open)
        self.end()

    def test_broken_resource(self):
        """A resource that is edited into nonsense serves on, and the file says what is wrong."""
        self.write("a")
        self.write("b")
        self.wait()
        self.write("a", service={"port": "993"})
        self.wait()
        self.assertEqual(self.open, {"a": 993, "b": 10000})
        row, _ = read_state(self.state)
        self.assertEqual((row.port, row.available), (993, True))
        self.assertIn("spec.service.port", row.message)
        self.end()

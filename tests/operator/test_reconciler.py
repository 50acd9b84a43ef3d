"""Passes: when there is one, and what it does with ports."""

from __future__ import annotations

import errno
from pathlib import Path

from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from tests.logs import logged
from tests.operator.reconciling import PORTS, ReconcilerTestCase
from tests.operator.worlds import key, refusal, resource
from tests.ports import Sessions
from tproxy.cluster.local import LocalCluster, read_state
from tproxy.config import Config, Local
from tproxy.instances import DirectoryInstance
from tproxy.interfaces import ICluster, IDestinationStore
from tproxy.listeners import Listeners
from tproxy.model import Destination, Grant, GrantKind, GreetingMode, NoCredential, Reason, RefusedError, Route, Secret
from tproxy.operator import reconciler
from tproxy.operator.manifests import API_VERSION
from tproxy.operator.plan import Claim
from tproxy.operator.reconciler import Reconciler


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

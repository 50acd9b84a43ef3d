"""What an API server does that no real one does on demand: listeners stay, nothing is deleted, and all comes right."""

from __future__ import annotations

import json
from pathlib import Path

from treq.testing import RequestTraversalAgent
from twisted.internet.defer import succeed
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.apiserver.server import Cut, Silence
from tests.apiserver.storage import Served, Status
from tests.cluster.api.harness import NOW, StandInTestCase
from tests.operator.reconciling import Store
from tests.ports import Port, Sessions
from tproxy.cluster.home import Home
from tproxy.cluster.kinds import DESTINATIONS, NAMESPACES, PODS, POLICIES, SERVICES, SLICES
from tproxy.cluster.kubernetes import KubernetesCluster
from tproxy.config import Config
from tproxy.instances import DirectoryInstance
from tproxy.listeners import Listeners
from tproxy.operator import objects
from tproxy.operator.leading import Bounds
from tproxy.operator.manifests import TENANTS
from tproxy.operator.objects import COMPONENT, MANAGED_NAMESPACE, US, Installation
from tproxy.operator.operator import Operator

HOME, ADDRESS = "tproxy", "10.0.0.1"
WRITTEN = (SERVICES, SLICES, POLICIES)
SERVED = Served(DESTINATIONS, status=True, generation=True, custom=True)
BUSY = Status(429, "TooManyRequests", "too many requests, please try again later", 3)
CONFLICT = Status(409, "Conflict", "the object has been modified")


class Prompt(Port):
    """A port that closes at once."""

    def stopListening(self):
        super().stopListening()
        return succeed(None)


@implementer(IStreamServerEndpoint)
class Endpoint:
    """Always listens."""

    def __init__(self, address, port, ports):
        self.address, self.port, self.ports = address, port, ports

    def listen(self, factory):
        self.ports.append(Prompt(self.address, self.port, factory))
        return succeed(self.ports[-1])


class TroubleTests(StandInTestCase):
    """One replica that serves two tenants' listeners, and leads."""

    mode = "all"

    def setUp(self):
        super().setUp()
        self.server.storage.serve(SERVED, Served(PODS, status=True), Served(SLICES), Served(POLICIES))
        for name in (HOME, "shop"):
            self.server.create(NAMESPACES, "", name, labels={MANAGED_NAMESPACE: HOME})
        self.server.create(PODS, HOME, "tproxy-1", labels={COMPONENT: US})
        self.ready("tproxy-1", ADDRESS)
        self.ports, self.store = [], Store()
        self.listeners = Listeners(lambda address, port: Endpoint(address, port, self.ports), Sessions)
        instances = (DirectoryInstance("local", Path("/nowhere")),)
        self.cluster = KubernetesCluster(
            Config("shared", instances, "local", None, managed_namespaces_mode=self.mode),
            Home(Installation(HOME), "tproxy-1", (ADDRESS,)),
            self.client,
            self.connect(),
            RequestTraversalAgent(self.server),
            8080,
            self.clock,
            lambda: NOW + self.clock.seconds(),
            "tproxy-1_0",
            lambda: self.listeners.marks,
        )
        self.operator = Operator(
            self.cluster,
            self.store,
            self.listeners,
            {"imap4s": 993},
            self.clock,
            180.0,
            Bounds(spares=2),
            chance=lambda: 1.0,
        )
        for part in (self.cluster, self.operator):
            part.startService()
            self.addCleanup(part.stopService)
        self.pass_time(1)
        self.apply("mail", "acme", "globex")
        self.pass_time(6)
        self.before, self.ours = self.written(), self.served()
        self.opened = list(self.ports)
        self.assertEqual({"mail-acme", "mail-globex"}, self.names().keys())
        self.assertEqual(2, len(self.served()))

    def ready(self, name, address):
        status = {"podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": "True"}]}
        self.change(PODS, HOME, name, "status", status=status)

    def change(self, kind, namespace, name, subresource="", **fields):
        uid = self.server.storage.get(self.server.served(kind), (namespace, name))["metadata"]["uid"]
        metadata = {**fields.pop("metadata", {}), "uid": uid}
        self.server.change(kind, namespace, name, subresource, metadata=metadata, **fields)

    def apply(self, name, *tenants):
        annotations = {TENANTS: json.dumps(tenants)} if tenants else {}
        self.server.create(DESTINATIONS, "shop", name, annotations=annotations, spec={"destinationRef": {"name": name}})

    def all(self, kind):
        return self.server.storage.objects[kind.group, kind.plural]

    def written(self):
        """What we wrote, as it is, without its versions."""
        return {
            (kind.name, *each): {name: part for name, part in thing.items() if name not in ("metadata", "status")}
            | {"uid": thing["metadata"]["uid"]}
            for kind in WRITTEN
            for each, thing in self.all(kind).items()
        }

    def names(self):
        """Where each name in the namespace leads: to which port."""
        return {
            name: int(objects.target(thing).partition(".")[0][1:])
            for (namespace, name), thing in self.all(SERVICES).items()
            if namespace == "shop"
        }

    def served(self):
        """The ports that are open for somebody, with who that is."""
        return {each.port: str(key) for key, each in self.listeners.listening.items() if each.binding.claimed}

    def conditions(self, name):
        status = self.all(DESTINATIONS)["shop", name].get("status", {})
        return {each["type"]: each["status"] for each in status.get("conditions", ())}

    def unharmed(self, after=""):
        """Nothing that was there was closed, deleted or released, nobody was put out, and all is written as it was."""
        self.assertEqual([], [port.port for port in self.opened if port.stopped is not None], after)
        self.assertEqual([], [port for port in self.opened if port.factory.revoked])
        deleted = {(each.namespace, each.name) for each in self.server.asked if each.verb == "delete"}
        self.assertEqual(set(), deleted & {each[1:] for each in self.before}, after)
        there = self.written()
        self.assertEqual(self.before, {each: thing for each, thing in there.items() if each in self.before}, after)
        released = {each for each, thing in self.all(SERVICES).items() if objects.RELEASED in objects.noted(thing)}
        self.assertEqual(set(), released & {each[1:] for each in self.before}, after)
        self.assertLessEqual(self.ours.items(), self.served().items(), after)

    def resumes(self, seconds=10):
        """What is applied now is served, beside what was there."""
        self.apply("late")
        self.pass_time(seconds)
        names = self.names()
        self.assertEqual({"mail-acme", "mail-globex", "late"}, names.keys())
        self.assertEqual({port: f"shop/{name}" for name, port in names.items()}, self.served())
        self.assertEqual({"Available": "True", "Ready": "True"}, self.conditions("late"))

    def test_fakes(self):
        """What stands in for ports is like ports."""
        verifyObject(IStreamServerEndpoint, Endpoint("127.0.0.1", 1, []))
        verifyObject(IListeningPort, Prompt("127.0.0.1", 1, None))

    def test_silent(self):
        """A watch that was cut silently is noticed, and begun again."""
        self.server.silence()
        self.apply("unseen")
        self.pass_time(60)
        self.assertNotIn("unseen", self.names())
        self.pass_time(30)
        self.assertIn("unseen", self.names())
        self.unharmed_but_policies()

    def test_expired(self):
        """Where history is forgotten, all is listed again."""
        self.server.silence()
        self.apply("unseen")
        self.server.expire()
        self.pass_time(10)
        self.assertIn("unseen", self.names())
        self.unharmed_but_policies()

    def test_busy(self):
        """Where there are too many requests, all is done later."""
        for verb in ("list", "watch"):
            for kind in ("destinations", "services", "endpointslices", "networkpolicies", "pods"):
                self.server.faults[verb, kind] += [BUSY] * 2
        for verb, kind in (("patch", "services"), ("create", "services"), ("patch", "networkpolicies")):
            self.server.faults[verb, kind] += [BUSY] * 2
        self.server.faults["patch", "destinations/status"] += [BUSY] * 2
        self.server.expire()
        self.resumes(60)
        self.assertEqual([], [each for each, faults in self.server.faults.items() if faults])
        self.unharmed_but_policies()

    def test_conflicts(self):
        """What somebody else changed meanwhile is looked at, and written again."""
        for verb, kind in (
            ("patch", "services"),
            ("patch", "networkpolicies"),
            ("patch", "endpointslices"),
            ("patch", "destinations/status"),
            ("create", "services"),
        ):
            self.server.faults[verb, kind] += [CONFLICT] * 2
        self.resumes(30)
        self.unharmed_but_policies()

    def test_unanswered(self):
        """What was written though no answer came is found, not written twice."""
        for fault in (Cut(done=True), Silence(done=True)):
            for verb, kind in (("patch", "services"), ("create", "services"), ("create", "networkpolicies")):
                self.server.faults[verb, kind].append(fault)
        self.resumes(120)
        self.unharmed_but_policies()

    def unharmed_but_policies(self):
        """The policy of the namespace has one port more."""
        self.before = {each: thing for each, thing in self.before.items() if each[0] != POLICIES.name}
        self.unharmed()

    def test_short(self):
        """A list that leaves something out, or all, takes nothing away; what is missing is looked for."""
        for kind in (DESTINATIONS, *WRITTEN, PODS):
            for missing in ([each] for each in [*self.all(kind)]):
                self.forget(kind, missing)
            self.forget(kind, [*self.all(kind)])
        self.resumes()

    def forget(self, kind, missing):
        self.server.storage.short = {(kind, each) for each in missing}
        self.server.expire()
        self.pass_time(3)
        self.server.storage.short = set()
        self.pass_time(20)
        self.unharmed(f"{kind.name} without {missing}")

    def test_departed(self):
        """A pod that is gone leaves the slices; so does one whose name another one has by now."""
        for replaced in (False, True):
            before = self.pods()
            self.assertEqual(1, len(before))
            self.server.delete(PODS, HOME, "tproxy-1")
            if not replaced:
                self.pass_time(5)
                self.assertEqual(set(), self.pods())
            self.server.create(PODS, HOME, "tproxy-1", labels={COMPONENT: US})
            self.ready("tproxy-1", ADDRESS)
            self.pass_time(5)
            self.assertEqual((1, set()), (len(self.pods()), self.pods() & before))

    def pods(self):
        """The pods in slices, by their uids."""
        return {each["targetRef"]["uid"] for thing in self.all(SLICES).values() for each in thing["endpoints"]}

    def test_unknown(self):
        """An API that doesn't know the kind of resources for a while takes nothing away."""
        self.server.storage.served.pop((DESTINATIONS.group, DESTINATIONS.version, DESTINATIONS.plural))
        self.server.end()
        self.pass_time(180)
        self.unharmed()
        self.server.storage.serve(SERVED)
        self.pass_time(60)
        self.unharmed()
        self.resumes()

    def test_withdrawn(self):
        """Resources that are gone with their definition are missed once there is a definition again."""
        self.server.storage.withdraw(SERVED)
        self.server.end()
        self.pass_time(60)
        self.unharmed()
        self.server.storage.serve(SERVED)
        self.pass_time(120)
        self.assertEqual({}, self.served())
        self.assertEqual({}, self.names())
        ports = {each.port for each in self.ports if each.stopped is not None}
        self.assertEqual(2, len(ports))
        self.apply("late")
        self.pass_time(10)
        self.assertNotIn(self.names()["late"], ports)

    def test_away(self):
        """An API server that lets nobody in for minutes changes nothing; who led leads again."""
        for watch in ("cut", "end"):
            self.server.tokens = {"another"}
            getattr(self.server, watch)()
            self.pass_time(300)
            self.unharmed()
            self.server.tokens = set()
            self.pass_time(60)
            self.unharmed()
        self.resumes()

    def test_forbidden(self):
        """Rights that are taken away change nothing."""
        kinds = ("destinations", "services", "endpointslices", "networkpolicies", "pods", "namespaces")
        self.server.forbidden = {(verb, kind) for verb in ("list", "watch", "get", "patch") for kind in kinds}
        self.server.expire()
        self.pass_time(180)
        self.unharmed()
        self.server.forbidden = set()
        self.pass_time(60)
        self.unharmed()
        self.resumes()


class ManagedTests(TroubleTests):
    """The same where namespaces are managed one by one."""

    mode = "labelSelector"

    def test_short_namespaces(self):
        """Namespaces that are left out of a list are looked for."""
        self.forget(NAMESPACES, [("", "shop")])
        self.resumes()

"""From resources to objects, and back: the steps of a leader, come true in a world in memory."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.operator.installations import FAILURE, NOT_FOUND, SUCCESS, World, manifest
from tproxy.model import ListenerKey, Reason, Refusal, Stage
from tproxy.operator import leading
from tproxy.operator.leading import lead
from tproxy.operator.memory import Memory
from tproxy.operator.objects import Sort
from tproxy.operator.plan import RANGE, Known, Observed, Snapshot
from tproxy.operator.ports import Bounds
from tproxy.operator.steps import reference


class Births(SynchronousTestCase):
    """From a resource to a name that answers."""

    def test_nothing(self):
        """Where nothing is wanted there are spares, and after that nothing is to be done."""
        world = World()
        world.settle()
        self.assertEqual([10000, 10001], sorted(world.ports))
        self.assertEqual({993}, {port.service_port for port in world.ports.values()})
        self.assertEqual(["10.0.0.1"], world.addresses(10000))
        self.assertEqual([], world.pending())

    def test_fewer(self):
        """Spares that are too many are removed."""
        world = World()
        world.settle()
        world.bounds = Bounds(spares=1)
        world.settle()
        self.assertEqual([10000], sorted(world.ports))

    def test_served(self):
        """A resource takes a spare, and another spare takes its place."""
        world = World()
        world.settle()
        world.apply("shop", manifest("mail"))
        world.settle()
        self.assertEqual({"shop/mail": "p10000"}, world.names)
        self.assertEqual({("shop", "namespaced"): {10000}}, world.policies)
        self.assertEqual(SUCCESS, world.condition("shop", "mail"))
        self.assertEqual([10001, 10002], [port.port for port in world.ports.values() if port.spare])
        named = world.get(Sort.SERVICE, "shop", "mail")
        self.assertEqual("p10000.tproxy.svc.cluster.local", named["spec"]["externalName"])
        self.assertEqual([], world.pending())

    def test_ipv6_alone(self):
        """So it is where pods have addresses of the other family alone."""
        world = World()
        world.replicas[0].address = "fd00::1"
        world.settle()
        world.apply("shop", manifest("mail"))
        world.settle()
        self.assertEqual({"shop/mail": "p10000"}, world.names)

    def test_order(self):
        """A name comes last: after its port is recorded, opened and served."""
        world = World()
        world.settle()
        world.apply("shop", manifest("mail", scope="clusterWide"))
        while "shop/mail" not in world.names:
            steps = world.pending()[0]
            world.take(steps, world.replicas[0])
        self.assertEqual({("shop", "clusterWide"): {10000}}, world.policies)
        self.assertEqual("mail", world.ports[10000].key.name)
        self.assertEqual(["10.0.0.1"], world.addresses(10000))

    def test_many(self):
        """One plan begins with so many resources; those that cannot be served now don't hold up others."""
        self.patch(leading, "ENOUGH", 1)
        world = World()
        world.settle()
        for name in ("a", "b", "c"):
            world.apply("shop", manifest(name))
        for subject in (ListenerKey("shop", "a"), reference(Sort.DESTINATION, "shop", "a")):
            world.failures[subject] = Refusal(Stage.RESOLVE, Reason.SERVICE_REFUSED, "no")
        claimed = [steps.subjects[0] for steps in world.lead() if isinstance(steps.subjects[0], ListenerKey)]
        self.assertEqual([ListenerKey("shop", "b")], claimed)
        world.failures.clear()
        world.settle()
        self.assertEqual({"shop/a", "shop/b", "shop/c"}, world.names.keys())

    def test_on_demand(self):
        """Another service port has no spares at first; then it has."""
        world = World()
        world.settle()
        world.apply("shop", manifest("mail", port=1143))
        world.settle()
        self.assertEqual({"shop/mail": "p10002"}, world.names)
        self.assertEqual([993, 993, 1143, 1143], sorted(p.service_port for p in world.ports.values() if p.spare))

    def test_protocol(self):
        """Without a port of its own a resource gets that of the protocol."""
        world = World()
        world.apply("shop", manifest("mail"))
        world.describe("mail", Known("imap4", 143))
        world.settle()
        (port,) = [port for port in world.ports.values() if port.key]
        self.assertEqual(143, port.service_port)

    def test_neighbours(self):
        """Ports of a namespace and scope are next to each other where that is possible."""
        world = World(Bounds(spares=4))
        world.settle()
        for namespace, name in (("a", "one"), ("b", "one"), ("a", "two")):
            world.apply(namespace, manifest(name))
        world.settle()
        self.assertEqual(2, len(world.all(Sort.POLICY)))
        world.apply("a", manifest("three"))
        world.settle()
        self.assertEqual({"a/one": "p10000", "a/two": "p10001", "b/one": "p10002", "a/three": "p10003"}, world.names)

    def test_tenants(self):
        """Each tenant has a name; the status says how each fares."""
        world = World()
        world.apply("shop", manifest("mail", "acme", "globex"))
        world.settle()
        self.assertEqual({"shop/mail-acme", "shop/mail-globex"}, set(world.names))
        status = world.get(Sort.DESTINATION, "shop", "mail")["status"]
        self.assertEqual(
            [("acme", "mail-acme", 993, True), ("globex", "mail-globex", 993, True)],
            [(row["subdomain"], row["service"], row["port"], row["available"]) for row in status["tenants"]],
        )
        self.assertEqual(16, len(status["observedTenants"]))

    def test_not_known(self):
        """Nothing is claimed or told before the store has answered, nor for what it does not know."""
        world = World()
        world.apply("shop", manifest("mail"))
        world.describe("mail", None)
        world.settle()
        self.assertEqual((None, {}), (world.condition("shop", "mail"), world.names))
        world.describe("mail", NOT_FOUND)
        world.settle()
        reason = "ConfigurationError-ReferencedDestination-NotFound"
        self.assertEqual((("False", reason), {}), (world.condition("shop", "mail"), world.names))
        world.describe("mail", Refusal(Stage.RESOLVE, Reason.DOCUMENT_INVALID, "it is wrong"))
        world.settle()
        self.assertEqual((FAILURE, {}), (world.condition("shop", "mail"), world.names))

    def test_nobody_listens(self):
        """No name without a replica; after a while the resource is told."""
        world = World()
        world.replicas[0].mute = True
        world.apply("shop", manifest("mail"))
        world.settle()
        self.assertEqual((None, {}), (world.condition("shop", "mail"), world.names))
        world.now += 11
        world.settle()
        self.assertEqual((FAILURE, {}), (world.condition("shop", "mail"), world.names))
        world.replicas[0].mute = False
        world.settle()
        self.assertEqual(SUCCESS, world.condition("shop", "mail"))

    def test_nobody_listens_after_clock_was_set(self):
        """That is told, too, where the clock was ahead when the port was claimed, and was set right."""
        world = World()
        world.replicas[0].mute = True
        world.apply("shop", manifest("mail"))
        world.now += 86400
        world.settle()
        world.now -= 86400
        world.settle()
        self.assertEqual(FAILURE, world.condition("shop", "mail"))

    def test_failed(self):
        """Why a name is missing is told."""
        world = World()
        refused = Refusal(Stage.RESOLVE, Reason.SERVICE_REFUSED, "forbidden")
        world.failures[reference(Sort.SERVICE, "shop", "mail")] = refused
        world.apply("shop", manifest("mail"))
        for _ in range(9):
            for steps in [each for each in world.pending() if world.failures.keys().isdisjoint(each.subjects)]:
                world.take(steps, world.replicas[0])
        self.assertEqual(("False", "ServiceCreationFailed"), world.condition("shop", "mail"))

    def test_claim_failed(self):
        """Why there is no port is told, and nothing is tried while that rests."""
        world = World()
        world.failures[ListenerKey("shop", "mail")] = Refusal(Stage.RESOLVE, Reason.SERVICE_REFUSED, "forbidden")
        world.apply("shop", manifest("mail"))
        world.settle()
        self.assertEqual(("False", "ServiceCreationFailed"), world.condition("shop", "mail"))

    def test_limit(self):
        """There are as many listeners as may be; who comes later is told."""
        world = World(Bounds(listeners=2, spares=1))
        world.apply("shop", manifest("mail", "a", "b", "c"))
        world.settle()
        self.assertEqual({"shop/mail-a", "shop/mail-b"}, set(world.names))
        self.assertEqual(FAILURE, world.condition("shop", "mail"))
        rows = world.get(Sort.DESTINATION, "shop", "mail")["status"]["tenants"]
        self.assertIn("config.limits.listeners", rows[2]["message"])

    def test_used_up(self):
        """Without a free port the resource is told."""
        world = World(Bounds(spares=0))
        world.apply("shop", manifest("mail"))
        observed = world.observed(world.replicas[0])
        every = frozenset(port for part in RANGE for port in part)
        (told,) = lead(evolve(observed, blocked=every), world.bounds, Memory())
        self.assertIn("ports are used up", told.steps[0].status.message)

    def test_follower(self):
        """Who does not lead writes nothing."""
        world = World()
        world.apply("shop", manifest("mail"))
        self.assertEqual((), lead(Observed(world.snapshot(leading=False), {}), world.bounds, Memory()))
        self.assertEqual((), lead(Observed(Snapshot()), world.bounds, Memory()))

    def test_rejected(self):
        """A resource that is wrong is told so; what it had goes on."""
        world = World()
        world.apply("shop", manifest("mail"))
        world.settle()
        wrong = manifest("mail")
        wrong["spec"]["accessControl"] = {"scope": "elsewhere"}
        world.apply("shop", wrong)
        world.settle()
        self.assertEqual((FAILURE, {"shop/mail": "p10000"}), (world.condition("shop", "mail"), world.names))
        self.assertEqual([], world.replicas[0].revoked)
        world.apply("shop", {**wrong, "metadata": {"name": "other", "annotations": {}}})
        world.settle()
        self.assertEqual(FAILURE, world.condition("shop", "other"))

    def test_no_service_name(self):
        """What fits no Service is told."""
        world = World()
        world.apply("shop", manifest("mail.example"))
        world.settle()
        self.assertEqual(FAILURE, world.condition("shop", "mail.example"))


class Names(SynchronousTestCase):
    """Names that two want."""

    def setUp(self):
        self.world = World()
        self.world.settle()

    def test_foreign(self):
        """A Service of somebody else stays as it is; the resource is told."""
        self.world.storage.create(
            self.world.storage.served["", "v1", "services"],
            "shop",
            {"metadata": {"name": "mail"}, "spec": {"ports": [{"port": 80}]}},
        )
        before = self.world.get(Sort.SERVICE, "shop", "mail")
        self.world.apply("shop", manifest("mail"))
        for _ in range(9):
            failing = self.world.failures.keys()
            for steps in [each for each in self.world.pending() if failing.isdisjoint(each.subjects)]:
                self.world.take(steps, self.world.replicas[0])
        self.assertEqual(before, self.world.get(Sort.SERVICE, "shop", "mail"))
        reason = "ConfigurationError-K8sResourceWithNameAlreadyPresent"
        self.assertEqual(("False", reason), self.world.condition("shop", "mail"))

    def test_nobodys(self):
        """A Service that looks like ours, but belongs to no resource, stays as it is too."""
        labels = {"app.kubernetes.io/managed-by": "tproxy", "tproxy/installation": "tproxy", "tproxy/role": "name"}
        spec = {"type": "ExternalName", "externalName": "mail.example.com"}
        thing = {"metadata": {"name": "mail", "labels": labels}, "spec": spec}
        self.world.storage.create(self.world.storage.served["", "v1", "services"], "shop", thing)
        before = self.world.get(Sort.SERVICE, "shop", "mail")
        self.world.apply("shop", manifest("mail"))
        self.world.settle()
        self.assertEqual(before, self.world.get(Sort.SERVICE, "shop", "mail"))
        reason = "ConfigurationError-K8sResourceWithNameAlreadyPresent"
        self.assertEqual(("False", reason), self.world.condition("shop", "mail"))

    def test_duplicate(self):
        """Of two resources that want one name, the older has it, and keeps it; then the other gets it."""
        duplicate = ("False", "ConfigurationError-DuplicateDestinationCustomResource")
        self.world.apply("shop", manifest("mail", "b-c"))
        self.world.settle()
        self.world.now += 1
        self.world.apply("shop", manifest("mail-b", "c"))
        self.world.settle()
        self.assertEqual(SUCCESS, self.world.condition("shop", "mail"))
        self.assertEqual(duplicate, self.world.condition("shop", "mail-b"))
        self.world.delete("shop", "mail")
        self.world.settle()
        self.assertEqual(SUCCESS, self.world.condition("shop", "mail-b"))
        self.assertEqual(["shop/mail-b-c"], list(self.world.names))

    def test_same_age(self):
        """Of two that came together, the one with the lower uid has it."""
        for name, tenant in (("mail", "b-c"), ("mail-b", "c")):
            self.world.apply("shop", manifest(name, tenant))
        self.world.settle()
        uids = {n: self.world.get(Sort.DESTINATION, "shop", n)["metadata"]["uid"] for n in ("mail", "mail-b")}
        winner = min(uids, key=uids.get)
        self.assertEqual(SUCCESS, self.world.condition("shop", winner))

    def test_made_anew(self):
        """A resource that was deleted and made again is another one: another port, once the old name is collected."""
        self.world.apply("shop", manifest("mail"))
        self.world.settle()
        self.world.delete("shop", "mail")
        self.world.apply("shop", manifest("mail"))
        self.world.settle()
        self.assertEqual({"shop/mail": "p10001"}, self.world.names)
        self.assertIsNotNone(self.world.ports[10000].released)
        self.assertEqual(["shop/mail"], [whose for whose, _ in self.world.replicas[0].revoked])

    def test_not_collected(self):
        """A name that nobody collects is told after a while."""
        self.world.collect = lambda: None
        self.world.apply("shop", manifest("mail"))
        self.world.settle()
        (served,) = [each for each in self.world.all(Sort.SERVICE) if self.world.role(each) == "name"]
        self.world.delete("shop", "mail")
        self.world.settle()
        where = {"metadata": {**served["metadata"], "resourceVersion": None}}
        self.world.storage.create(
            self.world.storage.served["", "v1", "services"], "shop", {**served, **where}
        ) if self.world.get(Sort.SERVICE, "shop", "mail") is None else None
        self.world.apply("shop", manifest("mail"))
        self.world.settle()
        self.assertIsNone(self.world.condition("shop", "mail"))
        self.world.now += 11
        self.world.settle()
        self.assertEqual(("False", "ServiceCreationFailed"), self.world.condition("shop", "mail"))

    def test_coexist(self):
        """Where another product serves other types, its resources are left alone; what was ours is given up."""
        other = Refusal(Stage.RESOLVE, Reason.TYPE_NOT_SUPPORTED, "HTTP")
        world = World(Bounds(spares=1, coexist=True))
        world.apply("shop", manifest("web"))
        world.describe("web", other)
        world.settle()
        self.assertEqual((None, {}), (world.condition("shop", "web"), world.names))
        world.apply("shop", manifest("mail"))
        world.settle()
        self.assertEqual(["shop/mail"], list(world.names))
        world.describe("mail", other)
        world.settle()
        self.assertEqual({}, world.names)
        world = World()
        world.apply("shop", manifest("web"))
        world.describe("web", other)
        world.settle()
        reason = "ConfigurationError-ReferencedDestination-TypeNotSupported"
        self.assertEqual(("False", reason), world.condition("shop", "web"))

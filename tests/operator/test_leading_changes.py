"""From resources to objects, and back: what changes, which replicas are named, and who leads."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.operator.installations import FAILURE, HOME, IMAPS, NOT_FOUND, SUCCESS, Process, World, manifest
from tproxy.model import ListenerKey, Reason, Refusal, Stage, Tenant
from tproxy.operator import upkeep
from tproxy.operator.desired import port_service
from tproxy.operator.objects import Sort
from tproxy.operator.ports import Bounds
from tproxy.operator.steps import Create


class Changes(SynchronousTestCase):
    """What changes about a listener."""

    def setUp(self):
        self.world = World()
        self.world.apply("shop", manifest("mail", "acme"))
        self.world.settle()
        (self.port,) = [port.port for port in self.world.ports.values() if port.key]

    def test_port(self):
        """Another port is another port of the same Services; sessions live on."""
        self.world.apply("shop", manifest("mail", "acme", port=1143))
        self.world.settle()
        self.assertEqual({"shop/mail-acme": f"p{self.port}"}, self.world.names)
        self.assertEqual(1143, self.world.ports[self.port].service_port)
        self.assertEqual(1143, self.world.get(Sort.SERVICE, "shop", "mail-acme")["spec"]["ports"][0]["port"])
        self.assertEqual([], self.world.replicas[0].revoked)
        self.assertEqual(SUCCESS, self.world.condition("shop", "mail"))

    def test_wider(self):
        """A wider scope ends nothing."""
        self.world.apply("shop", manifest("mail", "acme", scope="clusterWide"))
        self.world.settle()
        self.assertEqual({("shop", "clusterWide"): {self.port}}, self.world.policies)
        self.assertEqual([], self.world.replicas[0].revoked)

    def test_narrower(self):
        """With a narrower scope sessions end, once nobody else can come any more."""
        self.world.apply("shop", manifest("mail", "acme", scope="clusterWide"))
        self.world.settle()
        process = self.world.replicas[0]

        def watch():
            if process.revoked:
                self.assertNotIn(("shop", "clusterWide"), self.world.policies)

        self.world.watch = watch
        self.world.apply("shop", manifest("mail", "acme", scope="namespaced"))
        self.world.settle()
        self.assertEqual([("shop/mail-acme", "narrowed")], process.revoked)
        self.assertEqual({("shop", "namespaced"): {self.port}}, self.world.policies)

    def test_tenant_removed(self):
        """A tenant that is removed loses its name and its sessions; the others do not notice."""
        self.world.apply("shop", manifest("mail", "acme", "globex"))
        self.world.settle()
        self.world.apply("shop", manifest("mail", "globex"))
        self.world.settle()
        self.assertEqual(["shop/mail-globex"], list(self.world.names))
        self.assertIsNotNone(self.world.ports[self.port].released)
        self.assertEqual(["shop/mail-acme"], [whose for whose, _ in self.world.replicas[0].revoked])
        self.assertEqual([], self.world.addresses(self.port))

    def test_tenant_removed_by_mistake(self):
        """A tenant that a resource no longer names loses its name, though the resource is wrong in something else."""
        self.world.apply("shop", manifest("mail", "acme", "globex"))
        self.world.settle()
        self.world.apply("shop", manifest("mail", "globex", scope="elsewhere"))
        self.world.settle()
        self.assertEqual(["shop/mail-globex"], list(self.world.names))
        self.assertEqual(["shop/mail-acme"], [whose for whose, _ in self.world.replicas[0].revoked])
        self.assertEqual(FAILURE, self.world.condition("shop", "mail"))

    def test_destination_gone(self):
        """A destination that is gone closes the port, whose name stays; when it is back, so is the port."""
        self.world.describe("mail", NOT_FOUND)
        self.world.settle()
        self.assertEqual([("shop/mail-acme", "the destination is gone")], self.world.replicas[0].revoked)
        self.assertEqual([], self.world.addresses(self.port))
        self.assertEqual("False", self.world.condition("shop", "mail")[0])
        self.world.describe("mail", IMAPS)
        self.world.settle()
        self.assertEqual(["10.0.0.1"], self.world.addresses(self.port))
        self.assertEqual(SUCCESS, self.world.condition("shop", "mail"))

    def test_outage(self):
        """A store that does not answer changes nothing; a document that is wrong is told."""
        self.world.describe("mail", Refusal(Stage.RESOLVE, Reason.STORE_UNAVAILABLE, "away"))
        self.world.settle()
        self.assertEqual(SUCCESS, self.world.condition("shop", "mail"))
        self.world.describe("mail", Refusal(Stage.RESOLVE, Reason.DOCUMENT_INVALID, "wrong"))
        self.world.settle()
        self.assertEqual(FAILURE, self.world.condition("shop", "mail"))
        self.assertEqual([], self.world.replicas[0].revoked)

    def test_outage_at_start(self):
        """A replica that starts while the store does not answer opens the recorded ports all the same."""
        self.world.describe("mail", Refusal(Stage.RESOLVE, Reason.STORE_UNAVAILABLE, "away"))
        self.world.replicas.append(Process("tproxy-2", "10.0.0.2"))
        self.world.settle()
        self.assertEqual(["10.0.0.1", "10.0.0.2"], self.world.addresses(self.port))
        self.assertEqual(SUCCESS, self.world.condition("shop", "mail"))

    def test_short_list(self):
        """A list that comes back short takes nothing away."""
        before = self.world.names, self.world.policies, dict(self.world.replicas[0].listening)
        self.world.short = {("shop", "mail")}
        self.world.settle()
        self.assertEqual(before, (self.world.names, self.world.policies, self.world.replicas[0].listening))

    def rests(self):
        """The port that was released rests for ten minutes from now on."""
        self.world.now += 599
        self.world.settle()
        self.assertIsNotNone(self.world.ports[self.port].released)
        self.world.now += 2
        self.world.settle()
        self.assertNotIn(self.port, self.world.ports)

    def test_rest(self):
        """A released port rests for ten minutes, then it is a spare, or is removed where there are enough."""
        self.world.delete("shop", "mail")
        self.world.settle()
        self.rests()
        self.assertEqual(2, len(self.world.ports))

    def test_rest_after_clock_was_set(self):
        """It rests for ten minutes where the clock was ahead when it was released, and was set right, too."""
        self.world.now += 86400
        self.world.delete("shop", "mail")
        self.world.settle()
        self.world.now -= 86400
        self.world.settle()
        self.rests()

    def test_spare_again(self):
        """A port that rested becomes a spare where one is missing."""
        self.world.bounds = Bounds(spares=3)
        self.world.delete("shop", "mail")
        self.world.take = self.no_spares(self.world.take)
        self.world.settle()
        self.world.now += 601
        self.world.settle()
        self.assertTrue(self.world.ports[self.port].spare)

    def no_spares(self, take):
        def reluctant(steps, process=None):
            if steps.subjects[0] == ("spares", 993):
                return False
            return take(steps, process)

        return reluctant

    def test_open_still(self):
        """A port that a policy opens still, or that replicas are named for, is never given to somebody else."""
        for sort in (Sort.POLICY, Sort.SLICE):
            world = World()
            world.apply("shop", manifest("mail"))
            world.settle()
            world.delete("shop", "mail")
            for _ in range(5):
                for steps in world.pending():
                    if not any(getattr(step, "sort", None) is sort for step in steps.steps):
                        world.take(steps, world.replicas[0])
                world.now += 601
            self.assertIsNotNone(world.ports[10000].released)

    def test_led_to(self):
        """A port to which a name leads still is never given to somebody else."""
        named = self.world.get(Sort.SERVICE, "shop", "mail-acme")
        metadata = {"name": "mail-acme", "annotations": {}}
        self.world.delete("shop", "mail")
        self.world.settle()
        services = self.world.storage.served["", "v1", "services"]
        self.world.storage.create(services, "shop", {"metadata": metadata, "spec": named["spec"]})
        self.world.now += 601
        self.world.settle()
        self.assertIsNotNone(self.world.ports[self.port].released)

    def test_record_gone(self):
        """The number of a record that somebody deleted is not used while anything remembers it."""
        services = self.world.storage.served["", "v1", "services"]
        for collected in (False, True):
            self.world.storage.remove(services, (HOME.namespace, f"p{self.port}"))
            if collected:
                self.world.collect()
            self.world.apply("a", manifest(f"other-{collected}".lower()))
            for steps in self.world.lead():
                self.world.take(steps)
            self.assertNotIn(self.port, self.world.ports)
            self.world.settle()
            (self.port,) = [int(to[1:]) for name, to in self.world.names.items() if name == "shop/mail-acme"]

    def test_orphan(self):
        """A name without a record that nobody wants is removed; one that is wanted gets a port."""
        self.world.storage.remove(self.world.storage.served["", "v1", "services"], (HOME.namespace, f"p{self.port}"))
        self.world.collect()
        self.world.settle()
        self.assertEqual(SUCCESS, self.world.condition("shop", "mail"))
        (port,) = [port.port for port in self.world.ports.values() if port.key and port.released is None]
        self.assertEqual({"shop/mail-acme": f"p{port}"}, self.world.names)
        self.world.storage.remove(self.world.storage.served["", "v1", "services"], (HOME.namespace, f"p{port}"))
        self.world.apply("shop", manifest("mail", "globex"))
        self.world.settle()
        self.assertEqual(["shop/mail-globex"], list(self.world.names))


class Replicas(SynchronousTestCase):
    """Which replicas a port leads to."""

    def setUp(self):
        self.world = World()
        self.second = Process("tproxy-2", "10.0.0.2")
        self.world.replicas.append(self.second)
        self.world.apply("shop", manifest("mail"))
        self.world.settle()
        (self.port,) = [port.port for port in self.world.ports.values() if port.key]

    def test_all(self):
        """All that listen are named."""
        self.assertEqual(["10.0.0.1", "10.0.0.2"], self.world.addresses(self.port))

    def test_order(self):
        """Slices change in order of use: what leads nowhere first, then what was used last, spares at the end."""
        self.world.apply("shop", manifest("m", "a", "b", "c"))
        self.world.settle()
        held = {port.holder.service: number for number, port in self.world.ports.items() if port.holder}
        self.world.replicas[0].used = {held["m-b"]: 1.0, held["m-c"]: 2.0}
        slices = self.world.storage.served["discovery.k8s.io", "v1", "endpointslices"]
        self.world.storage.patch(slices, (HOME.namespace, f"p{held['m-a']}"), {"endpoints": []}, "")
        spares = sorted(number for number, port in self.world.ports.items() if port.spare)
        self.world.replicas.remove(self.second)
        changed = [steps.subjects[0][2] for steps in self.slices()]
        numbers = [held["m-a"], held["m-c"], held["m-b"], held["mail"], *spares]
        self.assertEqual([f"p{number}" for number in numbers], changed)

    def test_turns(self):
        """New resources don't hold up the slices of those that are there, nor the other way round."""
        for name in ("one", "two"):
            self.world.apply("shop", manifest(name))
        self.world.replicas.remove(self.second)
        kinds = [isinstance(steps.subjects[0], ListenerKey) for steps in self.world.lead()]
        self.assertEqual([True, False, True, False, False], kinds[:5])

    def test_only_so_many(self):
        """One plan changes a bounded number of slices, and those that rest after a failure don't hold up others."""
        self.patch(upkeep, "ENOUGH", 1)
        self.world.replicas.remove(self.second)
        (first,) = self.slices()
        self.world.failures[first.subjects[0]] = Refusal(Stage.RESOLVE, Reason.SERVICE_REFUSED, "no")
        (second,) = self.slices()
        self.assertNotEqual(first.subjects, second.subjects)

    def slices(self):
        return [steps for steps in self.world.lead() if steps.subjects[0][0] is Sort.SLICE]

    def test_leaving(self):
        """One that leaves, or is not ready, is taken out; the last one is kept, as one that is leaving."""
        self.second.leaving = True
        self.world.settle()
        self.assertEqual(["10.0.0.1"], self.world.addresses(self.port))
        self.world.replicas[0].ready = False
        self.world.settle()
        entries = self.world.get(Sort.SLICE, HOME.namespace, f"p{self.port}")["endpoints"]
        self.assertEqual(
            [("10.0.0.1", False, False), ("10.0.0.2", False, True)],
            [(e["addresses"][0], e["conditions"]["ready"], e["conditions"]["terminating"]) for e in entries],
        )

    def test_nobodys(self):
        """A slice that is not of the port's record is left as it is, whatever it is called."""
        where, slices = (
            (HOME.namespace, f"p{self.port}"),
            self.world.storage.served["discovery.k8s.io", "v1", "endpointslices"],
        )
        there = self.world.get(Sort.SLICE, *where)
        change = {"metadata": {"uid": there["metadata"]["uid"], "ownerReferences": None}, "endpoints": []}
        self.world.storage.patch(slices, where, change, "")
        before = self.world.get(Sort.SLICE, *where)
        self.world.settle()
        self.assertEqual(before, self.world.get(Sort.SLICE, *where))

    def test_gone(self):
        """One whose pod is gone is taken out."""
        self.world.replicas.remove(self.second)
        self.world.settle()
        self.assertEqual(["10.0.0.1"], self.world.addresses(self.port))

    def test_unheard(self):
        """Who was not heard yet stays where it is, and comes nowhere else."""
        self.second.mute = True
        self.world.apply("shop", manifest("other"))
        self.world.settle()
        self.assertEqual(["10.0.0.1", "10.0.0.2"], self.world.addresses(self.port))

    def test_other_owner(self):
        """Who listens there for somebody else is never named."""
        key = ListenerKey("shop", "mail")
        there = self.second.listening.pop(key)
        stale = evolve(there.binding, key=ListenerKey("shop", "other"))
        self.second.listening[stale.key] = evolve(there, binding=stale)
        for steps in self.world.lead():
            self.world.take(steps)
        self.assertEqual(["10.0.0.1"], self.world.addresses(self.port))
        self.world.settle()
        self.assertEqual(["10.0.0.1", "10.0.0.2"], self.world.addresses(self.port))
        self.assertEqual(Tenant(""), self.second.listening[key].binding.key.tenant)


class Leaders(SynchronousTestCase):
    """Two that believe to lead."""

    def test_one_port(self):
        """Two plans on the same picture: no port has two keys, and soon each key has one port."""
        world = World()
        world.settle()
        for name in ("a", "b", "c"):
            world.apply("shop", manifest(name))
        first, second = world.lead(), world.lead()
        for steps in (*first, *reversed(second)):
            world.take(steps)
        world.failures.clear()
        world.settle()
        held = [port.key for port in world.ports.values() if port.holder]
        self.assertEqual(3, len(held))
        self.assertEqual(len(set(held)), len(held))
        self.assertTrue(world.conflicts)

    def test_two_ports(self):
        """One key that two leaders gave a port each keeps the one that its name leads to."""
        world = World()
        world.apply("shop", manifest("other"))
        world.settle()
        world.apply("shop", manifest("mail"))
        (claim, *_) = world.lead()
        other = evolve(claim, steps=(Create(Sort.SERVICE, self.record(world, 12345, claim.steps[0].change)),))
        world.take(other)
        world.take(claim)
        world.settle()
        self.assertEqual({"shop/mail": "p10001", "shop/other": "p10000"}, world.names)
        self.assertEqual({("shop", "namespaced"): {10000, 10001}}, world.policies)
        self.assertIsNotNone(world.ports[12345].released)

    def record(self, world, port, change):
        return port_service(HOME, port, 993, change["metadata"]["annotations"])

"""What is at rest is looked at again once something changes that it depends on; `World` compares each plan with one
that remembers nothing.
"""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.operator.installations import HOME, SERVED, Process, World, manifest
from tproxy.model import ListenerKey, Reason, Refusal, Stage, spare
from tproxy.operator.desired import claim, port_service
from tproxy.operator.leading import lead
from tproxy.operator.memory import Memory, differing
from tproxy.operator.objects import Sort, noted
from tproxy.operator.plan import Listening, Observed
from tproxy.operator.serving import serve

KEY = ListenerKey("shop", "mail")
NOT_FOUND = Refusal(Stage.RESOLVE, Reason.DESTINATION_NOT_FOUND, "there is none")


class AtRest(SynchronousTestCase):
    """A world in which all is as it should be, and what somebody else does to it."""

    def setUp(self):
        self.world = World()
        self.world.apply("shop", manifest("mail"))
        self.world.replicas.append(Process("tproxy-2", "10.0.0.2"))
        self.world.settle()
        (self.port,) = [number for number, port in self.world.ports.items() if port.key]
        self.assertEqual([], self.world.pending())

    def patch(self, sort, namespace, name, change):
        self.world.storage.patch(SERVED[sort], (namespace, name), change, "")

    def remove(self, sort, namespace, name):
        self.world.storage.remove(SERVED[sort], (namespace, name))

    def restored(self):
        """Something is planned, and then all is as it was."""
        self.assertNotEqual([], self.world.pending())
        self.world.settle()
        self.assertEqual({"shop/mail": f"p{self.port}"}, self.world.names)
        self.assertEqual(["10.0.0.1", "10.0.0.2"], self.world.addresses(self.port))
        self.assertEqual({("shop", "namespaced"): {self.port}}, self.world.policies)

    def test_nothing_is_planned(self):
        """All is at rest: neither resources nor ports are thought about."""
        memory = self.world.memory
        self.assertEqual({("shop", "mail")}, memory.resources.keys())
        self.assertEqual({self.port: 993}, memory.ports)
        self.assertEqual(dict.fromkeys(self.world.ports, ()), memory.slices)
        self.assertEqual(self.world.ports.keys(), self.world.replicas[1].memory.served)

    def test_slice_emptied(self):
        """A slice that somebody has emptied is filled."""
        self.patch(Sort.SLICE, HOME.namespace, f"p{self.port}", {"endpoints": []})
        self.restored()

    def test_slice_of_other_service(self):
        """A slice that somebody has labelled for another Service, or given another port, is corrected."""
        name = f"p{self.port}"
        right = self.world.get(Sort.SLICE, HOME.namespace, name)
        self.patch(Sort.SLICE, HOME.namespace, name, {"metadata": {"labels": {"kubernetes.io/service-name": "other"}}})
        self.restored()
        self.patch(Sort.SLICE, HOME.namespace, name, {"ports": [{"port": 80}]})
        self.restored()
        there = self.world.get(Sort.SLICE, HOME.namespace, name)
        self.assertEqual(right["metadata"]["labels"], there["metadata"]["labels"])
        self.assertEqual(right["ports"], there["ports"])

    def test_slice_removed(self):
        """A slice that somebody has removed is made anew."""
        self.remove(Sort.SLICE, HOME.namespace, f"p{self.port}")
        self.restored()

    def test_slice_of_no_port(self):
        """One that somebody else made, with labels like ours, is left alone."""
        labels = {"app.kubernetes.io/managed-by": "tproxy", "tproxy/installation": "tproxy"}
        thing = {"metadata": {"name": "other", "labels": labels}, "endpoints": []}
        self.world.storage.create(SERVED[Sort.SLICE], HOME.namespace, thing)
        self.assertEqual([], self.world.pending())

    def test_name_removed(self):
        """So is a name,"""
        self.remove(Sort.SERVICE, "shop", "mail")
        self.restored()

    def test_name_led_elsewhere(self):
        """and one that leads elsewhere is corrected."""
        self.patch(Sort.SERVICE, "shop", "mail", {"spec": {"externalName": "example.com"}})
        self.restored()

    def test_name_leads_to_lost_record(self):
        """A port whose record is gone is given to nobody as long as a name leads there, and be it of a resource at rest
        that cannot be served.
        """
        self.remove(Sort.SERVICE, HOME.namespace, f"p{self.port}")
        self.world.describe("mail", NOT_FOUND)
        self.world.settle()
        for name in ("m", "n", "o"):
            self.world.apply("a", manifest(name))
            self.world.settle()
        self.assertEqual(f"p{self.port}", self.world.names["shop/mail"])
        self.assertNotIn(self.port, self.world.ports)

    def test_policy_removed(self):
        """A policy that somebody has removed is made anew."""
        (policy,) = self.world.all(Sort.POLICY)
        self.remove(Sort.POLICY, HOME.namespace, policy["metadata"]["name"])
        self.restored()

    def test_policy_without_its_notes(self):
        """A policy that opens what it should, and does not say for whom, is corrected."""
        (policy,) = self.world.all(Sort.POLICY)
        self.patch(Sort.POLICY, HOME.namespace, policy["metadata"]["name"], {"metadata": {"annotations": None}})
        self.restored()
        (policy,) = self.world.all(Sort.POLICY)
        self.assertEqual("shop", noted(policy)["tproxy/namespace"])

    def test_policy_of_somebody_elses_ports(self):
        """A policy in which somebody has named a port, or meant all of them, is corrected."""
        for wrong in ({"protocol": "TCP"}, {"protocol": "TCP", "port": "metrics"}):
            (policy,) = self.world.all(Sort.POLICY)
            rules = [*policy["spec"]["ingress"], {"ports": [wrong]}]
            self.patch(Sort.POLICY, HOME.namespace, policy["metadata"]["name"], {"spec": {"ingress": rules}})
            self.restored()

    def test_status_overwritten(self):
        """A status that somebody has overwritten is told again."""
        self.world.storage.patch(SERVED[Sort.DESTINATION], ("shop", "mail"), {"status": {"conditions": []}}, "status")
        self.restored()
        self.assertEqual(("True", "ConfigurationSuccessful"), self.world.condition("shop", "mail"))

    def test_port_closed(self):
        """A port that is no longer open is opened, the port of a spare too."""
        process = self.world.replicas[1]
        unclaimed = next(number for number, port in self.world.ports.items() if port.spare)
        del process.listening[KEY], process.listening[spare(unclaimed).key]
        self.restored()
        self.assertLessEqual({self.port, unclaimed}, {each.port for each in process.listening.values()})

    def test_recorded_twice(self):
        """Where two leaders recorded a port each, who only serves follows the name, too, once it leads to the other."""
        process, port = self.world.replicas[1], self.world.ports[self.port]
        again = port_service(HOME, 20000, 993, claim(KEY, port.uid, port.claimed))
        self.world.storage.create(SERVED[Sort.SERVICE], HOME.namespace, again)
        self.assertEqual((), self.world.serve(process))
        self.patch(Sort.SERVICE, "shop", "mail", {"spec": {"externalName": HOME.host(20000)}})
        self.assertEqual([self.port], [steps.subjects[0] for steps in self.world.serve(process)])

    def test_open_elsewhere(self):
        """A key whose old port is still open gets its new one once the old one is closed."""
        process = self.world.replicas[1]
        process.listening[KEY] = Listening(process.listening[KEY].binding, 20000)
        self.assertEqual([20000], [steps.subjects[0] for steps in self.world.serve(process)])
        del process.listening[KEY]
        self.assertEqual([self.port], [steps.subjects[0] for steps in self.world.serve(process)])

    def test_nobodys_name(self):
        """A name that appears where a resource rests that cannot be served is told with it."""
        self.world.apply("shop", manifest("post", "acme"))
        self.world.settle()
        self.world.describe("post", NOT_FOUND)
        self.world.settle()
        self.assertEqual("post-acme", self.told()["service"])
        self.remove(Sort.SERVICE, "shop", "post-acme")
        self.world.settle()
        self.assertEqual("", self.told()["service"])
        labels = {"app.kubernetes.io/managed-by": "tproxy", "tproxy/installation": "tproxy", "tproxy/role": "name"}
        thing = {"metadata": {"name": "post-acme", "labels": labels}, "spec": {"externalName": "example.com"}}
        self.world.storage.create(SERVED[Sort.SERVICE], "shop", thing)
        self.world.settle()
        self.assertEqual("post-acme", self.told()["service"])

    def told(self):
        """What the resource `post` says of its tenant."""
        return self.world.get(Sort.DESTINATION, "shop", "post")["status"]["tenants"][0]

    def test_claimed_twice(self):
        """A resource at rest is thought about where another one claims its name, and keeps it."""
        self.world.apply("shop", manifest("m", "ail"))
        self.world.settle()
        self.world.apply("shop", manifest("m-ail"))
        self.world.settle()
        self.assertEqual({"shop/mail", "shop/m-ail"}, self.world.names.keys())
        self.assertEqual(
            "ConfigurationError-DuplicateDestinationCustomResource", self.world.condition("shop", "m-ail")[1]
        )
        self.world.delete("shop", "m")
        self.world.settle()
        self.assertEqual(("True", "ConfigurationSuccessful"), self.world.condition("shop", "m-ail"))

    def test_unseen(self):
        """Where a namespace is seen for the first time, everything is looked at."""
        observed = self.world.observed(self.world.replicas[0])
        blind = evolve(observed.cluster, objects=evolve(observed.cluster.objects, unseen=frozenset({"shop"})))
        memory = Memory()
        for cluster in (blind, observed.cluster):
            now = evolve(observed, cluster=cluster)
            memory.see(now)
            self.assertEqual(set(), memory.served)
            serve(now, memory), lead(now, self.world.bounds, memory)

    def test_no_cluster(self):
        """A folder has no objects that could rest."""
        memory = Memory()
        memory.see(self.world.observed(self.world.replicas[0]))
        memory.see(Observed(evolve(self.world.snapshot(), objects=None)))
        self.assertEqual(set(), memory.served)


class Differences(SynchronousTestCase):
    """What differs between two mappings."""

    def test_differing(self):
        """What came, went, or is another object; nothing in one and the same mapping."""
        one, two = ["x"], ["x"]
        before = {"a": one, "b": one, "c": one}
        self.assertEqual({"b", "c", "d"}, set(differing(before, {"a": one, "b": two, "d": one})))
        self.assertEqual(["c"], list(differing(before, {"a": one, "b": one})))
        self.assertEqual([], list(differing(before, dict(before))))
        self.assertEqual((), differing(before, before))

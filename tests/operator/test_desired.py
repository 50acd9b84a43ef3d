"""How objects look, and what they say when they are read again."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tproxy.model import ListenerKey, Tenant
from tproxy.operator import desired, objects
from tproxy.operator.memory import Memory
from tproxy.operator.objects import Installation, Replica, says
from tproxy.operator.plan import Observed, Snapshot
from tproxy.operator.serving import serve
from tproxy.operator.statuses import read_status
from tproxy.operator.steps import record, recorded

HOME = Installation("tproxy", "example")
KEY = ListenerKey("shop", "mail", Tenant("acme"))


def made(thing, uid="u"):
    """An object as the API server keeps it."""
    return {**thing, "metadata": {**thing["metadata"], "uid": uid, "resourceVersion": "1"}}


def port(**notes):
    return objects.read_port(made(desired.port_service(HOME, 12345, 993, notes)))


class RecordTests(SynchronousTestCase):
    """The Service that says whose a port is."""

    def test_read(self):
        """What is written is read."""
        found = port(**desired.claim(KEY, "uid-1", 1_800_000_000.0))
        self.assertEqual((12345, 993, KEY, "uid-1"), (found.port, found.service_port, found.key, found.uid))
        self.assertEqual((1_800_000_000.0, None, KEY), (found.claimed, found.released, found.holder))
        self.assertEqual(objects.mark(KEY, "uid-1"), found.mark)
        self.assertNotEqual(found.mark, objects.mark(KEY, "uid-2"))

    def test_spare(self):
        """Without a key it is a spare."""
        self.assertEqual((True, None, ""), (port().spare, port().holder, port().mark))

    def test_released(self):
        """What was released rests; a time that is none means for ever."""
        notes = desired.claim(KEY, "uid-1", 0.0)
        rests = port(**notes, **{objects.RELEASED: "2027-01-15T08:00:00Z"})
        self.assertEqual((1_800_000_000.0, False, None, ""), (rests.released, rests.spare, rests.holder, rests.mark))
        self.assertEqual(float("inf"), port(**notes, **{objects.RELEASED: "soon"}).released)
        self.assertEqual(0.0, port(**{**notes, objects.CLAIMED: "now"}).claimed)

    def test_none(self):
        """What has another name, or no port, is no record."""
        for thing in (
            {"metadata": {"name": "mail"}, "spec": {"ports": [{"port": 993}]}},
            {"metadata": {"name": "p12345"}, "spec": {}},
        ):
            self.assertIsNone(objects.read_port(thing))

    def test_role(self):
        """Ours is what has our labels, all of them."""
        thing = desired.port_service(HOME, 12345, 993, {})
        self.assertEqual("port", objects.role(thing, HOME))
        self.assertIsNone(objects.role(thing, evolve(HOME, namespace="other")))
        thing["metadata"]["labels"]["tproxy/role"] = "other"
        self.assertIsNone(objects.role(thing, HOME))
        self.assertIsNone(objects.role({"metadata": {}}, HOME))

    def test_owner(self):
        """Whose a name is stands in its owner alone."""
        named = desired.named_service(HOME, KEY, "uid-1", port())
        self.assertEqual(("uid-1", KEY), (objects.owner(named), objects.named_key(named)))
        named["metadata"]["ownerReferences"][0]["kind"] = "Deployment"
        self.assertEqual(("", None), (objects.owner(named), objects.named_key(named)))

    def test_subject(self):
        """A record is known by its port among subjects."""
        self.assertEqual(12345, recorded(record("tproxy", port())))
        for subject in (KEY, 12345, ("Service", "shop", "mail")):
            self.assertEqual(0, recorded(subject))

    def test_no_cluster(self):
        """Without a cluster a replica serves nothing that is recorded."""
        self.assertEqual((), serve(Observed(Snapshot()), Memory()))

    def test_status(self):
        """A resource that was told nothing has no status."""
        self.assertIsNone(read_status({"metadata": {}}))
        self.assertIsNone(read_status({"metadata": {}, "status": {"conditions": [{"type": "Other"}]}}))


class SliceTests(SynchronousTestCase):
    """Which replicas a port leads to."""

    both = Replica("one", "uid", ("10.0.0.1", "fd00::1"), True, ports={12345: ""})

    def slices(self, *replicas, before=None):
        before = before or {}
        named = desired.reached(port(), replicas, before.values())
        found = desired.endpoint_slices(HOME, port(), named, before)
        return {each["metadata"]["name"]: (each["addressType"], each["endpoints"]) for each in found}

    def test_families(self):
        """A slice for each family; one that is there stays, though it is empty."""
        found = self.slices(self.both)
        self.assertEqual({"p12345": "IPv4", "p12345-ipv6": "IPv6"}, {name: kind for name, (kind, _) in found.items()})
        (entry,) = found["p12345-ipv6"][1]
        self.assertEqual(["fd00::1"], entry["addresses"])
        self.assertNotIn("nodeName", entry)
        before = {"p12345-ipv6": {"endpoints": [entry]}}
        self.assertEqual([], self.slices(before=before)["p12345-ipv6"][1])
        self.assertEqual(["p12345"], list(self.slices()))

    def test_heard(self):
        """Who did not say anything yet is left where it is."""
        unheard = evolve(self.both, ports=None)
        self.assertEqual([], self.slices(unheard)["p12345"][1])
        before = {"p12345": {"endpoints": [{"addresses": ["10.0.0.1"]}]}}
        self.assertEqual(1, len(self.slices(unheard, before=before)["p12345"][1]))
        self.assertEqual([], self.slices(evolve(self.both, ports={}), before=before)["p12345"][1])


class PolicyTests(SynchronousTestCase):
    """Who may come."""

    @settings(deadline=None)
    @given(st.sets(st.integers(10000, 10050), min_size=1))
    def test_ranges(self, ports):
        """Neighbours are joined, and exactly these ports are open."""
        made = desired.policy(HOME, "shop", "namespaced", ports)
        self.assertEqual(ports, objects.policy_ports(made))
        (rule,) = made["spec"]["ingress"]
        ends = [part["port"] for part in rule["ports"]], [part.get("endPort", part["port"]) for part in rule["ports"]]
        self.assertFalse({end + 1 for end in ends[1]} & set(ends[0]))

    def test_scopes(self):
        """The namespace alone, or every pod of the cluster, but nobody from outside."""
        (rule,) = desired.policy(HOME, "shop", "namespaced", {1})["spec"]["ingress"]
        selector = {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}
        self.assertEqual([{"namespaceSelector": selector}], rule["from"])
        (rule,) = desired.policy(HOME, "shop", "clusterWide", {1})["spec"]["ingress"]
        self.assertEqual([{"namespaceSelector": {}}], rule["from"])


class SaysTests(SynchronousTestCase):
    """Whether an object is as it should be."""

    def test_says(self):
        """What the API server adds does not matter; what it leaves out where nothing is wanted neither."""
        for there, wanted, expected in (
            ({"a": 1, "b": 2}, {"a": 1}, True),
            ({"a": 1}, {"a": 2}, False),
            ({"a": [{"b": 1, "c": 2}]}, {"a": [{"b": 1}]}, True),
            ({"a": [1]}, {"a": [1, 2]}, False),
            ({"a": [1, 2]}, {"a": [1]}, False),
            ({}, {"a": []}, True),
            ({}, {"a": {}}, True),
            ({}, {"a": [1]}, False),
            ({"a": "x"}, {"a": {"b": 1}}, False),
        ):
            self.assertEqual(expected, says(there, wanted), (there, wanted))

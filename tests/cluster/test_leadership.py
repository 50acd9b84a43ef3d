"""Who leads writes, the others serve; who leaves is no longer announced."""

from __future__ import annotations

from tests.cluster.installed import HOME, InstalledTestCase
from tproxy.cluster.api.lease import LEASES
from tproxy.cluster.kinds import PODS
from tproxy.operator.objects import Sort
from tproxy.operator.steps import Create, OutdatedError


class LeadershipTests(InstalledTestCase):
    """Who leads writes; the others serve."""

    def lead_by_other(self):
        spec = {"holderIdentity": "other", "leaseDurationSeconds": 15, "renewTime": "2027-01-15T08:00:00.000000Z"}
        self.server.create(LEASES, HOME, "tproxy", spec=spec)

    def test_follower(self):
        """Who follows writes nothing, and serves what is recorded."""
        self.start()
        self.apply("mail")
        self.stop()
        lease = self.server.storage.get(self.server.served(LEASES), (HOME, "tproxy"))
        uid = lease["metadata"]["uid"]
        self.server.change(
            LEASES,
            HOME,
            "tproxy",
            metadata={"uid": uid},
            spec={"holderIdentity": "other", "leaseDurationSeconds": 15},
        )
        asked = len(self.server.asked)
        self.start()
        self.assertEqual({"shop/mail": 10000}, self.serving())
        verbs = {each.verb for each in self.server.asked[asked:]}
        self.assertEqual({"list", "watch", "get"}, verbs)
        self.assertEqual(0, self.peer.asked)
        asked = len(self.server.asked)
        self.apply("other")
        self.assertEqual([], self.server.asked[asked:])

    def test_not_leading(self):
        """A write that was planned while we led is not made after that."""
        self.lead_by_other()
        self.start()
        self.failureResultOf(self.cluster.perform(Create(Sort.SERVICE, {})), OutdatedError)

    def test_peers(self):
        """Another replica is announced for what it says that it serves, and taken out when it is silent."""
        self.pod("tproxy-2", "10.0.0.2")
        self.start()
        self.apply("mail")
        self.assertEqual(["10.0.0.1"], self.addresses())
        self.peer.ports = {10000: ""}
        self.pass_time(2)
        self.assertEqual(["10.0.0.1", "10.0.0.2"], self.addresses())
        self.peer.ports = {10000: "0123456789abcdef"}
        self.pass_time(2)
        self.assertEqual(["10.0.0.1"], self.addresses())
        self.peer.ports = {10000: self.listeners.marks[10000]}
        self.pass_time(2)
        self.assertEqual(["10.0.0.1", "10.0.0.2"], self.addresses())
        self.peer.ports = None
        self.pass_time(9)
        self.assertEqual(["10.0.0.1", "10.0.0.2"], self.addresses())
        self.pass_time(8)
        self.assertEqual(["10.0.0.1"], self.addresses())
        self.server.delete(PODS, HOME, "tproxy-2")
        self.pass_time(2)

    def test_ended(self):
        """A pod that has ended keeps an address that may be another pod's by now: it is no replica, and not asked."""
        self.pod("tproxy-2", "10.0.0.2")
        self.start()
        self.apply("mail")
        self.peer.ports = {10000: self.listeners.marks[10000]}
        self.pass_time(2)
        self.assertEqual(["10.0.0.1", "10.0.0.2"], self.addresses())
        for name, phase in (("tproxy-1", "Running"), ("tproxy-2", "Failed")):
            uid = self.all(PODS)[name]["metadata"]["uid"]
            status = {"phase": phase, "conditions": [{"type": "Ready", "status": "False"}]}
            self.server.change(PODS, HOME, name, metadata={"uid": uid}, status=status)
        self.pass_time(3)
        self.assertEqual(["10.0.0.1"], self.addresses())
        asked = self.peer.asked
        self.pass_time(5)
        self.assertEqual(asked, self.peer.asked)


class LeavingTests(InstalledTestCase):
    """A replica that stops in good order."""

    drain_seconds = 60.0

    def test_leave(self):
        """It is named nowhere any more, gives the lease back, and lets sessions end."""
        self.pod("tproxy-2", "10.0.0.2")
        self.start()
        self.apply("mail")
        self.peer.ports = dict(self.listeners.marks)
        self.pass_time(2)
        self.sessions = 1
        stopping = self.operator.stopService()
        self.assertFalse(self.operator.ready)
        self.pass_time(2)
        self.assertEqual(["10.0.0.2"], self.addresses())
        lease = self.all(LEASES)["tproxy"]
        self.assertEqual("", lease["spec"]["holderIdentity"])
        self.pass_time(20)
        self.assertEqual({"shop/mail": 10000}, self.serving())
        self.sessions = 0
        self.pass_time(1)
        self.assertEqual({}, self.serving())
        for port in self.ports:
            port.stopped.callback(None)
        self.pass_time(1)
        self.successResultOf(stopping)

    def test_alone(self):
        """The only replica stays named, and does not wait for that to change."""
        self.start()
        self.apply("mail")
        stopping = self.operator.stopService()
        self.pass_time(7)
        self.assertEqual({}, self.serving())
        self.assertEqual(["10.0.0.1"], self.addresses())
        for port in self.ports:
            port.stopped.callback(None)
        self.pass_time(1)
        self.successResultOf(stopping)

"""An installation from end to end, on a stand-in of the API server: what it writes, and what it leaves alone."""

from __future__ import annotations

import errno

from twisted.internet.error import CannotListenError
from zope.interface.verify import verifyObject

from tests.apiserver.server import EVENTS, NAMESPACES, SERVICES, Cut, Silence
from tests.apiserver.storage import Status
from tests.cluster.installed import HOME, InstalledTestCase
from tests.logs import logged
from tproxy.cluster.api.lease import LEASES
from tproxy.cluster.kinds import DESTINATIONS, PODS, POLICIES, SLICES
from tproxy.interfaces import ICluster, IInstallation
from tproxy.model import Reason, Refusal, RefusedError, Stage
from tproxy.operator import operator
from tproxy.operator.objects import MANAGED_NAMESPACE

SUCCESS = ("True", "ConfigurationSuccessful")
FAILURE = ("False", "FailedToApplyConfiguration")


class LifeTests(InstalledTestCase):
    """A resource comes, changes and goes."""

    def test_interface(self):
        """It is what the operator wants of a cluster."""
        self.start()
        verifyObject(ICluster, self.cluster)
        verifyObject(IInstallation, self.cluster)

    def test_served(self):
        """A Destination becomes a name that leads to a port that is open, and is told so, once."""
        self.start()
        self.apply("mail")
        self.assertEqual({"mail": "p10000"}, self.named())
        self.assertEqual({"shop/mail": 10000}, self.serving())
        self.assertEqual(SUCCESS, self.condition("mail"))
        (endpoint,) = self.all(SLICES)["p10000"]["endpoints"]
        self.assertEqual((["10.0.0.1"], "node"), (endpoint["addresses"], endpoint["nodeName"]))
        self.assertEqual(1, len(self.all(POLICIES)))
        (event,) = self.all(EVENTS).values()
        self.assertEqual(("ConfigurationSuccessful", "Normal"), (event["reason"], event["type"]))
        asked = len(self.server.asked)
        self.pass_time(10)
        later = {(each.verb, each.resource) for each in self.server.asked[asked:]}
        self.assertEqual({("get", "leases"), ("patch", "leases")}, later)
        self.assertTrue(self.operator.ready)

    def test_port_taken(self):
        """A port that a replica cannot open leaves it out there alone, and an Event about its Pod says so, once."""
        self.taken[10000] = CannotListenError("0.0.0.0", 10000, OSError(errno.EADDRINUSE, "x"))
        self.start()
        self.apply("mail")
        self.pass_time(5)
        (event,) = [each for each in self.all(EVENTS).values() if each["regarding"]["kind"] == "Pod"]
        self.assertEqual("tproxy-1", event["regarding"]["name"])
        self.assertEqual(("FailedToListen", "Warning"), (event["reason"], event["type"]))
        self.assertIn("port 10000 of 0.0.0.0 is in use by another process", event["note"])
        self.assertEqual([], self.all(SLICES)["p10000"]["endpoints"])
        self.assertEqual({"mail": "p10001"}, self.named())
        del self.taken[10000]
        self.pass_time(10)
        self.assertEqual(1, len(self.all(SLICES)["p10000"]["endpoints"]))

    def test_deleted(self):
        """A Destination that is deleted takes port and sessions with it, once that was looked at."""
        self.start()
        self.apply("mail")
        self.server.delete(DESTINATIONS, "shop", "mail")
        self.pass_time(1)
        self.assertEqual({}, self.serving())
        (port,) = [each for each in self.ports if each.port == 10000]
        self.assertEqual(["the resource no longer wants it"], port.factory.revoked)
        self.assertIn("tproxy/released-at", self.all(SERVICES)["p10000"]["metadata"]["annotations"])
        self.assertEqual({}, self.all(POLICIES))
        self.assertEqual({}, self.named())

    def test_tenants(self):
        """Tenants come and go by the annotation; a resource is told at most every two seconds."""
        self.start()
        self.apply("mail", "acme")
        self.server.change(DESTINATIONS, "shop", "mail", metadata=self.annotated("mail", '["globex"]'))
        self.pass_time(0.5)
        self.assertEqual({"mail-globex": "p10001"}, self.named())
        told = [each for each in self.server.asked if each.resource == "destinations/status"]
        self.assertEqual(1, len(told))
        self.pass_time(3)
        (tenant,) = self.destination("mail")["status"]["tenants"]
        self.assertEqual(("globex", True), (tenant["subdomain"], tenant["available"]))

    def annotated(self, name, tenants):
        uid = self.destination(name)["metadata"]["uid"]
        return {"uid": uid, "annotations": {"transparent-proxy.connectivity.api.sap/tenant-subdomains": tenants}}

    def test_restarted(self):
        """Who starts again finds what was there, and announces nothing else meanwhile."""
        self.start()
        self.apply("mail")
        before = self.named(), self.all(SLICES)["p10000"]["endpoints"]
        self.stop()
        self.start()
        self.pass_time(20)
        self.assertEqual(before, (self.named(), self.all(SLICES)["p10000"]["endpoints"]))
        self.assertEqual({"shop/mail": 10000}, self.serving())

    def test_deleted_meanwhile(self):
        """What was deleted while nobody ran is given up at the start."""
        self.start()
        self.apply("mail")
        self.stop()
        self.server.delete(DESTINATIONS, "shop", "mail")
        self.start()
        self.assertIn("tproxy/released-at", self.all(SERVICES)["p10000"]["metadata"]["annotations"])
        self.assertEqual({}, self.serving())

    def test_not_readable(self):
        """A Destination that cannot even be answered is left out, and logged; others are served."""
        self.start()
        with logged(operator.log):
            self.server.create(DESTINATIONS, "shop", "a.b", spec={"destinationRef": {"name": "x"}})
            self.apply("mail")
        self.assertEqual(SUCCESS, self.condition("mail"))
        self.assertEqual("False", self.condition("a.b")[0])


class TroubleTests(InstalledTestCase):
    """What the API server does, and what others have done."""

    def test_foreign(self):
        """A Service of somebody else is left alone."""
        self.start()
        self.server.create(SERVICES, "shop", "mail", spec={"ports": [{"port": 80}]})
        before = self.all(SERVICES)["mail"]
        with logged(operator.log) as logs:
            self.apply("mail")
        self.assertEqual(before, self.all(SERVICES)["mail"])
        self.assertEqual(("False", "ConfigurationError-K8sResourceWithNameAlreadyPresent"), self.condition("mail"))
        self.assertEqual(
            ["name-already-present"], [each["reason"] for each in logs if each["event"] == "action.failed"]
        )
        self.server.delete(SERVICES, "shop", "mail")
        self.pass_time(15)
        self.assertEqual({"mail": "p10000"}, self.named())
        self.assertEqual(SUCCESS, self.condition("mail"))

    def test_foreign_record(self):
        """A number that somebody else uses as a name is passed over."""
        self.server.create(SERVICES, HOME, "p10000", spec={"ports": [{"port": 80}]})
        self.start()
        self.apply("mail")
        self.pass_time(3)
        self.assertEqual({"mail": "p10001"}, self.named())
        self.operator.refresh()

    def test_adopted(self):
        """What we made though the answer was lost is found."""
        self.start()
        self.server.faults["create", "services"].append(Cut(done=True))
        self.apply("mail")
        self.pass_time(5)
        self.assertEqual(SUCCESS, self.condition("mail"))

    def test_conflict(self):
        """What was changed meanwhile is looked at, and planned anew."""
        self.start()
        conflict = Status(409, "Conflict", "changed")
        self.server.faults["patch", "services"].append(conflict)
        self.server.faults["patch", "destinations/status"].append(conflict)
        self.apply("mail")
        self.pass_time(5)
        self.assertEqual(({"mail": "p10000"}, SUCCESS), (self.named(), self.condition("mail")))

    def test_forbidden(self):
        """A right that is missing is said, once a pause, and told the resource where that is possible."""
        for verb, resource in (
            ("create", "networkpolicies"),
            ("patch", "services"),
            ("create", "endpointslices"),
            ("patch", "destinations/status"),
        ):
            with self.subTest(verb=verb, resource=resource):
                self.server.forbidden.add((verb, resource))
                if not hasattr(self, "cluster"):
                    self.start()
                name = f"{verb}-{resource[:4]}"
                with logged(operator.log) as logs:
                    self.apply(name)
                    self.pass_time(3)
                messages = [each["message"] for each in logs if each["event"] == "action.failed"]
                self.assertTrue(messages, (verb, resource))
                self.assertIn("forbidden", messages[0])
                if resource != "endpointslices":  # a spare has its slice already
                    self.assertNotEqual(SUCCESS, self.condition(name))
                self.server.forbidden.clear()
                self.pass_time(30)
                self.assertEqual(SUCCESS, self.condition(name))

    def test_away(self):
        """While the API server does not answer nothing changes; nothing is taken away by an error."""
        self.start()
        self.apply("mail")
        self.server.cut()
        for verb in ("list", "watch", "get"):
            for resource in ("destinations", "services", "leases"):
                self.server.faults[verb, resource].extend([Status(503, "ServiceUnavailable", "away")] * 4)
        self.pass_time(20)
        self.assertEqual({"shop/mail": 10000}, self.serving())

    def test_short_list(self):
        """A list that comes back short takes nothing away."""
        self.start()
        self.apply("mail")
        stored = self.server.storage.objects[DESTINATIONS.group, DESTINATIONS.plural]
        kept = dict(stored)
        self.server.expire()
        stored.clear()
        self.server.forbidden.add(("get", "destinations"))
        self.pass_time(3)
        stored.update(kept)
        self.server.forbidden.clear()
        self.pass_time(5)
        self.assertEqual(({"shop/mail": 10000}, {"mail": "p10000"}), (self.serving(), self.named()))
        self.server.expire()
        self.pass_time(5)
        self.assertEqual(SUCCESS, self.condition("mail"))

    def test_kind_gone(self):
        """An API server that does not know Destinations any more says nothing about a single one."""
        self.start()
        self.apply("mail")
        served = self.server.served(DESTINATIONS)
        kept = dict(self.server.storage.objects[DESTINATIONS.group, DESTINATIONS.plural])
        self.server.storage.withdraw(served)
        self.pass_time(5)
        self.assertEqual({"shop/mail": 10000}, self.serving())
        self.server.storage.serve(served)
        self.server.storage.objects[DESTINATIONS.group, DESTINATIONS.plural].update(kept)
        self.server.expire()
        self.pass_time(60)
        self.assertEqual(({"shop/mail": 10000}, SUCCESS), (self.serving(), self.condition("mail")))

    def test_record_gone(self):
        """A record that somebody deleted is made anew, with another port or the same; a list alone removes none."""
        self.start()
        self.apply("mail")
        self.server.delete(SERVICES, HOME, "p10000")
        self.pass_time(3)
        self.assertEqual(1, len(self.serving()))
        self.assertEqual(SUCCESS, self.condition("mail"))
        stored = self.server.storage.objects["", SERVICES.plural]
        record = stored.pop((HOME, self.named()["mail"]))
        self.server.forbidden.add(("get", "services"))
        self.server.forbidden.add(("create", "services"))
        self.server.expire()
        self.pass_time(3)
        self.assertEqual(1, len(self.serving()))
        stored[HOME, record["metadata"]["name"]] = record
        self.server.forbidden.clear()
        self.pass_time(3)

    def test_unreachable(self):
        """Before everything was listed once nothing is known."""
        self.server.faults["list", "pods"].append(Silence())
        self.start()
        self.assertIsNone(self.cluster.observe())
        self.assertEqual([], self.ports)


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
        from tproxy.operator.objects import Sort
        from tproxy.operator.steps import Create, OutdatedError

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

    def addresses(self):
        return [each["addresses"][0] for each in self.all(SLICES)["p10000"]["endpoints"]]


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
        self.assertEqual(["10.0.0.2"], [e["addresses"][0] for e in self.all(SLICES)["p10000"]["endpoints"]])
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
        (endpoint,) = self.all(SLICES)["p10000"]["endpoints"]
        self.assertEqual(["10.0.0.1"], endpoint["addresses"])
        for port in self.ports:
            port.stopped.callback(None)
        self.pass_time(1)
        self.successResultOf(stopping)


class LabelSelectorTests(InstalledTestCase):
    """Only some namespaces are served."""

    mode = "labelSelector"

    def label(self, name, value=HOME):
        thing = self.server.storage.get(self.server.served(NAMESPACES), ("", name))
        labels = {MANAGED_NAMESPACE: value}
        self.server.change(NAMESPACES, "", name, metadata={"uid": thing["metadata"]["uid"], "labels": labels})

    def test_labelled(self):
        """A namespace is served while it has the label; then its listeners are given up."""
        self.start()
        self.apply("mail")
        self.assertIsNone(self.condition("mail"))
        self.label("shop")
        self.pass_time(2)
        self.assertEqual((SUCCESS, {"shop/mail": 10000}), (self.condition("mail"), self.serving()))
        self.label("shop", None)
        self.pass_time(2)
        self.assertEqual({}, self.serving())
        self.assertIn("tproxy/released-at", self.all(SERVICES)["p10000"]["metadata"]["annotations"])

    def test_no_rights(self):
        """A namespace where we may not look is unknown: nothing of it is taken away, and others are served."""
        self.label("shop")
        self.start()
        self.apply("mail")
        self.stop()
        self.server.faults["list", "destinations"].extend([Status(403, "Forbidden", "no")] * 3)
        self.start()
        self.assertEqual(({"mail": "p10000"}, {}), (self.named(), self.serving()))
        self.assertNotIn("tproxy/released-at", self.all(SERVICES)["p10000"]["metadata"]["annotations"])
        self.pass_time(20)
        self.assertEqual({"shop/mail": 10000}, self.serving())

    def test_namespace_gone(self):
        """A namespace that is deleted takes its listeners with it."""
        self.label("shop")
        self.start()
        self.apply("mail")
        self.server.delete(DESTINATIONS, "shop", "mail")
        self.server.delete(SERVICES, "shop", "mail")
        self.server.delete(NAMESPACES, "", "shop")
        self.pass_time(2)
        self.assertEqual({}, self.serving())


class StoreTests(InstalledTestCase):
    """What destinations do."""

    def test_unknown(self):
        """A destination that nobody knows is told; when it is there, it is served."""
        gone = Refusal(Stage.RESOLVE, Reason.DESTINATION_NOT_FOUND, "there is none", "make one")
        self.store.answers["mail"] = RefusedError(gone)
        self.start()
        self.apply("mail")
        self.assertEqual(("False", "ConfigurationError-ReferencedDestination-NotFound"), self.condition("mail"))
        del self.store.answers["mail"]
        self.pass_time(181)
        self.assertEqual(SUCCESS, self.condition("mail"))
        self.store.answers["mail"] = RefusedError(gone)
        self.operator.refresh()
        self.pass_time(3)
        self.assertEqual({}, self.serving())
        self.assertEqual("False", self.condition("mail")[0])

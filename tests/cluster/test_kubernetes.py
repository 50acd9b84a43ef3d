"""An installation from end to end, on a stand-in of the API server: what becomes of a resource."""

from __future__ import annotations

import errno

from twisted.internet.error import CannotListenError
from zope.interface.verify import verifyObject

from tests.apiserver.server import EVENTS, NAMESPACES, SERVICES
from tests.apiserver.storage import Status
from tests.cluster.installed import HOME, InstalledTestCase
from tests.logs import logged
from tests.operator.installations import SUCCESS
from tproxy.cluster.kinds import DESTINATIONS, POLICIES, SLICES
from tproxy.interfaces import ICluster, IInstallation
from tproxy.model import Reason, Refusal, RefusedError, Stage
from tproxy.operator import operator
from tproxy.operator.objects import MANAGED_NAMESPACE


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

"""What the objects of a cluster say of its names."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.operator.worlds import key
from tproxy.operator.listing import UNSAID, Row, listing
from tproxy.operator.manifests import SUCCESS, ListenerStatus, Status
from tproxy.operator.statuses import status_document

OWNED = {"apiVersion": "destination.connectivity.api.sap/v1", "kind": "Destination"}


def destination(name: str, *rows: ListenerStatus, spec: Any = None, **status: Any) -> dict[str, Any]:
    """A resource with the status that tproxy writes."""
    thing: dict[str, Any] = {"metadata": {"namespace": "shop", "name": name, "uid": f"uid of {name}"}, "spec": spec}
    if status:
        thing["status"] = status_document(Status(listeners=rows, **status), thing, 0)
    return thing


def named(name: str, resource: str, host: str = "p12345.tproxy.svc.cluster.local", port: Any = 993) -> dict[str, Any]:
    """A Service that is a name of a resource."""
    owner = {**OWNED, "name": resource, "uid": f"uid of {resource}"}
    return {
        "metadata": {"namespace": "shop", "name": name, "ownerReferences": [owner]},
        "spec": {"externalName": host, "ports": [{"port": port}]},
    }


def up(name: str, tenant: str = "", port: int = 993, address: str = "") -> ListenerStatus:
    each = key(name, tenant)
    return ListenerStatus(each, address or f"{each.service}.shop", port, True, SUCCESS)


def down(name: str, tenant: str = "", reason: str = "Bad", message: str = "no") -> ListenerStatus:
    return ListenerStatus(key(name, tenant), "", 0, False, reason, message)


class ListingTests(SynchronousTestCase):
    """One row for each name."""

    def test_tenants(self) -> None:
        """Each tenant has a row, in order, with its own state; the name tells where it leads."""
        mail = destination("mail", up("mail", "globex", 1143), down("mail", "acme"), available=False, reason="Bad")
        names = [named("mail-globex", "mail", port=1143)]
        self.assertEqual([Row(down("mail", "acme")), Row(up("mail", "globex", 1143), 12345)], listing([mail], names))

    def test_whole(self) -> None:
        """A resource without tenants has a row, whose port is that of its name."""
        mail = destination("mail", available=True, reason=SUCCESS)
        other = destination("a", available=False, reason="Bad", message="no")
        self.assertEqual([Row(down("a")), Row(up("mail"), 12345)], listing([mail, other], [named("mail", "mail")]))

    def test_names_unseen(self) -> None:
        """Without the names, ports are those that the status and the resource tell."""
        asking = destination("mail", spec={"service": {"port": 1143}}, available=True, reason=SUCCESS)
        tenants = destination("tenants", up("tenants", "acme", 1143), available=True, reason=SUCCESS)
        silent = destination("silent", available=True, reason=SUCCESS)
        failed = destination("x", spec={"service": {"port": 1143}}, available=False, reason="Bad", message="no")
        self.assertEqual(
            [Row(up("mail", port=1143)), Row(up("silent", port=0)), Row(up("tenants", "acme", 1143)), Row(down("x"))],
            listing([asking, tenants, silent, failed], []),
        )

    def test_unavailable_name(self) -> None:
        """A name that is there is told, also of a resource that is not available."""
        mail = destination("mail", available=False, reason="Bad")
        [row] = listing([mail], [named("mail", "mail")])
        self.assertEqual(("mail.shop", 993, False), (row.status.address, row.status.port, row.status.available))

    def test_unsaid(self) -> None:
        """A resource that nobody has looked at yet says so."""
        self.assertEqual([Row(down("mail", reason="", message=UNSAID))], listing([destination("mail")], []))

    def test_foreign_name(self) -> None:
        """A Service that belongs to another resource, of now or before, is none of its names."""
        mail = destination("mail", down("mail", "acme"), available=False, reason="Bad")
        self.assertEqual([Row(down("mail", "acme"))], listing([mail], [named("mail-acme", "mail-acme")]))

    def test_odd(self) -> None:
        """What others have written into a status, or a Service, makes no row wrong but its own."""
        mail = destination("mail", available=True, reason=SUCCESS)
        mail["status"]["tenants"] = [
            "acme",
            {"subdomain": 7},
            {"subdomain": "acme", "port": "993", "available": "True"},
        ]
        self.assertEqual([Row(down("mail", "acme", "", ""))], listing([mail], []))
        for host, port in (("elsewhere.example.com", "993"), ("", None)):
            [row] = listing([mail], [named("mail-acme", "mail", host, port)])
            self.assertEqual((0, 0), (row.status.port, row.target))
        bare = named("mail-acme", "mail")
        del bare["spec"]
        self.assertEqual(0, listing([mail], [bare])[0].target)

"""The vocabulary."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tproxy.cluster.api.objects import Kind, Query

SERVICES = Kind("", "v1", "Service", "services")
NODES = Kind("", "v1", "Node", "nodes", namespaced=False)
WIDGETS = Kind("contract.test", "v2", "Widget", "widgets")


class KindTests(SynchronousTestCase):
    """Where the API has things."""

    def test_paths(self) -> None:
        """Core and other groups, all and some, one and what belongs to it."""
        for path, expected in (
            (SERVICES.collection(), "/api/v1/services"),
            (SERVICES.collection("shop"), "/api/v1/namespaces/shop/services"),
            (WIDGETS.path(("shop", "one"), "status"), "/apis/contract.test/v2/namespaces/shop/widgets/one/status"),
            (NODES.path(("", "n1")), "/api/v1/nodes/n1"),
            (SERVICES.path(("a/b", "c?d")), "/api/v1/namespaces/a%2Fb/services/c%3Fd"),
        ):
            self.assertEqual(path, expected)
        self.assertEqual((SERVICES.api_version, WIDGETS.api_version), ("v1", "contract.test/v2"))

    def test_no_names(self) -> None:
        """What would be another path is none."""
        for kind, each in (
            (SERVICES, ("shop", "")),
            (SERVICES, ("shop", "..")),
            (SERVICES, (".", "one")),
            (SERVICES, ("", "one")),
            (NODES, ("shop", "one")),
        ):
            self.assertRaises(ValueError, kind.path, each)


class QueryTests(SynchronousTestCase):
    """Which objects are meant."""

    def test_selectors(self) -> None:
        """Only those that are given are sent."""
        self.assertEqual(Query(SERVICES).selectors, ())
        self.assertEqual(Query.single(SERVICES, ("shop", "one")).selectors, (("fieldSelector", "metadata.name=one"),))

    def test_words(self) -> None:
        """For the log."""
        self.assertEqual(str(Query(SERVICES)), "services")
        self.assertEqual(str(Query(SERVICES, "shop", "a=b")), "services in shop with a=b")

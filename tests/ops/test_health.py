"""The pages that tell how this process fares: their shapes are those that monitors know."""

from __future__ import annotations

import json
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.operator.worlds import World, rejected, resource
from tests.ops.requests import Answer, get
from tproxy.operator.plan import Snapshot
from tproxy.ops import health
from tproxy.ops.health import NOT_READY, overall

CREATED = "2022-08-26T11:05:30Z"


class HealthTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.known = self.ready = True

    def observe(self) -> Snapshot | None:
        return self.world.observed().cluster if self.known else None

    def get(self, name: str) -> Answer:
        pages = health.pages(lambda: self.ready, self.observe, lambda: dict.fromkeys(self.world.ports.values(), "mark"))
        return get(pages[name])

    def json(self, name: str) -> Any:
        answer = self.get(name)
        self.assertEqual((answer.code, answer.kind), (200, "application/json"))
        return json.loads(answer.body)


class Probes(HealthTestCase):
    """What a kubelet asks."""

    def test_alive(self) -> None:
        """Whoever answers is alive, whatever else is wrong."""
        self.known = self.ready = False
        self.assertEqual((self.get("healthz").code, self.get("healthz").body), (200, b"ok\n"))

    def test_ready(self) -> None:
        """Ready or not is said with the status code."""
        self.assertEqual(self.get("readyz").code, 200)
        self.ready = False
        self.assertEqual((self.get("readyz").code, self.get("readyz").body), (503, f"{NOT_READY}\n".encode()))


class Status(HealthTestCase):
    """What a monitor and the other replicas ask."""

    def test_well(self) -> None:
        """All components are well, and the ports are told in order."""
        self.world.resources = [resource("b", port=1993), resource("a", port=4000), resource("c", port=993)]
        self.world.settle()
        marks = dict.fromkeys(["993", "1993", "4000"], "mark")
        tcp = {"Status": "ok", "Ports": [993, 1993, 4000], "Marks": marks}
        components = {"tproxy-manager": {"Status": "ok"}, "tproxy-tcp": tcp}
        self.assertEqual(self.json("status"), {"Status": "ok", "Components": components})

    def test_nothing_to_do(self) -> None:
        """Without resources no port is missing."""
        self.assertEqual(self.json("status")["Status"], "ok")

    def test_starting(self) -> None:
        """Before anything is known nothing is well."""
        self.known = self.ready = False
        manager = {"Status": "critical", "Message": NOT_READY}
        tcp = {"Status": "critical", "Message": "no port is open", "Ports": [], "Marks": {}}
        components = {"tproxy-manager": manager, "tproxy-tcp": tcp}
        self.assertEqual(self.json("status"), {"Status": "critical", "Components": components})

    def test_ports_without_a_plan(self) -> None:
        """One component of two that is critical is a warning."""
        self.world.resources = [resource("a")]
        self.world.settle()
        self.ready = False
        self.assertEqual(self.json("status")["Status"], "warning")

    def test_no_port(self) -> None:
        """A resource that should be served, and nothing is open for it."""
        self.world.resources = [resource("a")]
        self.world.settle()
        self.world.listening.clear()
        self.assertEqual(self.json("status")["Components"]["tproxy-tcp"]["Status"], "critical")

    def test_overall(self) -> None:
        """Some are well, all are, or none is."""
        for parts, whole in (([], "ok"), ([True], "ok"), ([True, False], "warning"), ([False, False], "critical")):
            self.assertEqual(overall(parts), whole)


class Resources(HealthTestCase):
    """What became of Destination resources."""

    def test_rows(self) -> None:
        """Each resource with its condition, in the order of names."""
        wrong = evolve(rejected("a"), created=CREATED)
        self.world.resources = [evolve(resource("b", "acme", "globex", destination="box"), created=CREATED), wrong]
        self.world.settle()
        told = self.world.told("a")
        self.assertEqual(
            self.json("destinationCRs"),
            {
                "Status": "warning",
                "CustomResources": [
                    {
                        "Name": "a",
                        "DestinationRef": {"name": ""},
                        "CreationTimestamp": CREATED,
                        "Available": "False",
                        "Message": told.message,
                        "Reason": told.reason,
                    },
                    {
                        "Name": "b",
                        "DestinationRef": {"name": "box"},
                        "CreationTimestamp": CREATED,
                        "Available": "True",
                        "Message": "",
                        "Reason": "ConfigurationSuccessful",
                    },
                ],
            },
        )

    def test_not_yet(self) -> None:
        """A resource that nothing was said of yet is not available; a file tells no time."""
        self.world.resources = [resource("a")]
        told = self.json("destinationCRs")
        (row,) = told["CustomResources"]
        self.assertEqual(told["Status"], "critical")
        self.assertEqual(
            (row["Available"], row["Reason"], row["Message"], row["CreationTimestamp"]), ("False", "", "", None)
        )

    def test_unknown(self) -> None:
        """Before resources are known there are none to tell."""
        self.known = False
        self.assertEqual(self.json("destinationCRs"), {"Status": "ok", "CustomResources": []})

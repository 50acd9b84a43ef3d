"""As many resources as a company has: what they cost, and how long everything takes with them."""

from __future__ import annotations

import os
import signal
from collections import Counter
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.integration.kubernetes.installation import Installed, Replica, resource
from tests.integration.kubernetes.measures import METRICS, Passes, measures, memory, passes, ready, shares, writes
from tests.integration.kubernetes.watching import Slices, Watch

RESOURCES = int(os.environ.get("TPROXY_TEST_RESOURCES", "12"))
"""How many there are; a company has 800, and the test takes the better part of an hour then."""
TENANTS = tuple(f"t{number}" for number in range(5))
LISTENERS = RESOURCES * len(TENANTS)
LARGE = RESOURCES >= 100
CHANGES = 40 if LARGE else 10
REST_SECONDS = 60 if LARGE else 12
PATIENCE_SECONDS = 1800
OWN_PORT = 2000
DESTINATIONS = "/apis/destination.connectivity.api.sap/v1/namespaces/shop/destinations"


def kinds(written: Counter[str]) -> set[str]:
    """The kinds that were written, without their groups."""
    return {kind.partition(".")[0] for kind in written}


class ScaleTests(Installed):
    """Two replicas, and resources with five tenants each."""

    timeout = 3600

    async def setUp(self):
        await super().setUp()
        await self.operate(
            limits={"listeners": LISTENERS + 2 * CHANGES},
            logging={"level": "info"},
            metrics={"listen": "0.0.0.0", "port": METRICS},
        )
        self.installation.configuration["cluster"]["kubernetes"]["spares"] = CHANGES
        await self.cluster.namespace(self, "shop")
        self.workload = await self.client("shop")
        self.names = [f"mail-{number}" for number in range(RESOURCES)]
        for name in self.names:
            for tenant in TENANTS:
                self.installation.document(name, tenant)
        for name in ("one", "own"):
            self.installation.document(name)
        self.slices = Slices(self, self.cluster)
        self.first = await self.installation.start("tproxy-1")
        self.second = await self.installation.start("tproxy-2")
        self.slices.follow(self.first, self.second)
        await self.everywhere(CHANGES, self.first, self.second)

    async def everywhere(self, least: int, *replicas: Replica) -> float:
        """Returns once at least so many ports, and all there are, lead to these replicas; after how many seconds."""
        began = monotonic()
        await self.installation.until(lambda: self.slices.everywhere(least, *replicas), PATIENCE_SECONDS)
        return monotonic() - began

    async def settled(self) -> None:
        """Returns once nothing is written for some seconds but leases."""
        before = await writes(self.cluster)

        async def same() -> bool:
            nonlocal before
            # Nothing tells that nothing more comes: so it is looked at twice.
            await deferLater(reactor, 3)
            before, previous = await writes(self.cluster), before
            return kinds(before - previous) <= {"leases"}

        await self.installation.until(same, PATIENCE_SECONDS)

    async def passed(self) -> list[Passes]:
        return [await passes(replica) for replica in (self.first, self.second)]

    async def since(self, before: list[Passes]) -> str:
        first, second = (now.since(then) for then, now in zip(before, await self.passed(), strict=True))
        return f"a pass takes {first} where it leads, {second} where not"

    async def test_scale(self):
        """They are all made at once, rest, get another one, are served by a new replica, and survive two others."""
        self.assertEqual((1, 0), tuple([(await measures(each))["tproxy_leader"] for each in (self.first, self.second)]))
        await self.create()
        await self.rest()
        await self.change()
        await self.restart()
        await self.lose(self.second, self.first, self.third)
        await self.lose(self.first, self.third)
        self.assertEqual([], self.slices.wrong)
        self.assertIsNone(self.slices.watch.output.end, str(self.slices.watch.output))

    async def create(self) -> None:
        """One `kubectl apply` of all of them."""
        replicas = (self.first, self.second)
        available: dict[str, int] = {}

        def seen(name: str, thing: Any) -> None:
            rows = thing.get("status", {}).get("tenants", ())
            available[name] = sum(row["available"] for row in rows)

        watch = Watch(self, self.cluster, DESTINATIONS, seen)
        memories = [memory(each) for each in replicas]
        before, began = await self.passed(), monotonic()
        await self.apply(*(resource("shop", name, *TENANTS) for name in self.names))
        applied = monotonic() - began
        await self.installation.until(lambda: sum(available.values()) == LISTENERS, PATIENCE_SECONDS)
        took = monotonic() - began
        await watch.end()
        await self.everywhere(LISTENERS, *replicas)
        await self.settled()
        self.assertEqual(LISTENERS + CHANGES, len(self.slices.lead), "each listener has one port, and there are spares")
        grown = [(memory(each) - was) / LISTENERS for each, was in zip(replicas, memories, strict=True)]
        print(
            f"memory without and with {LISTENERS} listeners: {memories[0]} and {memory(self.first)} kB where it leads, "
            f"{memories[1]} and {memory(self.second)} kB where not: {grown[0]:.1f} and {grown[1]:.1f} kB a listener"
        )
        print(
            f"{RESOURCES} resources with {LISTENERS} listeners are available {took:.1f} s after kubectl apply began, "
            f"which took {applied:.1f} s: {LISTENERS / took:.1f} a second; {await self.since(before)}"
        )

    async def rest(self) -> None:
        """Nothing is changed, and so nothing is written but leases."""
        before, written = await self.passed(), await writes(self.cluster)
        # How much happens in this time is what is measured.
        await deferLater(reactor, REST_SECONDS)
        written = await writes(self.cluster) - written
        print(
            f"{LISTENERS} listeners at rest for {REST_SECONDS} s: written {told(written)}; {await self.since(before)}"
        )
        silent = {"services", "endpointslices", "networkpolicies", "destinations", "events"}
        self.assertEqual(set(), silent & kinds(written))

    async def change(self) -> None:
        """One more, again and again: while there are spares, and each at a port for which there are none."""
        await self.installation.until(lambda: len(self.routed()) >= LISTENERS + CHANGES, PATIENCE_SECONDS)
        for destination, port, words in (("one", (), "with spares"), ("own", (OWN_PORT,), "without")):
            before = await self.passed()
            said = await self.first_bytes(self.workload, destination, CHANGES, *port)
            self.assertEqual({"ConfigurationSuccessful"}, set(said["events"].values()))
            print(
                f"{CHANGES} more beside {LISTENERS} listeners, {words}: from create to the first byte by name "
                f"{shares(said['milliseconds'])}; {await self.since(before)}"
            )
        await self.settled()

    async def restart(self) -> None:
        """A replica that starts opens all ports, and has nothing to write; then all slices name it, too."""
        written = await writes(self.cluster)
        self.third = await self.installation.begin("tproxy-3")
        self.slices.follow(self.third)
        await self.installation.until(lambda: ready(self.third), PATIENCE_SECONDS)
        (start,) = self.third.logged(event="start")
        took = (datetime.now(UTC) - datetime.fromisoformat(start["time"])).total_seconds()
        there = await measures(self.third)
        self.assertEqual(LISTENERS + 2 * CHANGES, there["tproxy_listeners"])
        await self.third.pod.ready()
        named = await self.everywhere(LISTENERS + 2 * CHANGES, self.first, self.second, self.third)
        written = await writes(self.cluster) - written
        print(
            f"a replica is started: {there['tproxy_listeners']:.0f} ports are open {took:.1f} s later; "
            f"from when its pod is ready until all slices name it {named:.1f} s; written {told(written)}"
        )
        self.assertEqual(set(), {"services", "networkpolicies", "destinations"} & kinds(written))

    async def lose(self, lost: Replica, *left: Replica) -> None:
        """A replica is killed."""
        leads = (await measures(lost))["tproxy_leader"] == 1
        began = monotonic()
        await lost.child.end(signal.SIGKILL)
        await lost.pod.ready(False)
        await self.everywhere(LISTENERS + 2 * CHANGES, *left)
        print(
            f"a replica that {'leads' if leads else 'does not lead'} is killed, one of {len(left) + 1}: "
            f"{len(self.slices.lead)} slices are right {monotonic() - began:.1f} s later"
        )


def told(written: Counter[str]) -> str:
    """What was written how often."""
    return ", ".join(f"{kind} {number}" for kind, number in sorted(written.items())) or "nothing"

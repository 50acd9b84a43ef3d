"""What every kind of cluster does, as those rely on it who plan: true of a folder, of the stand-in, and of Kubernetes.

Mix `ClusterContract` into a TestCase that provides a cluster, and does what others do there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from time import time
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.web.client import Agent
from zope.interface.verify import verifyObject

from tests.cluster.api.contract import until
from tproxy.assembly import Clock
from tproxy.cluster.api.access import Access
from tproxy.cluster.api.client import connect
from tproxy.cluster.home import Home
from tproxy.cluster.kinds import DESTINATIONS, NAMESPACES
from tproxy.cluster.kubernetes import KubernetesCluster
from tproxy.config import Config
from tproxy.instances import DirectoryInstance
from tproxy.interfaces import ICluster
from tproxy.model import ListenerKey, Reason, Tenant
from tproxy.operator.manifests import API_VERSION, KIND, SUCCESS, TENANTS, Rejected, Resource, Status
from tproxy.operator.objects import Installation
from tproxy.operator.steps import Tell

CONFIG = Config("shared", (DirectoryInstance("local", Path("/nowhere")),), "local", None)


def destination(namespace: str, name: str, wanted: str, tenants: str = '["acme"]') -> dict[str, Any]:
    """A Destination that leads to `wanted`."""
    spec = {"destinationRef": {"name": wanted}}
    metadata = {"namespace": namespace, "name": name, "annotations": {TENANTS: tenants}}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


class ClusterContract:
    """The suite; `made` gives a cluster that is not started yet."""

    async def setUp(self) -> None:
        self.namespace = f"contract-{token_hex(4)}"
        self.changes = self.noticed = 0
        self.ours = await self.made()
        self.ours.watch(self.changed)
        self.addCleanup(self.stop)

    async def made(self) -> Any:
        raise NotImplementedError

    async def apply(self, resource: dict[str, Any]) -> None:
        """Somebody makes or changes a resource."""
        raise NotImplementedError

    async def delete(self, name: str) -> None:
        """Somebody deletes a resource."""
        raise NotImplementedError

    def telling(self, name: str, status: Status) -> Any:
        """What tells a resource how it fares."""
        raise NotImplementedError

    def changed(self) -> None:
        self.changes += 1

    async def stop(self) -> None:
        if self.ours.running:
            await maybeDeferred(self.ours.stopService)

    def seen(self) -> dict[str, Resource | Rejected]:
        snapshot = self.ours.observe()
        assert snapshot is not None
        return {each.name: each for each in snapshot.resources if each.namespace == self.namespace}

    async def begun(self) -> None:
        self.ours.startService()
        await until(self.ours.observe)

    async def news(self, condition: Callable[[], object]) -> None:
        """Returns once a condition holds, of which those were told who watch."""
        await until(lambda: self.changes > self.noticed and condition())
        self.noticed = self.changes

    async def test_unknown(self) -> None:
        """Before anything was read nothing is known; nothing that is there is known to be nothing."""
        self.assertTrue(verifyObject(ICluster, self.ours))
        self.assertIsNone(self.ours.observe())
        await self.begun()
        self.assertEqual({}, self.seen())
        self.assertTrue(self.changes)

    async def test_there_already(self) -> None:
        """What is there at the start is there in the first picture."""
        for name in ("one", "two"):
            await self.apply(destination(self.namespace, name, "mail"))
        await self.begun()
        self.assertEqual({"one", "two"}, self.seen().keys())

    async def test_changes(self) -> None:
        """What comes, changes and goes is noticed; what is wrong is there, with the reason; the rest is as it was."""
        await self.begun()
        await self.apply(destination(self.namespace, "one", "mail"))
        await self.news(self.seen)
        (binding,) = self.seen()["one"].bindings
        self.assertEqual(
            (ListenerKey(self.namespace, "one", Tenant("acme")), "mail"), (binding.key, binding.request.name)
        )
        await self.apply(destination(self.namespace, "two", "mail"))
        await self.news(lambda: "two" in self.seen())
        two = self.seen()["two"]
        await self.apply(destination(self.namespace, "one", "other"))
        await self.news(lambda: self.seen()["one"].bindings[0].request.name == "other")
        await self.apply(destination(self.namespace, "one", "other", tenants="acme"))
        await self.news(lambda: isinstance(self.seen()["one"], Rejected))
        self.assertEqual(Reason.TENANT_ANNOTATION_INVALID, self.seen()["one"].refusal.reason)
        await self.delete("one")
        await self.news(lambda: "one" not in self.seen())
        self.assertEqual({"two": two}, self.seen())

    async def test_status(self) -> None:
        """What a resource was told is in the next picture."""
        await self.apply(destination(self.namespace, "one", "mail"))
        await self.begun()
        for status in (Status(False, "FailedToApplyConfiguration", "not yet"), Status(True, SUCCESS, "")):
            await self.ours.perform(await self.telling("one", status))
            told = self.ours.observe().statuses[self.namespace, "one"]
            self.assertEqual((status.available, status.reason), (told.available, told.reason))
            self.assertIn(status.message, told.message)


class KubernetesContract(ClusterContract):
    """With a client of its own, what others do; `access` gives the credentials of an administrator."""

    async def access(self) -> Access:
        raise NotImplementedError

    async def made(self) -> KubernetesCluster:
        access = await self.access()
        clock = Clock(reactor)
        self.client, client, leaser = (connect(access, reactor, clock) for _ in range(3))
        self.addCleanup(self.client.close)
        await self.client.create(NAMESPACES, {"metadata": {"name": self.namespace}})
        home = Home(Installation(self.namespace), "tproxy-1", ("127.0.0.1",))
        agent = Agent(reactor)
        return KubernetesCluster(CONFIG, home, client, leaser, agent, 8080, clock, time, token_hex(8), dict)

    async def apply(self, resource: dict[str, Any]) -> None:
        name = resource["metadata"]["name"]
        if self.ours.observe() is not None and name in self.seen():
            there = await self.client.get(DESTINATIONS, (self.namespace, name))
            notes = {"annotations": resource["metadata"]["annotations"]}
            await self.client.patch(DESTINATIONS, there, {"metadata": notes, "spec": resource["spec"]})
        else:
            await self.client.create(DESTINATIONS, resource)

    async def delete(self, name: str) -> None:
        await self.client.delete(DESTINATIONS, await self.client.get(DESTINATIONS, (self.namespace, name)))

    async def telling(self, name: str, status: Status) -> Tell:
        await until(lambda: self.ours.observe().objects.leading)
        snapshot = self.ours.observe()
        each = self.namespace, name
        return Tell(each, snapshot.objects.identities[each].thing, status, snapshot.statuses.get(each))

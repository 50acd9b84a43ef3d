"""tproxy has the rights in a cluster that it needs, and no other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from time import time
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.apiserver.server import CONFIG_MAPS, NAMESPACES, SECRETS, SERVICES
from tests.integration.kubernetes.manifests import ACCOUNT, DESTINATIONS, HOME, K8S, Manifests, destination
from tproxy.assembly import Clock
from tproxy.cluster.api.client import connect
from tproxy.cluster.api.kubeconfig import kubeconfig
from tproxy.cluster.api.lease import LEASES
from tproxy.cluster.api.objects import APIError, Kind, Query, Why, key
from tproxy.cluster.api.recorder import EVENTS, Note, event
from tproxy.net.sockets import Lingering

SLICES = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
POLICIES = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
PODS = Kind("", "v1", "Pod", "pods")
DEPLOYMENTS = Kind("apps", "v1", "Deployment", "deployments")

READ = {"get", "list", "watch"}
WRITE = READ | {"create", "patch", "delete"}

EVERYWHERE = {
    "destination.connectivity.api.sap/destinations": READ,
    "destination.connectivity.api.sap/destinations/status": {"patch"},
    "events.k8s.io/events": {"create"},
}
OF_SERVICES = {"/services": WRITE}
OF_NAMESPACES = {"/namespaces": READ}
AT_HOME = {
    "discovery.k8s.io/endpointslices": WRITE,
    "discovery.k8s.io/endpointslices/restricted": {"create"},
    "networking.k8s.io/networkpolicies": WRITE,
    "/pods": READ,
    "coordination.k8s.io/leases": {"create"},
    "coordination.k8s.io/leases tproxy": {"get", "patch"},
    "/secrets destination-service": READ,
}


class RulesTests(Manifests):
    """All rules of the ServiceAccount, as the API server sees them."""

    async def rules(self, namespace: str, account: str) -> dict[str, set[str]]:
        """What an account may do in a namespace: verbs by group/resource, and the name where there is one."""
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": namespace},
        }
        config = await self.cluster.account(HOME, account)
        ask = ("create", "--validate=false", "-f", "-", "-o", "json")
        status = json.loads(await self.cluster.kubectl(*ask, stdin=json.dumps(review), config=config))["status"]
        self.assertFalse(status["incomplete"])
        found: dict[str, set[str]] = {}
        for rule in status["resourceRules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    for name in rule.get("resourceNames", [""]):
                        found.setdefault(f"{group}/{resource} {name}".strip(), set()).update(rule["verbs"])
        return found

    async def assert_rules(self, namespace: str, *expected: Mapping[str, Set[str]]) -> None:
        """It may do this, what every account may do, and nothing else."""
        wanted: dict[str, Set[str]] = dict(await self.rules(namespace, "default"))
        for rules in expected:
            wanted |= rules
        self.assertEqual(wanted, await self.rules(namespace, ACCOUNT))

    async def test_all(self):
        """Where all namespaces are served: Services everywhere, all else at home."""
        await self.cluster.namespace(self, "rules-all")
        await self.install("shared")
        await self.assert_rules(HOME, EVERYWHERE, OF_SERVICES, AT_HOME)
        await self.assert_rules("rules-all", EVERYWHERE, OF_SERVICES)

    async def test_label_selector(self):
        """Where some are served: Services where a RoleBinding says so, which can be taken away again."""
        shop = "rules-some"
        await self.cluster.namespace(self, shop)
        await self.install("labelSelector")
        await self.assert_rules(HOME, EVERYWHERE, OF_NAMESPACES, OF_SERVICES, AT_HOME)
        await self.assert_rules(shop, EVERYWHERE, OF_NAMESPACES)
        binding = ("-n", shop, "-k", K8S / "namespace")
        await self.cluster.kubectl("apply", *binding, "--warnings-as-errors")
        await self.assert_rules(shop, EVERYWHERE, OF_NAMESPACES, OF_SERVICES)
        await self.assert_rules("default", EVERYWHERE, OF_NAMESPACES)
        await self.cluster.kubectl("delete", *binding)
        await self.assert_rules(shop, EVERYWHERE, OF_NAMESPACES)


class RequestTests(Manifests):
    """tproxy's own requests with the token of the ServiceAccount: authorized, admitted, or refused."""

    async def test_requests(self):
        """What tproxy does goes through, with owners kept as strictly as some clusters do; all else is forbidden."""
        shop = "requests"
        await self.cluster.namespace(self, shop)
        await self.install("dedicated")
        await self.cluster.create(destination(shop, "mail"))
        await self.cluster.kubectl("create", "secret", "generic", "destination-service", "-n", HOME)
        access = kubeconfig(str(await self.cluster.account(HOME, ACCOUNT)))
        self.client = connect(access, reactor, Clock(reactor))
        self.addCleanup(self.close)
        mail = await self.client.get(DESTINATIONS, (shop, "mail"))
        await self.read(shop)
        await self.write(shop, mail)
        await self.tell(mail)
        await self.refused(shop, mail)

    async def close(self) -> None:
        await self.client.close()
        while any(isinstance(each, Lingering) for each in reactor.getReaders()):
            await deferLater(reactor, 0.01)

    async def read(self, shop: str) -> None:
        """Destinations everywhere, pods at home, and the one Secret by its name."""
        key_of_service = (HOME, "destination-service")
        await self.client.get(SECRETS, key_of_service)
        for query in (
            Query(DESTINATIONS),
            Query(PODS, HOME),
            Query(SERVICES, shop),
            Query.single(SECRETS, key_of_service),
        ):
            listing = await self.client.list(query)
            stream = await self.client.watch(query, listing.version, 60, lambda change: None)
            stream.ended.addErrback(lambda failure: None)
            stream.ended.cancel()

    async def write(self, shop: str, mail: Any) -> None:
        """What is ours is made, changed, read and deleted."""
        owner = {"apiVersion": mail["apiVersion"], "kind": mail["kind"], "name": "mail", "uid": mail["metadata"]["uid"]}
        owner |= {"controller": True, "blockOwnerDeletion": False}
        name = thing(shop, "mail", spec={"type": "ExternalName", "externalName": "p12345.example.com"})
        name["metadata"]["ownerReferences"] = [owner]
        for kind, wanted in (
            (SERVICES, name),
            (SERVICES, thing(HOME, "p12345", spec={"ports": [{"port": 993, "targetPort": 12345}]})),
            (SLICES, endpoint_slice(HOME)),
            (POLICIES, thing(HOME, "shop", spec={"podSelector": {}})),
        ):
            there = await self.client.create(kind, wanted)
            there = await self.client.patch(kind, there, {"metadata": {"annotations": {"tproxy/tenant": "acme"}}})
            self.assertEqual(there, await self.client.get(kind, key(there)))
            await self.client.delete(kind, there)
        lease = await self.client.create(LEASES, thing(HOME, "tproxy", spec={"holderIdentity": "one"}))
        lease = await self.client.get(LEASES, key(lease))
        await self.client.patch(LEASES, lease, {"spec": {"holderIdentity": "two"}})

    async def tell(self, mail: Any) -> None:
        """How a Destination fares: in its status, and in an Event beside it."""
        await self.client.patch_status(DESTINATIONS, mail, {"observedTenants": "abc"})
        note = Note("Published", "Publish", "it answers")
        await self.client.create(EVENTS, event(mail, note, "tproxy", "tproxy-1", time(), "abc"))

    async def refused(self, shop: str, mail: Any) -> None:
        """What it has no right to."""
        mine = {"metadata": {"namespace": HOME, "name": "tproxy", "uid": "1", "resourceVersion": "1"}}
        for asked in (
            self.client.list(Query(SECRETS, HOME)),
            self.client.get(SECRETS, (HOME, "other")),
            self.client.get(SECRETS, (shop, "destination-service")),
            self.client.create(SLICES, endpoint_slice(shop)),
            self.client.create(POLICIES, thing(shop, "mail", spec={"podSelector": {}})),
            self.client.patch(DESTINATIONS, mail, {"spec": {"service": {"port": 993}}}),
            self.client.delete(DESTINATIONS, mail),
            self.client.list(Query(PODS, shop)),
            self.client.list(Query(NAMESPACES)),
            self.client.get(LEASES, (HOME, "other")),
            self.client.list(Query(CONFIG_MAPS, HOME)),
            self.client.patch(DEPLOYMENTS, mine, {"spec": {"replicas": 0}}),
        ):
            with self.assertRaises(APIError) as caught:
                await asked
            self.assertEqual(Why.FORBIDDEN, caught.exception.reason, caught.exception.message)


def thing(namespace: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": namespace, "name": name}, **fields}


def endpoint_slice(namespace: str) -> dict[str, Any]:
    endpoints = [{"addresses": ["198.18.0.9"]}]
    return thing(namespace, "p12345", addressType="IPv4", endpoints=endpoints, ports=[{"port": 12345}])

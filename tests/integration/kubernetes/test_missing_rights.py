"""Each right that is shipped, taken away in turn: it is said which one is missing, nothing ends, and it heals."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

from attrs import evolve, frozen

from tests.integration.children import run
from tests.integration.kubernetes.cluster import API
from tests.integration.kubernetes.installation import Installed, Replica, resource
from tests.integration.kubernetes.manifests import ACCOUNT, HOME, K8S, built
from tproxy.operator.objects import CLUSTER_WIDE, MANAGED_NAMESPACE, policy_name

SHOP = "shop"
UNHAPPY = "ServiceCreationFailed"
TAKEN = "ConfigurationError-K8sResourceWithNameAlreadyPresent"


@frozen
class Right:
    """One verb of a rule."""

    kind: str
    role: str
    resource: str
    verb: str

    def to(self, verb: str) -> Right:
        """The right to do something else with the same."""
        return evolve(self, verb=verb)

    @property
    def namespace(self) -> str:
        """Where it counts in these tests."""
        return HOME if self.kind == "Role" else SHOP

    @property
    def words(self) -> str:
        """How the API server calls it where it is missing."""
        return f'cannot {self.verb} resource "{self.resource}"'


BASE = ("ClusterRole", "tproxy")
NAMES = Right("ClusterRole", "tproxy-services", "services", "")
LABELS = Right("ClusterRole", "tproxy-namespaces", "namespaces", "")
DESTINATIONS = Right(*BASE, "destinations", "")
RECORDS, SLICES, POLICIES, PODS, LEASES = (
    Right("Role", "tproxy", name, "") for name in ("services", "endpointslices", "networkpolicies", "pods", "leases")
)
SECRETS = Right("Role", "tproxy-service-keys", "secrets", "")
FOLLOWED = (LABELS, SECRETS, DESTINATIONS, NAMES, RECORDS, SLICES, POLICIES, PODS)

UNASKED = {
    PODS.to("get"),
    SECRETS.to("get"),
    SLICES.to("delete"),
    Right("Role", "tproxy", "endpointslices/restricted", "create"),
}
"""What this cluster is never asked for: lists and watches tell all there is to know, slices go with their Service, and
OpenShift alone knows the last one.
"""


@lru_cache(maxsize=1)
def rights() -> list[tuple[Right, dict[str, Any]]]:
    """All rights with the rules that they stand in, of the overlay that gives none of them twice."""
    return [
        (Right(role["kind"], role["metadata"]["name"], name, verb), rule)
        for role in built(K8S / "overlays" / "labelSelector")
        for rule in role.get("rules", ())
        for name in rule["resources"]
        for verb in rule["verbs"]
    ]


class MissingRightsTests(Installed):
    """One installation that serves one namespace; a session there goes on all the time."""

    timeout = 480

    async def setUp(self):
        await super().setUp()
        await self.operate("labelSelector", managedNamespacesMode="labelSelector")
        told = self.installation.configuration
        told["cluster"]["kubernetes"]["spares"] = 1
        instances = told["config"]["integration"]["destinationService"]["instances"]
        instances.append({"name": "keyed", "serviceCredentials": {"secretName": "destination-service"}})
        await self.cluster.namespace(self, SHOP)
        await self.cluster.kubectl("apply", "-n", SHOP, "-k", K8S / "namespace")
        await self.cluster.kubectl("label", "namespace", SHOP, f"{MANAGED_NAMESPACE}={HOME}")
        for name in ("steady", "more", "other", "wide"):
            self.installation.document(name)
        for tenant in ("acme", "globex"):
            self.installation.document("mail", tenant)
        self.tried: set[Right] = set()
        self.noops = 0

    async def begun(self) -> None:
        """A replica, and the session that goes on."""
        self.replica = await self.installation.start("tproxy-1")
        self.workload = await self.client(SHOP)
        await self.apply(resource(SHOP, "steady"))
        await self.available(SHOP, "steady")
        self.steady = self.session(self.workload, "steady")
        await self.steady.output.until(rb"\* PREAUTH .*\r?\n")

    async def goes_on(self) -> None:
        self.noops += 1
        self.steady.transport.write(b"n%d NOOP\r\n" % self.noops)
        await self.steady.output.until(rb"n%d OK done" % self.noops)

    # rights

    @asynccontextmanager
    async def without(self, *rights: Right) -> AsyncIterator[None]:
        """What is done meanwhile leads to a line that names each right; the session goes on; then it heals."""
        seen = len(self.replica.events)
        for right in rights:
            await self.allow(right, False)
        yield
        for right in rights:
            await self.installation.until(lambda right=right: named(self.replica, right, seen))
        await self.goes_on()
        for right in rights:
            await self.allow(right)
        self.tried.update(rights)

    async def allow(self, right: Right, allowed: bool = True) -> None:
        """Take a right away, or give it back; returns once the API server acts on it."""
        rule = next(rule for each, rule in rights() if each == right)
        rules = (await self.cluster.get(right.kind, right.role, "-n", HOME))["rules"]
        others = [each for each in rules if {**each, "verbs": None} != {**rule, "verbs": None}]
        verbs = {verb for each in rules if each not in others for verb in each["verbs"]} - {right.verb}
        verbs |= {right.verb} if allowed else set()
        given = [*others, *([{**rule, "verbs": sorted(verbs)}] if verbs else [])]
        patch = json.dumps({"rules": given})
        await self.cluster.kubectl("patch", right.kind, right.role, "-n", HOME, "--type=merge", "-p", patch)
        name, _, subresource = right.resource.partition("/")
        asked = {"namespace": right.namespace, "verb": right.verb, "resource": name, "subresource": subresource}
        asked |= {"group": rule["apiGroups"][0], "name": rule.get("resourceNames", [""])[0]}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": f"system:serviceaccount:{HOME}:{ACCOUNT}", "resourceAttributes": asked},
        }

        async def acted() -> bool:
            answer = await self.cluster.kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(review))
            return json.loads(answer)["status"]["allowed"] is allowed

        await self.installation.until(acted)

    async def spares(self, port: int) -> int:
        """How many spares there are for a port of Services."""
        return sum(
            note["config.linkerd.io/opaque-ports"] == str(port) for note in (await self.records("", "")).values()
        )

    async def delete(self, kind: str, name: str, namespace: str = SHOP) -> None:
        await self.cluster.kubectl("delete", kind, name, "-n", namespace)

    async def test_each(self):
        """Of all that are shipped none is missing without a word, and none ends what is served."""
        await self.begun()
        before = await self.cluster.get("service", "steady", "-n", SHOP)
        await self.of_resources()
        await self.of_names()
        await self.of_records()
        await self.of_slices()
        await self.of_policies()
        await self.of_looks()
        await self.of_the_lease()
        await self.following()
        await self.listing()
        self.assertEqual(before, await self.cluster.get("service", "steady", "-n", SHOP))
        self.assertEqual(1, len(await self.records(SHOP, "steady")))
        self.assertEqual({right for right, _ in rights()} - UNASKED, self.tried)

    async def of_resources(self) -> None:
        """A resource is served though nobody can be told."""
        async with self.without(Right(*BASE, "destinations/status", "patch")):
            await self.apply(resource(SHOP, "more"))
            await self.until_served(self.workload, "more")
        await self.available(SHOP, "more")
        async with self.without(Right(*BASE, "events", "create")):
            await self.apply(resource(SHOP, "unheard", destination="more"))
            await self.available(SHOP, "unheard")

    async def of_names(self) -> None:
        async with self.without(NAMES.to("create")):
            await self.apply(resource(SHOP, "other"))
            await self.told(SHOP, "other", UNHAPPY, NAMES.to("create").words)
        await self.available(SHOP, "other")
        async with self.without(NAMES.to("patch")):
            await self.apply(resource(SHOP, "other", port=1143))
            await self.told(SHOP, "other", UNHAPPY, NAMES.to("patch").words)
        await self.told(SHOP, "other", "ConfigurationSuccessful")
        await self.until_served(self.workload, "other", 1143)
        await self.apply(resource(SHOP, "mail", "acme", "globex"))
        await self.served(SHOP, "mail", "acme", "globex")
        async with self.without(NAMES.to("delete")):
            await self.apply(resource(SHOP, "mail", "acme"))
            await self.served(SHOP, "mail", "acme")
        await self.gone(SHOP, "mail-globex")
        await self.cluster.kubectl("create", "service", "clusterip", "taken", "--tcp=80", "-n", SHOP)
        async with self.without(NAMES.to("get")):
            await self.apply(resource(SHOP, "taken", destination="more"))
            await self.told(SHOP, "taken", UNHAPPY, NAMES.to("get").words)
        await self.told(SHOP, "taken", TAKEN)
        await self.delete("destination", "taken")

    async def of_records(self) -> None:
        async with self.without(RECORDS.to("create")):
            await self.apply(resource(SHOP, "rare", destination="more", port=2143))
            await self.told(SHOP, "rare", UNHAPPY, RECORDS.to("create").words)
        await self.available(SHOP, "rare")
        async with self.without(RECORDS.to("patch")):
            await self.apply(resource(SHOP, "claims", destination="more"))
            await self.told(SHOP, "claims", UNHAPPY, RECORDS.to("patch").words)
        await self.available(SHOP, "claims")

        async def some() -> bool:
            return await self.spares(2143) == 1

        async def none() -> bool:
            return await self.spares(2143) == 0

        await self.installation.until(some)
        async with self.without(RECORDS.to("delete")):
            await self.delete("destination", "rare")
        await self.installation.until(none)
        (port,) = await self.records(SHOP, "claims")
        await self.until_served(self.workload, "claims")
        session = self.session(self.workload, "claims")
        await session.output.until(rb"\* PREAUTH .*\r?\n")
        async with self.without(RECORDS.to("get")):
            await self.delete("service", f"p{port}", HOME)
            await self.installation.until(lambda: named(self.replica, RECORDS.to("get"), 0))
            session.transport.write(b"2 NOOP\r\n")
            await session.output.until(rb"2 OK done")
        await session.output.closed()
        await self.until_served(self.workload, "claims")

    async def of_slices(self) -> None:
        async with self.without(SLICES.to("create")):
            await self.apply(resource(SHOP, "slices", destination="more", port=3143))
            await self.told(SHOP, "slices", UNHAPPY, SLICES.to("create").words)
        await self.available(SHOP, "slices")
        async with self.without(SLICES.to("patch")):
            await self.delete("destination", "slices")
        found = (await self.cluster.get("services", "-n", HOME, "-l", "tproxy/role=port"))["items"]
        taken = {int(each["metadata"]["name"][1:]) for each in found}
        free = next(port for port in range(10000, 15000) if port not in taken)
        foreign = {"metadata": {"name": f"p{free}", "namespace": HOME}, "addressType": "IPv4", "endpoints": []}
        await self.cluster.create({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", **foreign})
        async with self.without(SLICES.to("get")):
            await self.apply(resource(SHOP, "foreign", destination="more", port=4143))
            await self.told(SHOP, "foreign", UNHAPPY, SLICES.to("get").words)
        await self.told(SHOP, "foreign", TAKEN)
        await self.delete("endpointslice", f"p{free}", HOME)
        await self.available(SHOP, "foreign")

    async def of_policies(self) -> None:
        name = policy_name(SHOP, CLUSTER_WIDE)
        async with self.without(POLICIES.to("create")):
            await self.apply(resource(SHOP, "wide", scope=CLUSTER_WIDE))
            await self.told(SHOP, "wide", UNHAPPY, POLICIES.to("create").words)
        await self.available(SHOP, "wide")
        async with self.without(POLICIES.to("patch")):
            await self.apply(resource(SHOP, "wider", destination="wide", scope=CLUSTER_WIDE))
            await self.told(SHOP, "wider", UNHAPPY, POLICIES.to("patch").words)
        await self.available(SHOP, "wider")
        async with self.without(POLICIES.to("delete")):
            await self.cluster.kubectl("delete", "destination", "wide", "wider", "-n", SHOP)
        await self.cluster.kubectl("wait", f"networkpolicy/{name}", "-n", HOME, "--for=delete", "--timeout=30s")
        foreign = {"metadata": {"name": name, "namespace": HOME}, "spec": {"podSelector": {}}}
        await self.cluster.create({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", **foreign})
        async with self.without(POLICIES.to("get")):
            await self.apply(resource(SHOP, "wide", scope=CLUSTER_WIDE))
            await self.told(SHOP, "wide", UNHAPPY, POLICIES.to("get").words)
        await self.told(SHOP, "wide", TAKEN)
        await self.delete("networkpolicy", name, HOME)
        await self.available(SHOP, "wide")

    async def of_looks(self) -> None:
        """A resource that is gone goes on as long as nobody can be asked whether it is."""
        for name, right in (("more", DESTINATIONS.to("get")), ("wide", LABELS.to("get"))):
            session = self.session(self.workload, name)
            await session.output.until(rb"\* PREAUTH .*\r?\n")
            seen = len(self.replica.events)
            async with self.without(right):
                await self.delete("destination", name)
                await self.installation.until(lambda right=right, seen=seen: named(self.replica, right, seen))
                session.transport.write(b"2 NOOP\r\n")
                await session.output.until(rb"2 OK done")
                self.assertEqual(1, len(await self.records(SHOP, name)))
            await session.output.closed()

    async def of_the_lease(self) -> None:
        """Who leads is not found out any more; then it is again."""
        async with self.without(LEASES.to("patch")):
            pass
        async with self.without(LEASES.to("get")):
            await self.delete("lease", "tproxy", HOME)
        async with self.without(LEASES.to("create")):
            await self.cluster.kubectl("delete", "lease", "tproxy", "-n", HOME, "--ignore-not-found")
        await self.apply(resource(SHOP, "led", destination="steady"))
        await self.available(SHOP, "led")

    async def following(self) -> None:
        """What was known stays in force while it is not followed."""
        rights, seen = [right.to("watch") for right in FOLLOWED], len(self.replica.events)
        async with self.without(*rights):
            cut = self.cluster.network.inside(self.replica.pod.host, "ss", "-K", "dst", API)
            await run(self, cut, self.cluster.folder)
        for right in rights:
            await self.followed(self.replica, right, seen)

    async def listing(self) -> None:
        """A replica that starts serves nobody until it may list everything; the others go on."""
        for right in FOLLOWED:
            await self.allow(right.to("list"), False)
        late = await self.installation.begin("tproxy-2")
        for some in (
            FOLLOWED[:2],
            FOLLOWED[2:4],
            FOLLOWED[4:],
        ):  # what is in namespaces is asked for once these are known
            await self.heals(late, [right.to("list") for right in some])
        await late.child.output.until(rb"listener\.opened")

    async def heals(self, late: Replica, rights: list[Right]) -> None:
        """Without these rights a replica says so and serves nobody; it gets them back."""
        for right in rights:
            await self.installation.until(lambda right=right: stale(late, right, 0))
        await self.goes_on()
        self.assertEqual([], late.logged(event="listener.opened"))
        for right in rights:
            await self.allow(right)
        for right in rights:
            await self.followed(late, right, 0)
        self.tried.update(rights)

    async def followed(self, replica: Replica, right: Right, seen: int) -> None:
        """Returns once what could not be followed for want of a right is followed again."""
        (said,) = stale(replica, right, seen)
        again = {"event": "kubernetes.fresh", "key": said["key"]}
        await self.installation.until(lambda: any(again.items() <= each.items() for each in replica.events[seen:]))


def named(replica: Replica, right: Right, seen: int) -> list[dict[str, Any]]:
    """The lines, after the first so many, that name a right."""
    return [each for each in replica.events[seen:] if right.words in each.get("message", "")]


def stale(replica: Replica, right: Right, seen: int) -> list[dict[str, Any]]:
    """Those of the lines that say what cannot be followed without it."""
    where = "namespaces" if right.resource == LABELS.resource else f"{right.resource} in {right.namespace}"
    lines = (each for each in named(replica, right, seen) if each["event"] == "kubernetes.stale")
    return [each for each in lines if each["key"].startswith(where)]

"""Names and ports that somebody else has: foreign Services, other Destinations, the product that tproxy runs beside."""

from __future__ import annotations

import json
from typing import Any

from tests.integration.kubernetes.installation import Installed, resource
from tests.integration.kubernetes.manifests import HOME

TAKEN = "ConfigurationError-K8sResourceWithNameAlreadyPresent"
DUPLICATE = "ConfigurationError-DuplicateDestinationCustomResource"
TYPED = {"type": "ClusterIP", "ports": [{"port": 993}], "selector": {"app": "web"}}
UNTYPED = {"ports": [{"port": 993}], "selector": {"app": "web"}}
HELM = {
    "labels": {"app.kubernetes.io/managed-by": "Helm"},
    "annotations": {"meta.helm.sh/release-name": "web", "meta.helm.sh/release-namespace": "shop"},
}
AS_OURS = {
    "labels": {
        "app.kubernetes.io/managed-by": "tproxy",
        "tproxy/installation": HOME,
        "tproxy/role": "name",
    },
    "annotations": {"tproxy/tenant": ""},
}
CREATE = ("create",)
APPLY = ("apply", "--server-side")
WAYS: dict[str, tuple[tuple[str, ...], dict[str, Any], dict[str, Any]]] = {
    "created": (CREATE, {}, UNTYPED),
    "applied-typed": (APPLY, {}, TYPED),
    "applied-untyped": (APPLY, {}, UNTYPED),
    "helm-created": ((*CREATE, "--field-manager=helm"), HELM, UNTYPED),
    "helm-applied": ((*APPLY, "--field-manager=helm"), HELM, UNTYPED),
    "labelled-as-ours": (CREATE, AS_OURS, UNTYPED),
}
"""How a Service may come to be: the command, its metadata, its spec."""
SYSTEM = (("default", "kubernetes"), ("kube-system", "kube-dns"))
PORTS = range(10000, 10000 + len(WAYS) - 1)


class NeighbourTests(Installed):
    """What is not tproxy's is left as it is, to the last field."""

    async def make(self, namespace: str, name: str, way: str) -> None:
        command, more, spec = WAYS[way]
        metadata = {"name": name, "namespace": namespace, **more}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
        await self.cluster.kubectl(*command, "-f", "-", stdin=json.dumps(service))

    async def found(self, *names: tuple[str, str]) -> list[dict[str, Any]]:
        return [await self.cluster.get("service", name, "-n", namespace) for namespace, name in names]

    async def test_services(self):
        """Services of every make keep their names and ports, while their Destinations come, are refused and go."""
        await self.operate()
        await self.cluster.namespace(self, "shop")
        for way in WAYS:
            await self.make("shop", way, way)
        at_home = [way for way in WAYS if way != "labelled-as-ours"]
        for port, way in zip(PORTS, at_home, strict=True):
            await self.make(HOME, f"p{port}", way)
        taken = (*SYSTEM, *(("shop", way) for way in WAYS))
        foreign = (*taken, *((HOME, f"p{port}") for port in PORTS))
        before = await self.found(*foreign)

        self.installation.document("mail")
        await self.installation.start("tproxy-1")
        destinations = [resource(*name, destination="mail") for name in taken]
        await self.apply(*destinations, resource("shop", "mail"))
        await self.available("shop", "mail")
        for name in taken:
            await self.available(*name, "False")
            self.assertEqual(TAKEN, await self.reason(*name))
        self.assertIn(next(iter(await self.records("shop", "mail"))), await self.policy_ports("shop"))
        self.assertEqual(set(), set(PORTS) & await self.policy_ports("shop"))
        client = await self.client("shop")
        await self.until_served(client, "mail")
        self.assertEqual(before, await self.found(*foreign))
        warnings = await self.cluster.kubectl("get", "events", "-n", "shop", "--field-selector=type=Warning")
        self.assertRegex(warnings, rf"Warning +{TAKEN} +destination/helm-applied +there is a Service shop/helm-applied")

        for namespace, name in taken:
            await self.cluster.kubectl("delete", "destination", name, "-n", namespace)
        await self.cluster.kubectl("delete", "destination", "mail", "-n", "shop")
        await self.gone("shop", "mail")

        async def released() -> bool:
            return not await self.policy_ports("shop") and not await self.policy_ports("default")

        await self.installation.until(released)
        self.assertEqual(before, await self.found(*foreign))

    async def test_duplicate(self):
        """Of two Destinations that mean one name the older has it; the other gets it once that is gone."""
        await self.operate()
        await self.cluster.namespace(self, "shop")
        self.installation.document("mail", "acme")
        self.installation.document("other")
        await self.installation.start("tproxy-1")
        client = await self.client("shop")
        await self.apply(resource("shop", "mail", "acme"))
        await self.served("shop", "mail", "acme")
        session = self.session(client, "mail-acme")
        await session.output.until(rb"\* PREAUTH .* mail-acme ready")
        before = await self.found(("shop", "mail-acme"))

        await self.apply(resource("shop", "mail-acme", destination="other"))
        await self.available("shop", "mail-acme", "False")
        condition = await self.condition("shop", "mail-acme")
        self.assertEqual(DUPLICATE, condition["reason"])
        self.assertIn("shop/mail for the tenant acme", condition["message"])
        await self.available("shop", "mail")
        self.assertEqual(before, await self.found(("shop", "mail-acme")))
        session.transport.write(b"2 NOOP\r\n")
        await session.output.until(rb"2 OK done")

        await self.cluster.kubectl("delete", "destination", "mail", "-n", "shop")
        await session.output.closed()
        await self.available("shop", "mail-acme")
        await self.until_served(client, "mail-acme")
        (after,) = await self.found(("shop", "mail-acme"))
        self.assertNotEqual(before[0]["metadata"]["uid"], after["metadata"]["uid"])

    async def test_coexist(self):
        """A Destination of a type that another product serves has nothing of tproxy's; one for mail is served."""
        await self.operate(coexist=True)
        await self.cluster.namespace(self, "shop")
        self.installation.document("mail")
        web = self.installation.document("web", Type="HTTP", URL="https://web.example.com")
        await self.installation.start("tproxy-1")
        await self.apply(resource("shop", "web"), resource("shop", "mail"))
        await self.available("shop", "mail")
        self.assertNotIn("status", await self.cluster.get("destination", "web", "-n", "shop"))
        self.assertEqual({"mail"}, await self.services("shop"))
        events = (await self.cluster.get("events", "-n", "shop"))["items"]
        self.assertEqual({"mail"}, {each["involvedObject"]["name"] for each in events})

        web.unlink()
        self.installation.document("web")
        await self.available("shop", "web")

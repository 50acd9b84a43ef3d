"""The definition of Destinations takes what it should, refuses what cannot work anywhere, and shows how each fares."""

from __future__ import annotations

import json
from secrets import token_hex
from typing import Any

import yaml

from tests.integration.children import start
from tests.integration.kubernetes.cluster import KubectlError
from tests.integration.kubernetes.manifests import CRD, K8S, Manifests, destination
from tests.integration.kubernetes.programs import FOLDER
from tproxy.operator.manifests import FAILURE, SUCCESS, Status, conditions

EXAMPLES = K8S.parent / "examples" / "resources"
NOW = "2026-01-01T00:00:00Z"
TENANTS = "transparent-proxy.connectivity.api.sap/tenant-subdomains"

EVERYTHING = {
    "destinationRef": {"name": "mail", "level": "provider_subaccount"},
    "fragmentRef": {"name": "acme", "level": "instance", "optional": True},
    "chainRef": {"name": "chain", "variables": [{"name": "a", "value": "b"}]},
    "destinationServiceInstanceName": "destination-service",
    "service": {"port": 993},
    "accessControl": {"scope": "clusterWide"},
}

WRONG = (
    ({"destinationRef": {}}, "spec.destinationRef.name: Required value"),
    ({"service": {"port": 993}}, "spec.destinationRef: Required value"),
    ({"destinationRef": {"name": ""}}, 'spec.destinationRef.name: Invalid value: "": .* at least 1 chars'),
    ({"destinationRef": {"name": "x" * 201}}, "spec.destinationRef.name: Too long: may not be more than 200 bytes"),
    (
        {"destinationRef": {"name": "mail", "level": "account"}},
        'spec.destinationRef.level: Unsupported value: "account": supported values: "subaccount", "instance", ',
    ),
    (
        {"destinationRef": {"name": "mail"}, "accessControl": {"scope": "everywhere"}},
        'scope: Unsupported value: "everywhere": supported values: "namespaced", "clusterWide"',
    ),
    (
        {"destinationRef": {"name": "mail"}, "service": {"port": 0}},
        "port: Invalid value: 0: .* greater than or equal to 1",
    ),
    ({"destinationRef": {"name": "mail"}, "service": {"port": 65536}}, "port: Invalid value: 65536: .* equal to 65535"),
    (
        {"destinationRef": {"name": "mail"}, "service": {"port": "993"}},
        'port: Invalid value: "string": .* of type integer',
    ),
    ({"destinationRef": {"name": "mail"}, "servicePort": 993}, 'unknown field "spec.servicePort"'),
)

OTHER = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": CRD},
    "spec": {
        "group": "destination.connectivity.api.sap",
        "scope": "Namespaced",
        "names": {"kind": "Destination", "plural": "destinations"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        ],
    },
}
"""A definition that takes anything, as the one of another product might."""


class DefinitionTests(Manifests):
    """Destinations in a namespace of their own."""

    async def setUp(self):
        await super().setUp()
        self.shop = f"definition-{token_hex(4)}"
        await self.cluster.namespace(self, self.shop)

    async def apply(self, thing: dict[str, Any], *options: str) -> None:
        await self.cluster.kubectl("apply", "-f", "-", *options, stdin=json.dumps(thing))

    async def read(self, name: str) -> dict[str, Any]:
        return await self.cluster.get("destination", name, "-n", self.shop)

    async def told(self, name: str, status: Status, tenants: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
        """Write how a Destination fares; returns what was written."""
        written = {"observedTenants": "abc", "conditions": conditions(status, NOW, 1), "tenants": list(tenants)}
        await self.cluster.status("destination", name, written, "-n", self.shop)
        return written

    async def test_structural(self):
        """The API server has nothing to say against the schema."""
        found = (await self.cluster.get("crd", CRD))["status"]["conditions"]
        states = {each["type"]: each["status"] for each in found}
        self.assertEqual({"NamesAccepted": "True", "Established": "True"}, states)

    async def test_examples(self):
        """What the examples and the documentation show is taken as it is."""
        shown = [yaml.safe_load(path.read_text()) for path in EXAMPLES.glob("*.yaml")]
        for thing in (destination(self.shop, "all", **EVERYTHING), *shown):
            thing["metadata"]["namespace"] = self.shop
            await self.apply(thing, "--warnings-as-errors")
            self.assertEqual(thing["spec"], (await self.read(thing["metadata"]["name"]))["spec"])

    async def test_wrong(self):
        """What is wrong is refused, with its place and what would be right."""
        for spec, said in WRONG:
            with self.assertRaisesRegex(KubectlError, said):
                await self.apply(destination(self.shop, "wrong", **spec))

    async def test_without_spec(self):
        """A sample that lacks its `spec:` is refused."""
        sample = destination(self.shop, "sample")
        sample["metadata"] |= sample.pop("spec")
        with self.assertRaisesRegex(KubectlError, 'unknown field "metadata.destinationRef"'):
            await self.apply(sample)
        with self.assertRaisesRegex(KubectlError, "spec: Required value"):
            await self.apply(sample, "--validate=false")

    async def test_there_already(self):
        """Destinations of another definition load, whatever their names and fields, and get a status.

        What is not known is dropped, not refused.
        """
        await self.cluster.kubectl("delete", "crd", CRD)
        await self.apply(OTHER)
        await self.succeeds("get", "destinations", "-A")
        unknown = {
            "destinationRef": {"name": "*", "kind": "x"},
            "proxy": {"a": [1, "b"]},
            "service": {"port": 1, "type": "x"},
        }
        names = ("mail", "with.dots", "1st", "x" * 253)
        for name in names:
            await self.apply(destination(self.shop, name, **unknown))
        before = {"conditions": [{"type": "Available", "status": "True", "lastUpdateTime": "today", "by": "x"}], "x": 1}
        await self.cluster.status("destination", "mail", before, "-n", self.shop)

        await self.define()
        found = await self.cluster.get("destinations", "-n", self.shop)
        self.assertEqual(set(names), {each["metadata"]["name"] for each in found["items"]})
        for name in names:
            await self.apply(destination(self.shop, name, **unknown), "--validate=false")
            written = await self.told(name, Status(False, FAILURE, "cannot be the name of a Service"))
            there = await self.read(name)
            self.assertEqual({"destinationRef": {"name": "*"}, "service": {"port": 1}}, there["spec"])
            self.assertEqual(written, there["status"])

    async def test_status(self):
        """What tproxy writes is kept whole; who writes the rest of the resource does not write its status."""
        await self.apply(destination(self.shop, "mail"))
        fine = {
            "subdomain": "acme",
            "service": "mail-acme",
            "port": 993,
            "available": True,
            "reason": SUCCESS,
            "message": "",
        }
        other = {
            "subdomain": "globex",
            "service": "mail-globex",
            "available": False,
            "reason": FAILURE,
            "message": "no",
        }
        written = await self.told("mail", Status(False, FAILURE, "globex: no"), (fine, other))
        there = await self.read("mail")
        self.assertEqual((written, 1), (there["status"], there["metadata"]["generation"]))
        await self.apply(destination(self.shop, "mail") | {"status": {"observedTenants": "mine"}})
        self.assertEqual(written, (await self.read("mail"))["status"])

    async def test_columns(self):
        """`kubectl get` shows what a Destination leads to, whether it is available, and why not."""
        await self.apply(destination(self.shop, "mail", destinationRef={"name": "company-mail"}))
        shown = (await self.cluster.kubectl("get", "destinations", "-n", self.shop)).splitlines()
        self.assertEqual(["NAME", "DESTINATION", "AVAILABLE", "REASON", "AGE"], shown[0].split())
        self.assertRegex(shown[1], r"^mail +company-mail +\d+s$")
        await self.told("mail", Status(True, SUCCESS))
        _, row = (await self.cluster.kubectl("get", "dst", "-n", self.shop)).splitlines()
        self.assertRegex(row, r"^mail +company-mail +True +ConfigurationSuccessful +\d+s$")

    async def test_explain(self):
        """`kubectl explain` says what a field means."""
        said = await self.cluster.kubectl("explain", "destinations.spec.service.port")
        self.assertIn("The port that workloads connect to.", said)

    async def test_wait(self):
        """The documented wait ends when the tenant is served, and not before."""
        mail = destination(self.shop, "mail")
        mail["metadata"]["annotations"] = {TENANTS: '["acme", "globex"]'}
        await self.apply(mail)
        waits = [
            start(
                self,
                [
                    FOLDER / "kubectl",
                    f"--kubeconfig={self.cluster.admin}",
                    "wait",
                    "destination/mail",
                    f"-n={self.shop}",
                    f'--for=jsonpath={{.status.tenants[?(@.subdomain=="{tenant}")].available}}=true',
                    "--timeout=60s",
                ],
                self.cluster.folder,
            )
            for tenant in ("acme", "globex")
        ]
        acme, globex = waits
        await self.told("mail", Status(False, FAILURE), ({"subdomain": "globex", "available": False},))
        tenants = ({"subdomain": "acme", "available": True}, {"subdomain": "globex", "available": False})
        await self.told("mail", Status(False, FAILURE), tenants)
        self.assertEqual(0, await acme.output.closed())
        self.assertIsNone(globex.output.end)
        await self.told("mail", Status(True, SUCCESS), ({"subdomain": "globex", "available": True},))
        self.assertEqual(0, await globex.output.closed())

"""Who is let in, who is served, and how much there may be, as a cluster shows it."""

from __future__ import annotations

import json
from pathlib import Path
from time import monotonic

import yaml

from tests.integration.kubernetes.installation import Installed, resource
from tests.integration.kubernetes.manifests import HOME, K8S, destination
from tests.integration.kubernetes.traffic import OURS, OUTSIDE, POD, judged, within
from tests.integration.proxy import TENANTS
from tproxy.operator.objects import CLUSTER_WIDE, MANAGED_NAMESPACE

WEB = {"app": "web"}
SHOP, OTHER = within("shop", WEB), within("other", WEB)
GREETING = rb"\* PREAUTH .*\r?\n"
WRONG = "ConfigurationError-MultitenancyAnnotation-Invalid"
FAILED = "FailedToApplyConfiguration"


class ScopeTests(Installed):
    """Who may come to which port: two namespaces, with resources of both scopes."""

    async def setUp(self):
        await super().setUp()
        await self.operate()
        for name in ("mail", "wide"):
            self.installation.document(name)
        for namespace in ("shop", "other"):
            await self.cluster.namespace(self, namespace)

    async def judged(self, source: object, *ports: int, target: object = POD) -> list[bool]:
        """What the policies that are in the cluster now say to this traffic."""
        policies = Path(self.mktemp()).absolute()
        policies.mkdir(parents=True)
        for policy in (await self.cluster.get("networkpolicies", "-n", HOME))["items"]:
            policy |= {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
            (policies / f"{policy['metadata']['name']}.yaml").write_text(yaml.safe_dump(policy))
        return judged(policies, source, target, *ports)

    async def test_policies(self):
        """A port is open to its own namespace, or to every pod; to nobody outside, and without a resource to nobody."""
        await self.installation.start("tproxy-1")
        await self.apply(
            resource("shop", "mail"), resource("shop", "wide", scope=CLUSTER_WIDE), resource("other", "mail")
        )
        for namespace, name in (("shop", "mail"), ("shop", "wide"), ("other", "mail")):
            await self.available(namespace, name)
        (mail,), (wide,), (others,) = (
            await self.records("shop", "mail"),
            await self.records("shop", "wide"),
            await self.records("other", "mail"),
        )
        spares = await self.records("", "")
        self.assertEqual(5, len(spares))
        ports = (mail, wide, others, *spares, 993, 8080)
        closed = [False] * 7
        self.assertEqual([True, True, False, *closed], await self.judged(SHOP, *ports))
        self.assertEqual([False, True, True, *closed], await self.judged(OTHER, *ports))
        self.assertEqual([False, True, False, *closed], await self.judged(within("third", WEB), *ports))
        self.assertEqual([False, False, False, *closed], await self.judged(OUTSIDE, *ports))
        beside = within(HOME, WEB)
        self.assertEqual([False, False, False, *closed], await self.judged(beside, *ports))
        self.assertEqual([False, False], await self.judged(SHOP, mail, wide, target=beside))
        self.assertEqual([False, True, False], await self.judged(within("third", OURS), mail, wide, others))

        await self.cluster.kubectl("delete", "destination", "mail", "wide", "-n", "shop")

        async def gone() -> bool:
            return not await self.policy_ports("shop")

        await self.installation.until(gone)
        for source in (SHOP, OTHER, OUTSIDE):
            self.assertEqual([False, False], await self.judged(source, mail, wide))
        self.assertEqual([True], await self.judged(OTHER, others))

    async def test_narrowed(self):
        """A scope that narrows shuts the policy first, then ends the sessions, and leaves the port as it is."""
        replica = await self.installation.start("tproxy-1")
        await self.apply(resource("shop", "wide", scope=CLUSTER_WIDE), resource("shop", "mail"))
        await self.available("shop", "wide")
        await self.available("shop", "mail")
        (port,) = await self.records("shop", "wide")
        self.assertEqual([True, True], [*await self.judged(SHOP, port), *await self.judged(OTHER, port)])
        own, foreign = await self.client("shop"), await self.client("other")
        sessions = [self.session(own, "wide"), self.session(foreign, "wide.shop")]
        bystander = self.session(own, "mail")
        for each in (*sessions, bystander):
            await each.output.until(GREETING)

        began = monotonic()
        await self.apply(resource("shop", "wide", scope="namespaced"))
        await sessions[1].output.closed()
        print(f"narrowed after {monotonic() - began:.1f} s")
        self.assertEqual([False], await self.judged(OTHER, port))
        await sessions[0].output.closed()

        await self.until_served(own, "wide")
        self.assertEqual([port], list(await self.records("shop", "wide")))
        self.assertEqual([True], await self.judged(SHOP, port))
        self.assertEqual([], replica.logged(event="listener.closed"))
        bystander.transport.write(b"2 NOOP\r\n")
        await bystander.output.until(rb"2 OK done")


class NamespaceTests(Installed):
    """Namespaces that have a label are served, where tproxy has a right to their Services."""

    async def setUp(self):
        await super().setUp()
        await self.operate("labelSelector", managedNamespacesMode="labelSelector", tenantMode="dedicated")
        self.installation.document("mail")
        for namespace in ("shop", "other"):
            await self.cluster.namespace(self, namespace)
        await self.label("shop", f"={HOME}")
        await self.bind("shop")
        self.replica = await self.installation.start("tproxy-1")

    async def label(self, namespace: str, value: str) -> None:
        await self.cluster.kubectl("label", "--overwrite", "namespace", namespace, f"{MANAGED_NAMESPACE}{value}")

    async def bind(self, namespace: str) -> None:
        await self.cluster.kubectl("apply", "-n", namespace, "-k", K8S / "namespace")

    async def test_label(self):
        """A label that is taken away, or says another installation, ends what there was in a namespace, at once."""
        await self.label("other", "=somebody")
        await self.apply(resource("other", "mail"), resource("shop", "mail"))
        await self.available("shop", "mail")
        self.assertNotIn("status", await self.cluster.get("destination", "mail", "-n", "other"))
        client = await self.client("shop")
        session = self.session(client, "mail")
        await session.output.until(GREETING)
        (port,) = await self.records("shop", "mail")

        began = monotonic()
        await self.label("shop", "-")
        await session.output.closed()
        print(f"revoked after {monotonic() - began:.1f} s")
        await self.installation.until(lambda: self.replica.logged(event="listener.closed", port=port))
        await self.gone("shop", "mail")

        async def released() -> bool:
            return not await self.records("shop", "mail") and not await self.policy_ports("shop")

        await self.installation.until(released)
        await self.label("shop", f"={HOME}")
        await self.until_served(client, "mail")

    async def test_unbound(self):
        """A namespace with the label but no right to its Services is told so, and served once there is one."""
        await self.apply(resource("shop", "mail"))
        await self.available("shop", "mail")
        await self.label("other", f"={HOME}")
        await self.apply(resource("other", "mail"))
        await self.told("other", "mail", "ServiceCreationFailed", 'cannot create resource "services"')
        await self.until_served(await self.client("shop"), "mail")
        await self.bind("other")
        await self.available("other", "mail")

    async def test_dedicated(self):
        """Tenants where there is one tenant: the resource is told, and no name is made."""
        await self.apply(resource("shop", "mail", "acme"))
        await self.told("shop", "mail", "ConfigurationError-ProxyTenantModeMismatch", TENANTS)
        self.assertEqual(set(), await self.services("shop"))
        await self.cluster.kubectl("annotate", "destination", "mail", f"{TENANTS}-", "-n", "shop")
        await self.available("shop", "mail")


class BoundsTests(Installed):
    """What cannot be served, and what is too much, beside what is served."""

    async def setUp(self):
        await super().setUp()
        await self.operate(limits={"listeners": 3})
        await self.cluster.namespace(self, "shop")
        for tenant in ("", "acme"):
            self.installation.document("mail", tenant)
        await self.installation.start("tproxy-1")
        await self.apply(resource("shop", "mail"))
        await self.available("shop", "mail")
        self.workload = await self.client("shop")
        self.steady = self.session(self.workload, "mail")
        await self.steady.output.until(GREETING)

    async def goes_on(self) -> None:
        self.steady.transport.write(b"2 NOOP\r\n")
        await self.steady.output.until(rb"2 OK done")
        self.assertEqual("ConfigurationSuccessful", await self.reason("shop", "mail"))

    async def test_annotations(self):
        """An annotation that names no tenants, one twice, or too many; nothing is made for any of them."""
        wrong = {
            "text": ("acme, globex", "is no JSON array"),
            "empty": ("[]", "is empty"),
            "twice": ('["acme", "acme"]', "twice"),
            "number": ("[1]", "no text"),
            "host": ('["acme.example.com"]', "acme.example.com"),
            "many": (json.dumps([f"t{number}" for number in range(501)]), "501 tenants"),
        }
        resources = []
        for name, (annotation, _) in wrong.items():
            made = destination("shop", name, destinationRef={"name": "mail"})
            made["metadata"]["annotations"] = {TENANTS: annotation}
            resources.append(made)
        await self.apply(*resources)
        for name, (_, words) in wrong.items():
            await self.told("shop", name, WRONG, words)
        self.assertEqual({"mail"}, await self.services("shop"))
        await self.goes_on()

        await self.apply(resource("shop", "twice", "acme", destination="mail"))
        await self.served("shop", "twice", "acme")
        await self.cluster.kubectl("annotate", "--overwrite", "destination", "twice", f"{TENANTS}=acme", "-n", "shop")
        await self.told("shop", "twice", WRONG, "is no JSON array")
        self.assertEqual({"mail", "twice-acme"}, await self.services("shop"))
        self.assertFalse(await self.refused(self.workload, "twice-acme"))

    async def test_names(self):
        """Names that no Service can have are told; of two tenants, the one whose name is too long alone fails."""
        long = "m" * 64
        for name in ("1mail", "mail.box", long):
            await self.apply(resource("shop", name, destination="mail"))
            await self.told("shop", name, FAILED, "cannot be the name of a Service")
        tenant = "a" * 60
        await self.apply(resource("shop", "some", "acme", tenant, destination="mail"))
        await self.told("shop", "some", FAILED, f"1 of 2 are not served: {tenant}")
        self.assertFalse(await self.refused(self.workload, "some-acme"))
        self.assertEqual({"mail", "some-acme"}, await self.services("shop"))
        await self.goes_on()

    async def test_listeners(self):
        """One more than there may be is told so, the others stay; it gets its turn when one of them goes."""
        for name in ("second", "third"):
            await self.apply(resource("shop", name, destination="mail"))
            await self.available("shop", name)
        await self.apply(resource("shop", "fourth", destination="mail"))
        await self.told("shop", "fourth", FAILED, "there are 3 listeners, as many as there may be")
        await self.goes_on()
        self.assertFalse(await self.refused(self.workload, "third"))
        self.assertEqual({"mail", "second", "third"}, await self.services("shop"))
        await self.cluster.kubectl("delete", "destination", "second", "-n", "shop")
        await self.available("shop", "fourth")
        await self.goes_on()

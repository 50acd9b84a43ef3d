"""From `kubectl apply` of a Destination to a mail session by its name, in a real cluster."""

from __future__ import annotations

import signal

from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.integration.kubernetes.cluster import KubectlError
from tests.integration.kubernetes.installation import Installed, resource
from tests.integration.kubernetes.manifests import HOME


class OperatorTests(Installed):
    """One installation, replicas in pods, workloads in others."""

    async def setUp(self):
        await super().setUp()
        await self.operate()

    async def test_session(self):
        """A Destination becomes a name under which a workload finds a session that is logged in; then it is deleted."""
        await self.namespace("shop")
        self.installation.document("mail")
        await self.installation.start("tproxy-1")
        client = await self.client("shop")
        await self.apply(resource("shop", "mail"))
        await self.available("shop", "mail")
        session = self.session(client, "mail.shop")
        await session.output.until(rb"\* PREAUTH .*\r?\n")
        session.transport.write(b"2 NOOP\r\n")
        await session.output.until(rb"2 OK done")

        (port,) = [each for each in await self.policy_ports("shop")]
        record = await self.cluster.get("service", f"p{port}", "-n", HOME)
        self.assertNotIn("selector", record["spec"])
        named = await self.cluster.get("service", "mail", "-n", "shop")
        self.assertEqual(f"p{port}.{HOME}.svc.cluster.local", named["spec"]["externalName"])
        events = (await self.cluster.get("events.v1.events.k8s.io", "-n", "shop"))["items"]
        self.assertIn("ConfigurationSuccessful", [each["reason"] for each in events])

        await self.cluster.kubectl("delete", "destination", "mail", "-n", "shop")
        await session.output.closed()
        await self.gone("shop", "mail")

        async def released() -> bool:
            record = await self.cluster.get("service", f"p{port}", "-n", HOME)
            return "tproxy/released-at" in record["metadata"]["annotations"] and not await self.policy_ports("shop")

        await self.installation.until(released)

    async def test_tenants(self):
        """Each tenant has a name; one that is added gets one, one that is removed loses it with its sessions."""
        await self.namespace("shop")
        for tenant in ("acme", "globex"):
            self.installation.document("mail", tenant)
        await self.installation.start("tproxy-1")
        client = await self.client("shop")
        await self.apply(resource("shop", "mail", "acme", port=1143))
        await self.served("shop", "mail", "acme")
        acme = self.session(client, "mail-acme", 1143)
        await acme.output.until(rb"\* PREAUTH .* mail-acme")
        self.assertTrue(await self.refused(client, "mail-globex", 1143))

        await self.apply(resource("shop", "mail", "acme", "globex", port=1143))
        await self.served("shop", "mail", "acme", "globex")
        globex = self.session(client, "mail-globex.shop", 1143)
        await globex.output.until(rb"\* PREAUTH .* mail-globex")

        await self.apply(resource("shop", "mail", "globex", port=1143))
        await acme.output.closed()
        await self.served("shop", "mail", "globex")
        await self.gone("shop", "mail-acme")
        globex.transport.write(b"2 NOOP\r\n")
        await globex.output.until(rb"2 OK done")

    async def test_foreign(self):
        """A Service of somebody else is left as it is; the resource is told, and served once that is gone."""
        await self.namespace("shop")
        self.installation.document("mail")
        ports = {"ports": [{"port": 80}], "selector": {"app": "web"}}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "mail", "namespace": "shop"}}
        await self.cluster.create({**service, "spec": ports})
        before = await self.cluster.get("service", "mail", "-n", "shop")
        await self.installation.start("tproxy-1")
        await self.apply(resource("shop", "mail"))
        await self.available("shop", "mail", "False")
        self.assertEqual("ConfigurationError-K8sResourceWithNameAlreadyPresent", await self.reason("shop", "mail"))
        self.assertEqual(before, await self.cluster.get("service", "mail", "-n", "shop"))
        await self.cluster.kubectl("delete", "service", "mail", "-n", "shop")
        await self.available("shop", "mail")

    async def test_destination(self):
        """A destination that vanishes takes the sessions with it; when it is back, it is served again."""
        await self.namespace("shop")
        document = self.installation.document("mail")
        await self.installation.start("tproxy-1")
        client = await self.client("shop")
        await self.apply(resource("shop", "mail"))
        await self.available("shop", "mail")
        session = self.session(client, "mail")
        await session.output.until(rb"\* PREAUTH")
        document.unlink()
        await session.output.closed()
        await self.available("shop", "mail", "False")
        self.assertEqual("ConfigurationError-ReferencedDestination-NotFound", await self.reason("shop", "mail"))
        self.installation.document("mail")
        await self.available("shop", "mail")
        await self.until_served(client, "mail")

    async def test_leader_lost(self):
        """When the leader dies, the other replica serves on, and leads soon."""
        await self.namespace("shop")
        self.installation.document("mail")
        self.installation.document("other")
        first = await self.installation.start("tproxy-1")
        second = await self.installation.start("tproxy-2")
        client = await self.client("shop")
        await self.apply(resource("shop", "mail"))
        await self.available("shop", "mail")

        async def both() -> bool:
            slices = (await self.cluster.get("endpointslices", "-n", HOME))["items"]
            held = [each for each in slices if each["metadata"]["name"] == f"p{port}"]
            return {a for each in held for entry in each["endpoints"] or () for a in entry["addresses"]} == {
                first.pod.address,
                second.pod.address,
            }

        (port,) = await self.policy_ports("shop")
        await self.installation.until(both)
        await first.child.end(signal.SIGKILL)
        await first.pod.ready(False)
        await self.installation.until(lambda: second.logged(event="election.elected"), 40)
        await self.apply(resource("shop", "other"))
        await self.available("shop", "other")
        await self.until_served(client, "other")
        await self.until_served(client, "mail")
        with self.assertRaises(KubectlError):
            await self.cluster.get("service", "nothing", "-n", "shop")
        await deferLater(reactor, 0)

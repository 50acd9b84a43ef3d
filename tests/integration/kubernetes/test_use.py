"""What becomes of names, sessions and statuses while Destinations come and change, as those see it who use them."""

from __future__ import annotations

from typing import Any

from tests.integration.kubernetes.installation import Installed, resource
from tests.integration.kubernetes.measures import shares

ONE_AFTER_THE_OTHER = 40


class ChangeTests(Installed):
    """One Destination with tenants, which is changed again and again."""

    async def setUp(self):
        await super().setUp()
        await self.operate()
        await self.cluster.namespace(self, "shop")

    async def wait(self, name: str, tenant: str) -> None:
        """The documented wait for a tenant."""
        path = f'--for=jsonpath={{.status.tenants[?(@.subdomain=="{tenant}")].available}}=true'
        await self.cluster.kubectl("wait", "-n", "shop", f"destination/{name}", path, "--timeout=30s")

    async def status(self, name: str) -> dict[str, Any]:
        return (await self.cluster.get("destination", name, "-n", "shop"))["status"]

    async def test_changes(self):
        """A tenant is renamed, the port changes, a destination vanishes and is back, the Destination is renamed."""
        documents = [self.installation.document("mail", tenant) for tenant in ("acme", "initech")]
        await self.installation.start("tproxy-1")
        client = await self.client("shop")
        await self.apply(resource("shop", "mail", "acme", port=1143))
        await self.wait("mail", "acme")
        acme = self.session(client, "mail-acme", 1143)
        await acme.output.until(rb"\* PREAUTH .* mail-acme ready")
        first = await self.status("mail")
        row = {"subdomain": "acme", "service": "mail-acme", "port": 1143, "available": True}
        self.assertEqual([row | {"reason": "ConfigurationSuccessful", "message": ""}], first["tenants"])

        await self.apply(resource("shop", "mail", "initech", port=1143))
        await self.wait("mail", "initech")
        await acme.output.closed()
        await self.gone("shop", "mail-acme")
        second = await self.status("mail")
        self.assertEqual(["initech"], [each["subdomain"] for each in second["tenants"]])
        self.assertNotEqual(first["observedTenants"], second["observedTenants"])
        self.assertEqual(generations(first), generations(second))
        self.assertEqual(transitions(first), transitions(second))

        initech = self.session(client, "mail-initech", 1143)
        await initech.output.until(rb"\* PREAUTH")
        await self.apply(resource("shop", "mail", "initech", port=2143))
        where = ("-n", "shop", "--for=jsonpath={.status.tenants[0].port}=2143", "--timeout=30s")
        await self.cluster.kubectl("wait", "destination/mail", *where)
        await self.until_served(client, "mail-initech", 2143)
        self.assertTrue(await self.refused(client, "mail-initech", 1143))
        initech.transport.write(b"2 NOOP\r\n")
        await initech.output.until(rb"2 OK done")
        third = await self.status("mail")
        self.assertEqual([each + 1 for each in generations(second)], generations(third))
        self.assertEqual(transitions(second), transitions(third))
        self.assertEqual(second["observedTenants"], third["observedTenants"])
        self.assertEqual(["Normal ConfigurationSuccessful"], await self.events("mail"))

        documents[1].unlink()
        await self.available("shop", "mail", "False")
        await initech.output.closed()
        fourth = await self.status("mail")
        self.assertTrue(all(now > before for before, now in zip(transitions(third), transitions(fourth), strict=True)))
        self.assertFalse(fourth["tenants"][0]["available"])
        self.installation.document("mail", "initech")
        await self.wait("mail", "initech")
        missing = "Warning ConfigurationError-ReferencedDestination-NotFound"
        self.assertEqual({"Normal ConfigurationSuccessful", missing}, set(await self.events("mail")))

        await self.cluster.kubectl("delete", "destination", "mail", "-n", "shop")
        await self.apply(resource("shop", "post", "initech", port=2143, destination="mail"))
        await self.wait("post", "initech")
        await self.gone("shop", "mail-initech")
        await self.until_served(client, "post-initech", 2143)
        self.assertTrue(await self.refused(client, "mail-initech", 2143))

    async def events(self, name: str) -> list[str]:
        """Type and reason of a Destination's Events, as `kubectl get events` shows them."""
        shown = await self.cluster.kubectl("get", "events", "-n", "shop")
        rows = (line.split() for line in shown.splitlines()[1:])
        return [f"{row[1]} {row[2]}" for row in rows if row[3] == f"destination/{name}"]


def generations(status: dict[str, Any]) -> list[int]:
    """Of which generation each condition is."""
    return [each["observedGeneration"] for each in status["conditions"]]


def transitions(status: dict[str, Any]) -> list[str]:
    """Since when each condition is what it is."""
    return [each["lastTransitionTime"] for each in status["conditions"]]


class FirstByteTests(Installed):
    """How soon a name answers."""

    async def test_spares(self):
        """40 Destinations one after the other, by the official client: all answer; p50 and p99 are printed."""
        await self.operate()
        await self.cluster.namespace(self, "shop")
        self.installation.document("mail")
        self.installation.configuration["cluster"]["kubernetes"]["spares"] = ONE_AFTER_THE_OTHER
        await self.installation.start("tproxy-1")
        client = await self.client("shop")
        await self.installation.until(lambda: len(self.routed()) >= ONE_AFTER_THE_OTHER)
        said = await self.first_bytes(client, "mail", ONE_AFTER_THE_OTHER)
        names = {f"mail-{number}" for number in range(ONE_AFTER_THE_OTHER)}
        self.assertEqual(dict.fromkeys(names, "ConfigurationSuccessful"), said["events"])
        self.assertEqual(names, said["services"].keys())
        self.assertEqual(ONE_AFTER_THE_OTHER, len(set(said["services"].values())))
        print(f"from create to the first byte by name: {shares(said['milliseconds'])}")

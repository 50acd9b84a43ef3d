"""The status page of a replica in a pod, as people see it who may look at its health port."""

from __future__ import annotations

from tests.integration.browser import MISSING
from tests.integration.kubernetes.installation import HEALTH, Installed, resource
from tests.integration.statuspage import StatusPage


class StatusPageTests(Installed):
    """A Destination with two tenants, one of which has no destination."""

    skip = Installed.skip or MISSING

    async def test_tenants(self):
        """Each tenant has its row: the one that is served with its names and sessions, the other with what to do."""
        await self.operate()
        await self.cluster.namespace(self, "shop")
        self.installation.document("mail", "acme")
        replica = await self.installation.start("tproxy-1")
        await self.apply(resource("shop", "mail", "acme", "lost", port=1143))
        await self.served("shop", "mail", "acme")
        await self.available("shop", "mail", "False")
        client = await self.client("shop")
        session = self.session(client, "mail-acme", 1143)
        await session.output.until(rb"\* PREAUTH")
        (port,) = [
            port for port, note in (await self.records("shop", "mail")).items() if note["tproxy/tenant"] == "acme"
        ]

        page = StatusPage(self, f"http://{replica.pod.address}:{HEALTH}/")
        await page.begin()
        text = await page.open()
        for words in ("ready, not all is served", "This replica\nleads", "1 ready of 1", "1 available of 2"):
            self.assertIn(words, text)
        lost, acme = await page.rows()
        self.assertRegex(acme, rf"^shop/mail-acme mail acme mail-acme\.shop:1143 {port} 1 1 available$")
        missing = "unavailable ConfigurationError-ReferencedDestination-NotFound"
        self.assertRegex(lost, rf"^shop/mail-lost mail lost – – – – {missing}\s")
        self.assertIn("correct spec.destinationRef", lost)

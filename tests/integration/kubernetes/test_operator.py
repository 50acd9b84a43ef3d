"""From `kubectl apply` of a Destination to a mail session by its name, in a real cluster."""

from __future__ import annotations

import json
import shutil

from tests.integration.children import start
from tests.integration.kubernetes.installation import Installation, resource
from tests.integration.kubernetes.manifests import Manifests

TELNET = shutil.which("telnet")


class OperatorTests(Manifests):
    """One installation, replicas in pods, workloads in others."""

    async def setUp(self):
        await super().setUp()
        self.installation = Installation(self, self.cluster)
        await self.installation.install()

    async def apply(self, *resources) -> None:
        await self.cluster.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, resources)))

    async def available(self, namespace: str, name: str) -> None:
        where = ("-n", namespace, "--for=condition=Available", "--timeout=30s")
        await self.cluster.kubectl("wait", f"destination/{name}", *where)

    async def test_session(self):
        """A Destination becomes a name under which a workload finds a session that is logged in."""
        await self.namespace("shop")
        self.installation.document("mail")
        await self.installation.start("tproxy-1")
        client = await self.cluster.pod("shop", "client")
        self.addCleanup(client.end)
        await self.apply(resource("shop", "mail"))
        await self.available("shop", "mail")
        telnet = start(self, client.command(TELNET, "mail.shop", "993"), self.cluster.folder, pty=True)
        await telnet.output.until(rb"\* PREAUTH .*\r?\n")

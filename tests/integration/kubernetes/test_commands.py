"""`tproxy ls` and `tproxy check` of people who look at a running installation, each with the rights that they have."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from tests.integration.children import start
from tests.integration.kubernetes.installation import Installation, resource
from tests.integration.kubernetes.manifests import DESTINATIONS, HOME, Manifests
from tests.integration.proxy import SOURCES

TPROXY = "from tproxy.cli import main; main()"
SHOP = "commands"
READER = {"namespace": SHOP, "name": "reader"}
RIGHTS = (
    {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": READER},
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": READER,
        "rules": [{"apiGroups": [DESTINATIONS.group], "resources": [DESTINATIONS.plural], "verbs": ["list"]}],
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": READER,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", **READER}],
    },
)


class CommandTests(Manifests):
    """Beside one replica, which notices nothing."""

    async def setUp(self):
        await super().setUp()
        await self.cluster.namespace(self, SHOP)
        self.installation = Installation(self, self.cluster)
        await self.installation.install()
        self.installation.document("mail", "acme")
        self.installation.document("other")
        await self.installation.start("tproxy-1")
        kept = resource(SHOP, "kept")
        kept["spec"]["destinationServiceInstanceName"] = "btp"
        await self.cluster.create(
            resource(SHOP, "mail", "acme", "lost", port=1143), resource(SHOP, "other"), resource(SHOP, "wrong"), kept
        )
        for name, wanted in (("mail", "False"), ("other", "True"), ("wrong", "False"), ("kept", "False")):
            told = ("-n", SHOP, f"--for=condition=Available={wanted}", "--timeout=30s")
            await self.cluster.kubectl("wait", f"destination/{name}", *told)
        instances = self.installation.configuration["config"]["integration"]["destinationService"]["instances"]
        instances.append({"name": "btp", "serviceCredentials": {"secretName": "destination-service"}})
        self.installation.configuration["cluster"]["kubernetes"]["namespace"] = HOME
        self.config = self.installation.folder / "mine.yaml"
        self.config.write_text(yaml.safe_dump(self.installation.configuration))

    async def tproxy(self, kubeconfig: Path, *words: str) -> tuple[int, str]:
        """The exit status of a command, and what it wrote on both streams."""
        command = [sys.executable, "-bb", "-c", TPROXY, *words, "--config", self.config, "--kubeconfig", kubeconfig]
        child = start(self, command, self.installation.folder, env={"PYTHONPATH": str(SOURCES)})
        status = await child.output.closed()
        return status, bytes(child.output).decode()

    async def wrong(self, words: str, kubeconfig: Path, *command: str) -> None:
        """A command ends with one line and status 1."""
        status, said = await self.tproxy(kubeconfig, *command)
        self.assertEqual((1, 1), (status, len(said.splitlines())), said)
        self.assertRegex(said, f"^tproxy: .*{words}")

    async def test_commands(self):
        """What each of them sees."""
        await self.sees_everything()
        await self.sees_little()

    async def sees_everything(self) -> None:
        """Who may see everything sees every name with its ports, and walks to each mail server; nothing is written."""
        before = await self.written()
        status, said = await self.tproxy(self.cluster.admin, "ls", "--namespace", SHOP)
        self.assertEqual(0, status, said)
        lines = [line for line in said.splitlines() if not line.startswith(" ")]
        self.assertRegex(lines[0], r"^NAME +TENANT +PORT +TARGET +STATE$")
        for line, pattern in zip(
            lines[1:],
            (
                rf"kept\.{SHOP} +- +- +- +FailedToApplyConfiguration",
                rf"mail-acme\.{SHOP} +acme +1143 +[1-3]\d{{4}} +available",
                rf"mail-lost\.{SHOP} +lost +- +- +ConfigurationError-ReferencedDestination-NotFound",
                rf"other\.{SHOP} +- +993 +[1-3]\d{{4}} +available",
                rf"wrong\.{SHOP} +- +- +- +ConfigurationError-ReferencedDestination-NotFound",
            ),
            strict=True,
        ):
            self.assertRegex(line, f"^{pattern}$")
        listeners = json.loads((await self.tproxy(self.cluster.admin, "ls", "--json"))[1])["listeners"]
        acme = next(each for each in listeners if each["tenant"] == "acme")
        self.assertEqual((f"mail-acme.{SHOP}", 1143, True), (acme["address"], acme["port"], acme["available"]))

        status, said = await self.tproxy(self.cluster.admin, "check", "mail", "--tenant", "acme", "--context", "tests")
        self.assertEqual(0, status, said)
        self.assertRegex(said, r"(?s)^resolve .*\nlogin .*\nsession .*answered")
        status, said = await self.tproxy(self.cluster.admin, "check", "mail", "--namespace", SHOP, "--tenant", "lost")
        self.assertEqual(1, status, said)
        self.assertIn("FAILED", said)
        await self.wrong(f"there is no Secret {HOME}/destination-service", self.cluster.admin, "check", "kept")
        self.assertEqual(before, await self.written())

    async def written(self) -> dict[str, str]:
        """The versions of what could be written."""
        found = (await self.cluster.get("destinations,services,secrets,configmaps", "-n", SHOP))["items"]
        return {f"{each['kind']} {each['metadata']['name']}": each["metadata"]["resourceVersion"] for each in found}

    async def sees_little(self) -> None:
        """Who may list Destinations in one namespace sees these; for all else the right that is missing is told."""
        await self.cluster.create(*RIGHTS)
        reader = await self.cluster.account(SHOP, "reader")
        await self.wrong("no right to list destinations.* in all namespaces", reader, "ls")
        await self.wrong("no right to list destinations.* in all namespaces", reader, "check", "mail")
        await self.wrong(f"no right to list destinations.* in the namespace {HOME}", reader, "ls", "--namespace", HOME)
        status, said = await self.tproxy(reader, "ls", "--namespace", SHOP)
        self.assertEqual(0, status, said)
        self.assertRegex(said, rf"tproxy: not all ports are shown: .* list services in the namespace {SHOP}")
        self.assertRegex(said, rf"mail-acme\.{SHOP} +acme +1143 +- +available")
        walk = ("check", "mail", "--namespace", SHOP, "--tenant", "acme")
        status, said = await self.tproxy(reader, *walk)
        self.assertEqual(0, status, said)
        await self.wrong(
            f"no right to get secrets in the namespace {HOME}: the Secret {HOME}/destination-service",
            reader,
            *("check", "kept", "--namespace", SHOP),
        )
        await self.wrong("context nowhere .* has no context of that name", reader, *walk, "--context", "nowhere")
        unknown = self.cluster.kubeconfig("unknown", "no-token")
        await self.wrong("destinations cannot be read: Unauthorized", unknown, "ls")
        lost = self.installation.folder / "lost"
        lost.write_text(reader.read_text().replace(self.cluster.server, f"https://{self.cluster.network.address}:1"))
        await self.wrong("destinations cannot be read: ", lost, "ls")

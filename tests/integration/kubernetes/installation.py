"""An installation of tproxy in the cluster: its replicas are processes in pods, with the rights that are shipped."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.integration.children import Child, run, start
from tests.integration.kubernetes.cluster import Cluster, Pod
from tests.integration.kubernetes.manifests import HOME, K8S, Manifests, built
from tests.integration.kubernetes.network import PATH
from tests.integration.mailserver import MailServer, listen
from tests.integration.proxy import SOURCES, TENANTS, TWISTD, basic
from tproxy.operator.objects import noted, policy_ports
from tproxy.testing.certificates import Authority

TELNET = shutil.which("telnet")
NC = shutil.which("nc")
FIRST_BYTE = Path(__file__).parent / "first_byte.py"
HEALTH = 8080
AUTHORITY = Authority.create()
WRITTEN = "services,endpointslices,networkpolicies,leases"
UNUSED = ("Deployment", "PodDisruptionBudget", "ConfigMap")
"""What the tests do themselves: they say which pods there are, and what is in their files."""


def resource(namespace: str, name: str, *tenants: str, port: int = 0, destination: str = "", scope: str = "") -> Any:
    """A Destination."""
    metadata: dict[str, Any] = {"namespace": namespace, "name": name}
    if tenants:
        metadata["annotations"] = {TENANTS: json.dumps(tenants)}
    spec: dict[str, Any] = {"destinationRef": {"name": destination or name}}
    spec |= {"service": {"port": port}} if port else {}
    spec |= {"accessControl": {"scope": scope}} if scope else {}
    return {
        "apiVersion": "destination.connectivity.api.sap/v1",
        "kind": "Destination",
        "metadata": metadata,
        "spec": spec,
    }


class Replica:
    """A process of tproxy in a pod."""

    def __init__(self, pod: Pod, child: Child) -> None:
        self.pod, self.child = pod, child

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it logged so far."""
        output = bytes(self.child.output)
        lines = output[: output.rfind(b"\n") + 1].splitlines()
        return [json.loads(line) for line in lines if line.startswith(b"{")]

    def logged(self, **fields: object) -> list[dict[str, Any]]:
        """The events that have these fields."""
        return [event for event in self.events if fields.items() <= event.items()]


class Installation:
    """tproxy with its rights, destinations in a folder, and one mail server that they lead to."""

    def __init__(self, test, cluster: Cluster, **config: Any) -> None:
        self.test, self.cluster = test, cluster
        self.folder = Path(tempfile.mkdtemp(prefix="tproxy-installation-"))
        test.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        (self.folder / "destinations").mkdir()
        AUTHORITY.write(self.folder, "ca")
        self.mail = MailServer()
        self.replicas: list[Replica] = []
        instance = {"name": "local", "directory": "destinations"}
        self.configuration = {
            "config": {
                "tenantMode": "shared",
                "integration": {"destinationService": {"defaultInstanceName": "local", "instances": [instance]}},
                "security": {"allowedNetworks": ["198.18.0.0/15"]},
                "logging": {"level": "debug"},
                "health": {"listen": "0.0.0.0", "port": HEALTH},
                **config,
            },
            "additionalCAs": {"file": "ca.pem"},
            "cluster": {"kubernetes": {"drainSeconds": 0}},
        }

    async def install(self, overlay: str = "shared") -> None:
        """Give it its rights; they are taken away with the test, as is all that it wrote."""
        objects = []
        for each in built(K8S / "overlays" / overlay):
            if each["kind"] == "Deployment":
                self.template = each["spec"]["template"]
            if each["kind"] not in UNUSED:
                objects.append(each)
        await self.cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))
        self.test.addCleanup(self.remove, [each for each in objects if each["kind"] != "Namespace"])
        await self.cluster.kubectl("wait", "serviceaccount/tproxy", "-n", HOME, "--for=create", "--timeout=60s")
        host = self.cluster.network.host
        self.port = await listen(self.test, self.mail, AUTHORITY.issue(host), host)

    async def remove(self, objects: list[dict[str, Any]]) -> None:
        """Delete these objects, and what replicas wrote. The namespace stays for the next test: its end takes long."""
        text = yaml.safe_dump_all(objects)
        await self.cluster.kubectl("delete", "-f", "-", "--ignore-not-found", stdin=text)
        await self.cluster.kubectl("delete", WRITTEN, "--all", "-n", HOME, "--wait=false")

    def document(self, name: str, tenant: str = "", **properties: str) -> Path:
        """Write a destination that leads to the mail server, as a user of the destination's and tenant's name."""
        path = self.folder / "destinations" / tenant / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        made = basic(self.port, f"{tenant}{name}", host=self.cluster.network.host, **properties)
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps({"Name": name, **made}))
        draft.rename(path)
        return path

    async def start(self, name: str, program: str = TWISTD) -> Replica:
        """Start a replica; returns once it is ready."""
        replica = await self.begin(name, program)
        await replica.child.output.until(rb"listener\.opened")
        await replica.pod.ready()
        return replica

    async def begin(self, name: str, program: str = TWISTD) -> Replica:
        """Start a replica, and wait for nothing that it needs the API server for."""
        return await self.run(await self.place(name), program)

    async def place(self, name: str) -> Pod:
        """A pod for a replica."""
        metadata = {**self.template["metadata"], "namespace": HOME, "name": name}
        await self.cluster.create({**self.template, "apiVersion": "v1", "kind": "Pod", "metadata": metadata})
        pod = await self.cluster.place(HOME, name)
        self.test.addCleanup(pod.end)
        await pod.ready(False)
        return pod

    async def run(self, pod: Pod, program: str = TWISTD) -> Replica:
        """Start the process of a replica, for the first time or again."""
        file = self.folder / "tproxy.yaml"
        file.write_text(yaml.safe_dump(self.configuration))
        told = {"POD_NAME": pod.name, "POD_NAMESPACE": HOME, "POD_IP": pod.address, "PYTHONPATH": os.fspath(SOURCES)}
        command = pod.command(sys.executable, "-c", program, "-n", "--pidfile=", "tproxy", "--config", file)
        replica = Replica(pod, start(self.test, command, self.folder, env=told))
        self.replicas.append(replica)
        self.test.addCleanup(self._stop, replica)
        await self.until(lambda: replica.logged(event="start") or replica.child.output.end is not None)
        self.test.assertIsNone(replica.child.output.end, str(replica.child.output))
        return replica

    async def _stop(self, replica: Replica) -> None:
        if replica.child.output.end is None:
            await replica.child.end(signal.SIGTERM)
        if os.environ.get("SHOW"):
            Path(os.environ["SHOW"], replica.pod.name).write_text(str(replica.child.output))

    async def until(self, condition, seconds: float = 30.0) -> Any:
        """What a condition gives, once that is true; it may be a coroutine function."""
        until = reactor.seconds() + seconds
        while reactor.seconds() < until:
            met = condition()
            if hasattr(met, "__await__"):
                met = await met
            if met:
                return met
            await deferLater(reactor, 0.05)
        raise AssertionError("it did not come about in time")


class Installed(Manifests):
    """Tests of one installation: replicas in pods, workloads in others."""

    if not (TELNET and NC):
        skip = "there is no telnet or no nc: apt-get install telnet netcat-openbsd"

    async def operate(self, overlay: str = "shared", **config: Any) -> None:
        """Install it; `config` is what it is told beside the usual."""
        self.installation = Installation(self, self.cluster, **config)
        await self.installation.install(overlay)

    async def apply(self, *resources) -> None:
        await self.cluster.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, resources)))

    async def available(self, namespace: str, name: str, wanted: str = "True") -> None:
        where = ("-n", namespace, f"--for=condition=Available={wanted}", "--timeout=30s")
        await self.cluster.kubectl("wait", f"destination/{name}", *where)

    async def served(self, namespace: str, name: str, *tenants: str, seconds: float = 30.0) -> None:
        """Returns once the status says that these tenants are served, and no others."""

        async def told() -> bool:
            status = (await self.cluster.get("destination", name, "-n", namespace)).get("status", {})
            return {row["subdomain"] for row in status.get("tenants", ()) if row["available"]} == set(tenants)

        await self.installation.until(told, seconds)

    async def condition(self, namespace: str, name: str) -> dict[str, Any]:
        """The condition Available."""
        found = await self.cluster.get("destination", name, "-n", namespace)
        return {each["type"]: each for each in found["status"]["conditions"]}["Available"]

    async def reason(self, namespace: str, name: str) -> str:
        return (await self.condition(namespace, name))["reason"]

    async def client(self, namespace: str) -> Pod:
        client = await self.cluster.pod(namespace, "client")
        self.addCleanup(client.end)
        return client

    def session(self, client: Pod, name: str, port: int = 993) -> Child:
        """A workload that connects by name, as the documentation shows it."""
        return start(self, client.command(TELNET, name, str(port)), self.cluster.folder, pty=True)

    async def refused(self, client: Pod, name: str, port: int = 993) -> bool:
        """Whether nothing answers by that name."""
        child = start(self, client.command(NC, "-w", "2", name, str(port)), self.cluster.folder)
        child.transport.closeStdin()
        await child.output.closed()
        return b"* " not in bytes(child.output)

    async def services(self, namespace: str) -> set[str]:
        return {each["metadata"]["name"] for each in (await self.cluster.get("services", "-n", namespace))["items"]}

    async def gone(self, namespace: str, name: str) -> None:
        async def told() -> bool:
            return name not in await self.services(namespace)

        await self.installation.until(told)

    async def policy_ports(self, namespace: str) -> set[int]:
        """The ports that are open to a namespace, or to the whole cluster on its behalf."""
        policies = (await self.cluster.get("networkpolicies", "-n", HOME))["items"]
        own = [each for each in policies if noted(each).get("tproxy/namespace") == namespace]
        return {port for policy in own for port in policy_ports(policy)}

    async def until_served(self, client: Pod, name: str, port: int = 993) -> None:
        async def answers() -> bool:
            return not await self.refused(client, name, port)

        await self.installation.until(answers, 90)  # after an outage CoreDNS takes its time to follow again

    def routed(self) -> dict[str, set[str]]:
        """The addresses to which the node carries connections, by the port of the listener."""
        words = ("nft", "list", "set", "ip", "kube-proxy", "hairpin-connections")  # it has every endpoint once
        command = self.cluster.network.inside(self.cluster.network.node, *words)
        environment = {**os.environ, "PATH": PATH}
        told = subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout
        found: dict[str, set[str]] = {}
        for address, port in re.findall(r"(\S+) \. \1 \. tcp \. ([123]\d{4})\b", told):
            found.setdefault(port, set()).add(address)
        return found

    async def first_bytes(self, client: Pod, destination: str, count: int, *port: int) -> dict[str, Any]:
        """What `first_byte.py` says in a workload's pod."""
        words = (self.cluster.admin, client.namespace, destination, count, *port)
        command = client.command(sys.executable, FIRST_BYTE, *map(str, words))
        return json.loads(await run(self, command, self.cluster.folder))

    async def told(self, namespace: str, name: str, reason: str, words: str = "") -> None:
        """Returns once the condition has this reason, and a message with these words."""

        async def met() -> bool:
            found = await self.cluster.get("destination", name, "-n", namespace)
            conditions = found.get("status", {}).get("conditions", ())
            return any(each["reason"] == reason and words in each["message"] for each in conditions)

        await self.installation.until(met)

    async def records(self, namespace: str, name: str) -> dict[int, dict[str, str]]:
        """What the records of a resource say, by port, but those that are released; of spares for two empty names."""
        found = (await self.cluster.get("services", "-n", HOME, "-l", "tproxy/role=port"))["items"]
        notes = {int(each["metadata"]["name"][1:]): each["metadata"]["annotations"] for each in found}
        return {
            port: note
            for port, note in notes.items()
            if (note.get("tproxy/namespace", ""), note.get("tproxy/name", "")) == (namespace, name)
            and "tproxy/released-at" not in note
        }

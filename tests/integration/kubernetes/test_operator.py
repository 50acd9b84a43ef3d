"""From `kubectl apply` of a Destination to a mail session by its name, in a real cluster."""

from __future__ import annotations

import signal
import sys
import time

from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.integration.children import start
from tests.integration.kubernetes.installation import Installed, Replica, resource
from tests.integration.kubernetes.manifests import HOME
from tproxy.assembly import Clock
from tproxy.cluster.api.client import connect
from tproxy.cluster.api.kubeconfig import kubeconfig
from tproxy.cluster.kinds import DESTINATIONS

PROBE = """
import socket, sys, time
for line in sys.stdin:
    name, said = line.strip(), False
    while True:
        try:
            with socket.create_connection((name, 993), 5) as connection:
                connected = time.monotonic()
                if connection.recv(1):
                    print(name, connected, time.monotonic())
                    break
        except OSError:
            time.sleep(0.005)
        if not said:
            print(name, "asked")
            said = True
"""

LISTEN = """
import signal, socket, sys
listening = socket.create_server(("", int(sys.argv[1])))
print("listening", flush=True)
signal.pause()
"""


class OperatorTests(Installed):
    """One installation, replicas in pods, workloads in others."""

    async def setUp(self):
        await super().setUp()
        await self.operate()

    async def test_session(self):
        """A Destination becomes a name under which a workload finds a session that is logged in; then it is deleted."""
        await self.cluster.namespace(self, "shop")
        self.installation.document("mail")
        await self.installation.start("tproxy-1")
        client = await self.client("shop")
        await self.apply(resource("shop", "mail"))
        await self.available("shop", "mail")
        session = self.session(client, "mail.shop")
        await session.output.until(rb"\* PREAUTH .*\r?\n")
        session.transport.write(b"2 NOOP\r\n")
        await session.output.until(rb"2 OK done")

        (port,) = await self.policy_ports("shop")
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
        await self.cluster.namespace(self, "shop")
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

    async def test_port_taken(self):
        """A port that one replica cannot open leaves that one out there alone, and an Event about its Pod says so."""
        await self.cluster.namespace(self, "shop")
        self.installation.document("mail")
        first = await self.installation.start("tproxy-1")
        await self.apply(resource("shop", "mail"))
        await self.available("shop", "mail")
        (taken,) = await self.records("shop", "mail")
        pod = await self.installation.place("tproxy-2")
        program = start(self, pod.command(sys.executable, "-c", LISTEN, str(taken)), self.cluster.folder)
        await program.output.until(rb"listening")
        second = await self.installation.run(pod)
        await pod.ready()

        async def reported() -> str:
            where = ("-n", HOME, "--field-selector=involvedObject.name=tproxy-2")
            return await self.cluster.kubectl("get", "events", *where, "-o", "jsonpath={.items[*].message}")

        message = await self.installation.until(reported)
        self.assertIn(f"port {taken} of 0.0.0.0 is in use by another process", message)
        (spare, *_) = await self.records("", "")
        await self.announced(spare, first, second)
        await self.announced(taken, first)
        client = await self.client("shop")
        await self.until_served(client, "mail")
        await program.end()
        await self.announced(taken, first, second)

    async def test_foreign(self):
        """A Service of somebody else is left as it is; the resource is told, and served once that is gone."""
        await self.cluster.namespace(self, "shop")
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
        await self.cluster.namespace(self, "shop")
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

    async def leads_to(self, port: int) -> set[str]:
        """The addresses that are announced for a port."""
        found = await self.cluster.get("endpointslice", f"p{port}", "-n", HOME)
        return {address for each in found["endpoints"] or () for address in each["addresses"]}

    async def announced(self, port: int, *replicas: Replica) -> None:
        """Returns once these replicas are announced for a port, and no others."""
        wanted = {replica.pod.address for replica in replicas}

        async def told() -> bool:
            return await self.leads_to(port) == wanted

        await self.installation.until(told)

    async def test_leader_lost(self):
        """When the leader dies, the other replica serves on, and leads soon."""
        await self.cluster.namespace(self, "shop")
        self.installation.document("mail")
        self.installation.document("other")
        first = await self.installation.start("tproxy-1")
        second = await self.installation.start("tproxy-2")
        client = await self.client("shop")
        await self.apply(resource("shop", "mail"))
        await self.available("shop", "mail")
        (port,) = await self.policy_ports("shop")
        await self.announced(port, first, second)
        await first.child.end(signal.SIGKILL)
        await first.pod.ready(False)
        await self.installation.until(lambda: second.logged(event="election.elected"), 40)
        await self.announced(port, second)
        await self.apply(resource("shop", "other"))
        await self.available("shop", "other")
        await self.until_served(client, "other")
        await self.until_served(client, "mail")

    async def test_rolling(self):
        """A leader that is told to stop is replaced without a connection lost; its sessions go on for a while."""
        await self.cluster.namespace(self, "shop")
        self.installation.document("mail")
        self.installation.configuration["cluster"]["kubernetes"]["drainSeconds"] = 60
        first = await self.installation.start("tproxy-1")
        client = await self.client("shop")
        await self.apply(resource("shop", "mail"))
        await self.available("shop", "mail")
        session = self.session(client, "mail")
        await session.output.until(rb"\* PREAUTH")
        second = await self.installation.start("tproxy-2")
        (port,) = await self.policy_ports("shop")
        await self.announced(port, first, second)
        ended = first.child.end(signal.SIGTERM, 90)
        await self.announced(port, second)
        await self.installation.until(lambda: second.logged(event="election.elected"))
        for _ in range(10):
            self.assertFalse(await self.refused(client, "mail"))
        session.transport.write(b"2 NOOP\r\n")
        await session.output.until(rb"2 OK done")
        self.assertIsNone(first.child.output.end)
        session.transport.write(b"3 LOGOUT\r\n")
        await session.output.closed()
        self.assertEqual(0, await ended)

    async def test_api_server_away(self):
        """While the API server is away sessions and new connections go on; then all goes on."""
        await self.cluster.namespace(self, "shop")
        self.installation.document("mail")
        self.installation.document("other")
        replica = await self.installation.start("tproxy-1")
        client = await self.client("shop")
        await self.apply(resource("shop", "mail"))
        await self.available("shop", "mail")
        session = self.session(client, "mail")
        await session.output.until(rb"\* PREAUTH")
        await self.cluster.stop("kube-apiserver")
        await self.installation.until(lambda: replica.logged(event="election.lost"), 40)
        self.assertFalse(await self.refused(client, "mail"))
        session.transport.write(b"2 NOOP\r\n")
        await session.output.until(rb"2 OK done")
        await self.cluster.restore()
        await self.apply(resource("shop", "other"))
        await self.available("shop", "other")
        await self.until_served(client, "other")
        self.assertEqual([], [each for each in replica.events if each.get("event") == "listener.closed"])

    async def test_deleted_while_down(self):
        """What is deleted while nobody runs, a namespace and a resource, is given up at the next start."""
        await self.cluster.namespace(self, "shop")
        await self.cluster.namespace(self, "lost")
        self.installation.document("mail")
        first = await self.installation.start("tproxy-1")
        for namespace in ("shop", "lost"):
            await self.apply(resource(namespace, "mail"))
            await self.available(namespace, "mail")
        ports = [*await self.policy_ports("shop"), *await self.policy_ports("lost")]
        await first.child.end(signal.SIGTERM)
        await self.cluster.kubectl("delete", "destination", "mail", "-n", "shop")
        await self.cluster.kubectl("delete", "namespace", "lost")
        second = await self.installation.start("tproxy-2")

        async def released() -> bool:
            records = [await self.cluster.get("service", f"p{port}", "-n", HOME) for port in ports]
            return all("tproxy/released-at" in each["metadata"]["annotations"] for each in records)

        await self.installation.until(released)
        await self.installation.until(self.no_policies)
        self.assertEqual([], second.logged(event="session.started"))

    async def no_policies(self) -> bool:
        return not [*await self.policy_ports("shop"), *await self.policy_ports("lost")]

    async def test_time(self):
        """With spares, a Destination answers by its name within a moment of its creation."""
        await self.cluster.namespace(self, "shop")
        names = [f"mail-{number}" for number in range(20)]
        for name in names:
            self.installation.document(name)
        await self.installation.start("tproxy-1")
        client = await self.client("shop")
        probe = start(self, client.command(sys.executable, "-uc", PROBE), self.cluster.folder)
        access = kubeconfig(str(self.cluster.admin))
        api = connect(access, reactor, Clock(reactor))
        self.addCleanup(api.close)
        times = []
        for name in names:
            await deferLater(reactor, 0.5)
            probe.transport.write(f"{name}.shop\n".encode())
            await probe.output.until(rb"%s.shop asked\n" % name.encode())
            before = time.monotonic()
            await api.create(DESTINATIONS, resource("shop", name))
            found = await probe.output.until(rb"%s.shop (\S+) (\S+)\n" % name.encode())
            times.append([1000 * (float(each) - before) for each in found.groups()])
        for what, values in zip(("connected", "first byte"), map(sorted, zip(*times, strict=True)), strict=True):
            print(f"{what}: p50 {values[len(values) // 2]:.0f} ms, most {values[-1]:.0f} ms")

"""The cluster that the operator is tested on does what a cluster does."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from subprocess import PIPE, Popen

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

import tests
from tests.integration.children import start
from tests.integration.kubernetes.cluster import MISSING, KubectlError, Pod, cluster
from tests.integration.kubernetes.network import ETC, NAMESPACES, Network
from tests.integration.kubernetes.programs import FOLDER

NC = shutil.which("nc")
TELNET = shutil.which("telnet")

GREETER = """
import socket, sys
with socket.create_server(("", int(sys.argv[2]))) as server:
    print("listens", flush=True)
    while True:
        connection, _ = server.accept()
        with connection:
            connection.sendall(sys.argv[1].encode() + b"\\n")
"""

DEAD_RUN = """
import os
from tests.integration.kubernetes.network import Network
network = Network()
name, _ = network.add("shop-web", "")
command = network.inside(name, "sh", "-c", "echo $0; exec sleep 600", name)
os.execv(command[0], command)
"""


def service(namespace: str, name: str, **spec):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


class ClusterTests(TestCase):
    """API server, controllers, kube-proxy and CoreDNS, and pods that the tests place."""

    skip = MISSING or (None if NC else "there is no nc: apt-get install netcat-openbsd")
    timeout = 180

    async def setUp(self):
        self.cluster = await cluster()

    async def pod(self, namespace: str, name: str, **labels: str) -> Pod:
        pod = await self.cluster.pod(namespace, name, **labels)
        self.addCleanup(pod.end)
        return pod

    async def greeter(self, namespace: str, name: str, **labels: str) -> Pod:
        """A ready pod that says its name to who connects to port 12345."""
        pod = await self.pod(namespace, name, **labels)
        child = start(self, pod.command(sys.executable, "-c", GREETER, name, "12345"), self.cluster.folder)
        await child.output.until(rb"listens")
        await pod.ready()
        return pod

    async def said(self, client: Pod, host: str, port: str = "993") -> str:
        """What a server says to nc in a pod; nothing where it can't be reached."""
        child = start(self, client.command(NC, "-w", "5", host, port), self.cluster.folder)
        child.transport.closeStdin()
        status = await child.output.closed()
        return str(child.output).strip() if status == 0 else ""

    async def said_in_turn(self, client: Pod, host: str, wanted: set[str]) -> None:
        """Returns once nobody but all of these was heard in a number of connections."""
        while {await self.said(client, host) for _ in range(12)} != wanted:
            await deferLater(reactor, 0.1)

    async def test_answers(self):
        """The API server answers, and says that a cluster's own namespaces are there."""
        found = await self.cluster.get("namespaces")
        names = {each["metadata"]["name"] for each in found["items"]}
        self.assertLessEqual({"default", "kube-system"}, names)

    async def test_refused(self):
        """What kubectl says about an error is passed on."""
        with self.assertRaisesRegex(KubectlError, 'namespaces "nowhere" not found'):
            await self.cluster.get("namespace", "nowhere")

    async def test_service(self):
        """A Service spreads connections by name over its ready pods; one that is not ready gets none."""
        await self.cluster.namespace(self, "spread")
        await self.cluster.create(
            service("spread", "web", selector={"app": "web"}, ports=[{"port": 993, "targetPort": 12345}])
        )
        first = await self.greeter("spread", "web-1", app="web")
        await self.greeter("spread", "web-2", app="web")
        client = await self.pod("spread", "client")
        for host in ("web", "web.spread", "web.spread.svc.cluster.local"):
            await self.said_in_turn(client, host, {"web-1", "web-2"})
        await first.ready(False)
        await self.said_in_turn(client, "web", {"web-2"})
        await first.ready()
        await self.said_in_turn(client, "web", {"web-1", "web-2"})

    async def test_external_name(self):
        """An ExternalName leads through a Service of another namespace to the pod, by its short names."""
        if not TELNET:
            self.skipTest("there is no telnet: apt-get install telnet")
        for namespace in ("shop", "mail-system", "elsewhere"):
            await self.cluster.namespace(self, namespace)
        port = {"port": 993, "targetPort": 12345}
        await self.cluster.create(
            service("mail-system", "p12345", selector={"app": "proxy"}, ports=[port]),
            service("shop", "mail", type="ExternalName", externalName="p12345.mail-system.svc.cluster.local"),
        )
        await self.greeter("mail-system", "proxy", app="proxy")
        for namespace, name in (("shop", "mail"), ("elsewhere", "mail.shop")):
            client = await self.pod(namespace, "client")
            await self.said_in_turn(client, name, {"proxy"})
            telnet = start(self, client.command(TELNET, name, "993"), self.cluster.folder, pty=True)
            await telnet.output.until(rb"^proxy\r?$")

    async def test_no_such_name(self):
        """A name that is not there is said not to be there, in the cluster or outside."""
        await self.cluster.namespace(self, "nameless")
        client = await self.pod("nameless", "client")
        for name in ("web", "web.example.com"):
            child = start(self, client.command(NC, name, "993"), self.cluster.folder)
            await child.output.until(rb"Name or service not known")

    async def test_deployment(self):
        """A Deployment's pod is placed and becomes ready; in it, a program is its ServiceAccount to the API server."""
        await self.cluster.namespace(self, "deployed")
        labels = {"app": "web"}
        spec = {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "none"}]}},
        }
        metadata = {"name": "web", "namespace": "deployed"}
        await self.cluster.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
        where = ("-n", "deployed", "--timeout=60s")
        await self.cluster.kubectl("wait", "pod", "-l", "app=web", "--for=create", *where)
        (found,) = (await self.cluster.get("pods", "-n", "deployed"))["items"]
        pod = await self.cluster.place("deployed", found["metadata"]["name"])
        self.addCleanup(pod.end)
        await pod.ready()
        await self.cluster.kubectl("wait", "deployment/web", "--for=condition=Available", *where)
        command = pod.command(FOLDER / "kubectl", "auth", "whoami", "-o=jsonpath={.status.userInfo.username}")
        child = start(self, command, self.cluster.folder, env={"HOME": os.fspath(self.cluster.folder)})
        await child.output.closed()
        self.assertEqual("system:serviceaccount:deployed:default", str(child.output))

    async def test_rights(self):
        """A ServiceAccount's token has the rights of its Role, and no other."""
        await self.cluster.namespace(self, "rights")
        for words in (
            ("serviceaccount", "reader"),
            ("role", "reader", "--verb=get", "--resource=services"),
            ("rolebinding", "reader", "--role=reader", "--serviceaccount=rights:reader"),
        ):
            await self.cluster.kubectl("create", *words, "-n", "rights")
        await self.cluster.create(service("rights", "web", ports=[{"port": 993}]))
        reader = await self.cluster.account("rights", "reader")
        found = await self.cluster.get("service", "web", config=reader)
        self.assertEqual("web", found["metadata"]["name"])
        for words in (
            ("get", "services"),
            ("get", "service", "kubernetes", "-n", "default"),
            ("delete", "service", "web"),
            ("get", "pods"),
        ):
            with self.assertRaisesRegex(KubectlError, "Forbidden"):
                await self.cluster.kubectl(*words, config=reader)

    async def test_api_server_away(self):
        """While the API server is away Services go on; then it is there again with all that it knew."""
        await self.cluster.namespace(self, "away")
        port = {"port": 993, "targetPort": 12345}
        await self.cluster.create(service("away", "web", selector={"app": "web"}, ports=[port]))
        await self.greeter("away", "web-1", app="web")
        client = await self.pod("away", "client")
        await self.said_in_turn(client, "web", {"web-1"})
        await self.cluster.stop("kube-apiserver")
        with self.assertRaisesRegex(KubectlError, "refused"):
            await self.cluster.get("services", "-n", "away")
        self.assertEqual("web-1", await self.said(client, "web"))
        await self.cluster.restore()
        found = await self.cluster.get("services", "-n", "away")
        self.assertEqual(["web"], [each["metadata"]["name"] for each in found["items"]])


class NetworkTests(SynchronousTestCase):
    """Runs of the tests, side by side and one after the other."""

    skip = MISSING

    def test_side_by_side(self):
        """Two have no name and no address in common."""
        first, second = Network(), Network()
        self.addCleanup(first.end)
        self.addCleanup(second.end)
        self.assertNotEqual(first.node, second.node)
        self.assertFalse(first.range.overlaps(second.range))

    def test_dead(self):
        """What one that was killed has left behind, the next one removes; what runs in it ends."""
        env = {**os.environ, "PYTHONPATH": os.fspath(Path(tests.__file__).parent.parent)}
        with Popen([sys.executable, "-c", DEAD_RUN], env=env, stdout=PIPE, text=True) as dead:
            name = dead.stdout.readline().strip()
            self.assertTrue((NAMESPACES / name).exists())
            self.addCleanup(Network().end)
            self.assertEqual(-signal.SIGKILL, dead.wait(10))
        for folder in (NAMESPACES, ETC):
            self.assertFalse((folder / name).exists())

"""From an empty cluster to mail, by the commands of the guide: nothing is left out but the image."""

from __future__ import annotations

import json
import re
import shutil
import sys

import yaml
from twisted.internet import reactor
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial import util

from tests.integration import canaries
from tests.integration.children import python, run, start
from tests.integration.dovecot import MISSING, dovecot
from tests.integration.kubernetes.cluster import Pod
from tests.integration.kubernetes.installation import HEALTH, NC, TELNET, Installation, Installed, Replica
from tests.integration.kubernetes.loopback import share
from tests.integration.kubernetes.manifests import HOME, K8S, built
from tests.integration.kubernetes.test_manifests import guide
from tests.integration.messages import FIRST, LARGE, MESSAGES, digest
from tests.integration.proxy import SOURCES, TENANTS, TWISTD, basic
from tproxy.model import Tenant
from tproxy.testing.btp import BTP, Account, Setup

CURL = shutil.which("curl")
EXAMPLES = K8S.parent / "examples" / "resources"
NAMESPACE = "my-namespace"
RESOURCES = ("example-dest-imaps", "example-dest-imaps-open", "tenant-mail")
DEFAULT, SECOND = "destination-service", "archive-service"
"""The Secrets that the guide's own kustomization lets tproxy read."""


class GuideTests(Installed):
    """The Deployment's own pods, the configuration of their ConfigMap, keys in Secrets, and the shipped rights."""

    if not (TELNET and NC and CURL) or MISSING:
        skip = MISSING or "there is no telnet, nc or curl: apt-get install telnet netcat-openbsd curl"
    # twisted.web looks header names up in one table, text and bytes.
    suppress = [util.suppress(category=BytesWarning)]  # noqa: RUF012

    async def setUp(self):
        await super().setUp()
        self.installation = Installation(self, self.cluster)
        self.folder = self.installation.folder
        self.setup = Setup(Tenant("main"), "sb-tproxy", canaries.secret("service-key"))
        self.setup.accounts |= {Tenant(name): Account() for name in ("acme", "globex", "initech")}
        self.btp = BTP(reactor, self.setup)
        await self.btp.start()
        self.addCleanup(self.btp.stop)

    def mailbox(self, tenant: str, name: str, *messages: bytes) -> str:
        """A destination of a tenant that leads to a mailbox of its own."""
        user = dovecot().mailbox(*(messages or (f"Subject: {tenant}\r\n\r\nx\r\n".encode(),)))
        properties = {"Name": name, **basic(dovecot().tls, user)}
        self.setup.accounts[Tenant(tenant)].destinations["subaccount"][name] = properties
        return user

    async def write_secrets(self) -> None:
        """One as `kubectl create secret` makes it of a service key, and one as a binding has it."""
        key = self.btp.service_key()
        (self.folder / "key.json").write_text(json.dumps(key))
        for name, *words in (
            (DEFAULT, f"--from-file=credentials={self.folder / 'key.json'}"),
            (SECOND, "--from-literal=type=destination", *(f"--from-literal={name}={key[name]}" for name in key)),
        ):
            made = ("create", "secret", "generic", name, "-n", HOME, *words, "--dry-run=client", "-o", "json")
            await self.cluster.kubectl("apply", "-f", "-", stdin=await self.cluster.kubectl(*made))

    async def install(self) -> None:
        """Apply a kustomization of one's own beside k8s/."""
        shutil.copytree(K8S, self.folder / "k8s")
        own = self.folder / "mine"
        own.mkdir()
        kustomization = yaml.safe_load(guide("newName:"))
        kustomization["configMapGenerator"][0]["files"].append("ca.pem")
        (own / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        (own / "tproxy.yaml").write_text(yaml.safe_dump(self.configuration()))
        (own / "ca.pem").write_text(self.btp.authority.pem + dovecot().authority)
        self.addCleanup(self.cluster.kubectl, "delete", "-k", own, "--ignore-not-found")
        await self.cluster.kubectl("apply", "-k", own, "--warnings-as-errors")

    def configuration(self) -> dict:
        """That of the overlay, with a second instance, and what the stand-ins need: they are on loopback."""
        (shipped,) = (made for made in built(K8S / "overlays" / "shared") if made["kind"] == "ConfigMap")
        configuration = yaml.safe_load(shipped["data"]["tproxy.yaml"])
        config = configuration["config"]
        service = config["integration"]["destinationService"]
        service["instances"].append({"name": "btp", "serviceCredentials": {"secretName": SECOND}})
        config |= {"providerSubdomain": "main", "security": {"allowedNetworks": ["127.0.0.0/8"]}}
        config["destinations"] = {"maxAge": 60}
        return configuration | {"additionalCAs": {"file": "ca.pem"}, "cluster": {"kubernetes": {"drainSeconds": 0}}}

    async def run_pods(self) -> list[Replica]:
        """Do what a kubelet does to the pods of the Deployment."""
        where = ("-n", HOME, "--timeout=60s")
        await self.cluster.kubectl("wait", "deployment/tproxy", "--for=jsonpath={.status.replicas}=2", *where)
        pods = (await self.cluster.get("pods", "-n", HOME))["items"]
        replicas = [await self.run_pod(pod) for pod in pods]
        for replica in replicas:
            await self.installation.until(lambda replica=replica: self.answers(replica.pod))
            await replica.pod.ready()
        return replicas

    async def run_pod(self, there: dict) -> Replica:
        name, (container,) = there["metadata"]["name"], there["spec"]["containers"]
        pod = await self.cluster.place(HOME, name)
        self.addCleanup(pod.end)
        for port in (self.btp.port, dovecot().tls):
            share(self, pod, port)
        await pod.ready(False)
        mounted = self.folder / name
        mounted.mkdir()
        volumes = {volume["name"]: volume for volume in there["spec"]["volumes"]}
        (mount,) = (each for each in container["volumeMounts"] if "configMap" in volumes[each["name"]])
        config = await self.cluster.get("configmap", volumes[mount["name"]]["configMap"]["name"], "-n", HOME)
        for file, text in config["data"].items():
            (mounted / file).write_text(text)
        facts = {"metadata.name": name, "metadata.namespace": HOME, "status.podIPs": pod.address}
        told = {each["name"]: facts[each["valueFrom"]["fieldRef"]["fieldPath"]] for each in container["env"]}
        twistd, *words = (word.replace(mount["mountPath"], str(mounted)) for word in container["command"])
        self.assertEqual("twistd", twistd)
        command = pod.command(sys.executable, "-c", TWISTD, *words)
        replica = Replica(pod, start(self, command, self.folder, env=told | {"PYTHONPATH": str(SOURCES)}))
        self.addCleanup(self.stopped, replica)
        return replica

    async def stopped(self, replica: Replica) -> None:
        self.assertEqual(0, await replica.child.end())
        self.assertEqual([], canaries.found(bytes(replica.child.output)), "secrets in what a replica wrote")

    async def answers(self, pod: Pod) -> bool:
        """What the readiness probe finds."""
        url = f"http://{pod.address}:{HEALTH}/readyz"
        return not (await getProcessOutputAndValue(CURL, ["-sf", "--noproxy", "*", url]))[2]

    async def test_guide(self):
        """The examples become names; telnet, curl and imaplib find mail there, each its own; keys are rotated."""
        user = self.mailbox("main", "example-dest-imaps", *MESSAGES)
        for tenant in ("acme", "globex", "initech"):
            self.mailbox(tenant, "tenant-mail")
        await self.cluster.namespace(self, NAMESPACE)
        await self.install()
        replicas = await self.run_pods()
        await self.cluster.kubectl("apply", "-f", EXAMPLES)
        await self.without_secrets()
        await self.write_secrets()
        for name in RESOURCES:
            await self.available(NAMESPACE, name)
        self.workload = await self.client(NAMESPACE)
        await self.tables()
        await self.clients(user)
        await self.usual_port()
        await self.tenants()
        await self.rotation()
        self.assertEqual([None, None], [replica.child.output.end for replica in replicas])

    async def without_secrets(self) -> None:
        """Each resource says what is missing."""
        for name, secret in zip(RESOURCES, (DEFAULT, DEFAULT, SECOND), strict=True):
            await self.available(NAMESPACE, name, "False")
            found = await self.cluster.get("destination", name, "-n", NAMESPACE)
            self.assertIn(f"there is no Secret {HOME}/{secret}", json.dumps(found["status"]))

    async def tables(self) -> None:
        """What `kubectl get` shows."""
        header, *rows = (await self.cluster.kubectl("get", "destinations", "-n", NAMESPACE)).splitlines()
        self.assertEqual(["NAME", "DESTINATION", "AVAILABLE", "REASON", "AGE"], header.split())
        self.assertEqual(
            [
                ["example-dest-imaps", "example-dest-imaps", "True", "ConfigurationSuccessful"],
                ["example-dest-imaps-open", "example-dest-imaps", "True", "ConfigurationSuccessful"],
                ["tenant-mail", "tenant-mail", "True", "ConfigurationSuccessful"],
            ],
            [row.split()[:-1] for row in rows],
        )
        events = await self.cluster.kubectl("get", "events", "-n", NAMESPACE)
        told = re.findall(r"Normal +ConfigurationSuccessful +destination/(\S+) +all that", events)
        self.assertEqual([*RESOURCES], sorted(told))

    async def clients(self, user: str) -> None:
        """Real clients, in a workload's pod, by name."""
        name, folder = f"example-dest-imaps.{NAMESPACE}", self.cluster.folder
        url = f"imap://{name}:1993/INBOX;MAILINDEX=1"
        self.assertEqual(FIRST, await run(self, self.workload.command(CURL, "-s", url), folder))
        large = self.folder / "large.eml"
        large.write_bytes(LARGE)
        words = ("example-dest-imaps-open", "1994", "any", "any", large)
        imaplib = start(self, self.workload.command(*python("with_imaplib.py", *words)), folder)
        await imaplib.output.until(rb"^idle$")
        dovecot().deliver(user, FIRST, len(MESSAGES) + 2)
        self.assertEqual(0, await imaplib.output.closed(), str(imaplib.output))
        said = str(imaplib.output).splitlines()
        self.assertIn(f"all {digest(*MESSAGES)}", said)
        self.assertIn(f"append OK {digest(LARGE)}", said)

    async def usual_port(self) -> None:
        """Without a port in the resource it is the protocol's own; telnet, as documented."""
        patch = json.dumps([{"op": "remove", "path": "/spec/service"}])
        named = ("destination", "example-dest-imaps", "-n", NAMESPACE)
        await self.cluster.kubectl("patch", *named, "--type=json", "-p", patch)
        await self.until_served(self.workload, f"example-dest-imaps.{NAMESPACE}")
        telnet = self.session(self.workload, f"example-dest-imaps.{NAMESPACE}")
        await telnet.output.until(rb"\* PREAUTH \[CAPABILITY IMAP4rev1 .*\] example-dest-imaps ready\r?\n")
        for line, answer in (
            (b'2 LIST "" "*"', rb"\* LIST .* INBOX\r?\n(.*\n)*2 OK "),
            (b"3 SELECT INBOX", rb"3 OK "),
            (b"5 FETCH 1 BODY[TEXT]", rb"Good morning\.\r?\nSecond line\.\r?\n(.*\n)*5 OK "),
        ):
            telnet.transport.write(line + b"\r\n")
            await telnet.output.until(answer)

    async def whose(self, tenant: str) -> bytes:
        """The subject of the one message that a tenant's name leads to."""
        url = f"imap://tenant-mail-{tenant}:10000/INBOX;MAILINDEX=1;SECTION=HEADER.FIELDS%20(SUBJECT)"
        return (await run(self, self.workload.command(CURL, "-s", url), self.cluster.folder)).strip()

    async def tenants(self) -> None:
        for tenant in ("acme", "globex"):
            self.assertEqual(f"Subject: {tenant}".encode(), await self.whose(tenant))

    async def rotation(self) -> None:
        """The key is replaced: with the old one nobody new is served, with the new one all are, without a restart."""
        self.setup.client_secret = canaries.secret("rotated")
        self.btp.revoke()
        annotation = f"{TENANTS}={json.dumps(['acme', 'globex', 'initech'])}"
        await self.cluster.kubectl("annotate", "--overwrite", "destination/tenant-mail", annotation, "-n", NAMESPACE)
        await self.available(NAMESPACE, "tenant-mail", "False")
        condition = await self.condition(NAMESPACE, "tenant-mail")
        self.assertEqual("FailedToApplyConfiguration", condition["reason"])
        await self.write_secrets()
        await self.available(NAMESPACE, "tenant-mail")
        for tenant in ("acme", "globex", "initech"):
            self.assertEqual(f"Subject: {tenant}".encode(), await self.whose(tenant))

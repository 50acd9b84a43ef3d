"""A real Kubernetes cluster without kubelets: started once, when first asked for, ended with the test run.

Its node and its pods are network namespaces. What a scheduler and a kubelet would do, the tests do: they place a pod
(`Cluster.pod`, `Cluster.place`), run programs in it (`Pod.command`), and say whether it is ready (`Pod.ready`).
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from tests.integration.kubernetes.network import PATH, Network
from tests.integration.kubernetes.programs import FOLDER, missing
from tproxy.testing.certificates import Authority

MISSING = missing()

NODE = "node"
PORT = 6443
API = "198.19.0.1"
DNS = "198.19.0.10"
SERVICES = "198.19.0.0/16"
NAME = "kubernetes.default.svc.cluster.local"
COREDNS = Path(__file__).parent / "coredns.yaml"

ADMIN, CONTROLLERS, PROXY = "admin", "system:kube-controller-manager", "system:kube-proxy"
GROUPS = {ADMIN: "system:masters", CONTROLLERS: "", PROXY: ""}

RESOLVER = f"""
nameserver {DNS}
search {{namespace}}.svc.cluster.local svc.cluster.local cluster.local
options ndots:5
"""

COREFILE = """
. {
    errors
    log
    kubernetes cluster.local
    template ANY ANY {
        rcode NXDOMAIN
    }
}
"""

SECRETS = "/var/run/secrets/kubernetes.io/serviceaccount"
IN_CLUSTER = f"""
mount -t tmpfs tmpfs /var/run && mkdir -p {SECRETS} && mount --bind "$0" {SECRETS} &&
exec env KUBERNETES_SERVICE_HOST={API} KUBERNETES_SERVICE_PORT=443 "$@"
"""
"""What a kubelet gives a program: the files of its ServiceAccount (the folder $0), and where the API server is."""


class KubectlError(Exception):
    """kubectl ended with an error: what it wrote."""


class Pod:
    """A pod that has its place: `host` is its namespace in the network, `address` is where others reach it."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, account: str | None) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.name = name
        self.host, self.address = cluster.network.add(f"{namespace}-{name}", RESOLVER.format(namespace=namespace))
        self._account = account
        self._secrets = cluster.folder / f"{self.host}-secrets"

    def __repr__(self) -> str:
        return f"<Pod {self.namespace}/{self.name} at {self.address}>"

    def command(self, *arguments: str | Path) -> list[str]:
        """The command line of a program that runs in this pod."""
        inside = ["sh", "-c", IN_CLUSTER, self._secrets] if self._account else []
        return self.cluster.network.inside(self.host, *inside, *arguments)

    async def sign_in(self) -> None:
        """Write the files of its ServiceAccount, with a new token, which is good as long as the Pod object is there."""
        bound = ("--bound-object-kind", "Pod", "--bound-object-name", self.name)
        token = await self.cluster.kubectl("create", "token", self._account, "-n", self.namespace, *bound)
        self._secrets.mkdir(exist_ok=True)
        authority = (self.cluster.folder / "authority.pem").read_text()
        for name, text in (("token", token), ("ca.crt", authority), ("namespace", self.namespace)):
            draft = self._secrets / f".{name}.draft"
            draft.write_text(text)
            draft.rename(self._secrets / name)

    async def ready(self, ready: bool = True) -> None:
        """Say that it is ready, or that it is not."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = {
            "phase": "Running",
            "hostIP": self.cluster.network.address,
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "conditions": [{"type": "Ready", "status": str(ready), "lastTransitionTime": now}],
        }
        await self.cluster.status("pod", self.name, status, "-n", self.namespace)

    async def end(self) -> None:
        """End what runs in it, and delete the Pod object at once, where it is still there."""
        self.cluster.network.remove(self.host)
        at_once = ("--force", "--grace-period=0", "--ignore-not-found")
        await self.cluster.kubectl("delete", "pod", self.name, "-n", self.namespace, *at_once)


class Cluster:
    """A running cluster. `admin` is the kubeconfig of somebody who may do everything.

    `processes` are its programs, by name, those that run; what they write is in `folder`, in `NAME.log`.
    `network.host` is the address at which pods reach the test's own host, which reaches pods at theirs.
    """

    def __init__(self) -> None:
        self.network = Network()
        atexit.register(self.end)
        self.folder = self.network.folder
        self.server = f"https://{self.network.address}:{PORT}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tokens = {user: token_hex() for user in GROUPS}
        authority = Authority.create()
        authority.write(self.folder, "authority")
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", NAME, "localhost")
        authority.issue(*names, API, self.network.address, "127.0.0.1").write(self.folder, "api")
        authority.issue("service accounts").write(self.folder, "accounts")
        users = (f'{token},{user},{user},"{GROUPS[user]}"\n' for user, token in self._tokens.items())
        (self.folder / "users.csv").write_text("".join(users))
        (self.folder / "Corefile").write_text(COREFILE)
        self.admin = self.kubeconfig(ADMIN, self._tokens[ADMIN])
        self._commands = {
            name: self.network.inside(self.network.node, FOLDER / name, *options)
            for name, options in self._options().items()
        }

    def kubeconfig(self, name: str, token: str, namespace: str = "default") -> Path:
        """A kubeconfig for who has this token."""
        path = self.folder / f"{name.replace(':', '-')}.kubeconfig"
        authority = os.fspath(self.folder / "authority.pem")
        context = {"cluster": "tests", "user": name, "namespace": namespace}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": {"server": self.server, "certificate-authority": authority}}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": context}],
            "current-context": "tests",
        }
        path.write_text(json.dumps(document))
        return path

    async def kubectl(self, *arguments: str | Path, stdin: str = "", config: Path | None = None) -> str:
        """What kubectl writes to its standard output; with the kubeconfig of the admin where no other is given.

        @raise KubectlError: with what it wrote to its standard error, where it fails
        """
        common = (f"--kubeconfig={config or self.admin}", f"--cache-dir={self.folder / 'discovery'}")
        words = list(map(os.fspath, (*common, *arguments)))
        program = os.fspath(FOLDER / "kubectl")
        output, errors, status = await getProcessOutputAndValue(
            program, words, env=self._environment, path=os.fspath(self.folder), stdinBytes=stdin.encode()
        )
        if status:
            raise KubectlError(errors.decode())
        return output.decode()

    async def get(self, *arguments: str, config: Path | None = None) -> Any:
        """What `kubectl get` finds."""
        return json.loads(await self.kubectl("get", *arguments, "-o", "json", config=config))

    async def create(self, *objects: Mapping[str, Any]) -> None:
        """Create objects."""
        await self.kubectl("create", "-f", "-", stdin="\n---\n".join(map(json.dumps, objects)))

    async def status(self, kind: str, name: str, status: Mapping[str, Any], *options: str) -> None:
        """Merge into the status of an object."""
        patch = json.dumps({"status": status})
        await self.kubectl("patch", kind, name, *options, "--subresource=status", "--type=merge", "-p", patch)

    async def namespace(self, test: TestCase, name: str, **labels: str) -> None:
        """Create a namespace, and wait until pods can be made there. What is in it goes with the test."""
        where = f"namespace/{name}"
        await self.kubectl("wait", where, "--for=delete", "--timeout=60s")
        await self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        test.addCleanup(self.kubectl, "delete", where, "--ignore-not-found", "--wait=false")
        await self.kubectl("wait", "serviceaccount/default", "-n", name, "--for=create", "--timeout=60s")

    async def account(self, namespace: str, name: str) -> Path:
        """The kubeconfig of a ServiceAccount that is there."""
        token = await self.kubectl("create", "token", name, "-n", namespace)
        return self.kubeconfig(f"{namespace}-{name}", token, namespace)

    async def pod(self, namespace: str, name: str, *, account: str | None = None, **labels: str) -> Pod:
        """Make a pod, and place it. It gets the files of a ServiceAccount only where `account` names one."""
        spec: dict[str, Any] = {"containers": [{"name": "main", "image": "none"}]}
        spec |= {"serviceAccountName": account} if account else {"automountServiceAccountToken": False}
        metadata = {"name": name, "namespace": namespace, "labels": labels}
        await self.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        return await self.place(namespace, name)

    async def place(self, namespace: str, name: str) -> Pod:
        """Give a pod that somebody made, such as a Deployment, its place on the node. It isn't ready yet."""
        spec = (await self.get("pod", name, "-n", namespace))["spec"]
        account = spec["serviceAccountName"] if spec.get("automountServiceAccountToken", True) else None
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
        }
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/binding"
        await self.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(binding))
        pod = Pod(self, namespace, name, account)
        if account:
            await pod.sign_in()
        return pod

    def start(self, name: str) -> None:
        """Start one of the cluster's programs. It is killed with the test run, whatever ends that."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._commands[name]],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def stop(self, name: str, number: int = signal.SIGKILL) -> None:
        """End one of the cluster's programs: at once, or with the signal that asks it to; the API server takes 60 s."""
        process = self.processes.pop(name)
        process.send_signal(number)
        while process.poll() is None:
            await deferLater(reactor, 0.02)

    async def restore(self) -> None:
        """Start what a test has stopped; returns once the API server answers."""
        for name in self._commands.keys() - self.processes.keys():
            self.start(name)
        await self.answers()

    async def answers(self) -> None:
        """Returns once the API server answers that it is ready."""
        await self._succeeds(FOLDER / "kubectl", f"--kubeconfig={self.admin}", "get", "--raw=/readyz")

    def end(self) -> None:
        """End all that runs in the cluster, and remove it. To be called once."""
        atexit.unregister(self.end)
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.network.end()

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": PATH, "HOME": os.fspath(self.folder)}

    async def _succeeds(self, *command: str | Path) -> None:
        program, *words = map(os.fspath, command)
        while (await getProcessOutputAndValue(program, words, env=self._environment))[2]:
            for name, process in self.processes.items():
                if process.poll() is not None:
                    log = (self.folder / f"{name}.log").read_text(errors="replace")
                    raise RuntimeError(f"{name} ended with {process.returncode}:\n{log[-4000:]}")
            await deferLater(reactor, 0.1)

    def _options(self) -> dict[str, list[str]]:
        folder = self.folder
        return {
            "etcd": [f"--data-dir={folder}/etcd", "--unsafe-no-fsync", "--log-level=warn"],
            "kube-apiserver": [
                "--etcd-servers=http://127.0.0.1:2379",
                f"--secure-port={PORT}",
                f"--advertise-address={self.network.address}",
                f"--tls-cert-file={folder}/api.pem",
                f"--tls-private-key-file={folder}/api.key",
                f"--service-cluster-ip-range={SERVICES}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={folder}/accounts.pem",
                f"--service-account-signing-key-file={folder}/accounts.key",
                f"--token-auth-file={folder}/users.csv",
                "--authorization-mode=RBAC",
                "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
            ],
            "kube-controller-manager": [
                f"--kubeconfig={self.kubeconfig(CONTROLLERS, self._tokens[CONTROLLERS])}",
                "--controllers=*,-node-lifecycle-controller,-taint-eviction-controller",
                "--leader-elect=false",
                "--use-service-account-credentials",
                f"--service-account-private-key-file={folder}/accounts.key",
                f"--root-ca-file={folder}/authority.pem",
            ],
            "kube-proxy": [
                f"--kubeconfig={self.kubeconfig(PROXY, self._tokens[PROXY])}",
                "--proxy-mode=nftables",
                f"--hostname-override={NODE}",
                f"--cluster-cidr={self.network.range}",
                # What these set belongs to the machine, not to a namespace of it.
                "--conntrack-max-per-core=0",
                "--conntrack-min=0",
                "--conntrack-tcp-timeout-established=0s",
                "--conntrack-tcp-timeout-close-wait=0s",
            ],
        }

    async def boot(self) -> None:
        """Start everything; returns once names are answered."""
        self.start("etcd")
        self.start("kube-apiserver")
        await self.answers()
        await self.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        addresses = [{"type": "InternalIP", "address": self.network.address}]
        await self.status("node", NODE, {"addresses": addresses, "conditions": [{"type": "Ready", "status": "True"}]})
        self.start("kube-proxy")
        self.start("kube-controller-manager")
        await self.kubectl("wait", "namespace/kube-system", "--for=create", "--timeout=60s")
        await self.kubectl("create", "-f", COREDNS)
        dns = await self.pod("kube-system", "coredns", account="coredns", **{"k8s-app": "kube-dns"})
        self._commands["coredns"] = dns.command(FOLDER / "coredns", "-conf", self.folder / "Corefile")
        self.start("coredns")
        await dns.ready()
        await self._succeeds(*dns.command("env", "RES_OPTIONS=attempts:1 timeout:1", "getent", "ahostsv4", NAME))


_running: list[Cluster] = []


async def cluster() -> Cluster:
    """The cluster of this test run, all of it running, whatever the test before has stopped."""
    if not _running:
        started = Cluster()
        try:
            await started.boot()
        except BaseException:
            started.end()
            raise
        _running.append(started)
    await _running[0].restore()
    return _running[0]

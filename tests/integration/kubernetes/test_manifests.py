"""What k8s/ ships can be applied as it is, and opens nothing that it does not say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

from tests.integration.children import run
from tests.integration.kubernetes.cluster import MISSING, KubectlError, Pod
from tests.integration.kubernetes.manifests import GUIDE, HOME, K8S, Manifests, built
from tests.integration.kubernetes.programs import FOLDER
from tests.integration.kubernetes.traffic import OURS, OUTSIDE, POD, judged, within

OVERLAYS = ("dedicated", "shared", "labelSelector")


def guide(word: str) -> str:
    """The YAML of the guide in which a word stands."""
    (found,) = (block for block in re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL) if word in block)
    return found


class OverlayTests(Manifests):
    """The overlays, applied to the cluster."""

    async def replicas(self) -> list[str]:
        """The names of the two pods of the Deployment."""
        where = ("-n", HOME, "--timeout=60s")
        await self.cluster.kubectl("wait", "deployment/tproxy", "--for=jsonpath={.status.replicas}=2", *where)
        found = await self.cluster.get("pods", "-n", HOME)
        return [pod["metadata"]["name"] for pod in found["items"]]

    async def test_overlays(self):
        """Each is taken without a warning, over another one too, and stored as it is."""
        for overlay in OVERLAYS:
            folder = await self.install(overlay)
            self.assertEqual("", await self.cluster.kubectl("diff", "-k", folder))
            await self.cluster.kubectl("apply", "-k", folder, "--dry-run=server", "--warnings-as-errors")

    async def test_autoscaler(self):
        """It is taken without a warning, beside the overlay."""
        await self.install("dedicated")
        file = K8S / "autoscaling" / "autoscaler.yaml"
        await self.cluster.kubectl("apply", "-f", file, "--dry-run=server", "--warnings-as-errors")

    async def test_pods(self):
        """Pods write nowhere but where they need to, and are who the rights are for; each has its metrics scraped.

        The namespace admits no pod that is less restricted, and one at a time may be evicted.
        """
        await self.install("dedicated")
        with self.assertRaisesRegex(KubectlError, 'violates PodSecurity "restricted:latest"'):
            await self.cluster.kubectl("run", "other", "--image=none", "-n", HOME)
        addresses = set()
        for name in await self.replicas():
            spec = (await self.cluster.get("pod", name, "-n", HOME))["spec"]
            (container,) = spec["containers"]
            self.assertTrue(container["securityContext"]["readOnlyRootFilesystem"])
            self.assertFalse(spec["enableServiceLinks"])
            writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
            self.assertEqual(["/tmp"], writable)
            pod = await self.cluster.place(HOME, name)
            self.addCleanup(pod.end)
            await pod.ready()
            addresses.add(pod.address)
            self.assertEqual("system:serviceaccount:tproxy:tproxy", await self.user(pod))
        allowed = "--for=jsonpath={.status.disruptionsAllowed}=1"
        await self.cluster.kubectl("wait", "pdb/tproxy", allowed, "-n", HOME, "--timeout=60s")
        found = await self.cluster.get("endpointslices", "-l", "kubernetes.io/service-name=tproxy-metrics", "-n", HOME)
        (metrics,) = found["items"]
        self.assertEqual([9494], [port["port"] for port in metrics["ports"]])
        self.assertEqual(addresses, {address for each in metrics["endpoints"] for address in each["addresses"]})

    async def user(self, pod: Pod) -> str:
        """Who the API server takes a program in a pod for."""
        command = pod.command(FOLDER / "kubectl", "auth", "whoami", "-o=jsonpath={.status.userInfo.username}")
        return (await run(self, command, self.cluster.folder)).decode()


class KustomizationTests(SynchronousTestCase):
    """What kustomize makes of the folders."""

    skip = MISSING

    def test_definition_apart(self):
        """No overlay brings the CRD along, nor a Secret: both may be there already, and be somebody else's."""
        for overlay in OVERLAYS:
            kinds = {made["kind"] for made in built(K8S / "overlays" / overlay)}
            self.assertLess({"Deployment", "NetworkPolicy"}, kinds)
            self.assertEqual(set(), kinds & {"CustomResourceDefinition", "Secret"})
        self.assertEqual(["CustomResourceDefinition"], [made["kind"] for made in built(K8S / "crd")])

    def test_own(self):
        """The kustomization of the guide has its image, its Secrets, and its configuration under a name of its own."""
        folder = self.beside("mail", guide("newName:"))
        (folder / "tproxy.yaml").write_text("config: {}\n")
        objects = built(folder)
        (deployment,) = (made for made in objects if made["kind"] == "Deployment")
        (config,) = (made for made in objects if made["kind"] == "ConfigMap")
        self.assertEqual({"tproxy.yaml": "config: {}\n"}, config["data"])
        spec = deployment["spec"]["template"]["spec"]
        self.assertEqual("registry.example.com/tproxy:0.1.0", spec["containers"][0]["image"])
        self.assertEqual(config["metadata"]["name"], spec["volumes"][0]["configMap"]["name"])
        (role,) = (made for made in objects if made["metadata"]["name"] == "tproxy-service-keys" and "rules" in made)
        self.assertEqual(["destination-service", "archive-service"], role["rules"][0]["resourceNames"])
        (shipped,) = (made for made in built(K8S / "overlays" / "shared") if made["kind"] == "ConfigMap")
        self.assertNotEqual(shipped["metadata"]["name"], config["metadata"]["name"])

    def test_autoscaling(self):
        """With the autoscaler nobody else says how many replicas there are."""
        kustomization = "resources: [../k8s/overlays/dedicated]\ncomponents: [../k8s/autoscaling]\n"
        objects = built(self.beside("scaled", kustomization))
        (deployment,) = (made for made in objects if made["kind"] == "Deployment")
        self.assertNotIn("replicas", deployment["spec"])
        (autoscaler,) = (made for made in objects if made["kind"] == "HorizontalPodAutoscaler")
        self.assertEqual(deployment["metadata"]["name"], autoscaler["spec"]["scaleTargetRef"]["name"])

    def test_second(self):
        """The second installation of the guide shares no object with the first, and is bound to its own account."""
        second = built(self.beside("two", guide("nameSuffix:")))
        first = built(K8S / "overlays" / "labelSelector")
        self.assertEqual(len(first), len(second))
        self.assertEqual(set(), set(map(identity, first)) & set(map(identity, second)))
        subjects = [subject for made in second for subject in made.get("subjects", ())]
        self.assertEqual({("tproxy-two", "tproxy-two")}, {(each["namespace"], each["name"]) for each in subjects})
        leases = [rule for made in second for rule in made.get("rules", ()) if rule["resources"] == ["leases"]]
        self.assertIn(["tproxy"], [rule.get("resourceNames") for rule in leases])

    def beside(self, name: str, kustomization: str) -> Path:
        """A folder beside k8s/, as the guide has it."""
        root = Path(self.mktemp())
        shutil.copytree(K8S, root / "k8s")
        folder = root / name
        folder.mkdir()
        (folder / "kustomization.yaml").write_text(kustomization)
        return folder


class NetworkPolicyTests(SynchronousTestCase):
    """Who reaches what, before tproxy has opened any port. cyclonus is the judge."""

    skip = MISSING

    def setUp(self):
        self.policies = Path(self.mktemp()).absolute()
        self.policies.mkdir()
        for made in built(K8S / "overlays" / "dedicated"):
            if made["kind"] == "NetworkPolicy":
                (self.policies / f"{made['metadata']['name']}.yaml").write_text(yaml.safe_dump(made))

    def judged(self, source: object, target: object, *ports: int, protocol: str = "TCP") -> list[bool]:
        return judged(self.policies, source, target, *ports, protocol=protocol)

    def test_mail(self):
        """Nobody reaches a mail port, wherever they are: not tproxy's own pods either."""
        for source in (POD, within("shop", {"app": "web"}), within(HOME, {"app": "web"}), OUTSIDE):
            self.assertEqual([False, False, False], self.judged(source, POD, 993, 10000, 32767))

    def test_health(self):
        """Replicas reach each other's health port; nobody else does."""
        self.assertEqual([True], self.judged(POD, POD, 8080))
        for source in (within("shop", OURS), within(HOME, {"app": "web"}), OUTSIDE):
            self.assertEqual([False], self.judged(source, POD, 8080))

    def test_metrics(self):
        """Namespaces with the label reach the metrics, and nothing else."""
        monitoring = within("monitoring", {"app": "prometheus"}, metrics="enabled")
        self.assertEqual([True, False, False], self.judged(monitoring, POD, 9494, 8080, 10000))
        for source in (within("shop", {"app": "prometheus"}), OUTSIDE):
            self.assertEqual([False], self.judged(source, POD, 9494))

    def test_outwards(self):
        """tproxy reaches DNS, the API server, mail servers and BTP; another pod in its namespace reaches nobody."""
        dns = within("kube-system", {"k8s-app": "kube-dns"})
        self.assertEqual([True], self.judged(POD, dns, 53, protocol="UDP"))
        self.assertEqual([True, True, True], self.judged(POD, OUTSIDE, 443, 993, 6443))
        other = within(HOME, {"app": "web"})
        self.assertEqual([False], self.judged(other, dns, 53, protocol="UDP"))
        self.assertEqual([False, False], self.judged(other, OUTSIDE, 443, 993))
        self.assertEqual([False], self.judged(OUTSIDE, other, 80))


def identity(made: dict[str, Any]) -> tuple[str, str, str]:
    return made["kind"], made["metadata"].get("namespace", ""), made["metadata"]["name"]

"""What k8s/ ships, as the tests use it: what kustomize makes of it, and an installation in the cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

import tests
from tests.integration.kubernetes.cluster import MISSING, KubectlError, cluster
from tests.integration.kubernetes.programs import FOLDER
from tproxy.cluster.api.objects import Kind

K8S = Path(tests.__file__).parent.parent / "k8s"
GUIDE = K8S.parent / "docs" / "kubernetes.md"
CRD = "destinations.destination.connectivity.api.sap"
DESTINATIONS = Kind("destination.connectivity.api.sap", "v1", "Destination", "destinations")
HOME = "tproxy"
ACCOUNT = "tproxy"


def built(folder: Path) -> list[dict[str, Any]]:
    """The objects that a kustomization makes."""
    made = subprocess.run([FOLDER / "kubectl", "kustomize", folder], capture_output=True, check=True, text=True)
    return list(yaml.safe_load_all(made.stdout))


def destination(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    """A Destination; without more, it leads to what has its name."""
    metadata = {"namespace": namespace, "name": name}
    spec = spec or {"destinationRef": {"name": name}}
    return {"apiVersion": DESTINATIONS.api_version, "kind": DESTINATIONS.name, "metadata": metadata, "spec": spec}


class Manifests(TestCase):
    """Tests on a cluster that knows what a Destination is."""

    skip = MISSING
    timeout = 240

    async def setUp(self):
        self.cluster = await cluster()
        await self.define()

    async def define(self) -> None:
        """Apply the CRD; returns once there can be Destinations."""
        await self.cluster.kubectl("apply", "-k", K8S / "crd", "--warnings-as-errors")
        await self.succeeds("explain", "destinations.spec.destinationRef.name")

    async def succeeds(self, *words: str) -> None:
        """Returns once kubectl has no error any more: a kind is known some time after its definition."""
        while True:
            try:
                await self.cluster.kubectl(*words)
                return
            except KubectlError:
                await deferLater(reactor, 0.1)

    async def install(self, overlay: str) -> Path:
        """Apply an overlay without a single warning; it is deleted with the test."""
        folder = K8S / "overlays" / overlay
        self.addCleanup(self.cluster.kubectl, "delete", "-k", folder, "--ignore-not-found")
        await self.cluster.kubectl("apply", "-k", folder, "--warnings-as-errors")
        return folder

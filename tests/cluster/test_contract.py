"""The contract of a cluster, kept by a folder, and by Kubernetes as the stand-in tells it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from attrs import evolve
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from tests.apiserver.storage import Served
from tests.cluster.api import test_contract
from tests.cluster.contract import CONFIG, ClusterContract, KubernetesContract
from tproxy.assembly import Clock
from tproxy.cluster.api.access import Access
from tproxy.cluster.kinds import DESTINATIONS, PODS, POLICIES, SLICES
from tproxy.cluster.local import LocalCluster
from tproxy.config import Local
from tproxy.operator.manifests import Status
from tproxy.operator.plan import SetStatus


class FolderTests(ClusterContract, TestCase):
    """A folder, and a file for each resource."""

    async def made(self) -> LocalCluster:
        base = Path(self.mktemp()).absolute()
        self.folder = base / "resources"
        self.folder.mkdir(parents=True)
        config = evolve(CONFIG, local=Local(self.folder, base / "state.json", "127.0.0.1"))
        return LocalCluster(config, Clock(reactor))

    async def apply(self, resource: dict[str, Any]) -> None:
        (self.folder / f"{resource['metadata']['name']}.yaml").write_text(yaml.safe_dump(resource))

    async def delete(self, name: str) -> None:
        (self.folder / f"{name}.yaml").unlink()

    async def telling(self, name: str, status: Status) -> SetStatus:
        return SetStatus((self.namespace, name), status)


class StandInInstallationTests(KubernetesContract, TestCase):
    """A stand-in for each test."""

    async def access(self) -> Access:
        access = await test_contract.StandInTests.access(self)
        self.server.storage.serve(
            Served(DESTINATIONS, status=True, generation=True, custom=True),
            *map(Served, (PODS, POLICIES, SLICES)),
        )
        return access

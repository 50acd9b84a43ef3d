"""The contracts of an API server and of a cluster, which stand-ins keep for other tests, kept by the real ones."""

from __future__ import annotations

import os

from twisted.trial.unittest import TestCase

from tests.cluster.api.contract import Contract
from tests.cluster.contract import KubernetesContract
from tests.integration.kubernetes.cluster import MISSING, cluster
from tests.integration.kubernetes.manifests import Manifests
from tproxy.cluster.api.access import Access
from tproxy.cluster.api.kubeconfig import kubeconfig


class APIServerTests(Contract, TestCase):
    """What we rely on is so."""

    skip = MISSING

    async def access(self) -> Access:
        self.cluster = await cluster()
        return kubeconfig(os.fspath(self.cluster.admin), None)

    async def tearDown(self) -> None:
        await super().tearDown()
        await self.cluster.kubectl("delete", f"namespace/{self.namespace}", "--wait=false")


class InstallationTests(KubernetesContract, Manifests):
    """An installation as the API server tells it."""

    async def setUp(self) -> None:
        await Manifests.setUp(self)
        await KubernetesContract.setUp(self)
        self.addCleanup(self.cluster.kubectl, "delete", f"namespace/{self.namespace}", "--wait=false")

    async def access(self) -> Access:
        return kubeconfig(os.fspath(self.cluster.admin), None)

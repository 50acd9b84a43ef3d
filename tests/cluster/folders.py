"""A folder as a cluster: real files, a clock that we set."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.logs import logged
from tproxy.cluster import folder, local
from tproxy.cluster.local import LocalCluster
from tproxy.config import Config, Local
from tproxy.instances import DirectoryInstance
from tproxy.operator.manifests import Rejected

RESOURCE = """\
apiVersion: destination.connectivity.api.sap/v1
kind: Destination
metadata: {name: %s, namespace: shop}
spec: {destinationRef: {name: %s}}
"""


def resource(name: str, destination: str = "mailbox") -> str:
    return RESOURCE % (name, destination)


class LocalTestCase(SynchronousTestCase):
    """A folder, a state file beside it, and a clock."""

    def setUp(self):
        self.base = Path(self.mktemp()).absolute()
        self.folder = self.base / "resources"
        self.folder.mkdir(parents=True)
        self.state = self.base / "state.json"
        self.config = Config(
            "dedicated", (DirectoryInstance("local", self.base),), "local", Local(self.folder, self.state, "127.0.0.1")
        )
        self.clock = Clock()
        self.busy: dict[int, int] = {}
        self.changes = 0

    def bind(self, address: str, port: int) -> None:
        if port in self.busy:
            raise OSError(self.busy[port], "x")

    def cluster(self, start: bool = True) -> LocalCluster:
        cluster = LocalCluster(self.config, self.clock, self.bind)
        cluster.watch(self.changed)
        if start:
            cluster.startService()
            self.addCleanup(lambda: cluster.running and cluster.stopService())
        return cluster

    def changed(self) -> None:
        self.changes += 1

    def write(self, name: str, *documents: str) -> Path:
        path = self.folder / name
        path.write_text("---\n".join(documents))
        return path

    def wait(self, seconds: float = 2.0) -> list[dict]:
        """Let time pass, and give what was logged."""
        with logged(folder.log, local.log) as logs:
            self.clock.pump([0.25] * int(seconds * 4))
        return logs

    def destinations(self, cluster: LocalCluster) -> dict[str, str]:
        return {
            each.name: "rejected" if isinstance(each, Rejected) else each.bindings[0].request.name
            for each in cluster.observe().resources
        }

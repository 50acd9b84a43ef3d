"""An installation on the stand-in of an API server: time passes when a test says so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from treq.testing import RequestTraversalAgent
from twisted.internet.defer import succeed
from twisted.web.resource import Resource

from tests.apiserver.server import NAMESPACES, SERVICES
from tests.apiserver.storage import Served
from tests.cluster.api.harness import NOW, StandInTestCase
from tests.operator.installations import manifest
from tests.operator.reconciling import PORTS, Store
from tests.ports import Endpoint, Sessions
from tproxy.cluster.home import Home
from tproxy.cluster.kinds import DESTINATIONS, PODS, POLICIES, SLICES
from tproxy.cluster.kubernetes import KubernetesCluster
from tproxy.config import Config
from tproxy.instances import DirectoryInstance
from tproxy.listeners import Listeners
from tproxy.operator import objects
from tproxy.operator.objects import COMPONENT, Installation
from tproxy.operator.operator import Operator
from tproxy.operator.ports import Bounds

HOME = "tproxy"


class Peer(Resource):
    """The health port of another replica."""

    isLeaf = True

    def __init__(self) -> None:
        Resource.__init__(self)
        self.ports: Mapping[int, str] | None = {}
        self.asked = 0

    def render_GET(self, request: Any) -> bytes:
        self.asked += 1
        if self.ports is None:
            return b"[]"
        marks = {str(port): mark for port, mark in self.ports.items()}
        return json.dumps({"Components": {"tproxy-tcp": {"Marks": marks}}}).encode()


class InstalledTestCase(StandInTestCase):
    """One replica, `tproxy-1`, with its pod; `start` starts it. It cannot listen on ports that are `taken`."""

    mode = "all"
    bounds = Bounds(spares=1)
    drain_seconds = 0.0

    def setUp(self) -> None:
        super().setUp()
        self.server.storage.serve(
            Served(DESTINATIONS, status=True, generation=True, custom=True),
            Served(PODS),
            Served(POLICIES),
            Served(SLICES),
        )
        for name in (HOME, "shop"):
            self.server.create(NAMESPACES, "", name)
        self.config = Config(
            "shared", (DirectoryInstance("local", Path("/nowhere")),), "local", None, managed_namespaces_mode=self.mode
        )
        self.peer = Peer()
        self.peers = RequestTraversalAgent(self.peer)
        self.store = Store()
        self.ports: list[Any] = []
        self.taken: dict[int, Exception] = {}
        self.sessions = 0
        self.pod("tproxy-1", "10.0.0.1")

    def flush(self) -> None:
        super().flush()
        self.peers.flush()

    def pod(self, name: str, address: str, ready: bool = True) -> None:
        """There is a pod of ours."""
        conditions = [{"type": "Ready", "status": str(ready)}]
        status = {"podIPs": [{"ip": address}], "conditions": conditions}
        self.server.create(PODS, HOME, name, labels={COMPONENT: "tproxy"}, spec={"nodeName": "node"}, status=status)

    def endpoint(self, address: str, port: int) -> Endpoint:
        """What listens on a port of this replica."""
        return Endpoint(address, port, self.taken.get(port), self.ports)

    def start(self) -> None:
        """Start the replica; it leads after that."""
        self.listeners = Listeners(self.endpoint, Sessions)
        self.cluster = KubernetesCluster(
            self.config,
            Home(Installation(HOME), "tproxy-1", ("10.0.0.1",)),
            self.connect(),
            self.connect(),
            self.peers,
            8080,
            self.clock,
            lambda: NOW + self.clock.seconds(),
            "tproxy-1_one",
            lambda: self.listeners.marks,
        )
        self.operator = Operator(
            self.cluster,
            self.store,
            self.listeners,
            PORTS,
            self.clock,
            180.0,
            self.bounds,
            lambda: self.sessions,
            self.drain_seconds,
            chance=lambda: 1.0,
        )
        self.cluster.startService()
        self.operator.startService()
        self.addCleanup(self.stop)
        self.pass_time(1)

    def stop(self) -> None:
        """Stop it, whatever it waits for."""
        if not self.cluster.running:
            return
        stopping = self.operator.stopService() if self.operator.running else succeed(None)
        for _ in range(400):
            self.closed()
            self.pass_time(0.25)
            if stopping.called:
                break
        stopped = self.cluster.stopService()
        self.pass_time(6)
        self.successResultOf(stopped)

    def closed(self) -> None:
        """The ports that were told to close are closed."""
        for port in self.ports:
            if port.stopped is not None and not port.stopped.called:
                port.stopped.callback(None)

    # what others do, and see

    def apply(self, name: str, *tenants: str, **options: Any) -> None:
        """Somebody makes a Destination in `shop`."""
        thing = manifest(name, *tenants, **options)
        notes = {each: value for each, value in thing["metadata"]["annotations"].items() if value}
        spec = {each: value for each, value in thing["spec"].items() if value}
        self.server.create(DESTINATIONS, "shop", name, annotations=notes, spec=spec)
        self.pass_time(1)

    def destination(self, name: str) -> Any:
        return self.server.storage.get(self.server.served(DESTINATIONS), ("shop", name))

    def condition(self, name: str) -> tuple[str, str] | None:
        for each in self.destination(name).get("status", {}).get("conditions", ()):
            if each["type"] == "Available":
                return each["status"], each["reason"]
        return None

    def all(self, kind: Any) -> dict[str, Any]:
        """The objects of a kind by their names."""
        return {name: thing for (_, name), thing in self.server.storage.objects[kind.group, kind.plural].items()}

    def named(self) -> dict[str, str]:
        """Where each name in `shop` leads."""
        services = self.server.storage.objects["", SERVICES.plural].items()
        return {name: objects.target(thing).partition(".")[0] for (ns, name), thing in services if ns == "shop"}

    def addresses(self, port: str = "p10000") -> list[str]:
        """Who is announced for a port."""
        return [each["addresses"][0] for each in self.all(SLICES)[port]["endpoints"]]

    def serving(self) -> dict[str, int]:
        """The ports of this replica that are somebody's."""
        return {str(key): there.port for key, there in self.listeners.listening.items() if there.binding.claimed}

"""What the API server tells of objects, heard by a program of its own: tproxy has no part in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from twisted.internet.defer import Deferred

from tests.integration.children import Child, start
from tests.integration.kubernetes.cluster import Cluster
from tests.integration.kubernetes.installation import Replica
from tests.integration.kubernetes.manifests import HOME
from tests.integration.kubernetes.programs import FOLDER

PORTS = f"/apis/discovery.k8s.io/v1/namespaces/{HOME}/endpointslices"
LONG = 7200


class Watch(Child):
    """`kubectl` that watches a list: first all that is there, then each change, as JSON lines.

    Where the API server ends it, as it does with who reads too slowly, it goes on from the last change.

    @param path: of the list in the API
    @param seen: called with the name of an object and its new version; None when it is gone
    """

    def __init__(
        self, test, cluster: Cluster, path: str, seen: Callable[[str, Any], None], **options: str | int
    ) -> None:
        super().__init__()
        self._test, self._cluster, self._seen, self._path = test, cluster, seen, path
        self._options = {"watch": "true", "timeoutSeconds": LONG, **options}
        self._leaving = False
        self._begin()

    def _begin(self) -> None:
        self._rest, self._heard = b"", False
        words = ("get", "--raw", f"{self._path}?{urlencode(self._options)}")
        command = ("env", "-i", FOLDER / "kubectl", f"--kubeconfig={self._cluster.admin}", *words)
        start(self._test, command, self._cluster.folder, child=self)

    def processEnded(self, reason) -> None:
        if self._heard and not self._leaving:
            self._begin()
        else:
            super().processEnded(reason)

    def end(self, *how: Any) -> Deferred:
        self._leaving = True
        return super().end(*how)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD != 1:
            super().childDataReceived(childFD, data)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            event = json.loads(line)
            thing = event["object"]
            self._options["resourceVersion"] = thing["metadata"]["resourceVersion"]
            self._heard = True
            self._seen(thing["metadata"]["name"], None if event["type"] == "DELETED" else thing)


class Slices:
    """Where ports lead: `lead` has the addresses by the name of the EndpointSlice.

    `wrong` tells what led to nobody alive at some moment, though it had led to somebody: each version is looked at when
    it is seen, and all there is when a process ends.
    """

    def __init__(self, test, cluster: Cluster) -> None:
        self.lead: dict[str, set[str]] = {}
        self.wrong: list[str] = []
        self._dead: set[str] = set()
        self.watch = Watch(test, cluster, PORTS, self._seen, labelSelector="tproxy/role=port")

    def follow(self, *replicas: Replica) -> None:
        """From the end of its process on, a replica is dead."""
        for replica in replicas:
            replica.child.output.closed().addCallback(lambda _, address=replica.pod.address: self._died(address))

    def everywhere(self, least: int, *replicas: Replica) -> bool:
        """Whether there are at least so many, and each leads to all these replicas and nobody else, or nowhere."""
        wanted = {replica.pod.address for replica in replicas}
        there = self.lead.values()
        return sum(each == wanted for each in there) >= least and all(each in (wanted, set()) for each in there)

    def _seen(self, name: str, thing: Any) -> None:
        before = self.lead.pop(name, set())
        if thing is not None:
            self.lead[name] = {address for each in thing["endpoints"] or () for address in each["addresses"]}
            if before or self.lead[name]:
                self._look(name)

    def _died(self, address: str) -> None:
        self._dead.add(address)
        for name, addresses in self.lead.items():
            if addresses:
                self._look(name)

    def _look(self, name: str) -> None:
        if self.lead[name] <= self._dead:
            self.wrong.append(f"{name} leads to {sorted(self.lead[name])}, who are dead")

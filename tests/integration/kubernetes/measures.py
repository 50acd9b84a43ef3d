"""What is measured of a replica and of the API server, each asked from outside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from statistics import quantiles

from attrs import frozen
from prometheus_client.parser import text_string_to_metric_families
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.error import ConnectError
from twisted.web.client import Agent

from tests.integration.kubernetes.cluster import Cluster
from tests.integration.kubernetes.installation import HEALTH, Replica

METRICS = 9494
WRITING = ("POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION")


@frozen
class Passes:
    """Passes of a reconciler: how many, and how many seconds they took."""

    count: float
    seconds: float

    def since(self, before: Passes) -> str:
        """How long one took, on the average."""
        count = self.count - before.count
        return f"{1000 * (self.seconds - before.seconds) / count:.1f} ms ({count:.0f} passes)" if count else "no pass"


async def writes(cluster: Cluster) -> Counter[str]:
    """How often somebody wrote objects of each kind since the API server started, as that counts."""
    told = await cluster.kubectl("get", "--raw", "/metrics")
    lines = [line for line in told.splitlines(keepends=True) if line.startswith("apiserver_request_total{")]
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families("".join(lines)):
        for sample in family.samples:
            if sample.labels["verb"] in WRITING:
                kind = f"{sample.labels['resource']}.{sample.labels['group']}".rstrip(".")
                found[kind] += int(sample.value)
    return found


async def asked(replica: Replica, port: int, path: str) -> tuple[int, str]:
    """What a replica answers: status and body."""
    client = HTTPClient(Agent(reactor, connectTimeout=5))
    response = await client.get(f"http://{replica.pod.address}:{port}{path}")
    return response.code, (await response.content()).decode()


async def ready(replica: Replica) -> bool:
    """What the readiness probe finds."""
    try:
        return (await asked(replica, HEALTH, "/readyz"))[0] == 200
    except ConnectError:
        return False


async def measures(replica: Replica) -> dict[str, float]:
    """The measures of a replica that are no listener's."""
    _, page = await asked(replica, METRICS, "/metrics")
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", page, re.MULTILINE)}


async def passes(replica: Replica) -> Passes:
    """The passes of a replica so far."""
    found = await measures(replica)
    return Passes(found["tproxy_reconcile_seconds_count"], found["tproxy_reconcile_seconds_sum"])


def memory(replica: Replica) -> int:
    """The kB of memory that a replica's process has for itself, with its share of what others use, too."""
    told = Path(f"/proc/{replica.child.pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss: +(\d+) kB", told, re.MULTILINE)[1])


def shares(milliseconds: Collection[float]) -> str:
    """What half of them, and nearly all, are below."""
    found = quantiles(milliseconds, n=100, method="inclusive")
    return f"p50 {found[49]:.0f} ms, p99 {found[98]:.0f} ms"

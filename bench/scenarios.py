"""What is measured, and how one measurement is taken."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import Literal

from attrs import frozen

from bench.accounting import cpu_seconds, pss_bytes
from bench.load import Load, LoadError
from bench.peers import Running

Figures = Mapping[str, float]
"""What one measurement found, by name."""

FULL, RESUMED = "full", "resumed"
"""The targets: the one where each TLS handshake is full, and the one whose sessions may be resumed."""

DESTINATIONS = 50
WARM_UP_SECONDS = 0.4
SETTLE_SECONDS = 1.0
OPEN_SECONDS = 120.0
MICRO, GIGA = 1e6, 1e9
KIB, MIB = 1024, 1024 * 1024


@frozen
class Throughput:
    """Sessions, commands or literals, one after the other on each of some connections, for a while.

    The figures: `cpu`, microseconds of the proxy's processor time for each `unit`, or seconds for each GB;
    `p50` and `p99`, microseconds until a session or an answer is there, as the client sees it; `rate`, units
    (or MB) a second; `busy`, the share of a processor that the proxy used.
    """

    name: str
    title: str
    script: str
    connections: int
    unit: Literal["session", "command", "GB"]
    target: str = FULL
    quick: bool = False

    def measure(self, proxy: Running, seconds: float) -> Figures:
        """Take it once."""
        load = Load(proxy.ports[self.target], proxy.peer.login(self.target))
        try:
            for _ in range(self.connections):
                load.start(getattr(load, self.script))
            load.run(lambda: False, WARM_UP_SECONDS)
            load.latencies.clear()
            work, used, began = self._work(load), cpu_seconds(proxy.pid), time.perf_counter()
            load.run(lambda: False, seconds)
            elapsed, used = time.perf_counter() - began, cpu_seconds(proxy.pid) - used
            work = self._work(load) - work
        finally:
            load.close()
        if not work:
            raise LoadError(f"nothing was done in {seconds:g} s")
        if self.unit == "GB":
            return {"cpu": used / work * GIGA, "rate": work / elapsed / MICRO, "busy": used / elapsed}
        latencies = sorted(load.latencies)
        if not latencies:  # what was done had begun before
            raise LoadError(f"nothing was answered in {seconds:g} s")
        return {
            "cpu": used / work * MICRO,
            "p50": median(latencies) * MICRO,
            "p99": latencies[int(len(latencies) * 0.99)] * MICRO,
            "rate": work / elapsed,
            "busy": used / elapsed,
        }

    def _work(self, load: Load) -> int:
        return load.received + load.sent if self.unit == "GB" else load.count


@frozen
class Memory:
    """Sessions that are open and silent, after `script` has brought them there.

    Measured on a proxy of its own. The figure: `memory`, KiB that the proxy grew by for each session.
    """

    name: str
    title: str
    script: str
    sessions: int
    at_once: int = 32
    targets: int = 1
    quick: bool = False

    def measure(self, proxy: Running, seconds: float) -> Figures:
        """Take it once; `seconds` does not matter."""
        before = _settled(proxy)
        load = Load(proxy.ports[FULL], proxy.peer.login(FULL))
        try:
            while load.count < self.sessions:
                due = load.count + min(self.at_once, self.sessions - load.count)
                for _ in range(due - load.count):
                    load.start(getattr(load, self.script))
                load.run(lambda: load.count >= due, OPEN_SECONDS)  # noqa: B023
                if load.count < due:
                    raise LoadError(f"{self.sessions} sessions were not open in time")
            load.run(lambda: False, SETTLE_SECONDS)
            after = pss_bytes(proxy.pid)
        finally:
            load.close()
        return {"memory": (after - before) / self.sessions / KIB}


@frozen
class Process:
    """The proxy itself, with many destinations, once it has served one session. The figure: `memory`, MiB."""

    name: str
    title: str
    targets: int = DESTINATIONS
    quick: bool = False

    def measure(self, proxy: Running, seconds: float) -> Figures:
        """Take it once; `seconds` does not matter."""
        return {"memory": _settled(proxy) / MIB}


Scenario = Throughput | Memory | Process

SCENARIOS: tuple[Scenario, ...] = (
    Throughput("setup-1-full", "set-up, 1 at once, full handshakes", "coming_and_going", 1, "session"),
    Throughput("setup-1-resumed", "set-up, 1 at once, resumed", "coming_and_going", 1, "session", RESUMED),
    Throughput("setup-32-full", "set-up, 32 at once, full handshakes", "coming_and_going", 32, "session", quick=True),
    Throughput("setup-32-resumed", "set-up, 32 at once, resumed", "coming_and_going", 32, "session", RESUMED, True),
    Throughput("noop-1", "NOOP, 1 connection", "nooping", 1, "command", quick=True),
    Throughput("noop-64", "NOOP, 64 connections", "nooping", 64, "command", quick=True),
    Throughput("download-1", "download, 1 connection", "downloading", 1, "GB"),
    Throughput("download-8", "download, 8 connections", "downloading", 8, "GB", quick=True),
    Throughput("upload-1", "upload, 1 connection", "uploading", 1, "GB"),
    Throughput("upload-8", "upload, 8 connections", "uploading", 8, "GB", quick=True),
    Memory("memory-1000", "memory, 1,000 idle sessions", "idling", 1000, quick=True),
    Memory("memory-4000", "memory, 4,000 idle sessions", "idling", 4000),
    Memory("memory-fetch", "memory, idle after a 1 MiB fetch", "fetching_once", 200, at_once=8, quick=True),
    Process("process", f"memory, idle process with {DESTINATIONS} destinations", quick=True),
)


def _settled(proxy: Running) -> int:
    """The proxy's memory once it has served a session, bytes."""
    load = Load(proxy.ports[FULL], proxy.peer.login(FULL))
    try:
        load.start(load.idling)
        load.run(lambda: load.count > 0, OPEN_SECONDS)
    finally:
        load.close()
    time.sleep(SETTLE_SECONDS)
    return pss_bytes(proxy.pid)

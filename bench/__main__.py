"""Runs the benchmark: starts everything, takes turns among the proxies, prints the table."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from attrs import frozen

from bench.chart import chart
from bench.load import LoadError
from bench.peers import OURS, PEERS, Peer, Running, Target, running
from bench.processes import HOST, SOURCES, StartError, await_ports, free_ports, process
from bench.report import report
from bench.results import Results, combined, verdicts
from bench.scenarios import FULL, RESUMED, SCENARIOS, Scenario, Throughput
from tproxy.testing.certificates import Authority

RESULTS = Path(__file__).parent / "results"
DESCRIPTORS_ASIDE = 200


@frozen
class Plan:
    """What to measure, of whom, how long and how often."""

    scenarios: Sequence[Scenario]
    peers: Sequence[Peer]
    seconds: float
    rounds: int


@frozen
class Bed:
    """What all proxies share: the mail server's ports, its authority, a folder, and the processors."""

    folder: Path
    authority: Path
    ports: dict[str, int]
    cores: set[int]

    def targets(self, number: int = 1) -> list[Target]:
        """The two targets, and as many copies of the first as make `number` in all."""
        both = [Target(name, port) for name, port in self.ports.items()]
        return both + [Target(f"{FULL}-{copy}", self.ports[FULL]) for copy in range(3, number + 1)]


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    scenarios = ", ".join(scenario.name for scenario in SCENARIOS)
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure tproxy beside other proxies: processor time, latency and memory for the same work.",
        epilog=f"Scenarios: {scenarios}. Proxies: {', '.join(peer.name for peer in PEERS)}.",
    )
    parser.add_argument("--quick", action="store_true", help="the most telling scenarios, shortly; writes no results")
    parser.add_argument("--only", metavar="NAME,…", help="scenarios to measure, or beginnings of their names")
    parser.add_argument("--peers", metavar="NAME,…", help="proxies to measure")
    parser.add_argument("--seconds", type=float, help="how long each measurement takes (default 3; quick 0.5)")
    parser.add_argument("--rounds", type=int, help="how often each is taken; medians count (default 3; quick 2)")
    parser.add_argument(
        "--results", type=Path, help="folder for results and chart (default: bench/results after a full run)"
    )
    parser.add_argument("--from", dest="files", type=Path, nargs="+", metavar="FILE", help="show these results instead")
    return parser.parse_args(arguments)


def planned(said: argparse.Namespace) -> Plan:
    """What to do, as the options say."""

    def chosen(names: str | None, name: str) -> bool:
        return names is None or name.startswith(tuple(names.split(",")))

    return Plan(
        [each for each in SCENARIOS if chosen(said.only, each.name) and (each.quick or not said.quick or said.only)],
        [each for each in PEERS if chosen(said.peers, each.name)],
        said.seconds or (0.5 if said.quick else 3.0),
        said.rounds or (2 if said.quick else 3),
    )


@contextmanager
def bed() -> Iterator[Bed]:
    """Start the mail server; the proxies are to get a processor of their own, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    theirs, ours = ({cores[-1]}, set(cores[:-1])) if len(cores) > 1 else (set(cores), set(cores))
    os.sched_setaffinity(0, ours)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tproxy-bench-")))
        folder.chmod(0o755)  # a proxy may read as another user
        authority = Authority.create("tproxy bench CA")
        certificate, key = authority.issue("localhost", HOST).write(folder, "mail")
        (folder / "ca.pem").write_text(authority.pem)
        ports = dict(zip((FULL, RESUMED), free_ports(2), strict=True))
        command = [sys.executable, "-m", "bench.upstream", f"--certificate={certificate}", f"--key={key}"]
        command += [f"--{name}={port}" for name, port in ports.items()]
        command += [f"--processes={max(1, len(ours) - 1)}"]
        started = stack.enter_context(process(command, folder / "mail.log", ours))
        await_ports(started, list(ports.values()), folder / "mail.log")
        yield Bed(folder, folder / "ca.pem", ports, theirs)


def measure(plan: Plan, shared: Bed, results: Results) -> None:
    """Take all measurements: the proxies take turns, so that what disturbs the machine disturbs them alike."""
    with ExitStack() as stack:
        started: list[Running] = []
        for peer in plan.peers:
            if peer.path is None:
                results.left_out[peer.name] = f"not installed (Debian: {peer.package})"
                continue
            if any(isinstance(scenario, Throughput) for scenario in plan.scenarios):
                folder = shared.folder / peer.name
                started.append(
                    stack.enter_context(running(peer, shared.targets(), shared.authority, folder, shared.cores))
                )
            results.versions[peer.name] = peer.version()
        for scenario in plan.scenarios:
            if isinstance(scenario, Throughput):
                for _round in range(plan.rounds):
                    for proxy in started:
                        take(scenario, proxy, plan.seconds, results)
    for scenario in plan.scenarios:
        if isinstance(scenario, Throughput):
            continue
        for peer in plan.peers:
            if peer.name in results.versions:
                folder = shared.folder / f"{scenario.name}-{peer.name}"
                targets = shared.targets(scenario.targets)
                with running(peer, targets, shared.authority, folder, shared.cores) as proxy:
                    take(scenario, proxy, plan.seconds, results)


def take(scenario: Scenario, proxy: Running, seconds: float, results: Results) -> None:
    """Take one measurement, and say so; a proxy that fails is left out of this scenario."""
    name = proxy.peer.name
    failed = f"{name} in {scenario.name}"
    if failed in results.left_out:
        return
    try:
        figures = scenario.measure(proxy, seconds)
    except (LoadError, OSError) as error:
        results.left_out[failed] = str(error)
        print(f"{failed}: {error}", file=sys.stderr)
        return
    results.add(scenario.name, name, figures)
    found = ", ".join(f"{figure} {value:.4g}" for figure, value in figures.items())
    print(f"{scenario.name:17} {name:8} {found}", file=sys.stderr, flush=True)


def machine() -> dict[str, str]:
    """What it runs on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": models[0].partition(": ")[2] if models else platform.machine(),
        "processors": f"{os.cpu_count()} processors",
        "kernel": f"Linux {platform.release()}",
        "python": f"Python {platform.python_version()}",
        "tls": ssl.OPENSSL_VERSION,
        "commit": f"commit {commit() or 'unknown'}",
    }


def commit() -> str:
    """What git calls these sources; empty where there is no git, or they don't come from it."""
    git = shutil.which("git")
    if git is None:
        return ""
    words = [git, "describe", "--always", "--dirty"]
    return subprocess.run(words, cwd=SOURCES, capture_output=True, text=True, check=False).stdout.strip()


def main() -> int:
    """Run what the command line asks for; 1 where a goal is missed by far, or our proxy failed."""
    said = options()
    if said.files:
        results = combined([Results.read(file) for file in said.files])
        print(report(results))
        (said.results or RESULTS).joinpath("chart.svg").write_text(chart(results))
        return 0
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    now = datetime.now().astimezone()
    results = Results(now.strftime("%Y-%m-%d %H:%M"), machine(), {})
    plan = planned(said)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    try:
        with bed() as shared:
            measure(plan, shared, results)
    except StartError as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"\n{report(results)}\n{time.monotonic() - began:.0f} s")
    partial = said.quick or said.only or said.peers
    folder = said.results or (None if partial else RESULTS)
    if folder is not None:
        results.write(folder / f"{now:%Y-%m-%d-%H%M}.json")
        (folder / "chart.svg").write_text(chart(results))
    failed = any(name.startswith(OURS) for name in results.left_out)
    return int(failed or any(verdict.gross for verdict in verdicts(results)))


if __name__ == "__main__":
    sys.exit(main())

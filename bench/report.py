"""The table: every figure of every proxy, our ratios, and the goals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import frozen

from bench.peers import OURS, PEERS
from bench.results import Results, Verdict, ratio, verdicts
from bench.scenarios import SCENARIOS, Memory, Process, Scenario, Throughput

REFERENCES = ("haproxy", "dovecot")
"""The proxies that ours is compared with."""


@frozen
class Row:
    """One figure of a scenario: `unit` says what is counted, less is better."""

    scenario: str
    title: str
    figure: str
    unit: str


def rows(scenario: Scenario) -> Sequence[Row]:
    """The figures of a scenario that the table shows."""
    match scenario:
        case Throughput(name, title, unit="GB"):
            return (Row(name, title, "cpu", "CPU s/GB"),)
        case Throughput(name, title, unit=unit):
            return (Row(name, title, "cpu", f"CPU µs/{unit}"), Row(name, title, "p50", "p50 µs"))
        case Memory(name, title):
            return (Row(name, title, "memory", "kB/session"),)
        case Process(name, title):
            return (Row(name, title, "memory", "MB"),)


ROWS = tuple(row for scenario in SCENARIOS for row in rows(scenario))


def number(value: float | None) -> str:
    """A figure with three digits that matter."""
    if value is None:
        return "–"
    if abs(value) < 10:
        return f"{value:.2f}"
    return f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"


def report(results: Results) -> str:
    """All that a run found, as text."""
    names = [peer.name for peer in PEERS if any(peer.name in taken for taken in results.samples.values())]
    references = [name for name in REFERENCES if name in names and OURS in names]
    lines = [["", "", *names, *(f"÷ {name}" for name in references)]]
    for row in ROWS:
        if row.scenario in results.samples:
            figures = [number(results.figure(row.scenario, name, row.figure)) for name in names]
            ratios = [number(ratio(results, row.scenario, row.figure, name)) for name in references]
            lines.append([row.title, row.unit, *figures, *ratios])
    parts = [table(lines)]
    judged = verdicts(results)
    if judged:
        parts.append(table([["goal", "", "at most", "is", ""], *map(_judged, judged)]))
    parts.extend(f"Left out: {name}: {reason}" for name, reason in results.left_out.items())
    machine = ", ".join(results.machine.values())
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    parts.append(f"{results.date}: {machine}\n{versions}")
    return "\n\n".join(parts)


def _judged(verdict: Verdict) -> list[str]:
    goal = verdict.goal
    row = next(row for row in ROWS if (row.scenario, row.figure) == (goal.scenario, goal.figure))
    unit = f"× {goal.against}" if goal.against else row.unit.partition("/")[0]
    words = "reached" if verdict.reached else "missed by far" if verdict.gross else "missed"
    return [row.title, row.unit, f"{number(goal.at_most)} {unit}", number(verdict.value), words]


def table(lines: Iterable[Sequence[str]]) -> str:
    """Columns side by side: the first two to the left, the others to the right."""
    cells = [list(line) for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )

"""The outcome of runs: every sample, what ran where, and the goals that it is held against."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from attrs import asdict, field, frozen

from bench.peers import OURS
from bench.scenarios import Figures

PLAIN = "haproxy"

GROSS = 2.0
"""A figure this many times its goal is a gross regression, whatever the machine."""


@frozen
class Results:
    """Samples by scenario and proxy, as they were taken; `left_out` says why a proxy, or one scenario, is missing."""

    date: str
    machine: dict[str, str]
    versions: dict[str, str]
    left_out: dict[str, str] = field(factory=dict)
    samples: dict[str, dict[str, list[Figures]]] = field(factory=dict)

    def add(self, scenario: str, peer: str, figures: Figures) -> None:
        """One more sample."""
        self.samples.setdefault(scenario, {}).setdefault(peer, []).append(figures)

    def figure(self, scenario: str, peer: str, name: str) -> float | None:
        """The median of a figure, if it was measured."""
        found = [sample[name] for sample in self.samples.get(scenario, {}).get(peer, ())]
        return median(found) if found else None

    def write(self, path: Path) -> None:
        """Write them as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1, default=str) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` wrote."""
        data: dict[str, Any] = json.loads(path.read_text())
        return cls(**data)


def combined(runs: Sequence[Results]) -> Results:
    """Several runs as one, whose medians are those of all their samples."""
    last = runs[-1]
    whole = Results(last.date, last.machine, last.versions, last.left_out)
    for run in runs:
        for scenario, peers in run.samples.items():
            for peer, samples in peers.items():
                for sample in samples:
                    whole.add(scenario, peer, sample)
    return whole


@frozen
class Goal:
    """What a figure of ours may be at most: a multiple of another proxy's, or, where none is named, a number."""

    scenario: str
    figure: str
    at_most: float
    against: str = ""


GOALS = (
    Goal("setup-32-full", "cpu", 1.0, "dovecot"),
    Goal("setup-32-resumed", "cpu", 0.7, "dovecot"),
    Goal("noop-1", "p50", 1.2, "haproxy"),
    Goal("noop-64", "cpu", 1.3, "haproxy"),
    Goal("noop-64", "cpu", 0.4, "dovecot"),
    Goal("download-8", "cpu", 0.8, "haproxy"),
    Goal("download-8", "cpu", 0.3, "dovecot"),
    Goal("upload-8", "cpu", 0.8, "haproxy"),
    Goal("upload-8", "cpu", 0.3, "dovecot"),
    Goal("memory-1000", "memory", 0.5, "dovecot"),
    Goal("memory-4000", "memory", 0.5, "dovecot"),
    Goal("memory-fetch", "memory", 64.0),
    Goal("process", "memory", 64.0),
)


@frozen
class Verdict:
    """How a goal was met: `value` is the ratio, or the number, that it is about.

    `plain` is what haproxy, which only carries bytes, reaches of the same goal in the same run.
    """

    goal: Goal
    value: float
    plain: float = 0.0

    @property
    def reached(self) -> bool:
        """Whether the goal is met."""
        return self.value <= self.goal.at_most

    @property
    def gross(self) -> bool:
        """Whether it is missed by so much that neither noise nor the machine explains it."""
        return self.value > GROSS * max(self.goal.at_most, self.plain)


def ratio(results: Results, scenario: str, figure: str, against: str, of: str = OURS) -> float | None:
    """A proxy's figure, ours, as a multiple of another's, where both were measured."""
    one, other = results.figure(scenario, of, figure), results.figure(scenario, against, figure)
    return one / other if one is not None and other else None


def verdicts(results: Results, goals: Iterable[Goal] = GOALS) -> list[Verdict]:
    """How the goals were met, those that could be measured."""
    judged = []
    for goal in goals:
        plain: float | None = None
        if not goal.against:
            value = results.figure(goal.scenario, OURS, goal.figure)
        else:
            value = ratio(results, goal.scenario, goal.figure, goal.against)
            if goal.against != PLAIN:
                plain = ratio(results, goal.scenario, goal.figure, goal.against, of=PLAIN)
        if value is not None:
            judged.append(Verdict(goal, value, plain or 0.0))
    return judged

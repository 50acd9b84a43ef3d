from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bench.report import ROWS
from bench.results import GOALS, Goal, Results, Verdict, combined, ratio, verdicts


def results(**samples: dict[str, list[dict[str, float]]]) -> Results:
    found = Results("2030-01-02 03:04", {"processor": "abacus"}, {"haproxy": "2.6"})
    for scenario, peers in samples.items():
        for peer, figures in peers.items():
            for each in figures:
                found.add(scenario.replace("_", "-"), peer, each)
    return found


class ResultsTests(SynchronousTestCase):
    def test_median(self) -> None:
        """A figure is the median of its samples."""
        found = results(noop_64={"tproxy": [{"cpu": 9.0}, {"cpu": 1.0}, {"cpu": 2.0}]})
        self.assertEqual(2.0, found.figure("noop-64", "tproxy", "cpu"))

    def test_not_measured(self) -> None:
        """What was not measured is None, not zero."""
        self.assertIsNone(results().figure("noop-64", "tproxy", "cpu"))

    def test_file(self) -> None:
        """What is written is what is read."""
        found = results(noop_64={"tproxy": [{"cpu": 9.5}]})
        path = Path(self.mktemp()) / "results.json"
        found.write(path)
        self.assertEqual(found, Results.read(path))

    def test_combined(self) -> None:
        """Several runs are one with all their samples."""
        runs = [results(noop_64={"tproxy": [{"cpu": value}]}) for value in (1.0, 5.0, 2.0)]
        self.assertEqual(2.0, combined(runs).figure("noop-64", "tproxy", "cpu"))


class GoalTests(SynchronousTestCase):
    def test_ratio(self) -> None:
        """Ours as a multiple of theirs; None where either is missing."""
        found = results(noop_64={"tproxy": [{"cpu": 30.0}], "haproxy": [{"cpu": 20.0}]})
        self.assertEqual(1.5, ratio(found, "noop-64", "cpu", "haproxy"))
        self.assertIsNone(ratio(found, "noop-64", "cpu", "dovecot"))
        self.assertIsNone(ratio(results(noop_64={"haproxy": [{"cpu": 1.0}]}), "noop-64", "cpu", "haproxy"))

    def test_verdicts(self) -> None:
        """Goals that could be measured are judged, by ratio or by number."""
        found = results(
            noop_64={"tproxy": [{"cpu": 30.0}], "haproxy": [{"cpu": 20.0}]}, process={"tproxy": [{"memory": 50.0}]}
        )
        relative, missing, absolute = (
            Goal("noop-64", "cpu", 1.3, "haproxy"),
            Goal("noop-64", "cpu", 0.4, "dovecot"),
            Goal("process", "memory", 64.0),
        )
        judged = verdicts(found, (relative, missing, absolute))
        self.assertEqual([Verdict(relative, 1.5), Verdict(absolute, 50.0)], judged)

    def test_reached(self) -> None:
        """A goal is reached up to its very number, and missed by far above twice that."""
        goal = Goal("process", "memory", 10.0)
        told = [(Verdict(goal, value).reached, Verdict(goal, value).gross) for value in (10.0, 10.1, 20.0, 20.1)]
        self.assertEqual([(True, False), (False, False), (False, False), (False, True)], told)

    def test_what_the_machine_explains(self) -> None:
        """Where haproxy misses a goal as well, only twice its own figure is far off."""
        goal = Goal("download-8", "cpu", 0.3, "dovecot")
        for ours, gross in ((1.5, False), (1.7, True)):
            found = results(
                download_8={"tproxy": [{"cpu": ours}], "haproxy": [{"cpu": 0.8}], "dovecot": [{"cpu": 1.0}]}
            )
            self.assertEqual([Verdict(goal, ours, 0.8)], verdicts(found, (goal,)))
            self.assertIs(verdicts(found, (goal,))[0].gross, gross)

    def test_goals_are_rows(self) -> None:
        """Every goal is about a figure that the table shows."""
        self.assertEqual(set(), {(g.scenario, g.figure) for g in GOALS} - {(r.scenario, r.figure) for r in ROWS})

from __future__ import annotations

from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from bench.chart import chart, longest
from bench.report import number, report, table
from tests.bench.test_results import results

FOUND = results(
    noop_64={
        "tproxy": [{"cpu": 30.0, "p50": 1500.0}],
        "haproxy": [{"cpu": 20.0, "p50": 1000.0}],
        "dovecot": [{"cpu": 60.0, "p50": 3000.0}],
    },
    upload_8={"tproxy": [{"cpu": 1.0}], "haproxy": [{"cpu": 2.0}], "dovecot": [{"cpu": 20.0}]},
)


class ReportTests(SynchronousTestCase):
    def test_number(self) -> None:
        """Three digits that matter, thousands parted, a dash for what is missing."""
        self.assertEqual(["0.87", "12.3", "1,234", "–"], list(map(number, (0.8749, 12.34, 1234.2, None))))

    def test_table(self) -> None:
        """Words to the left, figures to the right."""
        self.assertEqual("a   b    10\ncc  d  2000", table([["a", "b", "10"], ["cc", "d", "2000"]]))

    def test_figures_and_ratios(self) -> None:
        """Every figure of every proxy that was measured, then our ratios."""
        lines = report(FOUND).splitlines()
        self.assertEqual(["tproxy", "haproxy", "dovecot", "÷", "haproxy", "÷", "dovecot"], lines[0].split())
        (command,) = [line for line in lines if "CPU µs/command" in line and "×" not in line]
        self.assertEqual(["30.0", "20.0", "60.0", "1.50", "0.50"], command.split()[-5:])

    def test_goals(self) -> None:
        """Each goal that could be judged has its line and its verdict."""
        lines = [line.split("  ")[-1].strip() for line in report(FOUND).splitlines() if " × " in line]
        self.assertEqual(["missed", "missed", "reached", "reached"], lines)

    def test_left_out(self) -> None:
        """A proxy that is missing is named, with the reason."""
        found = results(process={"tproxy": [{"memory": 1.0}]})
        found.left_out["nginx"] = "not installed"
        self.assertIn("Left out: nginx: not installed", report(found))


class ChartTests(SynchronousTestCase):
    def test_longest(self) -> None:
        """A value that dwarfs the others does not shrink them to nothing."""
        self.assertEqual([10.0, 2.0, 3.0], [longest([1.0, 4.0, 100.0]), longest([1.0, 2.0]), longest([3.0])])

    def test_drawn(self) -> None:
        """A bar for each figure; a bar that is cut short is marked, and says its value all the same."""
        root = ElementTree.fromstring(chart(FOUND))
        tag = "{http://www.w3.org/2000/svg}"
        self.assertEqual(6, len(list(root.iter(f"{tag}rect"))))
        self.assertEqual(1, len(list(root.iter(f"{tag}line"))))
        self.assertIn("20.0", [text.text for text in root.iter(f"{tag}text")])

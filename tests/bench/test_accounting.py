from __future__ import annotations

import os
import subprocess
import sys
import time

from twisted.trial.unittest import SynchronousTestCase

from bench.accounting import Stat, cpu_seconds, descendants, parse_pss, parse_stat, pss_bytes, tree

LINE = "4711 (odd) name (x) S 17 4711 4711 0 -1 4194304 900 800 0 0 25 5 130 20 20 0 1 0 555 1000 200"
ROLLUP = """55a4122c0000-7ffd84dd5000 ---p 00000000 00:00 0                          [rollup]
Rss:                1772 kB
Pss:                 248 kB
Pss_Dirty:           108 kB
"""


class ParsingTests(SynchronousTestCase):
    def test_stat(self) -> None:
        """Fields are counted from the last parenthesis: a name may hold anything. Waited-for time is in ticks."""
        self.assertEqual(Stat(4711, 17, 1.5), parse_stat(LINE, 100))

    def test_pss(self) -> None:
        """The proportional set size is in kB, and is not one of its parts."""
        self.assertEqual(248 * 1024, parse_pss(ROLLUP))

    def test_no_pss(self) -> None:
        """A file without the line is an error, not a zero."""
        self.assertRaises(ValueError, parse_pss, "Rss: 4 kB\n")

    def test_descendants(self) -> None:
        """Children of children count, in whatever order they are listed; others don't."""
        stats = [Stat(9, 5, 0.0), Stat(5, 3, 0.0), Stat(3, 1, 0.0), Stat(4, 1, 0.0), Stat(6, 4, 0.0)]
        self.assertEqual({3, 5, 9}, {stat.pid for stat in descendants(3, stats)})

    def test_gone(self) -> None:
        """A process that is not there has no descendants."""
        self.assertEqual([], descendants(3, [Stat(1, 0, 0.0)]))


class KernelTests(SynchronousTestCase):
    """What the kernel says of this very process."""

    def test_cpu(self) -> None:
        """The books agree with the process' own clock, and count a child that has ended."""
        before = cpu_seconds(os.getpid()) - time.process_time()
        subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.1: pass"], check=True)
        after = cpu_seconds(os.getpid()) - time.process_time()
        self.assertTrue(0.08 <= after - before <= 1.0, f"{after - before}")

    def test_living_child(self) -> None:
        """A living child is of the tree, and its memory counts."""
        alone = pss_bytes(os.getpid())
        with subprocess.Popen([sys.executable, "-c", "print('up', flush=True); input()"], stdin=-1, stdout=-1) as child:
            self.assertEqual(b"up\n", child.stdout.readline())
            self.assertIn(child.pid, [stat.pid for stat in tree(os.getpid())])
            self.assertTrue(pss_bytes(os.getpid()) > alone)
            child.communicate(b"\n")

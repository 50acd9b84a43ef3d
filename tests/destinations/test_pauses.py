"""How long something that failed is left alone."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tproxy.destinations.pauses import LONGEST_PAUSE, LONGEST_RETRY_AFTER, SHORTEST_PAUSE, pause, retry_after


def longest(least: float, most: float) -> float:
    return most


class PauseTests(SynchronousTestCase):
    def test_pause(self) -> None:
        """Longer with every failure, never under 100 ms nor over its bounds."""
        self.assertEqual([pause(n, 0.0, longest) for n in (1, 2, 3, 6, 10**9)], [1, 2, 4, LONGEST_PAUSE, LONGEST_PAUSE])
        self.assertEqual(pause(1, 0.0, lambda least, most: 0.0), SHORTEST_PAUSE)
        self.assertEqual(pause(1, 0.0, lambda least, most: least), 0.5)
        self.assertEqual(pause(1, 1e9, longest), LONGEST_RETRY_AFTER)

    def test_retry_after(self) -> None:
        """Seconds or a date; never negative, and nothing from nonsense."""
        now = 1_700_000_000.0
        date = format_datetime(datetime.fromtimestamp(now + 90, UTC), usegmt=True)
        past = format_datetime(datetime.fromtimestamp(now - 90, UTC), usegmt=True)
        for value, seconds in (("120", 120), (" 1 ", 1), (date, 90), (past, 0), ("", 0), ("-1", 0), ("²", 0)):
            self.assertEqual(retry_after(value, now), seconds)

    @settings(deadline=None)
    @given(st.text())
    def test_any_retry_after(self, value: str) -> None:
        """Any text is a pause."""
        self.assertGreaterEqual(retry_after(value, 0.0), 0.0)

"""How long something that failed is left alone."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import parsedate_to_datetime

SHORTEST_PAUSE, FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0, 30.0
"""Pauses after failures, in seconds: never less, after the first one, never more of our own accord."""

LONGEST_RETRY_AFTER = 3600.0
"""The longest pause that a server gets by asking for it, in seconds."""

Jitter = Callable[[float, float], float]
"""A number between two numbers."""


def pause(failures: int, wanted: float, jitter: Jitter) -> float:
    """How long to leave something alone after so many failures in a row, in seconds.

    @param wanted: the pause that it asked for itself, in seconds
    """
    own = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 16))
    return max(SHORTEST_PAUSE, own * jitter(0.5, 1.0), min(wanted, LONGEST_RETRY_AFTER))


def retry_after(value: str, now: float) -> float:
    """The pause of a `Retry-After` header (RFC 9110, section 10.2.3) in seconds; 0 where there is none.

    @param now: wall-clock time, seconds since the epoch
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:10])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0

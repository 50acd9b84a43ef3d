"""What somebody said so far, and waiting for what they will say."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

Find = Callable[[bytes], Any]


class EndedError(Exception):
    """It ended before what was waited for was said."""


class Transcript:
    """Bytes in the order in which they came, until the end."""

    def __init__(self) -> None:
        self.octets = bytearray()
        self.end: object = None
        self._waiting: list[tuple[Find, Deferred]] = []
        self._ends: list[Deferred] = []

    def __bytes__(self) -> bytes:
        return bytes(self.octets)

    def __str__(self) -> str:
        return self.octets.decode(errors="backslashreplace")

    def feed(self, octets: bytes) -> None:
        self.octets += octets
        for waiting in self._waiting[:]:
            find, deferred = waiting
            if (found := find(self.octets)) is not None and waiting in self._waiting:
                self._waiting.remove(waiting)
                deferred.callback(found)

    def close(self, end: object) -> None:
        """Nothing more will come; `end` (not None) says why."""
        self.end = end
        for _, deferred in self._waiting:
            deferred.errback(EndedError(f"{end}, after:\n{self}"))
        for deferred in self._ends:
            deferred.callback(end)

    def until(self, wanted: bytes | Find) -> Deferred:
        """Fires with the first match of a regular expression, or the first that `wanted(octets)` finds."""
        find = re.compile(wanted, re.MULTILINE).search if isinstance(wanted, bytes) else wanted
        waiting: tuple[Find, Deferred] = (find, Deferred(lambda _: self._waiting.remove(waiting)))
        deferred = waiting[1]
        if (found := find(self.octets)) is not None:
            deferred.callback(found)
        elif self.end is not None:
            deferred.errback(EndedError(f"{self.end}, after:\n{self}"))
        else:
            self._waiting.append(waiting)
        return deferred

    def closed(self) -> Deferred:
        """Fires with the reason of the end."""
        deferred: Deferred = Deferred()
        if self.end is None:
            self._ends.append(deferred)
        else:
            deferred.callback(self.end)
        return deferred

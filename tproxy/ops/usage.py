"""What the process takes of its machine, and what it may take, as the kernel tells it."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

from attrs import define, field

SPAN_SECONDS = 5.0
"""The shortest time over which the use of the processor is told."""

MEMORY = Path("/proc/self/statm")
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
DESCRIPTORS = Path("/proc/self/fd")


@define
class Usage:
    """What the process takes of its machine.

    @param seconds: a monotonic clock
    @param cpu: the processor time that the process has used, in seconds
    """

    _seconds: Callable[[], float]
    _cpu: Callable[[], float]
    _percent: float = 0.0
    _since: float = field(init=False)
    _used: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._since, self._used = self._seconds(), self._cpu()

    @property
    def percent(self) -> float:
        """Of one processor, since it was last told; whoever asks again soon gets the same answer."""
        now, used = self._seconds(), self._cpu()
        if now - self._since >= SPAN_SECONDS:
            self._percent = 100 * (used - self._used) / (now - self._since)
            self._since, self._used = now, used
        return self._percent

    @property
    def memory(self) -> int | None:
        """The bytes that are in memory; None where the system does not tell."""
        try:
            return int(MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            return None

    @property
    def memory_limit(self) -> int | None:
        """The bytes at which the container is ended; None where there is no limit, or none that can be seen."""
        try:
            return int(MEMORY_LIMIT.read_text())
        except (OSError, ValueError):  # no container, or "max"
            return None

    @property
    def descriptors(self) -> int | None:
        """The files that are open; None where the system does not tell."""
        try:  # since Linux 6.2 the size of the folder is their number; before, it is 0
            return DESCRIPTORS.stat().st_size or len(list(DESCRIPTORS.iterdir())) - 1
        except OSError:
            return None

    @property
    def descriptor_limit(self) -> int:
        """How many files may be open."""
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

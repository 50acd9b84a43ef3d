"""What a proxy costs, from the kernel's own books: processor time and memory of a process and all its descendants."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from attrs import frozen

PROC = Path("/proc")


@frozen
class Stat:
    """What is needed of one /proc/PID/stat; `waited` are the seconds of children that ended and were waited for."""

    pid: int
    parent: int
    waited: float


def parse_stat(text: str, ticks: int) -> Stat:
    """Read a line of /proc/PID/stat, see proc(5).

    @param ticks: clock ticks in a second
    """
    before, _, after = text.rpartition(")")
    fields = after.split()
    return Stat(int(before.split(" ", 1)[0]), int(fields[1]), (int(fields[13]) + int(fields[14])) / ticks)


def parse_pss(text: str) -> int:
    """The proportional set size of /proc/PID/smaps_rollup, in bytes."""
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name == "Pss":
            return int(rest.split()[0]) * 1024
    raise ValueError("no line Pss")


def descendants(root: int, stats: Iterable[Stat]) -> list[Stat]:
    """The process `root` and all below it."""
    children: defaultdict[int, list[Stat]] = defaultdict(list)
    found: list[Stat] = []
    for stat in stats:
        children[stat.parent].append(stat)
        if stat.pid == root:
            found.append(stat)
    for stat in found:
        found.extend(children[stat.pid])
    return found


def tree(root: int) -> list[Stat]:
    """The process `root` and all its descendants that live now."""
    ticks = os.sysconf("SC_CLK_TCK")
    stats = []
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                stats.append(parse_stat((folder / "stat").read_text(), ticks))
    return descendants(root, stats)


def cpu_seconds(root: int) -> float:
    """Processor time, user and system, that `root` and its descendants have used so far.

    A living process is asked for its clock, which counts nanoseconds and all its threads; clock
    ticks are used for those alone that have ended.
    """
    total = 0.0
    for stat in tree(root):
        total += stat.waited
        with suppress(OSError):
            total += time.clock_gettime(clock_of(stat.pid))
    return total


def clock_of(pid: int) -> int:
    """The identifier of a process' CPU-time clock, as clock_getcpuclockid(3) makes it on Linux."""
    return (~pid << 3) | 2


def pss_bytes(root: int) -> int:
    """Memory of `root` and its descendants, shared pages counted once.

    @raise PermissionError: a process of another user
    """
    total = 0
    for stat in tree(root):
        with suppress(FileNotFoundError, ProcessLookupError):
            total += parse_pss((PROC / str(stat.pid) / "smaps_rollup").read_text())
    return total

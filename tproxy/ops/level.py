"""From which level on the log is written, and how that is changed while the process runs: by a signal."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from attrs import define, field
from twisted.logger import Logger

log = Logger()

DEBUG, CONFIGURED = "debug", "configured"
SIGNALS = {DEBUG: signal.SIGUSR1, CONFIGURED: signal.SIGUSR2}
"""What has the log written from debug on, and what as the configuration says: either may come twice."""


@define
class Level:
    """The least level that is written: what the configuration says, until it is changed."""

    now: str
    configured: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.configured = self.now

    def change(self, wanted: str) -> None:
        """Take one of `SIGNALS`, and say so."""
        self.now = DEBUG if wanted == DEBUG else self.configured
        message = f"the log is written from level {self.now} on, and the configuration says {self.configured}"
        log.info("{message}", event="log.level", message=message)


def change_on_signals(level: Level, soon: Callable[[Callable[[str], None], str], object]) -> None:
    """Change the level when a signal of `SIGNALS` comes; `soon` makes a call that no signal interrupts."""
    wanted = {number: name for name, number in SIGNALS.items()}

    def changed(number: int, frame: FrameType | None) -> None:
        soon(level.change, wanted[signal.Signals(number)])

    for number in wanted:
        signal.signal(number, changed)


def tell(pid: int, wanted: str) -> str:
    """Send a running tproxy the signal; what keeps that from being done, and what to do, or nothing.

    No other process is told, nor one that only begins: they would die of it.
    """
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"tproxy" not in words or not _expects(pid, SIGNALS[wanted]):
            return f"process {pid} is no running tproxy: name the one that is with --pid"
        os.kill(pid, SIGNALS[wanted])
    except OSError as error:
        return f"process {pid} cannot be told ({os.strerror(error.errno or 0)}): name a running tproxy with --pid"
    return ""


def _expects(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal; it has where the system does not tell."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is None or bool(int(caught[1], 16) >> number - 1 & 1)

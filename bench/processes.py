"""Programs that run beside the benchmark: placed on processors, and gone when it is."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HOST = "127.0.0.1"
SOURCES = Path(__file__).parent.parent
START_SECONDS = 30.0
STOP_SECONDS = 15.0

PR_SET_PDEATHSIG = 1
_c_library = ctypes.CDLL(None)


class StartError(Exception):
    """A program does not do what it was started for."""


def end_with(parent: int) -> None:
    """Ask the kernel to end this process when its parent is gone, however that came."""
    _c_library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def free_ports(number: int) -> list[int]:
    """So many ports of 127.0.0.1 that nobody listens on now."""
    probes = [socket.create_server((HOST, 0)) for _ in range(number)]
    ports: list[int] = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def process(command: Sequence[str], output: Path, cores: set[int]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program on `cores` until the end of the block; what it writes goes to `output`."""
    parent = os.getpid()

    def placed() -> None:
        os.sched_setaffinity(0, cores)
        end_with(parent)

    with output.open("wb") as stream:
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=output.parent,
            env={**os.environ, "PYTHONPATH": os.fspath(SOURCES)},
            preexec_fn=placed,
        )
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def await_ports(started: subprocess.Popen[bytes], ports: Sequence[int], output: Path) -> None:
    """Wait until a program listens on all of these ports.

    @raise StartError: it ended instead, or took too long
    """
    end = time.monotonic() + START_SECONDS
    for port in ports:
        while True:
            try:
                socket.create_connection((HOST, port), 1.0).close()
                break
            except OSError:
                if started.poll() is not None or time.monotonic() > end:
                    raise StartError(f"{started.args!r} does not listen: {output.read_text()[-2000:]}") from None
                time.sleep(0.05)

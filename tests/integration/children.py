"""Programs that run beside the tests: clients, and the proxy itself."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol

from tests.integration.transcript import Transcript

CLIENTS = Path(__file__).parent / "clients"


class Child(ProcessProtocol):
    """A program: `output` is what it writes, on both streams, and ends with the exit status, or minus the signal."""

    def __init__(self) -> None:
        self.output = Transcript()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self.output.feed(data)

    def processEnded(self, reason) -> None:
        self.output.close(reason.value.exitCode if reason.value.signal is None else -reason.value.signal)

    @property
    def pid(self) -> int:
        return self.transport.pid

    def end(self, number: int = signal.SIGTERM, seconds: float = 10) -> Deferred:
        """End it, by force after some seconds; fires with the status."""
        if self.output.end is not None:
            return self.output.closed()
        self.transport.signalProcess(number)
        force = reactor.callLater(seconds, self.transport.signalProcess, signal.SIGKILL)

        def ended(status: int) -> int:
            if force.active():
                force.cancel()
            return status

        return self.output.closed().addCallback(ended)


def start(
    test,
    arguments: Sequence[str | Path],
    folder: Path,
    *,
    pty: bool = False,
    env: Mapping[str, str] | None = None,
    child: Child | None = None,
) -> Child:
    """Start a program in `folder`; it is ended with the test."""
    child = child or Child()
    words = [os.fspath(argument) for argument in arguments]
    reactor.spawnProcess(child, words[0], words, env={**os.environ, **(env or {})}, path=os.fspath(folder), usePTY=pty)
    test.addCleanup(child.end)
    return child


async def run(test, arguments: Sequence[str | Path], folder: Path, *, stdin: bytes = b"") -> bytes:
    """Run a program to its end, which must be a success; returns what it wrote."""
    child = start(test, arguments, folder)
    child.transport.write(stdin)
    child.transport.closeStdin()
    status = await child.output.closed()
    test.assertEqual(0, status, f"{arguments[0]} ended with {status}:\n{child.output}")
    return bytes(child.output)


def python(script: str, *arguments: str | Path) -> list[str | Path]:
    """The command line of one of the client scripts in Python."""
    return [sys.executable, "-u", CLIENTS / script, *arguments]

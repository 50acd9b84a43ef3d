"""The level of the log: what changes it, and that each change is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from io import StringIO

from twisted.logger import Logger, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.logs import logged
from tproxy.ops import level
from tproxy.ops.level import CONFIGURED, DEBUG, SIGNALS, Level, change_on_signals, tell
from tproxy.ops.logs import LEVELS, LineObserver


class Changed(SynchronousTestCase):
    """From the configured level to debug, and back."""

    def test_said_at_every_level(self) -> None:
        """Each change is a line of its own, whatever the level was or will be; a second one changes nothing more."""
        for configured in LEVELS:
            stream, now = StringIO(), Level(configured)
            log = Logger(namespace="tproxy.x", observer=LogPublisher(LineObserver(stream, now)))
            with logged(level.log) as events:
                for wanted in (DEBUG, DEBUG, CONFIGURED, CONFIGURED):
                    now.change(wanted)
                    log.observer(events.pop())
                    self.assertEqual(now.now, "debug" if wanted == DEBUG else configured)
            lines = [json.loads(line) for line in stream.getvalue().splitlines()]
            self.assertEqual([line["event"] for line in lines], ["log.level"] * 4)
            self.assertIn(f"from level debug on, and the configuration says {configured}", lines[0]["text"])
            self.assertIn(f"from level {configured} on", lines[3]["text"])

    def test_takes_effect(self) -> None:
        """What an observer writes follows at once."""
        stream, now = StringIO(), Level("error")
        log = Logger(namespace="tproxy.x", observer=LogPublisher(LineObserver(stream, now)))
        for wanted, said in ((DEBUG, 1), (CONFIGURED, 1), (DEBUG, 2)):
            now.change(wanted)
            log.debug("x")
            self.assertEqual(len(stream.getvalue().splitlines()), said)

    def test_signals(self) -> None:
        """Each signal asks for its level, outside of the handler."""
        for number in SIGNALS.values():
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        now, calls = Level("warn"), []
        change_on_signals(now, lambda change, wanted: calls.append((change, wanted)))
        for name in (DEBUG, CONFIGURED):
            os.kill(os.getpid(), SIGNALS[name])
            self.assertEqual(calls.pop(), (now.change, name))


class Told(SynchronousTestCase):
    """No process gets a signal that does not expect it."""

    def test_another(self) -> None:
        """This one is a test, and lives."""
        self.assertRegex(tell(os.getpid(), DEBUG), r"^process \d+ is no running tproxy: .* --pid$")

    def child(self, script: str) -> subprocess.Popen[bytes]:
        """A process of Python that has the word among its arguments, and waits."""
        words = (sys.executable, "-c", f"{script}; print(flush=True); input()", "tproxy")
        child = self.enterContext(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        child.stdout.readline()
        return child

    def test_prepared(self) -> None:
        """One that has a handler is told."""
        child = self.child("import signal, sys; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))")
        self.assertEqual(tell(child.pid, DEBUG), "")
        self.assertEqual(child.wait(), 7)

    def test_unprepared(self) -> None:
        """One that has none, as a tproxy that has just begun, would die of it."""
        child = self.child("pass")
        self.assertRegex(tell(child.pid, DEBUG), r"^process \d+ is no running tproxy: ")
        child.communicate(b"\n")
        self.assertEqual(child.returncode, 0)

    def test_nobody(self) -> None:
        """A process that is not there, and no process at all."""
        for pid in (2**30, -1):
            self.assertRegex(tell(pid, DEBUG), r"^process -?\d+ cannot be told \(No such file or directory\): ")

"""What the service does with its process: signals, limits, garbage, and the last connections."""

from __future__ import annotations

import gc
import os
import resource
import signal
import weakref
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.configurations import folder
from tproxy.assembly import configured
from tproxy.config import Limits
from tproxy.ops import usage
from tproxy.tap import (
    FAREWELL_SECONDS,
    GARBAGE,
    SIGNALS,
    Farewell,
    Options,
    begin,
    raise_descriptor_limit,
    room,
    stop_on_signals,
)


class Endings(SynchronousTestCase):
    """Connections that were told to end get the time that takes, and no more."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.farewell = Farewell(self.reactor, self.reactor)
        self.farewell.startService()

    def stopping(self) -> Deferred[None]:
        stopped = self.farewell.stopService()
        self.reactor.advance(0)
        return stopped

    def test_nothing_open(self) -> None:
        """Nobody waits for nothing, but for the turn in which the last is told."""
        stopped = self.farewell.stopService()
        self.assertNoResult(stopped)
        self.reactor.advance(0)
        self.successResultOf(stopped)

    def test_until_the_last_is_gone(self) -> None:
        """It stops once nothing is read and nothing is written any more."""
        reader, writer = object(), object()
        self.reactor.addReader(reader)
        self.reactor.addWriter(writer)
        stopped = self.stopping()
        for leave in (lambda: self.reactor.removeReader(reader), lambda: self.reactor.removeWriter(writer)):
            self.reactor.advance(1)
            self.assertNoResult(stopped)
            leave()
        self.reactor.advance(1)
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_not_for_ever(self) -> None:
        """Whoever never leaves is left."""
        self.reactor.addReader(object())
        stopped = self.stopping()
        self.reactor.advance(FAREWELL_SECONDS - 1)
        self.assertNoResult(stopped)
        self.reactor.advance(1)
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class Signals(TestCase):
    """SIGTERM and SIGINT end the process well."""

    def test_first_and_second(self) -> None:
        """The first of either stops; the second ends at once, and all is well."""
        for first in SIGNALS:
            for second in SIGNALS:
                happened: list[object] = []
                kept = [(number, signal.getsignal(number)) for number in SIGNALS]
                try:
                    stop_on_signals(lambda: happened.append("stop"), happened.append)  # noqa: B023
                    os.kill(os.getpid(), first)
                    self.assertEqual(happened, ["stop"])
                    os.kill(os.getpid(), second)
                    self.assertEqual(happened, ["stop", 0])
                finally:
                    for number, handler in kept:
                        signal.signal(number, handler)


class Collector(SynchronousTestCase):
    """The garbage collector, which finds next to nothing here."""

    def test_spared(self) -> None:
        """It leaves alone what is there at the start, and still finds what comes to lie about."""
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        self.addCleanup(gc.unfreeze)
        begin(configured(str(folder(self.mktemp()) / "config.yaml")))
        self.assertGreater(gc.get_freeze_count(), 10_000)
        self.assertTrue(gc.isenabled())
        gone = []
        while not gone and gc.get_count()[0] < 2 * GARBAGE:
            cycle = Options()
            cycle.itself = cycle
            weakref.finalize(cycle, gone.append, True).atexit = False
            del cycle
        self.assertTrue(gone)


class Descriptors(SynchronousTestCase):
    """Each session takes two sockets, and systems begin with few."""

    usage = usage.Usage(lambda: 0.0, lambda: 0.0)

    def test_raised(self) -> None:
        """As many as the system lets us have, never fewer than before."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        raised = raise_descriptor_limit()
        self.assertGreater(raised, 256)
        self.assertEqual(raised, resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    def test_room(self) -> None:
        """As many connections as there are pairs of descriptors for, beside listeners; fewer where that is said."""
        for limits, descriptors, most in (
            (Limits(listeners=4000), 65_536, 30_668),
            (Limits(listeners=4000, connections=500), 65_536, 500),
            (Limits(listeners=4000, connections=500_000), 65_536, 30_668),
            (Limits(listeners=4000), 1024, 256),
        ):
            for opened in (most - 1, most):
                there = room(limits, descriptors, self.usage)
                there.opened = opened
                self.assertEqual(opened == most, there.refusal() is not None)

    def test_memory(self) -> None:
        """The most of what the container may have, or what the configuration says; without either there is no limit."""
        limit, used = Path(self.mktemp()), Path(self.mktemp())
        used.write_text("0 1000 0\n")
        self.patch(usage, "MEMORY_LIMIT", limit)
        self.patch(usage, "MEMORY", used)
        bytes_used = 1000 * os.sysconf("SC_PAGE_SIZE")
        for limits, container, full in (
            (Limits(), "max", False),
            (Limits(), f"{bytes_used * 2}", False),
            (Limits(), f"{bytes_used}", True),
            (Limits(memory=1), "max", True),
            (Limits(memory=1000), f"{bytes_used}", False),
        ):
            limit.write_text(container)
            there = room(limits, 65_536, self.usage)
            there.look()
            self.assertEqual(full, there.refusal() is not None)

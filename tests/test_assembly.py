"""The parts, put together."""

from __future__ import annotations

import time

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock as FakeClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.test_cli import folder
from tproxy.assembly import Clock, assemble, by_name, configured, release
from tproxy.config import ConfigError
from tproxy.protocols.imap4 import IMAP, imap4, imap4s


class Protocols(SynchronousTestCase):
    """Plug-ins by name."""

    def test_names(self) -> None:
        """Each under its own."""
        self.assertEqual(by_name([imap4, imap4s]), {"imap4": imap4, "imap4s": imap4s})

    def test_two_of_a_name(self) -> None:
        """A second one of a name is refused, not taken or left."""
        error = self.assertRaises(ConfigError, by_name, [imap4s, IMAP("imap4s", 1, encrypted=False)])
        self.assertIn("imap4s", str(error))


class Time(SynchronousTestCase):
    """Durations."""

    def test_clock(self) -> None:
        """The reactor's timers, and seconds that only go forward."""
        reactor = FakeClock()
        clock = Clock(reactor)
        self.assertTrue(verifyObject(IReactorTime, clock))
        before = time.monotonic()
        self.assertTrue(before <= clock.seconds() <= time.monotonic())
        happened: list[int] = []
        call = clock.callLater(3, happened.append, 1)
        self.assertEqual(list(clock.getDelayedCalls()), [call])
        reactor.advance(3)
        self.assertEqual(happened, [1])


class Whole(SynchronousTestCase):
    """All of it."""

    def test_parts(self) -> None:
        """The protocols that come with tproxy are there, each with its port."""
        parts = assemble(configured(str(folder(self.mktemp()) / "config.yaml")), FakeClock())
        self.assertLessEqual({"imap4": 143, "imap4s": 993}.items(), parts.default_ports.items())

    def test_release(self) -> None:
        """There always is something to say."""
        self.assertTrue(release())

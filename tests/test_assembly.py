"""The parts, put together."""

from __future__ import annotations

import time
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock as FakeClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.configurations import folder
from tproxy.assembly import Clock, assemble, by_name, configured, release
from tproxy.config import ConfigError
from tproxy.protocols.imap4 import IMAP, imap4, imap4s


class Configured(SynchronousTestCase):
    """A configuration is believed when all that it names is there."""

    def wrong(self, root: Path) -> str:
        return str(self.assertRaises(ConfigError, configured, str(root / "config.yaml"), writes=True))

    def test_good(self) -> None:
        """It is read, and paths start at its folder."""
        root = folder(self.mktemp())
        self.assertEqual(configured(str(root / "config.yaml")).local.state, root.absolute() / "state.json")

    def test_missing(self) -> None:
        """A file that is not there, a folder, and what is no text are each named."""
        root = folder(self.mktemp())
        self.assertIn("nothing.yaml: cannot be read", str(self.assertRaises(ConfigError, configured, "nothing.yaml")))
        self.assertIn("cannot be read", str(self.assertRaises(ConfigError, configured, str(root))))
        (root / "config.yaml").write_bytes(b"\xff\xfe")
        self.assertIn("not UTF-8", self.wrong(root))

    def test_named_paths(self) -> None:
        """What a key names and is not there, or is another thing, is said with the key's path."""
        root = folder(self.mktemp())
        (root / "destinations").rmdir()
        self.assertIn("instances[0].directory", self.wrong(root))
        self.assertIn("is not there; create the folder", self.wrong(root))
        (root / "destinations").touch()
        self.assertIn("is no folder", self.wrong(root))

    def test_authorities(self) -> None:
        """The file of authorities has to be a file."""
        root = folder(self.mktemp(), additionalCAs={"file": "ca.pem"})
        self.assertRegex(self.wrong(root), r"additionalCAs\.file: .*/ca\.pem is not there; create the file")
        (root / "ca.pem").mkdir()
        self.assertIn("is no file", self.wrong(root))

    def test_state(self) -> None:
        """The state file need not exist, its folder must."""
        local = {"directory": "resources", "state": "there/state.json"}
        root = folder(self.mktemp(), cluster={"local": local})
        self.assertIn("cluster.local.state", self.wrong(root))
        self.assertIn("create its folder", self.wrong(root))
        (root / "there" / "state.json").mkdir(parents=True)
        self.assertIn("name a file", self.wrong(root))

    def test_state_of_others(self) -> None:
        """Whoever only looks need not be able to write the state: `tproxy ls` of a service that another user runs."""
        root = folder(self.mktemp(), cluster={"local": {"directory": "resources", "state": "there/state.json"}})
        self.assertEqual(configured(str(root / "config.yaml")).local.listen, "127.0.0.1")


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

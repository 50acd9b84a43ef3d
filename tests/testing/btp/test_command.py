"""`python -m tproxy.testing.btp`."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

import tproxy
from tests.testing.btp.standin import setup
from tproxy.testing.btp import BTP
from tproxy.testing.btp.__main__ import Following, read

ENVIRONMENT = {"PYTHONPATH": str(Path(tproxy.__file__).absolute().parent.parent)}
CONFIG = "provider: main\nclientId: sb\nclientSecret: {secret}\n"


class Output(ProcessProtocol):
    """Waits for some lines of a process and for its end."""

    def __init__(self, lines: int) -> None:
        self.heard = b""
        self.wanted = lines
        self.lines: Deferred[list[str]] = Deferred()
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.heard += data
        if self.heard.count(b"\n") == self.wanted:
            self.lines.callback(self.heard.decode().splitlines())

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(None)
        if not self.lines.called:
            self.lines.errback(reason)


class CommandTests(TestCase):
    """The command as a process."""

    timeout = 60

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.config, self.ca, self.key = (self.folder / name for name in ("btp.yaml", "ca.pem", "key.json"))
        self.config.write_text(CONFIG.format(secret="one"))

    def command(self, *more: str) -> list[str]:
        files = ["--config", str(self.config), "--ca-out", str(self.ca), "--key-out", str(self.key)]
        return ["-m", "tproxy.testing.btp", *files, *more]

    async def test_serves(self) -> None:
        """It says where it answers, once its files are there, and serves until it is told to stop."""
        process = Output(3)
        running = reactor.spawnProcess(process, sys.executable, [sys.executable, *self.command()], env=ENVIRONMENT)
        authorization, destination, mail = await process.lines
        self.assertRegex(authorization, r"^authorization server: https://main\.authentication\.localhost:[0-9]+$")
        self.assertRegex(destination, r"^Destination service: https://destination\.localhost:[0-9]+$")
        self.assertRegex(mail, r"^mail provider: https://login\.localhost:[0-9]+/token$")
        self.assertIn("BEGIN CERTIFICATE", self.ca.read_text())
        key = json.loads(self.key.read_text())
        self.assertEqual(f"Destination service: {key['uri']}", destination)
        self.assertEqual(self.key.stat().st_mode & 0o777, 0o600)
        running.signalProcess("TERM")
        await process.ended

    async def fails(self, *more: str) -> str:
        output, errors, status = await getProcessOutputAndValue(sys.executable, self.command(*more), ENVIRONMENT)
        self.assertEqual((output, status), (b"", 1))
        (line,) = errors.decode().splitlines()
        return line

    async def test_wrong(self) -> None:
        """What keeps it from starting is said in one line."""
        port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        self.assertIn(f":{port.getHost().port}", await self.fails("--port", str(port.getHost().port)))
        await port.stopListening()
        self.config.write_text("provider: main\n")
        self.assertEqual(await self.fails(), f"{self.config}:1: clientId: is missing")
        self.config.write_bytes(b"\xff")
        self.assertEqual(await self.fails(), f"{self.config}: cannot be read: it is not UTF-8")


class FollowingTests(TestCase):
    """`Following.look`."""

    async def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.config, self.key = folder / "btp.yaml", folder / "key.json"
        self.btp = BTP(reactor, setup())
        await self.btp.start()
        self.addCleanup(self.btp.stop)
        self.config.write_text(CONFIG.format(secret="one"))
        self.following = Following(self.btp, self.config, self.key, read(self.config))

    def look(self) -> str:
        """What is said on standard error."""
        with redirect_stderr(StringIO()) as errors:
            self.following.look()
        return errors.getvalue()

    def test_unchanged(self) -> None:
        """Nothing is done while the file is the same."""
        before = self.btp.setup
        self.assertEqual(self.look(), "")
        self.assertIs(self.btp.setup, before)
        self.assertFalse(self.key.exists())

    def test_changed(self) -> None:
        """The file's words count from now on, and the service key is written again, for its owner alone."""
        self.key.touch(mode=0o644)
        for secret in ("two", "three"):
            self.config.write_text(CONFIG.format(secret=secret))
            self.assertEqual(self.look(), "")
            self.assertEqual(self.btp.setup.client_secret, secret)
            self.assertEqual(json.loads(self.key.read_text())["clientsecret"], secret)
            self.assertEqual(self.key.stat().st_mode & 0o777, 0o600)
        self.assertEqual(sorted(path.name for path in self.key.parent.iterdir()), ["btp.yaml", "key.json"])

    def test_wrong(self) -> None:
        """A file that is wrong or gone changes nothing and is complained of once, until it is good again."""
        before = self.btp.setup
        self.config.write_text("provider: main\n")
        self.assertEqual(self.look(), f"{self.config}:1: clientId: is missing\n")
        self.assertEqual(self.look(), "")
        self.config.unlink()
        self.assertIn("cannot be read: No such file", self.look())
        self.assertIs(self.btp.setup, before)
        self.config.write_text(CONFIG.format(secret="two"))
        self.assertEqual(self.look(), "")
        self.assertEqual(self.btp.setup.client_secret, "two")
        self.config.unlink()
        self.assertIn("cannot be read", self.look())

    def test_no_key(self) -> None:
        """The service key is written for those who ask for it."""
        following = Following(self.btp, self.config, None, "")
        following.look()
        self.assertEqual(self.btp.setup.client_secret, "one")
        self.assertFalse(self.key.exists())

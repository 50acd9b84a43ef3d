"""The built wheel, installed as a user does, and a protocol that somebody else adds to it."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineReceiver
from twisted.trial.unittest import TestCase

import tproxy
from tests.integration import canaries
from tests.integration.children import run, start
from tests.integration.proxy import Proxy
from tests.integration.wire import connect

SOURCES = Path(tproxy.__file__).parent.parent

SETUP = """
[metadata]
name = tproxy-quip
version = 1
[options]
packages = tproxy.protocols.quip
"""

PLUGIN = '''
"""QUIP: the server asks for a word; who knows it is in."""

from attrs import frozen
from twisted.plugin import IPlugin
from zope.interface import implementer

from tproxy.interfaces import IProtocolPlugin
from tproxy.model import Stage
from tproxy.session import (
    HandOver, Hold, Line, LoggedIn, Machine, ProtocolError, ReadLine, Send, Verified
)


@frozen
class Asked:
    login: object
    stage = Stage.GREETING
    reads, reads_upstream = ReadLine(), Hold()


@frozen
class Answered:
    stage = Stage.LOGIN
    reads, reads_upstream = ReadLine(), Hold()


@frozen
class In:
    stage = Stage.LOGIN
    reads, reads_upstream = Hold(), Hold()


def step(state, event):
    match state, event:
        case Asked(login), Line(b"word?\\r\\n"):
            return Answered(), (Send(login.credential.password.reveal().encode() + b"\\r\\n"),)
        case Answered(), Line(b"come in\\r\\n"):
            return In(), (LoggedIn(()),)
        case _:
            raise ProtocolError("The mail server does not speak QUIP")


@frozen
class Waiting:
    name: str
    stage = Stage.GREETING
    reads, reads_upstream = Hold(), Hold()


def greet(state, event):
    match state, event:
        case Waiting(name), LoggedIn():
            return In(), (Send(f"welcome to {name}\\r\\n".encode()), HandOver(b""))
        case _:
            return In(), ()


@implementer(IPlugin, IProtocolPlugin)
@frozen
class Quip:
    name = "quip"
    default_port = 1717
    encrypted = False

    def log_in(self, login):
        return Machine(Asked(login), step)

    def greet(self, greeting):
        return Machine(Waiting(greeting.name), greet)

    def probe(self, login, capabilities):
        return Machine(In(), lambda state, event: (In(), (Verified(),)))


quip = Quip()
'''


class QuipServer(LineReceiver):
    """Asks for the word, then repeats every line."""

    known = False

    def connectionMade(self) -> None:
        self.sendLine(b"word?")

    def lineReceived(self, line: bytes) -> None:
        if self.known:
            self.sendLine(b"you said " + line)
        elif line == canaries.secret("quip").encode():
            self.known = True
            self.sendLine(b"come in")
        else:
            self.transport.loseConnection()


class Installed(TestCase):
    """A fresh virtual environment with the wheel in it."""

    timeout = 300

    async def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tproxy-packaging-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.empty = self.folder / "empty"
        self.empty.mkdir()
        await run(self, [sys.executable, "-m", "venv", self.folder / "venv"], self.folder)
        sources = self.folder / "sources"
        for name in ("tproxy", "twisted", "examples"):
            shutil.copytree(
                SOURCES / name, sources / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache")
            )
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            if (SOURCES / name).exists():
                shutil.copy(SOURCES / name, sources)
        await self.install(sources)

    async def install(self, sources: Path) -> None:
        """Build a wheel of these sources and install it."""
        await self.call(
            "python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", sources / "dist", sources
        )
        (wheel,) = (sources / "dist").iterdir()
        await self.call("python", "-m", "pip", "install", "--quiet", wheel)

    async def call(self, program: str, *arguments: str | Path) -> str:
        """What a program of the virtual environment says, run in an empty folder."""
        return (await run(self, [self.program(program), *arguments], self.empty)).decode()

    def program(self, name: str) -> Path:
        """A program of the virtual environment."""
        return self.folder / "venv" / "bin" / name

    async def test_as_a_user_does(self) -> None:
        """Both runners list tproxy, its script runs, and a protocol of somebody else's serves a connection."""
        for runner in ("twistd", "twist"):
            self.assertIn("  tproxy ", await self.call(runner, "--help"))
        self.assertIn("--config", await self.call("twistd", "tproxy", "--help"))
        self.assertRegex(await self.call("tproxy", "--version"), r"^tproxy \d")
        self.assertIn("check", await self.call("tproxy", "--help"))

        third = self.folder / "third"
        package = third / "tproxy" / "protocols" / "quip"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(PLUGIN)
        (third / "setup.cfg").write_text(SETUP)
        (third / "pyproject.toml").write_text('[build-system]\nrequires = ["setuptools >= 69"]\n')
        await self.install(third)

        server = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(QuipServer))
        self.addCleanup(server.stopListening)
        proxy = Proxy(self)
        proxy.document(
            "quip",
            {
                "Type": "MAIL",
                "ProxyType": "Internet",
                "Authentication": "BasicAuthentication",
                "mail.user": "anybody",
                "mail.password": canaries.secret("quip"),
                "mail.transport.protocol": "quip",
                "mail.quip.host": "127.0.0.1",
                "mail.quip.port": str(server.getHost().port),
            },
        )
        proxy.resource("quip")
        configuration = proxy.folder / "config.yaml"
        configuration.write_text(json.dumps(proxy.configuration))
        command = [self.program("twistd"), "-n", "--pidfile=", "tproxy", "--config", configuration]
        proxy.child = start(self, command, self.empty)
        self.addCleanup(proxy.stop)
        wire = await connect(self, await proxy.port("quip"))
        await wire.ask(b"", b"^welcome to quip\r\n")
        await wire.ask(b"hello\r\n", b"^you said hello\r\n")

        checked = await self.call("tproxy", "check", "quip", "--json", "--config", configuration)
        self.assertTrue(json.loads(checked)["ok"], checked)
        self.assertNotIn(canaries.secret("quip"), checked)

"""The demo, as its user sees it: what it prints is true, Ctrl-C ends it, and nothing is left."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from tests.integration.children import Child, start
from tests.integration.wire import connect

TREE = Path(__file__).parent.parent.parent
TPROXY = [sys.executable, "-c", "from tproxy.cli import main; main()"]
READY = rb"Ctrl-C ends the demo"


class DemoTests(TestCase):
    """`tproxy demo`, in a folder for temporary files that is empty before and after."""

    timeout = 90

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tproxy-test-demo-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.examples = self.folder / "examples"
        shutil.copytree(TREE / "examples", self.examples)
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir()

    def demo(self, pty: bool = False) -> Child:
        """Start it."""
        environment = {"PYTHONPATH": str(TREE), "TMPDIR": str(self.temporary)}
        return start(self, [*TPROXY, "demo", "--examples", self.examples], self.folder, pty=pty, env=environment)

    async def take_port(self) -> int:
        """A port that another program has."""
        taken = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(Protocol))
        self.addCleanup(taken.stopListening)
        return taken.getHost().port

    def move(self, path: str, before: str, port: int) -> None:
        """Have one of the examples ask for another port."""
        file = self.examples / path
        text = file.read_text()
        self.assertIn(before, text)
        file.write_text(text.replace(before, before.replace(re.findall(r"\d+", before)[-1], str(port))))

    def ports(self, demo: Child) -> list[int]:
        """The ports that it prints: those of the mail server, of the preauth and of the open greeting."""
        found = re.findall(r"127\.0\.0\.1:(\d+)", str(demo.output).partition("is open, without")[0][-40:])
        found += re.findall(r"^  127\.0\.0\.1:(\d+)  my-namespace", str(demo.output), re.MULTILINE)
        return list(map(int, found))

    async def assert_nothing_left(self, demo: Child) -> None:
        """No file, and nobody who answers."""
        self.assertEqual([], list(self.temporary.iterdir()))
        self.assertEqual({"examples", "tmp"}, {path.name for path in self.folder.iterdir()})
        for port in self.ports(demo):
            await self.assertFailure(Deferred.fromCoroutine(connect(self, port)), ConnectionRefusedError)

    async def test_first_bytes(self) -> None:
        """Both listeners answer as printed, a message can be read, and Ctrl-C ends it all with status 0."""
        demo = self.demo(pty=True)
        await demo.output.until(READY)
        _, preauth, open_to_logins = self.ports(demo)
        wire = await connect(self, preauth)
        await wire.hears(rb"^\* PREAUTH \[CAPABILITY IMAP4rev1 ")
        await wire.ask(b'2 LIST "" "*"\r\n', rb'^\* LIST .* "/" "INBOX"\r\n(?s:.*)^2 OK ')
        await wire.ask(b"3 SELECT INBOX\r\n", rb"^3 OK \[READ-WRITE\]")
        await wire.ask(b"5 FETCH 1 BODY[TEXT]\r\n", rb"^You are reading this(?s:.*)^5 OK ")
        other = await connect(self, open_to_logins)
        await other.hears(rb"^\* OK \[CAPABILITY IMAP4rev1 ")
        await other.ask(b"1 LOGIN any any\r\n", rb"^1 OK ")

        demo.transport.write(b"\x03")
        self.assertEqual(0, await demo.output.closed(), str(demo.output))
        await self.assert_nothing_left(demo)

    async def test_under_make(self) -> None:
        """Ctrl-C is for the demo alone: what started it (`make`, a shell) sees it end well and goes on."""
        command = shlex.join([*TPROXY, "demo", "--examples", str(self.examples)])
        environment = {"PYTHONPATH": str(TREE), "TMPDIR": str(self.temporary)}
        shell = start(self, ["/bin/sh", "-c", f"{command}; echo status $?"], self.folder, pty=True, env=environment)
        await shell.output.until(READY)
        shell.transport.write(b"\x03")
        self.assertEqual(0, await shell.output.closed(), str(shell.output))
        self.assertIn("status 0", str(shell.output))
        await self.assert_nothing_left(shell)

    async def test_taken_ports(self) -> None:
        """Where a port is taken it says so, and serves at another; SIGTERM ends it with status 0 too."""
        taken = [await self.take_port() for _ in range(3)]
        self.move("destinations/example-dest-imaps.json", '"9993"', taken[0])
        self.move("resources/example-dest-imaps.yaml", "port: 1993", taken[1])
        self.move("resources/example-dest-imaps-open.yaml", "port: 1994", taken[2])
        demo = self.demo()
        await demo.output.until(READY)
        said = str(demo.output)
        self.assertIn(f"Port {taken[0]} is taken", said)
        for port in taken[1:]:
            self.assertIn(f"(port {port} is taken)", said)
        self.assertEqual(set(), set(taken) & set(self.ports(demo)))
        wire = await connect(self, self.ports(demo)[1])
        await wire.hears(rb"^\* PREAUTH ")

        self.assertEqual(0, await demo.end())
        await self.assert_nothing_left(demo)

    async def test_printed_check(self) -> None:
        """The command to look at each step works as printed."""
        demo = self.demo()
        await demo.output.until(READY)
        (words,) = re.findall(r"/tproxy (check .*)", str(demo.output))
        check = start(self, [*TPROXY, *words.split(), "--json"], self.folder, env={"PYTHONPATH": str(TREE)})
        self.assertEqual(0, await check.output.closed(), str(check.output))
        self.assertTrue(json.loads(str(check.output))["ok"])

    async def test_trouble(self) -> None:
        """Where tproxy does not start, the demo ends with a word about it and status 1, and leaves nothing."""
        configuration = self.examples / "tproxy.yaml"
        configuration.write_text(configuration.read_text().replace("tenantMode: dedicated", "tenantMode: both"))
        demo = self.demo()
        self.assertEqual(1, await demo.output.closed())
        self.assertIn("config.tenantMode", str(demo.output))
        self.assertIn("tproxy ended with status 1", str(demo.output))
        await self.assert_nothing_left(demo)

    async def test_no_examples(self) -> None:
        """A folder without examples is told at once."""
        shutil.rmtree(self.examples)
        self.examples.mkdir()
        demo = self.demo()
        self.assertEqual(2, await demo.output.closed())
        self.assertIn("holds no tproxy.yaml", str(demo.output))

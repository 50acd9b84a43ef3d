"""The demo, as its user sees it: what it prints is true, Ctrl-C ends it, and nothing is left."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from tests.integration.children import Child, start
from tests.integration.dovecot import free_port
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

    def listeners(self, demo: Child) -> dict[str, int]:
        """The ports that it prints, by the names that they stand for."""
        found = re.findall(r"^  127\.0\.0\.1:(\d+) +my-namespace/(\S+) ", str(demo.output), re.MULTILINE)
        return {name: int(port) for port, name in found}

    def ports(self, demo: Child) -> list[int]:
        """All the ports that it prints, that of the mail server among them."""
        found = re.findall(r"IMAPS server at 127\.0\.0\.1:(\d+) ", str(demo.output))
        return [*map(int, found), *self.listeners(demo).values()]

    async def python(self, words: str) -> str:
        """What one of the printed Python commands, of which these are the words, prints."""
        program = start(self, [sys.executable, *shlex.split(words)[1:]], self.folder)
        self.assertEqual(0, await program.output.closed(), str(program.output))
        return str(program.output)

    async def assert_nothing_left(self, demo: Child) -> None:
        """No file, and nobody who answers."""
        self.assertEqual([], list(self.temporary.iterdir()))
        self.assertEqual({"examples", "tmp"}, {path.name for path in self.folder.iterdir()})
        for port in self.ports(demo):
            await self.assertFailure(Deferred.fromCoroutine(connect(self, port)), ConnectionRefusedError)

    async def test_first_bytes(self) -> None:
        """Listeners answer as printed, a message can be read, and Ctrl-C ends it all with status 0."""
        demo = self.demo(pty=True)
        await demo.output.until(READY)
        names = ["example-dest-imaps", "example-dest-imaps-open", "tenant-mail-acme", "tenant-mail-globex"]
        self.assertEqual(names, list(self.listeners(demo)))
        self.assertEqual(1 + len(names), len(set(self.ports(demo))))
        wire = await connect(self, self.listeners(demo)["example-dest-imaps"])
        await wire.hears(rb"^\* PREAUTH \[CAPABILITY IMAP4rev1 ")
        await wire.ask(b'2 LIST "" "*"\r\n', rb'^\* LIST .* "/" "INBOX"\r\n(?s:.*)^2 OK ')
        await wire.ask(b"3 SELECT INBOX\r\n", rb"^3 OK \[READ-WRITE\]")
        await wire.ask(b"5 FETCH 1 BODY[TEXT]\r\n", rb"^You are reading this(?s:.*)^5 OK ")
        other = await connect(self, self.listeners(demo)["example-dest-imaps-open"])
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
        taken = [await self.take_port() for _ in range(4)]
        self.move("destinations/example-dest-imaps.json", '"9993"', taken[0])
        self.move("resources/example-dest-imaps.yaml", "port: 1993", taken[1])
        self.move("resources/example-dest-imaps-open.yaml", "port: 1994", taken[2])
        self.move("resources/tenant-mail.yaml", "port: 10000", taken[3])
        demo = self.demo()
        await demo.output.until(READY)
        said = str(demo.output)
        self.assertIn(f"Port {taken[0]} is taken", said)
        self.assertEqual([1, 1, 2], [said.count(f"(port {port} is taken)") for port in taken[1:]])
        self.assertEqual(set(), set(taken) & set(self.ports(demo)))
        for name in ("example-dest-imaps", "tenant-mail-acme"):
            wire = await connect(self, self.listeners(demo)[name])
            await wire.hears(rb"^\* PREAUTH ")

        self.assertEqual(0, await demo.end())
        await self.assert_nothing_left(demo)

    async def test_tenants(self) -> None:
        """Each tenant has a listener and mail of its own, told by a stand-in that ends with the demo."""
        wanted = free_port()
        self.move("resources/tenant-mail.yaml", "port: 10000", wanted)
        demo = self.demo()
        await demo.output.until(READY)
        (key,) = self.temporary.glob("*/service-key.json")
        self.assertEqual(0o600, key.stat().st_mode & 0o777)
        stand_in = urlsplit(json.loads(key.read_text())["uri"]).port
        await connect(self, stand_in)

        said, listeners = str(demo.output), self.listeners(demo)
        acme, globex = "tenant-mail-acme", "tenant-mail-globex"
        holder, other = (acme, globex) if listeners[acme] == wanted else (globex, acme)
        self.assertEqual(wanted, listeners[holder])
        self.assertRegex(said, rf"/{other} .* \(port {wanted} is {holder}'s\)")
        for name, user in ((acme, "anna@acme.example"), (globex, "hank@globex.example")):
            self.assertRegex(said, rf"/{name} +{user} ")
            (words,) = re.findall(rf"  (python3 .*, {listeners[name]}\).*)", said)
            self.assertIn(f"This is the mailbox of {user}.", await self.python(words))

        self.assertEqual(0, await demo.end())
        await self.assert_nothing_left(demo)
        await self.assertFailure(Deferred.fromCoroutine(connect(self, stand_in)), ConnectionRefusedError)

    async def test_printed_login(self) -> None:
        """The command that logs in works as printed."""
        demo = self.demo()
        await demo.output.until(READY)
        (words,) = re.findall(r"  (python3 .*login.*)", str(demo.output))
        self.assertIn("('OK', [b'4'])", await self.python(words))

    async def test_printed_checks(self) -> None:
        """The commands to look at each step work as printed."""
        demo = self.demo()
        await demo.output.until(READY)
        found = re.findall(r"/tproxy (check .*)", str(demo.output))
        self.assertEqual(["example-dest-imaps", "tenant-mail"], [words.split()[1] for words in found])
        for words in found:
            check = start(self, [*TPROXY, *words.split(), "--json"], self.folder, env={"PYTHONPATH": str(TREE)})
            self.assertEqual(0, await check.output.closed(), str(check.output))
            self.assertTrue(json.loads(str(check.output))["ok"])

    async def test_trouble(self) -> None:
        """Where tproxy does not start, the demo ends with a word about it and status 1, and leaves nothing."""
        configuration = self.examples / "tproxy.yaml"
        configuration.write_text(configuration.read_text().replace("tenantMode: shared", "tenantMode: both"))
        demo = self.demo()
        self.assertEqual(1, await demo.output.closed())
        self.assertIn("config.tenantMode", str(demo.output))
        self.assertIn("tproxy ended with status 1", str(demo.output))
        await self.assert_nothing_left(demo)

    async def test_stand_in_trouble(self) -> None:
        """Where the stand-in's file is wrong, the demo says where, and leaves nothing."""
        path = self.examples / "btp.yaml"
        path.write_text(path.read_text().replace("clientId:", "clientID:"))
        demo = self.demo()
        self.assertEqual(1, await demo.output.closed())
        self.assertIn(f"{path}:4: clientID: ", str(demo.output))
        await self.assert_nothing_left(demo)

    async def test_no_examples(self) -> None:
        """A folder without examples is told at once."""
        shutil.rmtree(self.examples)
        self.examples.mkdir()
        demo = self.demo()
        self.assertEqual(2, await demo.output.closed())
        self.assertIn("holds no tproxy.yaml", str(demo.output))

"""The log level of a running proxy, changed as an operator does it."""

from __future__ import annotations

import sys

import yaml
from twisted.trial.unittest import TestCase

from tests.integration.children import Child, start
from tests.integration.mailserver import MailServer, listen
from tests.integration.proxy import SOURCES, Proxy, basic
from tests.integration.test_runners import TWIST, TWISTD
from tests.integration.wire import connect
from tproxy.testing.certificates import Authority

TPROXY = [sys.executable, "-c", "import sys; from tproxy.cli import main; main(sys.argv[1:])"]
ENVIRONMENT = {"PYTHONPATH": str(SOURCES)}


class LogLevelTests(TestCase):
    """`tproxy loglevel`, with a proxy that is configured to log warnings."""

    timeout = 60

    async def setUp(self) -> None:
        self.authority = Authority.create()
        self.mail = await listen(self, MailServer(), self.authority.issue("127.0.0.1"))

    async def loglevel(self, *arguments: object) -> Child:
        """The command, to its end."""
        words = [*TPROXY, "loglevel", *map(str, arguments)]
        child = start(self, words, self.proxy.folder, env=ENVIRONMENT)
        await child.output.closed()
        return child

    async def change(self, level: str) -> str:
        """Change it; what the proxy says of that."""
        before = len(self.proxy.events)
        child = await self.loglevel(level, "--pid", self.proxy.child.pid)
        self.assertEqual((0, b""), (child.output.end, bytes(child.output)))
        return (await self.proxy.logged(before, event="log.level"))["text"]

    async def session(self, port: int) -> None:
        """A session from its greeting to its end."""
        wire = await connect(self, port)
        await wire.ask(b"1 LOGOUT\r\n", rb"^1 OK ")
        await wire.received.closed()

    async def changed(self, runner: list[str]) -> None:
        self.proxy = Proxy(self, config={"logging": {"level": "warn"}})
        self.proxy.trust(self.authority.pem)
        (self.proxy.folder / "config.yaml").write_text(yaml.safe_dump(self.proxy.configuration))
        command = [*runner, "tproxy", "--config", "config.yaml"]
        self.proxy.child = start(self, command, self.proxy.folder, env=ENVIRONMENT)
        await self.proxy.logged(event="config.loosened")
        for _ in range(2):
            self.assertIn("from level debug on", await self.change("debug"))
        self.proxy.offer("mail", basic(self.mail, "ann"))
        port = await self.proxy.port("mail")
        await self.session(port)
        self.assertIn("from level warn on", await self.change("configured"))
        await self.session(port)
        self.assertIn("and the configuration says warn", await self.change("debug"))
        await self.session(port)
        await self.proxy.logged(event="session.ended", connection=3)
        started = [event["connection"] for event in self.proxy.events if event.get("event") == "session.started"]
        self.assertEqual([1, 3], started)
        await self.proxy.stop()

    async def test_twistd(self) -> None:
        """To debug and back, again and again, without a restart; the log says each time that it was changed."""
        await self.changed(TWISTD)

    async def test_twist(self) -> None:
        """Under the other runner, which makes the log's observer itself."""
        await self.changed(TWIST)

    async def test_another_process(self) -> None:
        """A process that is no tproxy is left alone: the signal would end it."""
        self.proxy = Proxy(self)
        other = start(self, [sys.executable, "-c", "input()"], self.proxy.folder)
        child = await self.loglevel("debug", "--pid", other.pid)
        self.assertEqual(1, child.output.end)
        self.assertRegex(
            str(child.output), r"^tproxy: process \d+ is no running tproxy: name the one that is with --pid"
        )
        other.transport.write(b"\n")
        self.assertEqual(0, await other.output.closed())

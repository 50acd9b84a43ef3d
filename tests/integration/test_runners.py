"""twistd and twist, as the documentation has them run."""

from __future__ import annotations

import json
import signal
import sys

from twisted.trial.unittest import TestCase

from tests.integration.children import start
from tests.integration.mailserver import MailServer, listen
from tests.integration.proxy import SOURCES, Proxy, basic
from tests.integration.wire import connect
from tproxy.testing.certificates import Authority

TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]
TWIST = [sys.executable, "-c", "import sys; from twisted.application.twist._twist import Twist; Twist.main(sys.argv)"]


class Runners(TestCase):
    """Each runner, each signal."""

    timeout = 60

    def proxy(self) -> Proxy:
        """A folder whose only destination leads nowhere: its port opens all the same."""
        proxy = Proxy(self)
        proxy.configuration["config"]["logging"]["level"] = "info"
        proxy.offer("mail", basic(1, "nobody"))
        (proxy.folder / "config.yaml").write_text(json.dumps(proxy.configuration))
        return proxy

    async def test_signals(self) -> None:
        """SIGTERM and SIGINT end it with status 0; what it wrote are JSON lines of its own, and files of its state."""
        for runner in (TWISTD, TWIST):
            for number in (signal.SIGTERM, signal.SIGINT):
                proxy = self.proxy()
                proxy.child = start(
                    self, [*runner, "tproxy", "--config", "config.yaml"], proxy.folder, env={"PYTHONPATH": str(SOURCES)}
                )
                await proxy.port("mail")
                self.assertEqual(await proxy.child.end(number), 0, str(proxy.child.output))
                lines = bytes(proxy.child.output).splitlines()
                self.assertEqual([json.loads(line)["text"] for line in lines if b'"library"' in line], [])
                self.assertTrue(all({"time", "level", "text", "event"} <= json.loads(line).keys() for line in lines))
                left = {path.name for path in proxy.folder.iterdir()}
                self.assertEqual(left, {"config.yaml", "destinations", "resources", "state.json", ".state.json.lock"})

    async def test_wrong_configuration(self) -> None:
        """What is wrong is one line that names the key, with status 1: no traceback, no list of options."""
        for runner in (TWISTD, TWIST):
            proxy = self.proxy()
            proxy.configuration["cluster"]["local"]["directory"] = "elsewhere"
            (proxy.folder / "config.yaml").write_text(json.dumps(proxy.configuration))
            child = start(
                self, [*runner, "tproxy", "--config", "config.yaml"], proxy.folder, env={"PYTHONPATH": str(SOURCES)}
            )
            self.assertEqual(await child.output.closed(), 1)
            self.assertRegex(
                str(child.output),
                r"\Atproxy: config\.yaml: cluster\.local\.directory: \S+elsewhere is not there; .*\n\Z",
            )

    async def test_open_sessions(self) -> None:
        """The end of every session is in the log, also of those that are open when the signal comes."""
        authority = Authority.create()
        port = await listen(self, MailServer(), authority.issue("127.0.0.1"))
        proxy = Proxy(self)
        proxy.trust(authority.pem)
        proxy.offer("mail", basic(port, "somebody"))
        proxy.start()
        wires = [await connect(self, await proxy.port("mail")) for _ in range(2)]
        wires[1].readConnectionLost = lambda: None  # stays, though it was told of the end
        for wire in wires:
            await wire.ask(b"1 SELECT INBOX\r\n", b"^1 OK")
        await proxy.stop()
        ended = [event["connection"] for event in proxy.events if event.get("event") == "session.ended"]
        self.assertEqual(sorted(ended), [1, 2])

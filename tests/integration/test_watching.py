"""The real proxy as those see it who watch it: probes, monitors and scrapers."""

from __future__ import annotations

import json
import signal
import sys
from http.client import HTTPConnection, HTTPException
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.integration import canaries
from tests.integration.children import start
from tests.integration.dovecot import free_port
from tests.integration.mailserver import MailServer, listen
from tests.integration.proxy import SOURCES, TWISTD, Proxy, basic
from tests.integration.wire import connect
from tproxy.testing.certificates import Authority


class Watched(TestCase):
    timeout = 60

    async def setUp(self) -> None:
        authority = Authority.create()
        self.server = MailServer()
        mail = await listen(self, self.server, authority.issue("127.0.0.1"))
        self.health, self.metrics = free_port(), free_port()
        self.proxy = Proxy(self, config={"health": {"port": self.health}, "metrics": {"port": self.metrics}})
        self.proxy.trust(authority.pem)
        self.proxy.document("box", basic(mail, "ann"))
        self.proxy.resource("mail", destination="box")
        self.proxy.offer("down", basic(free_port(), "ann"))
        self.proxy.resource("lost", destination="nowhere")

    async def get(self, port: int, path: str) -> tuple[int, bytes]:
        """What a client of the standard library gets; it is searched for secrets."""

        def ask() -> tuple[int, bytes]:
            connection = HTTPConnection("127.0.0.1", port, timeout=20)
            try:
                connection.request("GET", path, headers={"Accept": "application/openmetrics-text; version=1.0.0"})
                response = connection.getresponse()
                return response.status, response.read()
            finally:
                connection.close()

        status, body = await deferToThread(ask)
        self.assertEqual([], canaries.found(body), f"secrets in {path}")
        return status, body

    async def json(self, path: str) -> Any:
        return json.loads((await self.get(self.health, path))[1])

    async def value(self, name: str, **labels: str) -> float | None:
        """The one value with these labels, as the official parser reads it."""
        _, body = await self.get(self.metrics, "/metrics")
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return None

    async def ready(self) -> None:
        """Wait for the first plan."""
        self.proxy.start()
        await self.proxy.logged(event="listener.refused", listener="tests/lost")
        self.port, self.down = await self.proxy.port("mail"), await self.proxy.port("down")
        while (await self.get(self.health, "/readyz"))[0] != 200:
            pass

    async def test_health(self) -> None:
        """Every page with what is true of this proxy."""
        await self.ready()
        self.assertEqual(await self.get(self.health, "/healthz"), (200, b"ok\n"))
        status = await self.json("/status")
        self.assertEqual(
            (status["Status"], status["Components"]["tproxy-tcp"]["Ports"]), ("ok", sorted([self.port, self.down]))
        )
        resources = await self.json("/destinationCRs")
        self.assertEqual(resources["Status"], "warning")
        rows = {
            row["Name"]: (row["Available"], row["DestinationRef"]["name"], row["Reason"])
            for row in resources["CustomResources"]
        }
        gone = "ConfigurationError-ReferencedDestination-NotFound"
        self.assertEqual(
            rows,
            {
                "down": ("True", "down", "ConfigurationSuccessful"),
                "lost": ("False", "nowhere", gone),
                "mail": ("True", "box", "ConfigurationSuccessful"),
            },
        )
        for port, path in ((self.health, "/metrics"), (self.health, "/nothing"), (self.metrics, "/healthz")):
            self.assertEqual((await self.get(port, path))[0], 404)

    async def test_metrics(self) -> None:
        """A session that idles, one that was refused, one that is over; and a listener that is taken away."""
        await self.ready()
        labels = {"listener": "tests/mail", "destination": "box", "tenant": ""}
        idle = await connect(self, self.port)
        greeting = await idle.hears(rb"\n")
        await idle.ask(b"1 SELECT INBOX\r\n", rb"^1 OK ")
        heard = len(idle.received.octets)
        over = await connect(self, self.port)
        await over.hears(rb"\n")
        await over.ask(b"1 LOGOUT\r\n", rb"^1 OK ")
        await over.received.closed()
        refused = await connect(self, self.down)
        self.assertRegex(await refused.hears(rb"\n"), rb"^\* BYE \[UNAVAILABLE\]")
        await refused.received.closed()
        await self.proxy.logged(event="session.ended", listener="tests/mail")

        for name, value in (
            ("tproxy_open_connections", 1),
            ("tproxy_connections_total", 2),
            ("tproxy_login_seconds_count", 2),
            ("tproxy_received_bytes_total", len(b"1 SELECT INBOX\r\n1 LOGOUT\r\n")),
            ("tproxy_sent_bytes_total", heard + len(over.received.octets)),
        ):
            self.assertEqual(await self.value(name, **labels), value, name)
        self.assertGreater(heard, len(greeting))
        failed = {"listener": "tests/down", "stage": "connect", "reason": "connection-failed"}
        self.assertEqual(await self.value("tproxy_refusals_total", **failed), 1)
        self.assertEqual(await self.value("tp_tcp_connections_total"), 3)
        self.assertEqual(await self.value("tp_destination_crs", Available="True"), 2)
        self.assertEqual(await self.value("tp_destination_crs", Available="False"), 1)
        self.assertGreater(await self.value("tp_memory_bytes"), 10_000_000)
        self.assertGreater(await self.value("tproxy_reconcile_seconds_count"), 0)
        self.assertEqual(await self.value("tproxy_ready"), 1)
        self.assertEqual(await self.value("tproxy_listeners"), 2)
        self.assertEqual(await self.value("tproxy_listener_connections_limit"), 10)
        self.assertLess(await self.value("process_open_fds"), await self.value("process_max_fds"))
        self.assertIsNone(await self.value("tproxy_leader"), "there is no cluster")

        (self.proxy.folder / "resources" / "mail.yaml").unlink()
        await idle.received.closed()
        while await self.value("tp_open_tcp_connections"):
            pass
        self.assertIsNone(await self.value("tproxy_connections_total", listener="tests/mail"))
        self.assertEqual(await self.value("tp_tcp_connections_total"), 3)

    async def test_going_down(self) -> None:
        """While its sessions end it is alive and not ready, to the end."""
        await self.ready()
        wire = await connect(self, self.port)
        wire.readConnectionLost = lambda: None  # stays, though it was told of the end
        await wire.ask(b"1 SELECT INBOX\r\n", rb"^1 OK ")
        self.proxy.child.transport.signalProcess(signal.SIGTERM)
        await self.proxy.logged(event="session.revoked")
        self.assertEqual((await self.get(self.health, "/readyz"))[0], 503)
        self.assertEqual((await self.get(self.health, "/healthz"))[0], 200)
        self.assertEqual((await self.json("/status"))["Components"]["tproxy-tcp"]["Ports"], [])
        await self.proxy.child.output.closed()
        with self.assertRaises((OSError, HTTPException)):
            await self.get(self.health, "/healthz")

    async def test_port_taken(self) -> None:
        """A port that another program has is one error that names it, and status 1."""
        await self.ready()
        other = Proxy(self, config={"health": {"port": self.health}})
        (other.folder / "config.yaml").write_text(json.dumps(other.configuration))
        command = [sys.executable, "-c", TWISTD, "-n", "--pidfile=", "tproxy", "--config", "config.yaml"]
        other.child = start(self, command, other.folder, env={"PYTHONPATH": str(SOURCES)})
        self.assertEqual(await other.child.output.closed(), 1)
        (event,) = (event for event in other.events if event.get("event") == "start.failed")
        self.assertRegex(event["message"], rf"port {self.health} of 127\.0\.0\.1 is in use")

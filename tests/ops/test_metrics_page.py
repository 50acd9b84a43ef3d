"""The page of metrics: its formats, and how it is written."""

from __future__ import annotations

import gzip

from attrs import evolve
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text

from tests.ops.exposition import OPENMETRICS
from tests.ops.measured import MetricsTestCase
from tests.ops.requests import Visited
from tproxy.ops import metrics
from tproxy.ops.metrics import MetricsPage, encoder, written
from tproxy.relay.tally import Tallies

PART = 30


class Formats(MetricsTestCase):
    """How the page is written."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(metrics, "AT_ONCE", PART)
        self.tallies = Tallies()
        self.measures = evolve(self.measures, tallies=self.tallies)
        self.open(*(f"x{number}" for number in range(2 * PART)))
        self.page = MetricsPage(self.measures, self.clock)

    def ask(self, method: str = "GET", **headers: str):
        visited = Visited(metrics=self.page)
        visited.reactor.advance = lambda seconds: self.clock.advance(seconds)
        return visited.ask(method, "/metrics", **headers)

    def test_parts(self) -> None:
        """A family with many samples is written in parts, and is one family; sessions have their turn between."""
        encode, _ = encoder(OPENMETRICS)
        pieces = list(written(self.measures.families(), encode))
        self.assertLess(max(piece.count(b"\n") for piece in pieces), PART + 20)
        whole = b"".join(pieces).decode()
        families = list(openmetrics(whole))
        names = [family.name for family in families]
        self.assertEqual(len(names), len(set(names)))
        (connections,) = (family for family in families if family.name == "tproxy_connections")
        self.assertEqual(len(connections.samples), 2 * PART)
        self.assertEqual(whole.count("# EOF"), 1)

    def test_openmetrics(self) -> None:
        """Who asks for OpenMetrics gets it."""
        answer = self.ask(Accept=f"{OPENMETRICS},text/plain;version=0.0.4;q=0.5")
        self.assertEqual((answer.code, answer.kind.partition(";")[0]), (200, "application/openmetrics-text"))
        self.assertTrue(answer.body.endswith(b"\n# EOF\n"))
        self.assertIn("tproxy_open_connections", [family.name for family in openmetrics(answer.body.decode())])

    def test_text(self) -> None:
        """Everybody else gets the text format, with the same content."""
        for accept in ({}, {"Accept": "*/*"}, {"Accept": "text/plain; version=0.0.4"}):
            answer = self.ask(**accept)
            self.assertEqual((answer.code, answer.kind.partition(";")[0]), (200, "text/plain"))
            names = [family.name for family in text(answer.body.decode())]
            self.assertIn("tproxy_open_connections", names)
            self.assertEqual(len(names), len(set(names)))
            self.assertNotIn(b"# EOF", answer.body)

    def test_nonsense(self) -> None:
        """A version that is none asks for nothing."""
        for version in ("x", "1.x", "²", "", "1" * 5000):
            answer = self.ask(Accept=f"application/openmetrics-text; version={version}")
            self.assertEqual(answer.code, 200, version)

    def test_compressed(self) -> None:
        """Who understands gzip gets less to read."""
        answer = self.ask(Accept_Encoding="gzip")
        self.assertEqual(answer.headers["content-encoding"], "gzip")
        self.assertIn(b"tproxy_open_connections{", gzip.decompress(answer.body))

    def test_head(self) -> None:
        """The same without the body."""
        answer = self.ask("HEAD", Accept=OPENMETRICS)
        self.assertEqual((answer.code, answer.body), (200, b""))
        self.assertGreater(int(answer.headers["content-length"]), 10_000)
        self.assertEqual(answer.kind.partition(";")[0], "application/openmetrics-text")

    def test_gone(self) -> None:
        """Nobody writes for a scraper that left."""
        visited = Visited(metrics=self.page)
        transport = visited.connect()
        transport.protocol.dataReceived(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        transport.abortConnection()
        visited.reactor.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_broken(self) -> None:
        """A measure that fails is logged, and the scrape with it."""
        self.measures = evolve(self.measures, token_age=lambda request: 1 / 0)
        self.page = MetricsPage(self.measures, self.clock)
        answer = self.ask(Accept=OPENMETRICS)
        self.assertEqual(answer.code, 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertNotIn(b"ZeroDivision", answer.body)

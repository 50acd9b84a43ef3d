"""What is measured: every figure moves when it should, their number is bounded, and no secret is among them."""

from __future__ import annotations

import resource as resources
from pathlib import Path

from attrs import evolve
from twisted.internet.task import Clock

from tests.operator.worlds import key, rejected, resource
from tests.ops.measured import Carried, MetricsTestCase
from tests.ops.requests import get
from tproxy.model import Reason, Refusal, Stage, spare
from tproxy.operator.objects import Installation, Objects, Port
from tproxy.operator.plan import Listening
from tproxy.ops import usage
from tproxy.ops.metrics import MetricsPage
from tproxy.ops.usage import SPAN_SECONDS
from tproxy.relay.tally import BUCKETS


class Known(MetricsTestCase):
    """Names that dashboards of existing installations have; nobody there expects labels of them."""

    def test_connections(self) -> None:
        """Those of all listeners, also of those that are gone."""
        self.open("a", "b")
        for name in ("a", "a", "b"):
            self.tallies.number()
            self.kept[name].began(Carried())
        self.assertEqual(self.value("tp_open_tcp_connections"), 3)
        self.open("b")
        self.assertEqual((self.value("tp_open_tcp_connections"), self.value("tp_tcp_connections_total")), (1, 3))
        self.assertEqual(self.samples()["tp_tcp_connections_total"][0].labels, {})

    def test_resources(self) -> None:
        """By their condition; before they are known, nothing is told of them."""
        self.world.resources = [resource("a"), resource("b"), rejected("c")]
        self.assertEqual(self.value("tp_destination_crs", Available="False"), 3)
        self.world.settle()
        values = {sample.labels["Available"]: sample.value for sample in self.samples()["tp_destination_crs"]}
        self.assertEqual(values, {"True": 2, "False": 1})
        self.known = False
        self.assertNotIn("tp_destination_crs", self.samples())

    def test_processor(self) -> None:
        """The use since it was told last; a second scraper soon after gets the same."""
        self.assertEqual(self.value("tp_cpu_percent"), 0)
        self.cpu = 2.5
        self.clock.advance(2 * SPAN_SECONDS)
        self.assertEqual(self.value("tp_cpu_percent"), 25)
        self.cpu = 5
        self.clock.advance(1)
        self.assertEqual(self.value("tp_cpu_percent"), 25)
        self.clock.advance(SPAN_SECONDS)
        self.assertAlmostEqual(self.value("tp_cpu_percent"), 100 * 2.5 / (SPAN_SECONDS + 1))

    def test_memory(self) -> None:
        """What the kernel says; where it says nothing, neither do we."""
        memory = self.value("tp_memory_bytes")
        assert memory is not None
        self.assertGreater(memory, 10_000_000)
        self.assertLess(memory, 10_000_000_000)
        self.patch(usage, "MEMORY", Path(self.mktemp()))
        self.assertIsNone(self.value("tp_memory_bytes"))


class Listeners(MetricsTestCase):
    """What is told of each listener, with its destination and tenant."""

    def setUp(self) -> None:
        super().setUp()
        self.world.resources = [resource("mail", "acme", destination="box")]
        self.world.settle()
        (key,) = self.world.listening
        self.tally = self.tallies.of(key)
        self.labels = {"listener": "shop/mail-acme", "destination": "box", "tenant": "acme"}

    def told(self, name: str, **labels: str) -> float | None:
        return self.value(name, **self.labels, **labels)

    def test_connections(self) -> None:
        """How many there were, and how many are open."""
        one = Carried((1, 2))
        self.tally.began(one)
        self.tally.began(Carried((3, 4)))
        self.tally.ended(one)
        self.assertEqual((self.told("tproxy_connections_total"), self.told("tproxy_open_connections")), (2, 1))

    def test_bytes(self) -> None:
        """Each way, of sessions that go on, too."""
        session = Carried((5, 70))
        self.tally.began(session)
        for _ in range(2):
            self.assertEqual((self.told("tproxy_received_bytes_total"), self.told("tproxy_sent_bytes_total")), (5, 70))
            self.tally.ended(session)
            self.tally.live.clear()

    def test_refusals(self) -> None:
        """By stage and reason, which are words of ours."""
        self.assertNotIn("tproxy_refusals_total", self.samples())
        for _ in range(2):
            self.tally.refused(Refusal(Stage.TLS, Reason.CERTIFICATE_EXPIRED, "secret-canary"))
        self.tally.refused(Refusal(Stage.LOGIN, Reason.TIMED_OUT, "secret-canary"))
        self.assertEqual(self.told("tproxy_refusals_total", stage="tls", reason="certificate-expired"), 2)
        self.assertEqual(self.told("tproxy_refusals_total", stage="login", reason="timed-out"), 1)
        self.assertNotIn(b"canary", get(self.page_now()).body)

    def test_logins(self) -> None:
        """A histogram, whose buckets each hold those before them."""
        for seconds in (0.04, 0.2, 31.0):
            self.tally.logged_in(seconds)
        buckets = {sample.labels["le"]: sample.value for sample in self.samples()["tproxy_login_seconds_bucket"]}
        self.assertEqual(list(map(float, buckets)), [*BUCKETS, float("inf")])
        self.assertEqual((buckets["0.05"], buckets["0.1"], buckets["0.25"], buckets["30.0"]), (1, 1, 2, 2))
        self.assertEqual((buckets["+Inf"], self.told("tproxy_login_seconds_count")), (3, 3))
        self.assertAlmostEqual(self.told("tproxy_login_seconds_sum"), 31.24)

    def test_resolutions(self) -> None:
        """Those that were there already, and those that were fetched."""
        self.tally.resolved[:] = [2, 5]
        self.assertEqual(self.told("tproxy_resolutions_total", cached="false"), 2)
        self.assertEqual(self.told("tproxy_resolutions_total", cached="true"), 5)

    def test_token_age(self) -> None:
        """Where there is a token."""
        self.assertNotIn("tproxy_token_age_seconds", self.samples())
        (there,) = self.world.listening.values()
        self.ages[there.binding.request] = 12.5
        self.assertEqual(self.told("tproxy_token_age_seconds"), 12.5)

    def test_rebound(self) -> None:
        """A listener that stands for another destination is counted on under that name."""
        self.tally.began(Carried())
        self.world.resources = [resource("mail", "acme", destination="other")]
        self.world.settle()
        (sample,) = self.samples()["tproxy_connections_total"]
        self.assertEqual((sample.labels, sample.value), ({**self.labels, "destination": "other"}, 1))

    def page_now(self) -> MetricsPage:
        """The page, for a port that has a clock of its own."""
        return MetricsPage(self.measures, Immediately())


class Immediately(Clock):
    """A clock on which later is now."""

    def callLater(self, when, what, *a, **kw):
        call = super().callLater(when, what, *a, **kw)
        self.advance(0)
        return call


class Reconciler(MetricsTestCase):
    """What is told of the reconciler."""

    def test_passes(self) -> None:
        """Passes, their time, and failures."""
        names = ("tproxy_reconcile_seconds_count", "tproxy_reconcile_seconds_sum", "tproxy_reconcile_failures_total")
        self.assertEqual([self.value(name) for name in names], [3, 0.25, 1])
        self.work.passes, self.work.seconds, self.work.failures = 5, 1.5, 2
        self.assertEqual([self.value(name) for name in names], [5, 1.5, 2])


class Limited(MetricsTestCase):
    """What runs out, and how much of it there is."""

    def test_descriptors(self) -> None:
        """Each open file counts, however the kernel tells them; where it says nothing, neither do we."""
        (limit, _) = resources.getrlimit(resources.RLIMIT_NOFILE)
        self.assertEqual(self.value("process_max_fds"), limit)
        before = self.value("process_open_fds")
        with Path("/dev/null").open():
            self.assertEqual(self.value("process_open_fds"), before + 1)
        older = Path("/proc/self/task")  # a folder whose size was never told, as that of the files before Linux 6.2
        self.assertEqual(older.stat().st_size, 0)
        self.patch(usage, "DESCRIPTORS", older)
        self.assertEqual(self.value("process_open_fds"), len(list(older.iterdir())) - 1)
        self.patch(usage, "DESCRIPTORS", Path(self.mktemp()))
        self.assertIsNone(self.value("process_open_fds"))

    def test_memory(self) -> None:
        """What the container may have; nothing where it is not limited, or there is none."""
        limit = Path(self.mktemp())
        self.patch(usage, "MEMORY_LIMIT", limit)
        self.assertIsNone(self.value("tproxy_memory_limit_bytes"))
        limit.write_text("max\n")
        self.assertIsNone(self.value("tproxy_memory_limit_bytes"))
        limit.write_text("1073741824\n")
        self.assertEqual(self.value("tproxy_memory_limit_bytes"), 1 << 30)

    def test_listeners(self) -> None:
        """Those that are somebody's; how many there may be is said in a cluster."""
        self.open("a", "b")
        binding = spare(10005)
        self.world.listening[binding.key] = Listening(binding, 10005)
        self.assertEqual(self.value("tproxy_listeners"), 2)
        self.assertEqual(self.value("tproxy_listener_connections_limit"), 7)
        self.assertEqual(self.value("tproxy_connections_limit"), 2000)
        self.assertIsNone(self.value("tproxy_listeners_limit"))
        self.objects = Objects(Installation("tproxy"))
        self.assertEqual(self.value("tproxy_listeners_limit"), 40)


class Installed(MetricsTestCase):
    """What is told of an installation in a cluster."""

    def test_ready(self) -> None:
        """What the page of that name says."""
        for ready in (True, False):
            self.ready = ready
            self.assertEqual(self.value("tproxy_ready"), ready)

    def test_leader(self) -> None:
        """Whether it is this one; nobody leads where there is no cluster, or it is not known yet."""
        self.assertIsNone(self.value("tproxy_leader"))
        for leading in (True, False):
            self.objects = Objects(Installation("tproxy"), leading=leading)
            self.assertEqual(self.value("tproxy_leader"), leading)
        self.known = False
        self.assertIsNone(self.value("tproxy_leader"))

    def test_spares(self) -> None:
        """For each port in use, 993 always; none of them rests, and nothing is said where there are to be none."""
        there = (
            Port(10000, 143, {}, key("mail"), "uid"),
            Port(10001, 143, {}),
            Port(10002, 143, {}, released=5.0),
            Port(10003, 1993, {}),
        )
        self.objects = Objects(Installation("tproxy"), ports={port.port: port for port in there})
        spares = {sample.labels["port"]: sample.value for sample in self.samples()["tproxy_spares"]}
        self.assertEqual(spares, {"143": 1, "993": 0})
        self.measures = evolve(self.measures, spares=0)
        self.assertNotIn("tproxy_spares", self.samples())


class Bounds(MetricsTestCase):
    """How many series there are."""

    def listeners(self) -> set[str]:
        return {sample.labels["listener"] for sample in self.samples()["tproxy_connections_total"]}

    def test_gone(self) -> None:
        """The series of a listener that is gone are gone; another one of that name begins anew."""
        self.open("a", "b")
        self.kept["a"].began(Carried())
        self.assertEqual(self.listeners(), {"shop/a", "shop/b"})
        self.open("b")
        self.assertEqual(self.listeners(), {"shop/b"})
        self.open("a", "b")
        self.assertEqual(self.value("tproxy_connections_total", listener="shop/a"), 0)

    def test_still_draining(self) -> None:
        """A session that outlives its listener brings no series back."""
        self.open("a")
        draining = self.kept["a"]
        draining.began(Carried())
        self.world.resources = []
        self.world.settle()
        self.assertNotIn("tproxy_connections_total", self.samples())
        self.assertEqual(self.value("tp_open_tcp_connections"), 1)

    def test_others(self) -> None:
        """Beyond a number listeners are counted together, and those before them are not touched."""
        self.open(*"abcde")
        self.assertEqual(self.listeners(), {"shop/a", "shop/b", "shop/c"})
        for name in "abcde":
            self.kept[name].began(Carried((1, 0)))
        self.assertEqual(self.listeners(), {"shop/a", "shop/b", "shop/c", "(others)"})
        labels = dict.fromkeys(("listener", "destination", "tenant"), "(others)")
        self.assertEqual(self.value("tproxy_connections_total", **labels), 2)
        self.assertEqual(self.value("tproxy_received_bytes_total", **labels), 2)
        self.open("e")
        self.assertEqual(self.value("tproxy_connections_total", **labels), 2, "a counter never goes back")

    def test_no_created_series(self) -> None:
        """Nothing is told twice: neither when a counter was made, nor examples."""
        self.open("a")
        self.assertFalse([name for name in self.samples() if name.endswith("_created")])

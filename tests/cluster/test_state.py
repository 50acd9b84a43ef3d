"""The state file of a local installation: whose each port is, and what resources are told."""

from __future__ import annotations

import json
import socket

from tests.cluster.folders import LocalTestCase, resource
from tests.logs import logged
from tproxy.cluster import folder, local
from tproxy.cluster.local import LocalCluster, read_state
from tproxy.cluster.state import hold
from tproxy.config import ConfigError
from tproxy.model import ListenerKey, Reason, RefusedError
from tproxy.operator.manifests import ListenerStatus, Status
from tproxy.operator.plan import Claim, Record, Release, SetStatus

MAIL, OTHER = ListenerKey("shop", "mail"), ListenerKey("shop", "other")


class States(LocalTestCase):
    """A cluster writes and reads the file."""

    def setUp(self):
        super().setUp()
        self.write("a.yaml", resource("mail"), resource("other"))

    def perform(self, cluster, *actions):
        """Actions of one turn."""
        done = [cluster.perform(action) for action in actions]
        for each in done:
            self.assertNoResult(each)
        self.clock.advance(0)
        for each in done:
            self.successResultOf(each)

    def records(self, cluster):
        return {record.key: record for record in cluster.observe().records}

    def status(self, key=MAIL, port=993, available=True):
        row = ListenerStatus(key, "127.0.0.1", port, available, "ConfigurationSuccessful", "")
        return SetStatus((key.namespace, key.name), Status(available, "ConfigurationSuccessful", "", (row,)))

    def test_claim(self):
        """A claim is known at once and written by the time that it is done."""
        cluster = self.cluster()
        done = cluster.perform(Claim(MAIL, 993, 993))
        self.assertEqual(self.records(cluster), {MAIL: Record(MAIL, 993, 993)})
        self.assertFalse(self.state.exists())
        self.clock.advance(0)
        self.successResultOf(done)
        self.assertEqual(
            json.loads(self.state.read_text())["ports"],
            [
                {
                    "namespace": "shop",
                    "name": "mail",
                    "tenant": "",
                    "port": 993,
                    "asked": 993,
                    "active": True,
                    "reserved": [],
                }
            ],
        )

    def test_restart(self):
        """Records outlive the process, with all ports that a key ever had, in use or not."""
        cluster = self.cluster()
        self.perform(cluster, Claim(MAIL, 993), Claim(OTHER, 10000))
        self.perform(cluster, Claim(MAIL, 10001), Release(OTHER))
        self.perform(cluster, Claim(MAIL, 993))
        cluster.stopService()
        self.assertEqual(
            self.records(self.cluster()),
            {MAIL: Record(MAIL, 993, reserved=(10001,)), OTHER: Record(OTHER, 10000, active=False)},
        )

    def test_port_of_another(self):
        """A port that is another key's is refused, whatever the planner thinks."""
        cluster = self.cluster()
        self.perform(cluster, Claim(OTHER, 993))
        self.perform(cluster, Claim(OTHER, 10000), Release(OTHER))
        refused = self.failureResultOf(cluster.perform(Claim(MAIL, 993)), RefusedError).value.refusal
        self.assertEqual(refused.reason, Reason.PORT_NOT_AVAILABLE)
        self.assertEqual(set(self.records(cluster)), {OTHER})

    def test_busy_port(self):
        """A port that cannot be bound is not recorded."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            cluster = LocalCluster(self.config, self.clock)
            claim = Claim(MAIL, taken.getsockname()[1])
            refused = self.failureResultOf(cluster.perform(claim), RefusedError).value.refusal
            self.assertEqual(refused.reason, Reason.PORT_NOT_AVAILABLE)
        done = cluster.perform(claim)
        self.clock.advance(0)
        self.successResultOf(done)

    def test_statuses(self):
        """What resources are told can be read from the file, in the order of the keys."""
        cluster = self.cluster()
        self.perform(cluster, self.status(OTHER, 10000), self.status())
        self.assertEqual(
            [(row.key, row.port, row.available) for row in read_state(self.state)],
            [(MAIL, 993, True), (OTHER, 10000, True)],
        )
        self.assertEqual(set(cluster.observe().statuses), {("shop", "mail"), ("shop", "other")})

    def test_gone(self):
        """A resource that is gone is forgotten; that its port stays its own can be read from the file."""
        cluster = self.cluster()
        self.perform(cluster, Claim(MAIL, 993), Claim(OTHER, 10000), self.status(), self.status(OTHER, 10000))
        self.write("a.yaml", resource("mail"))
        self.wait()
        self.assertEqual([row.key for row in read_state(self.state)], [MAIL])
        self.perform(cluster, Release(OTHER))
        _, row = read_state(self.state)
        self.assertEqual((row.key, row.port, row.available, row.reason), (OTHER, 10000, False, "Released"))

    def test_stopped(self):
        """After the end nothing is said to be available; after the next start nothing is known of before."""
        cluster = self.cluster()
        self.perform(cluster, Claim(MAIL, 993), self.status(), self.status(OTHER, 0, available=False))
        cluster.stopService()
        first, second = read_state(self.state)
        self.assertEqual((first.port, first.available, first.message), (993, False, "tproxy is not running"))
        self.assertEqual(second.reason, "ConfigurationSuccessful")
        self.assertEqual(self.cluster().observe().statuses, {})

    def test_stopped_before_writing(self):
        """What was claimed in the last moment is written."""
        cluster = self.cluster()
        done = cluster.perform(Claim(MAIL, 993))
        self.write("b.yaml", resource("b"))
        self.clock.advance(0)
        late = cluster.perform(Claim(OTHER, 994))
        self.clock.pump([0.5, 0.5])
        cluster.stopService()
        self.successResultOf(done)
        self.successResultOf(late)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unwritable(self):
        """A claim that cannot be written is none: it fails, and the port is free again."""
        cluster = self.cluster()
        self.perform(cluster, Claim(OTHER, 993))
        (self.base / ".state.json.new").mkdir()
        done = cluster.perform(Claim(MAIL, 10000))
        with logged(folder.log, local.log) as logs:
            self.clock.advance(0)
        refused = self.failureResultOf(done, RefusedError).value.refusal
        self.assertEqual(refused.reason, Reason.INTERNAL_ERROR)
        self.assertIn(str(self.state), refused.message)
        self.assertEqual([event["event"] for event in logs], ["state.unwritable"])
        self.assertEqual(set(self.records(cluster)), {OTHER})
        (self.base / ".state.json.new").rmdir()
        self.perform(cluster, Claim(MAIL, 10000))

    def test_held(self):
        """Who keeps the file keeps it alone, to the end of the process; where that cannot be had, it is said."""
        hold(self.state)
        error = self.assertRaises(ConfigError, hold, self.state)
        self.assertRegex(str(error), r"/state\.json: another tproxy ")
        lock = self.base / ".other.json.lock"
        lock.mkdir()
        error = self.assertRaises(ConfigError, hold, self.base / "other.json")
        self.assertEqual(str(error), f"{lock}: the file cannot be locked: Is a directory")

    def test_absent(self):
        """Without a file nothing was ever given."""
        self.assertEqual(read_state(self.state), ())
        self.assertEqual(self.cluster().observe().records, ())

    def test_damaged(self):
        """A file that cannot be read is a clear error: ports are not given anew."""
        record = {"namespace": "n", "name": "m", "tenant": "", "port": 1, "asked": 0, "active": True, "reserved": []}
        row = {"namespace": "n", "name": "m", "tenant": "", "address": "", "port": 0, "available": True}
        row |= {"reason": "", "message": ""}
        for content in (
            "",
            "{",
            "[]",
            "5",
            '"x"',
            "{}",
            "[" * 100_000,
            *(
                json.dumps({"listeners": listeners, "ports": ports})
                for listeners, ports in (
                    (5, []),
                    ([], 5),
                    ([5], []),
                    ([{}], []),
                    ([], [{**record, "port": 0}]),
                    ([], [{**record, "port": True}]),
                    ([], [{**record, "port": 70000}]),
                    ([], [{**record, "asked": "x"}]),
                    ([], [{**record, "active": 1}]),
                    ([], [{**record, "reserved": 5}]),
                    ([], [{**record, "reserved": [0]}]),
                    ([], [{**record, "reserved": [1]}]),
                    ([], [{**record, "name": None}]),
                    ([], [record, record]),
                    ([], [record, {**record, "name": "o"}]),
                    ([], [record, {**record, "name": "o", "port": 2, "reserved": [1]}]),
                    ([{**row, "message": 5}], []),
                )
            ),
        ):
            self.state.write_text(content)
            for read in (lambda: self.cluster(start=False), lambda: read_state(self.state)):
                error = self.assertRaises(ConfigError, read)
                self.assertIn(f"{self.state}: ", str(error))
            self.assertEqual(self.state.read_text(), content)
        self.state.unlink()
        self.state.mkdir()
        self.assertRaises(ConfigError, self.cluster, start=False)

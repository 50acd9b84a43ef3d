"""A folder as a cluster: real files, a clock that we set."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.logs import logged
from tproxy.cluster import folder, local
from tproxy.cluster.local import LocalCluster, read_state
from tproxy.cluster.state import hold
from tproxy.config import Config, ConfigError, Local
from tproxy.instances import DirectoryInstance
from tproxy.interfaces import ICluster
from tproxy.model import ListenerKey, Reason, RefusedError
from tproxy.operator.manifests import ListenerStatus, Rejected, Status
from tproxy.operator.plan import Claim, Record, Release, SetStatus

RESOURCE = """\
apiVersion: destination.connectivity.api.sap/v1
kind: Destination
metadata: {name: %s, namespace: shop}
spec: {destinationRef: {name: %s}}
"""
MAIL, OTHER = ListenerKey("shop", "mail"), ListenerKey("shop", "other")


def resource(name: str, destination: str = "mailbox") -> str:
    return RESOURCE % (name, destination)


class LocalTestCase(SynchronousTestCase):
    """A folder, a state file beside it, and a clock."""

    def setUp(self):
        self.base = Path(self.mktemp()).absolute()
        self.folder = self.base / "resources"
        self.folder.mkdir(parents=True)
        self.state = self.base / "state.json"
        self.config = Config(
            "dedicated", (DirectoryInstance("local", self.base),), "local", Local(self.folder, self.state, "127.0.0.1")
        )
        self.clock = Clock()
        self.busy: dict[int, int] = {}
        self.changes = 0

    def bind(self, address: str, port: int) -> None:
        if port in self.busy:
            raise OSError(self.busy[port], "x")

    def cluster(self, start: bool = True) -> LocalCluster:
        cluster = LocalCluster(self.config, self.clock, self.bind)
        cluster.watch(self.changed)
        if start:
            cluster.startService()
            self.addCleanup(lambda: cluster.running and cluster.stopService())
        return cluster

    def changed(self) -> None:
        self.changes += 1

    def write(self, name: str, *documents: str) -> Path:
        path = self.folder / name
        path.write_text("---\n".join(documents))
        return path

    def wait(self, seconds: float = 2.0) -> list[dict]:
        """Let time pass, and give what was logged."""
        with logged(folder.log, local.log) as logs:
            self.clock.pump([0.25] * int(seconds * 4))
        return logs

    def destinations(self, cluster: LocalCluster) -> dict[str, str]:
        return {
            each.name: "rejected" if isinstance(each, Rejected) else each.bindings[0].request.name
            for each in cluster.observe().resources
        }


class Folders(LocalTestCase):
    def test_interface(self):
        """It is a cluster."""
        verifyObject(ICluster, self.cluster(start=False))

    def test_files(self):
        """All documents of all YAML files are read at the start; other files are nobody's."""
        self.write("a.yaml", resource("a"), resource("b"), "# nothing\n")
        self.write("c.yml", resource("c"))
        self.write("d.json", resource("d"))
        self.write(".e.yaml", resource("e"))
        (self.folder / "f.yaml").mkdir()
        (self.folder / "g.yaml").symlink_to("nowhere")
        cluster = self.cluster()
        self.assertEqual(set(self.destinations(cluster)), {"a", "b", "c"})
        self.assertEqual(cluster.observe().address, "127.0.0.1")
        self.assertEqual(self.changes, 1)

    def test_unknown_is_not_empty(self):
        """Before the folder was read, nothing is known; an empty folder is known to be empty."""
        cluster = self.cluster(start=False)
        self.assertIsNone(cluster.observe())
        cluster.startService()
        self.assertEqual(cluster.observe().resources, ())
        self.assertEqual(self.changes, 1)
        cluster.stopService()

    def test_changes(self):
        """What is added, changed or removed takes effect within 2 s; what stays the same is left alone."""
        self.write("a.yaml", resource("a"))
        cluster = self.cluster()
        self.write("b.yaml", resource("b"))
        self.wait()
        self.assertEqual(self.destinations(cluster), {"a": "mailbox", "b": "mailbox"})
        self.write("b.yaml", resource("b", "elsewhere"))
        self.wait()
        self.assertEqual(self.destinations(cluster), {"a": "mailbox", "b": "elsewhere"})
        (self.folder / "a.yaml").unlink()
        self.wait()
        self.assertEqual(self.destinations(cluster), {"b": "elsewhere"})
        self.assertEqual(self.changes, 4)
        self.wait(10)
        self.assertEqual(self.changes, 4)

    def test_half_written(self):
        """A file that is gone or changing for a moment is not believed at once."""
        path = self.write("a.yaml", resource("a"))
        cluster = self.cluster()
        moment = self.folder / "a.tmp"
        path.rename(moment)
        self.clock.advance(1)
        self.assertEqual(self.destinations(cluster), {"a": "mailbox"})
        moment.rename(path)
        self.wait()
        self.write("a.yaml", "")
        self.clock.advance(1)
        self.write("a.yaml", resource("a", "elsewhere"))
        self.clock.advance(0.25)
        self.assertEqual(self.destinations(cluster), {"a": "mailbox"})
        self.wait(0.5)
        self.assertEqual(self.destinations(cluster), {"a": "elsewhere"})
        self.assertEqual(self.changes, 2)

    def test_broken_file(self):
        """A broken file keeps what it said before, the log names file and line, once; the others are followed."""
        path = self.write("a.yaml", resource("a"))
        cluster = self.cluster()
        for content, line, words in (
            ("a: b\nc: [\n", 3, "well-formed"),
            ("a: 'b\n", 2, "well-formed"),
            ("a: b\n- c\n", 2, "well-formed"),
            ("a: *hunter2\n", 1, "well-formed"),
            ("a: !!python/object:os.system {}\n", 1, "well-formed"),
            ("a: 1\nb:\n  c: 1\n  c: 2\n", 4, "given before"),
            ("a: 1\n---\nb: 2024-99-99\n", 3, "cannot be read"),
            ('---\n---\nb: !!int ""\n', 3, "cannot be read"),
            ("a: !!bool maybe\n", 1, "cannot be read"),
            ("a: !!timestamp never\n", 1, "cannot be read"),
            ('a: "\\UFFFFFFFF"\n', 1, ""),
            ("%YAML 99999999999999999999.1\n---\na: 1\n", 1, ""),
            ("a: 1\nb: " + "[" * 60 + "]" * 60, 2, "nested deeper"),
            ("a: " + "[" * 500_000, 1, ""),
            ("a: 1\nb: \x01\n", 2, "not allowed"),
            (b"a: 1\nb: \xff\n", 2, "UTF-8"),
            ("# " + "x" * folder.FILE_LIMIT, 1, "longer than"),
        ):
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            events = self.wait(4)
            self.assertEqual(
                [(event["file"], event["line"]) for event in events], [(str(path), line)], repr(content[:40])
            )
            self.assertIn(words, events[0]["message"])
            self.assertNotIn("hunter2", str(events))
            self.assertEqual(self.destinations(cluster), {"a": "mailbox"})
        self.write("b.yaml", resource("b"))
        self.wait()
        self.assertEqual(set(self.destinations(cluster)), {"a", "b"})
        self.write("a.yaml", resource("a", "elsewhere"))
        self.wait()
        self.assertEqual(self.destinations(cluster)["a"], "elsewhere")

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=60) | st.text("ab:-[]{}&*!%@`\"'|>? \n\t#0,.~=", max_size=40).map(str.encode))
    def test_any_bytes(self, octets):
        """Whatever a file holds, it is read or broken."""
        path = self.base / "any.yaml"
        path.write_bytes(octets)
        try:
            for manifest in folder.read(path):
                self.assertGreaterEqual(manifest.line, 1)
        except folder.BrokenFileError as error:
            self.assertGreaterEqual(error.line, 1)

    def test_failing_watcher(self):
        """An error of the program at a change is logged, and the next change is followed."""
        cluster = self.cluster()
        cluster.watch(lambda: 1 / 0)
        self.write("a.yaml", resource("a"))
        (event,) = self.wait()
        self.assertEqual((event["event"], event["reason"]), ("resources.failed", "ZeroDivisionError"))
        self.write("b.yaml", resource("b"))
        self.wait()
        self.assertEqual(set(self.destinations(cluster)), {"a", "b"})

    def test_recursive_yaml(self):
        """Aliases that go in circles, or multiply, cost nothing."""
        bomb = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
        self.write(
            "a.yaml", resource("a"), "kind: &k\n- *k\n", f"{bomb}kind: *a29\n", "&x {kind: Destination, y: *x}\n"
        )
        cluster = self.cluster()
        self.assertEqual(self.destinations(cluster), {"a": "mailbox"})

    def test_no_file_any_more(self):
        """What is no regular file is not opened: it might never end, or never begin."""
        path = self.write("a.yaml", resource("a"))
        cluster = self.cluster()
        path.unlink()
        os.mkfifo(path)
        self.wait()
        self.assertEqual(self.destinations(cluster), {})

    def test_unreadable_file(self):
        """A file that cannot be opened is broken at its first line."""
        error = self.assertRaises(folder.BrokenFileError, lambda: list(folder.read(self.folder / "none.yaml")))
        self.assertEqual((error.line, "No such file" in error.message), (1, True))

    def test_folder_gone(self):
        """A folder that is gone is an error, logged once, that ends nothing; when it is back, it is followed again."""
        self.write("a.yaml", resource("a"))
        cluster = self.cluster()
        self.folder.rename(self.base / "away")
        events = self.wait(10)
        self.assertEqual(
            [(event["event"], event["file"]) for event in events], [("resources.unreadable", str(self.folder))]
        )
        self.assertEqual(self.destinations(cluster), {"a": "mailbox"})
        (self.base / "away").rename(self.folder)
        self.write("b.yaml", resource("b"))
        self.wait()
        self.assertEqual(set(self.destinations(cluster)), {"a", "b"})

    def test_folder_not_there(self):
        """Without a folder at the start nothing is known, until it is there."""
        self.folder.rmdir()
        cluster = self.cluster()
        self.wait()
        self.assertIsNone(cluster.observe())
        self.folder.mkdir()
        self.wait()
        self.assertEqual(cluster.observe().resources, ())


class Resources(LocalTestCase):
    def test_complaints(self):
        """What is wrong in a document, or none of ours, is logged with file and line, once."""
        path = self.write(
            "a.yaml", resource("a"), "kind: ConfigMap\nmetadata: {name: x}\n", resource("UPPER"), resource("b", "''")
        )
        with logged(folder.log, local.log) as logs:
            cluster = self.cluster()
        said = [(event["file"], event["line"], event["message"]) for event in logs]
        self.assertEqual([each[:2] for each in said], [(str(path), line) for line in (6, 9, 14)])
        for (_, _, message), words in zip(said, ("ignored", "metadata.name", "spec.destinationRef.name"), strict=True):
            self.assertIn(words, message)
        self.assertEqual(self.destinations(cluster), {"a": "mailbox", "b": "rejected"})
        self.write("z.yaml", resource("z"))
        self.assertEqual(self.wait(), [])

    def test_default_namespace(self):
        """A resource that names no namespace is in `default`."""
        self.write("a.yaml", resource("a").replace(", namespace: shop", ""))
        self.assertEqual(self.cluster().observe().resources[0].namespace, "default")

    def test_duplicate(self):
        """A resource that is in two files: the one that serves goes on, and the other is told of."""
        self.write("b.yaml", resource("mail", "first"))
        cluster = self.cluster()
        path = self.write("a.yaml", "# a comment\n---\n" + resource("mail", "second"))
        (event,) = self.wait()
        self.assertEqual((event["file"], event["line"]), (str(path), 3))
        self.assertIn("a.yaml:3 repeats the Destination shop/mail of b.yaml:1", event["message"])
        (mail,) = cluster.observe().resources
        self.assertEqual(mail.bindings[0].request.name, "first")
        self.assertEqual([refusal.reason for _, refusal in mail.refused], [Reason.DUPLICATE_RESOURCE])
        (self.folder / "b.yaml").unlink()
        self.wait()
        (mail,) = cluster.observe().resources
        self.assertEqual((mail.bindings[0].request.name, mail.refused), ("second", ()))

    def test_duplicate_at_the_start(self):
        """Of two that are there from the start, the first in the order of the files serves; rejected or not."""
        self.write("b.yaml", resource("mail", "second"), resource("other", "second"))
        self.write("a.yaml", resource("mail", "first"), resource("other", "''"))
        self.assertEqual(self.destinations(self.cluster()), {"mail": "first", "other": "rejected"})


class States(LocalTestCase):
    """The state file: whose each port is."""

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

"""Events."""

from __future__ import annotations

from itertools import count

from tests.apiserver.server import Say
from tests.cluster.api.harness import NOW, StandInTestCase
from tests.logs import logged
from tproxy.cluster.api import recorder
from tproxy.cluster.api.objects import Object, Query
from tproxy.cluster.api.recorder import (
    EVENTS,
    LIMIT,
    NAME_LIMIT,
    NOTE_LIMIT,
    OBJECT_LIMIT,
    Note,
    Recorder,
    Severity,
    event,
)

NOTE = Note("Unavailable", "Withdrew", "the destination is gone", Severity.WARNING)


class RecorderTests(StandInTestCase):
    """At the stand-in."""

    def setUp(self) -> None:
        super().setUp()
        numbers = count()
        self.about = self.given()
        self.recorder = Recorder(
            self.client, "example.com/writer", "pod-0", self.clock, lambda: NOW, lambda: f"{next(numbers):016x}"
        )

    def record(self, about: Object | None = None) -> bool:
        written: bool = self.successResultOf(self.recorder.record(about or self.about, NOTE))
        return written

    def test_record(self) -> None:
        """What is written, and where."""
        self.assertTrue(self.record())
        (made,) = self.successResultOf(self.client.list(Query(EVENTS))).objects
        self.assertEqual((made["metadata"]["namespace"], made["metadata"]["name"]), ("default", "one.0000000000000000"))
        about = self.about["metadata"]
        self.assertEqual(
            {name: value for name, value in made.items() if name not in ("metadata", "apiVersion", "kind")},
            {
                "eventTime": "2027-01-15T08:00:00.000000Z",
                "reportingController": "example.com/writer",
                "reportingInstance": "pod-0",
                "type": "Warning",
                "reason": "Unavailable",
                "action": "Withdrew",
                "note": "the destination is gone",
                "regarding": {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "namespace": "default",
                    "name": "one",
                    "uid": about["uid"],
                    "resourceVersion": about["resourceVersion"],
                },
            },
        )

    def test_bounds(self) -> None:
        """So many a minute about one object, so many in all; then there is room again."""
        self.assertEqual([self.record() for _ in range(OBJECT_LIMIT + 2)], [True] * OBJECT_LIMIT + [False] * 2)
        others = [self.given(f"n{number}") for number in range(LIMIT - OBJECT_LIMIT + 1)]
        written = [self.record(each) for each in others]
        self.assertEqual(written, [True] * (LIMIT - OBJECT_LIMIT) + [False])
        self.clock.advance(59.9)
        self.assertFalse(self.record())
        self.clock.advance(0.1)
        self.assertTrue(self.record())

    def test_unwritten(self) -> None:
        """An Event that cannot be written is in the log, and nothing else."""
        self.server.faults["create", "events"].append(Say(403, b"{}"))
        with logged(recorder.log) as logs:
            self.assertFalse(self.record())
        (said,) = logs
        self.assertEqual((said["event"], said["key"]), ("kubernetes.unrecorded", "default/one"))
        self.assertEqual(said["reason"], "Forbidden")

    def test_names(self) -> None:
        """A long name is cut where what is left still is one; an object without a namespace has its Events in one."""
        for name, stem in (("a" * NAME_LIMIT, "a" * 236), ("a" * 235 + "-.b", "a" * 235), ("a.b", "a.b")):
            thing = {**self.about, "metadata": {**self.about["metadata"], "name": name}}
            made = event(thing, NOTE, "c", "i", NOW, "0" * 16)["metadata"]["name"]
            self.assertEqual(made, f"{stem}.{'0' * 16}")
        metadata = {name: value for name, value in self.about["metadata"].items() if name != "namespace"}
        made = event({**self.about, "metadata": metadata}, NOTE, "c", "i", NOW, "0")
        self.assertEqual((made["metadata"]["namespace"], made["regarding"]["namespace"]), ("default", ""))

    def test_long(self) -> None:
        """What is too long is cut, between two characters, and says so."""
        for text, expected in (
            ("x" * NOTE_LIMIT, "x" * NOTE_LIMIT),
            ("x" * (NOTE_LIMIT + 1), "x" * (NOTE_LIMIT - 3) + "…"),
            ("ü" * NOTE_LIMIT, "ü" * 510 + "…"),
            ("\ud800", "?"),
        ):
            self.assertEqual(event(self.about, Note("R", "A", text), "c", "i", NOW, "0")["note"], expected)
        made = event(self.about, Note("r" * 200, "a" * 200, ""), "c" * 200, "i" * 200, NOW, "0")
        for name in ("reason", "action", "reportingController", "reportingInstance"):
            self.assertEqual(len(made[name]), 128)

"""What the status page is about to say: which listeners, in which order, and with which figures."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.operator import installations
from tests.operator.worlds import World, key, refusal, rejected, resource
from tests.ops.measured import Carried
from tproxy.model import Binding, DestinationRequest, Reason, Refusal, Stage, spare
from tproxy.operator.plan import Listening, Snapshot
from tproxy.ops.overview import (
    REFUSALS,
    ROWS,
    UNSAID,
    WORDS,
    Facts,
    Overview,
    Query,
    Replicas,
    asked,
    overview,
    spelled,
)
from tproxy.relay.refusals import Refused
from tproxy.relay.tally import Tallies

EXPIRED = Refusal(Stage.TLS, Reason.CERTIFICATE_EXPIRED, "it expired", "renew it")


def known(snapshot: Snapshot | None, **more: Any) -> Facts:
    """Facts of which a test cares for some."""
    usual: dict[str, Any] = {"listening": {}, "tallies": Tallies(), "refusals": ()}
    return Facts("1", 1e9, 50.0, 50.0, True, "info", "info", snapshot, **(usual | more))


def refused(name: str, destination: str = "mailbox", why: Refusal = EXPIRED) -> Refused:
    return Refused(Binding(key(name), DestinationRequest("local", destination)), why, 1.0)


class Asked(SynchronousTestCase):
    """What the query of a URL becomes."""

    def test_all(self) -> None:
        """Each of the three, and each first value alone."""
        arguments = {b"q": [b" acme ", b"x"], b"state": [b"unavailable"], b"from": [b"100"], b"other": [b"y"]}
        self.assertEqual(asked(arguments), Query("acme", "unavailable", 100))

    def test_nothing(self) -> None:
        """Everything is shown, from the start."""
        self.assertEqual(asked({}), Query())
        self.assertEqual(asked({b"q": [], b"state": [b""], b"from": [b""]}), Query())

    def test_nonsense(self) -> None:
        """What makes no sense is as good as nothing, and nothing is endless."""
        for start in (b"-1", b"x", b"1" * 5000, "\u0664".encode(), b"\xff"):
            self.assertEqual(asked({b"from": [start], b"state": [b"AVAILABLE"]}), Query())
        self.assertEqual(asked({b"q": [b"\xff"]}), Query("\ufffd"))
        self.assertEqual(asked({b"q": [b"x" * 10_000]}), Query("x" * WORDS))


class InFolder(SynchronousTestCase):
    """Without a cluster."""

    def setUp(self) -> None:
        self.world = World()

    def look(self, query: Query = Query(), **more: Any) -> Overview:  # noqa: B008
        return overview(known(self.world.observed().cluster, listening=self.world.listening, **more), query)

    def names(self, query: Query) -> list[str]:
        return [row.status.key.service for row in self.look(query).rows]

    def test_nothing_known(self) -> None:
        """Before the folder was read."""
        shown = overview(known(None), Query())
        self.assertEqual((shown.known, shown.rows, shown.listeners, shown.replicas), (False, (), 0, None))

    def test_rows(self) -> None:
        """Those in trouble first, with the reason and what to do; then the others with their ports."""
        lost = refusal(Reason.DESTINATION_NOT_FOUND, "there is none")
        self.world.resources = [
            resource("b", "acme", destination="box"),
            resource("c", destination="lost"),
            rejected("d"),
        ]
        self.world.described[DestinationRequest("local", "lost")] = evolve(lost, remedy="create it")
        self.world.settle()
        shown = self.look()
        self.assertEqual(
            [
                (str(row.status.key), row.destination, row.here, row.status.available, row.status.message)
                for row in shown.rows
            ],
            [
                ("shop/c", "lost", 0, False, "there is none: create it"),
                ("shop/d", "", 0, False, "spec is wrong"),
                ("shop/b-acme", "box", 993, True, ""),
            ],
        )
        self.assertEqual((shown.listeners, shown.available, shown.matching, shown.known), (3, 1, 3, True))

    def test_nothing_said_yet(self) -> None:
        """A resource that is new stands there with all its tenants, a wrong one once."""
        self.world.resources = [resource("a", "acme", "globex"), rejected("b")]
        rows = self.look().rows
        self.assertEqual([str(row.status.key) for row in rows], ["shop/a-acme", "shop/a-globex", "shop/b"])
        self.assertEqual({row.status.message for row in rows}, {UNSAID})

    def test_filter(self) -> None:
        """By name, namespace, tenant, destination and reason, whatever their case, and by state."""
        self.world.resources = [
            resource("mail", "acme", "globex"),
            resource("post", destination="Lost"),
            rejected("bad"),
        ]
        self.world.settle()
        for words, names in (
            ("ACME", ["mail-acme"]),
            ("mail-globex.shop", ["mail-globex"]),
            ("shop/post", ["post"]),
            ("lost", ["post"]),
            ("failedtoapply", ["bad"]),
            ("nobody", []),
        ):
            self.assertEqual(self.names(Query(words)), names, words)
        self.assertEqual(self.names(Query("", "unavailable")), ["bad"])
        self.assertEqual(self.names(Query("mail", "available")), ["mail-acme", "mail-globex"])
        self.assertEqual(self.names(Query("mail", "unavailable")), [])

    def test_pages(self) -> None:
        """So many rows at once, with the ways to those before and after; past the end the last one is shown."""
        self.world.resources = [resource(f"m{number:03}") for number in range(2 * ROWS + 1)]
        self.world.settle()
        first = self.look(Query("m"))
        self.assertEqual((len(first.rows), first.before, first.after), (ROWS, None, Query("m", "", ROWS)))
        second = self.look(first.after)
        self.assertEqual((second.rows[0].status.key.name, second.before), (f"m{ROWS}", Query("m", "", 0)))
        last = self.look(second.after)
        self.assertEqual((len(last.rows), last.after, last.before), (1, None, Query("m", "", ROWS)))
        self.assertEqual(self.look(Query("m", "", 9_999_999)).rows, last.rows)
        self.assertEqual(self.look(Query("m", "", 5)).before, Query("m", "", 0))

    def test_connections(self) -> None:
        """Those of listeners that are counted on their own."""
        self.world.resources = [resource("a"), resource("b")]
        self.world.settle()
        tallies = Tallies(1)
        tally = tallies.of(key("a"))
        one, other = Carried(), Carried()
        tally.began(one)
        tally.began(other)
        tally.ended(one)
        rows = self.look(tallies=tallies).rows
        self.assertEqual([(row.open, row.total) for row in rows], [(1, 2), (None, None)])

    def test_refusals(self) -> None:
        """Those that the query asks for, in their order, and not too many."""
        refusals = (refused("a"), refused("b", "acme"), refused("c", why=evolve(EXPIRED, reason=Reason.TIMED_OUT)))
        for words, names in (("", "abc"), ("acme", "b"), ("timed-out", "c"), ("shop/a", "a"), ("z", "")):
            found = self.look(Query(words), refusals=refusals).refusals
            self.assertEqual("".join(each.binding.key.name for each in found), names)
        self.assertEqual(len(self.look(refusals=refusals * REFUSALS).refusals), REFUSALS)


class InCluster(SynchronousTestCase):
    """Where the API server has the statuses."""

    def setUp(self) -> None:
        self.world = installations.World()
        self.world.apply("shop", installations.manifest("mail", "acme", "globex"))
        self.world.apply("a", installations.manifest("lost"))
        self.world.describe("lost", Refusal(Stage.RESOLVE, Reason.DESTINATION_NOT_FOUND, "there is none", "create it"))
        self.world.settle()

    def look(self, query: Query = Query(), leading: bool = True) -> Overview:  # noqa: B008
        (replica, *_) = self.world.replicas
        return overview(known(self.world.snapshot(leading), listening=replica.listening), query)

    def test_rows(self) -> None:
        """The names that workloads use, one for each tenant, with the port of this replica behind each."""
        shown = self.look()
        rows = {str(row.status.key): row for row in shown.rows}
        self.assertEqual(list(rows), ["a/lost", "shop/mail-acme", "shop/mail-globex"])
        acme, lost = rows["shop/mail-acme"], rows["a/lost"]
        self.assertEqual((acme.status.address, acme.status.port, acme.destination), ("mail-acme.shop", 993, "mail"))
        self.assertEqual(acme.here, self.world.replicas[0].listening[acme.status.key].port)
        self.assertEqual((lost.here, lost.status.message), (0, "there is none: create it"))
        self.assertEqual((shown.listeners, shown.available), (3, 2))

    def test_spares(self) -> None:
        """Ports that wait for somebody are counted, and are no rows."""
        self.assertEqual((self.look().spares, len(self.look().rows)), (2, 3))
        listening = {spare(port).key: Listening(spare(port), port) for port in range(7)}
        self.assertEqual(overview(known(None, listening=listening), Query()).spares, 7)

    def test_replicas(self) -> None:
        """How many there are, how many are ready, and who leads."""
        self.world.replicas.append(installations.Process("tproxy-2", "10.0.0.2", ready=False))
        for leading in (True, False):
            self.assertEqual(self.look(leading=leading).replicas, Replicas(2, 1, leading))


class Spelled(SynchronousTestCase):
    """Durations for people."""

    def test_units(self) -> None:
        """The largest unit that fits, and the next one where there is some of it."""
        for seconds, words in (
            (0, "0 s"),
            (59.9, "59 s"),
            (60, "1 min"),
            (61, "1 min 1 s"),
            (3600, "1 h"),
            (3661, "1 h 1 min"),
            (86_400 + 59, "1 d"),
            (90 * 86_400 + 7200, "90 d 2 h"),
        ):
            self.assertEqual(spelled(seconds), words)

"""An election at the stand-in."""

from __future__ import annotations

from twisted.application.service import IService
from zope.interface.verify import verifyObject

from tests.apiserver.server import Cut, Say, Silence
from tests.apiserver.storage import Status
from tests.cluster.api.harness import NOW, StandInTestCase, middle
from tests.logs import logged
from tproxy.cluster.api import election
from tproxy.cluster.api.election import Election
from tproxy.cluster.api.lease import LEASES

KEY = ("default", "leader")
READ, WRITE = ("get", "leases"), ("patch", "leases")
BUSY = Status(503, "ServiceUnavailable", "busy")


class ElectionTests(StandInTestCase):
    """One candidate, or two."""

    def candidate(self, me: str = "a") -> Election:
        self.told: list[str]
        made = Election(
            self.client,
            KEY,
            me,
            self.clock,
            lambda: NOW + self.clock.seconds(),
            lambda: self.told.append(f"{me} elected"),
            lambda: self.told.append(f"{me} lost"),
            middle,
        )
        verifyObject(IService, made)
        return made

    def setUp(self) -> None:
        super().setUp()
        self.told = []

    def spec(self) -> dict[str, object]:
        spec: dict[str, object] = self.server.storage.get(self.server.served(LEASES), KEY)["spec"]
        return spec

    def test_alone(self) -> None:
        """Elected at once; the lease is renewed every 2 s, and says by whom and when."""
        one = self.candidate()
        self.assertFalse(one.leading)
        one.startService()
        self.assertTrue(one.leading)
        self.assertEqual(
            self.spec(),
            {
                "holderIdentity": "a",
                "leaseDurationSeconds": 15,
                "leaseTransitions": 0,
                "acquireTime": "2027-01-15T08:00:00.000000Z",
                "renewTime": "2027-01-15T08:00:00.000000Z",
            },
        )
        self.pass_time(20)
        self.assertEqual(self.spec()["renewTime"], "2027-01-15T08:00:20.000000Z")
        self.assertEqual(self.spec()["acquireTime"], "2027-01-15T08:00:00.000000Z")
        self.assertEqual(self.verbs().count("patch"), 10)
        self.assertEqual(self.told, ["a elected"])
        self.successResultOf(one.stopService())
        self.assertEqual(self.told, ["a elected", "a lost"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_handed_over(self) -> None:
        """The one who leaves gives the lease back, and the other takes it at its next look."""
        one, two = self.candidate(), self.candidate("b")
        one.startService()
        two.startService()
        self.pass_time(30)
        self.assertEqual(self.told, ["a elected"])
        self.successResultOf(one.stopService())
        self.assertEqual(self.spec()["holderIdentity"], "")
        self.pass_time(2)
        self.assertEqual(self.told, ["a elected", "a lost", "b elected"])
        self.assertEqual((self.spec()["holderIdentity"], self.spec()["leaseTransitions"]), ("b", 1))
        self.successResultOf(two.stopService())

    def test_another_right(self) -> None:
        """Who may neither read nor write the lease hears of both, one after the other."""
        self.server.forbidden |= {READ, ("create", "leases")}
        with logged(election.log) as logs:
            self.candidate().startService()
            self.server.forbidden.discard(READ)
            self.pass_time(10)
        self.assertEqual(["get", "create"], [event["message"].split("cannot ")[1].split()[0] for event in logs])

    def test_outage(self) -> None:
        """Without a renewal we lead for 10 s and no longer; then it is anybody's, and may be ours again."""
        one = self.candidate()
        one.startService()
        with logged(election.log) as logs:
            self.server.faults[READ].extend([BUSY] * 8)
            self.pass_time(9.75)
            self.assertTrue(one.leading)
            self.pass_time(0.25)
            self.assertFalse(one.leading)
            self.assertEqual(self.told, ["a elected", "a lost"])
            self.pass_time(8)
        self.assertEqual(self.told, ["a elected", "a lost", "a elected"])
        said = [(event["event"], event.get("reason")) for event in logs]
        failed, lost, elected = ("election.failed", "ServiceUnavailable"), ("election.lost", None), None
        self.assertEqual(said, [failed, lost, ("election.elected", elected)])
        self.assertEqual(self.spec()["leaseTransitions"], 0)
        self.successResultOf(one.stopService())

    def test_stood_still(self) -> None:
        """A process that stood still does not lead until it has seen that the lease is still its own."""
        one = self.candidate()
        one.startService()
        self.clock.rightNow += 11
        self.assertFalse(one.leading)
        self.clock.advance(0)
        self.assertTrue(one.leading)
        self.clock.rightNow += 11
        self.server.change(LEASES, *KEY, spec={"holderIdentity": "somebody"})
        self.clock.advance(0)
        self.assertEqual(self.told, ["a elected", "a lost"])
        self.successResultOf(one.stopService())

    def test_silence(self) -> None:
        """A request that is not answered is given up after 5 s; what it did is found out."""
        one = self.candidate()
        one.startService()
        self.server.faults[WRITE].append(Silence(done=True))
        with logged(election.log) as logs:
            self.pass_time(9.5)
        self.assertEqual([event["reason"] for event in logs], ["TooSlow"])
        self.assertTrue(one.leading)
        self.assertEqual(self.told, ["a elected"])
        self.successResultOf(one.stopService())

    def test_conflict(self) -> None:
        """Somebody else wrote between our look and our renewal: that is looked at, and is no news."""
        one = self.candidate()
        one.startService()
        self.server.faults[WRITE].append(Status(409, "Conflict", "modified"))
        with logged(election.log) as logs:
            self.pass_time(4)
        self.assertEqual(logs, [])
        self.assertTrue(one.leading)
        self.server.change(LEASES, *KEY, spec={"holderIdentity": "somebody"})
        self.pass_time(2)
        self.assertEqual(self.told, ["a elected", "a lost"])
        self.successResultOf(one.stopService())
        self.assertEqual(self.spec()["holderIdentity"], "somebody")

    def test_leaves_in_the_middle(self) -> None:
        """A request that is under way is broken off; if it made us the holder, the lease is given back."""
        one = self.candidate()
        self.server.faults["create", "leases"].append(Silence(done=True))
        one.startService()
        self.assertEqual((self.spec()["holderIdentity"], one.leading), ("a", False))
        self.successResultOf(one.stopService())
        self.assertEqual((self.spec()["holderIdentity"], self.told), ("", []))

    def test_cannot_leave(self) -> None:
        """Where the lease cannot be given back, that takes a few seconds and no longer."""
        one = self.candidate()
        one.startService()
        self.server.faults[READ].extend([Cut()] * 3 + [Say(500)] * 100)
        left = one.stopService()
        self.pass_time(4.5)
        self.assertNoResult(left)
        self.pass_time(1)
        self.successResultOf(left)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_careless(self) -> None:
        """What follows an election may fail; the election goes on."""

        def fail() -> None:
            raise ValueError

        one = Election(self.client, KEY, "a", self.clock, lambda: NOW, fail, fail, middle)
        one.startService()
        self.pass_time(4)
        self.assertTrue(one.leading)
        self.successResultOf(one.stopService())
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)

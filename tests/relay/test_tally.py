"""What is counted, and for how long it is kept."""

from __future__ import annotations

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import turn
from tests.relay.sessions import BINDING, SessionTestCase
from tproxy.model import ListenerKey, Reason, Refusal, Stage
from tproxy.relay.tally import BUCKETS, Tallies, Tally

KEYS = [ListenerKey("shop", name) for name in "abc"]


@frozen(eq=False)
class Carried:
    """A session that carried some bytes."""

    carried: tuple[int, int]


class Tallied(SynchronousTestCase):
    """One listener."""

    def test_bytes(self) -> None:
        """Those of sessions that go on are told, and none twice when a session is over."""
        tally, one, other = Tally(), Carried((1, 20)), Carried((300, 4000))
        tally.began(one)
        tally.began(other)
        self.assertEqual((tally.carried, len(tally.live)), ((301, 4020), 2))
        tally.ended(one)
        self.assertEqual((tally.carried, len(tally.live), tally.accepted), ((301, 4020), 1, 2))

    def test_logins(self) -> None:
        """A login is in the bucket whose bound it does not exceed, or behind the last."""
        tally = Tally()
        for seconds in (0.0, BUCKETS[0], BUCKETS[0] + 0.001, BUCKETS[-1], BUCKETS[-1] + 1):
            tally.logged_in(seconds)
        self.assertEqual(tally.logins, [2, 1, *[0] * (len(BUCKETS) - 3), 1, 1])
        self.assertAlmostEqual(tally.seconds, 61.101)

    def test_refusals(self) -> None:
        """They are counted by stage and reason, whatever the words."""
        tally = Tally()
        for stage, words in ((Stage.TLS, "a"), (Stage.TLS, "b"), (Stage.LOGIN, "c")):
            tally.refused(Refusal(stage, Reason.TIMED_OUT, words))
        self.assertEqual(tally.refusals, {(Stage.TLS, Reason.TIMED_OUT): 2, (Stage.LOGIN, Reason.TIMED_OUT): 1})


class Bounded(SynchronousTestCase):
    """All listeners."""

    def test_own(self) -> None:
        """A listener has the same tally for as long as somebody counts in it, and then none."""
        tallies = Tallies()
        tally = tallies.of(KEYS[0])
        tally.accepted = 7
        self.assertIs(tallies.of(KEYS[0]), tally)
        self.assertIs(tallies.own(KEYS[0]), tally)
        del tally
        self.assertIsNone(tallies.own(KEYS[0]))
        self.assertEqual(tallies.of(KEYS[0]).accepted, 0)

    def test_others(self) -> None:
        """Whoever comes when all are taken is counted with the others; a tally that is free is taken."""
        tallies = Tallies(2)
        kept = [tallies.of(key) for key in KEYS]
        self.assertEqual([each is tallies.others for each in kept], [False, False, True])
        self.assertIsNone(tallies.own(KEYS[2]))
        del kept[0]
        self.assertIsNot(tallies.of(KEYS[2]), tallies.others)

    def test_open(self) -> None:
        """The connections of all."""
        tallies = Tallies(1)
        kept = [tallies.of(key) for key in KEYS]
        for number, tally in enumerate(kept):
            tally.began(Carried((number, 0)))
        self.assertEqual(tallies.open, 3)

    def test_numbers(self) -> None:
        """Each connection of the process has its own number."""
        tallies = Tallies()
        self.assertEqual([tallies.number(), tallies.number(), tallies.connections], [1, 2, 2])


class Counted(SessionTestCase):
    """What sessions add to the tally of their listener."""

    @property
    def tally(self) -> Tally:
        tally = self.services.tallies.own(BINDING.key)
        assert tally is not None
        return tally

    async def test_a_session(self) -> None:
        """A connection, its look-up, its login, and its bytes while it goes on and after."""
        application, server = await self.session()
        self.assertEqual((self.tally.accepted, len(self.tally.live), self.services.tallies.connections), (1, 1, 1))
        self.assertEqual((self.tally.resolved, sum(self.tally.logins), self.tally.refusals), ([1, 0], 1, {}))
        received, sent = self.tally.carried
        application.transport.write(b"1 IDLE\r\n")
        await server.hears(8)
        server.transport.write(b"+ idling\r\n")
        await self.line(application)
        carried = (received + 8, sent + 10)
        self.assertEqual((self.tally.carried, len(self.tally.live)), (carried, 1))
        server.transport.loseConnection()
        await self.over(application)
        self.assertEqual((self.tally.carried, len(self.tally.live), self.tally.accepted), (carried, 0, 1))
        ended = self.logged("session.ended")
        self.assertEqual((ended["received"], ended["sent"]), carried)

    async def test_a_refusal(self) -> None:
        """It has a stage and a reason, no login, and the bytes of its words."""
        coming = Deferred.fromCoroutine(self.server())
        application = await self.application()
        await self.log_in(await coming, b"NO [AUTHENTICATIONFAILED] no")
        said = await self.line(application)
        await self.over(application)
        self.assertEqual(self.tally.refusals, {(Stage.LOGIN, Reason.LOGIN_REFUSED): 1})
        self.assertEqual((sum(self.tally.logins), self.tally.carried), (0, (0, len(said))))

    async def test_room(self) -> None:
        """A session takes room from its beginning to its end."""
        coming = Deferred.fromCoroutine(self.server())
        application = await self.application()
        server = await coming
        self.assertEqual(1, self.services.room.opened)
        await self.log_in(server, b"NO [AUTHENTICATIONFAILED] no")
        await self.line(application)
        await self.over(application)
        self.assertEqual(0, self.services.room.opened)

    async def test_no_room(self) -> None:
        """Who comes when the process has no room is told, and counted."""
        self.services.room.opened = 100
        application = await self.application()
        self.assertRegex(await self.line(application), rb"^\* BYE \[LIMIT\] ")
        self.assertEqual(self.logged("session.refused")["reason"], Reason.LIMIT_REACHED)
        self.assertEqual(self.tally.refusals, {(Stage.ACCEPT, Reason.LIMIT_REACHED): 1})
        self.assertEqual(self.factory.sessions, set())
        await self.over(application)

    async def test_too_many(self) -> None:
        """Who comes when all places are taken is counted, too."""
        for _ in range(self.services.connections_per_listener):
            self.factory.buildProtocol(None)
        application = await self.application()
        self.assertRegex(await self.line(application), rb"^\* BYE \[LIMIT\]")
        self.assertEqual(self.tally.refusals, {(Stage.ACCEPT, Reason.LIMIT_REACHED): 1})
        self.factory.sessions.clear()
        await self.over(application)
        while self.tally.live:
            await turn()
        self.assertEqual(self.tally.accepted, 1)

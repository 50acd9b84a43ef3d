"""The way to a mail server: with whom it shares what."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Hashable

from attrs import Factory, evolve, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint

from tests.peers import Recorder, turn
from tests.relay.sessions import GRANT, REQUEST, SessionTestCase
from tproxy.model import Bearer, Offered, Password, Reason, Refusal, RefusedError, Resolution, Secret, Trust
from tproxy.net.endpoints import Connector
from tproxy.protocols.imap4 import imap4
from tproxy.relay.attempts import PACE_SECONDS
from tproxy.relay.tally import Tally
from tproxy.relay.upstream import ClientHalf
from tproxy.relay.walk import Walk

IN = b"OK [CAPABILITY IMAP4rev1] in"
NO = b"NO [AUTHENTICATIONFAILED] no"


@frozen
class Scoped:
    """A connector that tells for whom TLS sessions may be resumed, and are forgotten; itself it knows no TLS."""

    connector: Connector
    scopes: list[Hashable] = Factory(list)
    forgotten: list[Hashable] = Factory(list)

    def endpoint(self, host: str, port: int, tls: Trust | None, scope: Hashable) -> IStreamClientEndpoint:
        self.scopes.append(scope)
        return self.connector.endpoint(host, port, None)

    def forget(self, trust: Trust, host: str, port: int, scope: Hashable) -> None:
        self.forgotten.append(scope)


class Resumption(SessionTestCase):
    """TLS sessions are shared among those who are the same to the mail server, and nobody else."""

    async def setUp(self) -> None:
        await super().setUp()
        self.connector = Scoped(self.services.connector)
        plugins = {"imap4": evolve(imap4, encrypted=True)}
        self.services = evolve(self.services, connector=self.connector, plugins=plugins)

    async def walk(self, offered: Offered | None, answer: bytes) -> None:
        coming = Deferred.fromCoroutine(self.server())
        walking = Deferred.fromCoroutine(Walk(self.services, REQUEST, Tally()).logged_in(offered))
        server = await coming
        await self.log_in(server, answer)
        try:
            client, _ = await walking
            client.abandon()
        except RefusedError:
            pass
        await server.ended
        await turn()

    async def test_own_credential(self) -> None:
        """All who use the destination's own credential share them."""
        await self.walk(None, b"OK [CAPABILITY IMAP4rev1] in")
        await self.walk(None, b"NO no")
        self.assertEqual((self.connector.scopes, self.connector.forgotten), ([REQUEST] * 2, [REQUEST]))

    async def test_offered(self) -> None:
        """Of those who bring a credential each user has its own, whatever the application calls itself."""
        destination = evolve(self.resolution.destination, login=GRANT)
        for number, user in enumerate(("me@example.com", "me@example.com", "you@example.com")):
            self.resolution = Resolution(destination, Bearer(user, Secret("t")))
            await self.walk(Offered("x", Secret(str(number))), b"NO no" if number else b"OK [CAPABILITY IMAP4rev1] in")
        me, you = (REQUEST, "me@example.com"), (REQUEST, "you@example.com")
        self.assertEqual((self.connector.scopes, self.connector.forgotten), ([me, me, you], [me, you]))


class Turns(SessionTestCase):
    """A password that was changed: what many sessions do that find out at once."""

    async def setUp(self) -> None:
        await super().setUp()
        self.resolution = evolve(self.resolution, cached=True)
        changed = Password("user", Secret("changed"))
        self.changed = Resolution(evolve(self.resolution.destination, login=changed), changed)
        self.store.renewed = self.changed
        self.outcomes: list[ClientHalf | Refusal] = []
        self.served: list[Recorder] = []
        self.addCleanup(self.leave)

    async def leave(self) -> None:
        for outcome in self.outcomes:
            if isinstance(outcome, ClientHalf):
                outcome.abandon()
        for server in self.servers:
            await server.ended
        await turn()

    async def outcome(self) -> None:
        try:
            client, _ = await Walk(self.services, REQUEST, Tally()).logged_in()
        except RefusedError as error:
            self.outcomes.append(error.refusal)
        else:
            self.outcomes.append(client)

    async def begin(self, walks: int, connections: int) -> list[Recorder]:
        """So many walks begin; the connections that come of it, and no more do."""
        for _ in range(walks):
            Deferred.fromCoroutine(self.outcome())
        return await self.connections(connections)

    async def connections(self, count: int) -> list[Recorder]:
        """The next connections, once there are so many; nobody else connects meanwhile."""
        known = len(self.served)
        while len(self.servers) < known + count:
            await turn()
        for _ in range(20):
            await turn()
        self.served = list(self.servers)
        self.assertEqual(len(self.servers) - known, count)
        return self.served[known:]

    async def answers(self, server: Recorder, answer: bytes, password: str) -> None:
        """The mail server's answer to a login with this password."""
        line = await self.log_in(server, answer)
        self.assertEqual(b64decode(line.split()[-1]), f"\0user\0{password}".encode())

    async def ended(self, count: int) -> list[ClientHalf | Refusal]:
        while len(self.outcomes) < count:
            await turn()
        return self.outcomes

    async def refused_at_once(self) -> Recorder:
        """Three sessions whose password worked so far are refused; the one that tries the changed one."""
        (first,) = await self.begin(1, 1)
        await self.answers(first, IN, "pass")
        await self.ended(1)
        for server in await self.begin(3, 3):
            await self.answers(server, NO, "pass")
        (server,) = await self.connections(1)
        self.assertEqual((len(self.outcomes), self.store.renewals), (1, 3))
        return server

    async def test_accepted(self) -> None:
        """One tries the changed password; once it is good, the others log in with it."""
        await self.answers(await self.refused_at_once(), IN, "changed")
        for server in await self.connections(2):
            await self.answers(server, IN, "changed")
        for outcome in await self.ended(4):
            self.assertIsInstance(outcome, ClientHalf)

    async def test_refused(self) -> None:
        """One tries the changed password; where it is no good either nobody else does, nor the old one again."""
        await self.answers(await self.refused_at_once(), NO, "changed")
        refusals = (await self.ended(4))[1:]
        self.resolution = self.changed
        await self.begin(1, 0)
        self.resolution = evolve(
            self.changed, destination=evolve(self.changed.destination, login=Password("user", Secret("pass")))
        )
        await self.begin(1, 0)
        for outcome in (*refusals, *(await self.ended(6))[4:]):
            assert isinstance(outcome, Refusal)
            self.assertEqual(outcome.reason, Reason.LOGIN_REFUSED)

    async def test_resting(self) -> None:
        """Where the changed password may not be tried now, the one that was refused is not tried any sooner."""
        old, self.resolution = self.resolution, self.changed
        (server,) = await self.begin(1, 1)
        server.transport.abortConnection()
        await self.ended(1)
        self.resolution = old
        (server,) = await self.begin(1, 1)
        await self.answers(server, NO, "pass")
        await self.ended(2)
        self.clock.advance(PACE_SECONDS)
        await self.begin(1, 0)

    async def test_waiting(self) -> None:
        """Who waits for a login that ends with a changed password does not get the refusal of the old one."""
        (first,) = await self.begin(3, 1)
        self.resolution = self.changed
        await self.answers(first, NO, "pass")
        (second,) = await self.connections(1)
        self.assertEqual(self.outcomes, [])
        await self.answers(second, IN, "changed")
        for server in await self.connections(2):
            await self.answers(server, IN, "changed")
        for outcome in await self.ended(3):
            self.assertIsInstance(outcome, ClientHalf)
        self.assertEqual(self.store.renewals, 1)

    async def test_waiting_for_nothing_new(self) -> None:
        """Who waits for a login that is refused, with no other password there, gets its refusal."""
        self.store.renewed = None
        (first,) = await self.begin(3, 1)
        await self.answers(first, NO, "pass")
        refusals = await self.ended(3)
        self.assertEqual({each.reason for each in refusals if isinstance(each, Refusal)}, {Reason.LOGIN_REFUSED})
        await self.connections(0)

    async def test_same_login(self) -> None:
        """A fresh token of the same destination is tried at once: it is the destination's login that has its turn."""
        destination = evolve(self.resolution.destination, login=GRANT)
        bearers = [Bearer("user", Secret(word)) for word in ("old", "new")]
        offered = Offered("user", Secret("r"))
        self.resolution = Resolution(destination, bearers[0], cached=True)
        self.store.renewed = Resolution(destination, bearers[1])

        async def outcome() -> None:
            client, _ = await Walk(self.services, REQUEST, Tally()).logged_in(offered)
            self.outcomes.append(client)

        Deferred.fromCoroutine(outcome())
        for answer in (NO, IN):
            (server,) = await self.connections(1)
            await self.log_in(server, answer)
        self.assertIsInstance((await self.ended(1))[0], ClientHalf)

"""The way to a mail server: with whom it shares what."""

from __future__ import annotations

from collections.abc import Hashable

from attrs import Factory, evolve, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint

from tests.peers import turn
from tests.relay.sessions import GRANT, REQUEST, SessionTestCase
from tproxy.model import Bearer, Offered, RefusedError, Resolution, Secret, Trust
from tproxy.net.endpoints import Connector
from tproxy.protocols.imap4 import imap4
from tproxy.relay.tally import Tally
from tproxy.relay.walk import Walk


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

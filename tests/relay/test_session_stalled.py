"""Sessions in their dialogue whose ends take nothing."""

from __future__ import annotations

import socket

from twisted.internet.error import ConnectionLost

from tests.peers import turn
from tests.relay.sessions import SessionTestCase
from tproxy.relay.pipe import DELIVERY_SECONDS


class StalledTests(SessionTestCase):
    """Nobody keeps a session, or a connection of one, by taking nothing."""

    async def test_revoked(self) -> None:
        """A session that is ended from here is over some seconds later, even if the application does not read."""
        application, server = await self.session()
        application.transport.pauseProducing()
        (session,) = self.factory.sessions
        server.transport.write((b"* OK " + b"x" * 50_000 + b"\r\n") * 400)
        while not session.downstream.transport.undelivered:
            await turn()
        session = None
        self.factory.revoke("the resource is gone")
        self.clock.advance(DELIVERY_SECONDS / 2)
        self.factory.revoke("going down")
        self.assertEqual(1, len(self.factory.sessions))
        self.clock.advance(DELIVERY_SECONDS / 2)
        self.assertEqual(set(), self.factory.sessions)
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertEqual([], [each for each in self.events if each.get("event") == "session.abandoned"])
        application.transport.resumeProducing()
        self.assertIs(await application.ended, ConnectionLost)
        server.transport.abortConnection()

    async def test_mail_server_takes_nothing(self) -> None:
        """The connection to a mail server that stalls goes with its session."""
        application, server = await self.session()
        server.transport.pauseProducing()
        server.transport._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        (session,) = self.factory.sessions
        upstream = session._client.transport
        session = None
        upstream._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        application.transport.write(b"1 ID {60000+}\r\n" + b"x" * 60_000 + b"\r\n")
        while not upstream.undelivered:
            await turn()
        application.transport.abortConnection()
        while self.factory.sessions:
            await turn()
        self.assertEqual(-1, upstream.fileno())
        server.transport.resumeProducing()
        self.assertIs(await server.ended, ConnectionLost)

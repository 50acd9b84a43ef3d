"""Sessions in their dialogue that are hard to end: an end takes nothing, or the protocol fails."""

from __future__ import annotations

import socket

from twisted.internet.error import ConnectionDone, ConnectionLost

from tests.peers import turn
from tests.relay.sessions import SessionTestCase
from tproxy.protocols.imap4 import imap4
from tproxy.relay.pipe import DELIVERY_SECONDS
from tproxy.session import Effect, Event, Greeting, Machine, Refuse, State


class Speechless:
    """IMAP without a word for a session that is to end."""

    def __getattr__(self, name: str) -> object:
        return getattr(imap4, name)

    def greet(self, greeting: Greeting) -> Machine:
        machine = imap4.greet(greeting)

        def step(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
            if isinstance(event, Refuse):
                raise ZeroDivisionError
            return machine.step(state, event)

        return Machine(machine.state, step)


class EndTests(SessionTestCase):
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

    async def test_reset_while_the_mail_server_is_silent(self) -> None:
        """An application that has said too much to be listened to, and resets its connection, is gone at once."""
        application, server = await self.session()
        (session,) = self.factory.sessions
        application.transport.write(b"1 NOOP\r\n" + b"2 CAPABILITY\r\n" * 20_000)
        await server.hears(8)
        while session.downstream.transport._reading:
            await turn()
        session = None
        application.transport.abortConnection()
        self.assertIs(await server.ended, ConnectionDone)
        self.assertEqual(set(), self.factory.sessions)

    async def test_protocol_fails(self) -> None:
        """A protocol that has no answer to the end keeps neither that session nor any other."""
        self.services.plugins["imap4"] = Speechless()
        sessions = [await self.session() for _ in range(2)]
        self.factory.revoke("the resource is gone")
        for application, server in sessions:
            self.assertIs(await application.ended, ConnectionLost)
            self.assertIs(await server.ended, ConnectionDone)
        self.assertEqual(set(), self.factory.sessions)
        self.assertEqual(2, len(self.flushLoggedErrors(ZeroDivisionError)))

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

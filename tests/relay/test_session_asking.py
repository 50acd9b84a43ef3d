"""Sessions whose application brings the credential: logins, and destinations that changed."""

from __future__ import annotations

import socket
from base64 import b64decode

from attrs import evolve
from twisted.internet.defer import Deferred, fail
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.relay.asking import ME, AskingTestCase, authenticate, refused
from tests.relay.sessions import BINDING, GRANT
from tproxy.interfaces import IProtocolPlugin
from tproxy.model import Bearer, GrantKind, NoCredential, Offered, Password, Reason, Secret, Stage
from tproxy.protocols.imap4 import imap4
from tproxy.session import Login, Machine


@implementer(IProtocolPlugin)
class HandingOver:
    """IMAP whose client half never logs in."""

    name, default_port, encrypted = imap4.name, imap4.default_port, imap4.encrypted
    greet, probe = imap4.greet, imap4.probe

    def log_in(self, login: Login) -> Machine:
        return imap4.log_in(evolve(login, credential=NoCredential()))


class Logins(AskingTestCase):
    async def test_a_whole_session(self) -> None:
        """Greeted before anything is done; what it brings is exchanged, and its own tag is answered; then the relay."""
        application = await self.greeted()
        application.transport.write(b"1 CAPABILITY\r\n")
        await self.line(application)
        await self.line(application)
        self.assertEqual((self.store.offers, self.servers), ([], []))
        coming = Deferred.fromCoroutine(self.server())
        application.transport.write(authenticate(b"2") + b"3 NOOP\r\n")
        server = await coming
        sent = await self.log_in(server)
        self.assertEqual(b64decode(sent.split()[3]), b"user=me@example.com\x01auth=Bearer access\x01\x01")
        self.assertEqual(await self.line(application), b"2 OK [CAPABILITY IMAP4rev1 IDLE ID] logged in\r\n")
        self.assertEqual(self.store.offers, [ME])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(await server.hears(8), b"3 NOOP\r\n")
        server.transport.write(b"3 OK done\r\n")
        self.assertEqual(await self.line(application), b"3 OK done\r\n")
        application.transport.write(authenticate(b"4") + b"5 SELECT INBOX\r\n")
        self.assertEqual(await self.line(application), b"4 BAD you are logged in already\r\n")
        self.assertEqual(await server.hears(24), b"3 NOOP\r\n5 SELECT INBOX\r\n")
        server.transport.loseConnection()
        await self.over(application)
        self.assertEqual(
            [event["event"] for event in self.events if "event" in event], ["session.started", "session.ended"]
        )
        for secret in ("hunter2", "access"):
            self.assertNotIn(secret, str(self.events))

    async def test_second_attempt(self) -> None:
        """A refused login is answered, and logged, as such; the next may be better."""
        application = await self.greeted()
        no = await self.attempt(application, b"1", b"NO [AUTHENTICATIONFAILED] canary")
        self.assertEqual(no, b"1 NO [AUTHENTICATIONFAILED] the login was refused\r\n")
        told = self.logged("session.refused")
        self.assertEqual((told["stage"], told["reason"]), (Stage.LOGIN, Reason.LOGIN_REFUSED))
        ok = await self.attempt(application, b"2", b"OK [CAPABILITY IMAP4rev1] in", Offered("me", Secret("better")))
        self.assertTrue(ok.startswith(b"2 OK "), ok)
        application.transport.write(b"3 LOGOUT\r\n")
        await self.line(application)
        await self.line(application)
        await self.over(application)

    async def test_three_attempts(self) -> None:
        """After the third the session ends; each is in the log. They may come all at once."""
        self.store.answer = lambda: fail(refused(Reason.TOKEN_REFUSED))
        application = await self.greeted()
        application.transport.write(b"".join(authenticate(b"%d" % number) for number in range(4)))
        for number in range(3):
            self.assertTrue((await self.line(application)).startswith(b"%d NO [UNAVAILABLE] " % number))
        self.assertTrue((await self.line(application)).startswith(b"* BYE [LIMIT] "))
        await self.over(application)
        told = [event["reason"] for event in self.events if event.get("event") == "session.refused"]
        self.assertEqual(told, [Reason.TOKEN_REFUSED] * 3)
        self.assertEqual((len(self.store.offers), self.servers), (3, []))

    async def test_renewed(self) -> None:
        """A token of the cache that is refused is fetched anew with what was offered."""
        self.store.renewed = evolve(self.resolution, credential=Bearer("me@example.com", Secret("fresh")))
        self.resolution = evolve(self.resolution, cached=True)
        application = await self.greeted()
        coming = Deferred.fromCoroutine(self.server())
        application.transport.write(authenticate(b"1"))
        first = await coming
        again = Deferred.fromCoroutine(self.server())
        await self.log_in(first, b"NO [AUTHENTICATIONFAILED] no")
        server = await again
        await self.log_in(server)
        self.assertTrue((await self.line(application)).startswith(b"1 OK "))
        self.assertEqual(self.store.offers, [ME, ME])
        server.transport.loseConnection()
        await self.over(application)

    async def test_bad_token_of_another(self) -> None:
        """One user's refused token rests alone: it is refused again without a login, and nobody else waits."""
        application = await self.greeted()
        await self.attempt(application, b"1", b"NO [AUTHENTICATIONFAILED] no")
        application.transport.write(authenticate(b"2"))
        self.assertTrue((await self.line(application)).startswith(b"2 NO [AUTHENTICATIONFAILED] "))
        self.assertEqual(len(self.servers), 1)
        for offered in (Offered("me", Secret("other")), Offered("you", ME.secret)):
            other = await self.greeted()
            ok = await self.attempt(other, b"1", b"OK [CAPABILITY IMAP4rev1] in", offered)
            self.assertTrue(ok.startswith(b"1 OK "), ok)
            other.transport.abortConnection()
        application.transport.abortConnection()
        await self.gone()
        self.assertNotIn("hunter2", repr(self.services.attempts._states))

    async def test_half_close_behind_the_credential(self) -> None:
        """`printf ... | nc`: the login is answered although the application's FIN came with it."""
        application = await self.greeted()
        coming = Deferred.fromCoroutine(self.server())
        application.transport.write(authenticate(b"1"))
        application.transport._socket.shutdown(socket.SHUT_WR)
        server = await coming
        await self.log_in(server)
        self.assertTrue((await self.line(application)).startswith(b"1 OK "))
        await server.ended
        await self.over(application)


class Changed(AskingTestCase):
    """The document changed a moment ago, and the listener does not know yet."""

    def refusal(self) -> tuple[object, object]:
        told = self.logged("session.refused")
        return told["stage"], told["reason"]

    async def test_own_credential(self) -> None:
        """A destination with a credential of its own does not lend it to who was asked for one."""
        for resolution in (
            self.password,
            evolve(
                self.password,
                credential=NoCredential(),
                destination=evolve(self.password.destination, login=NoCredential()),
            ),
            evolve(self.resolution, credential=Password("user", Secret("pass"))),
            evolve(
                self.resolution,
                destination=evolve(self.resolution.destination, login=evolve(GRANT, kind=GrantKind.CLIENT_CREDENTIALS)),
            ),
        ):
            self.resolution = resolution
            application = await self.greeted()
            application.transport.write(authenticate(b"1"))
            self.assertTrue((await self.line(application)).startswith(b"1 NO [UNAVAILABLE] "))
            self.assertEqual(self.refusal(), (Stage.RESOLVE, Reason.DESTINATION_CHANGED))
            self.assertEqual(self.servers, [])
            self.events.clear()
            application.transport.abortConnection()
            await self.gone()

    async def test_renewed_with_own_credential(self) -> None:
        """Nor where the change is seen by the second look only."""
        self.store.renewed = self.password
        self.resolution = evolve(self.resolution, cached=True)
        application = await self.greeted()
        no = await self.attempt(application, b"1", b"NO [AUTHENTICATIONFAILED] no")
        self.assertTrue(no.startswith(b"1 NO [UNAVAILABLE] "), no)
        self.assertEqual(self.refusal(), (Stage.RESOLVE, Reason.DESTINATION_CHANGED))
        self.assertEqual(len(self.servers), 1)
        application.transport.abortConnection()
        await self.gone()

    async def test_store_refuses(self) -> None:
        """So it is where the store sees the change itself."""
        self.store.answer = lambda: fail(refused(Reason.DESTINATION_CHANGED))
        application = await self.greeted()
        application.transport.write(authenticate(b"1"))
        self.assertTrue((await self.line(application)).startswith(b"1 NO [UNAVAILABLE] "))
        self.assertEqual(self.refusal(), (Stage.RESOLVE, Reason.DESTINATION_CHANGED))
        application.transport.abortConnection()
        await self.gone()

    async def test_asks_now(self) -> None:
        """Who was to be greeted as logged in is not let in to a destination that asks by now."""
        self.factory.binding = BINDING
        application = await self.application()
        self.assertTrue((await self.line(application)).startswith(b"* BYE [UNAVAILABLE] "))
        await self.over(application)
        self.assertEqual(self.refusal(), (Stage.RESOLVE, Reason.DESTINATION_CHANGED))
        self.assertEqual(self.servers, [])

    async def test_nobody_logged_in(self) -> None:
        """A mail server that nobody logged in to is not handed over to who brought a credential."""
        plugin = HandingOver()
        verifyObject(IProtocolPlugin, plugin)
        self.services.plugins["imap4"] = plugin
        application = await self.greeted()
        coming = Deferred.fromCoroutine(self.server())
        application.transport.write(authenticate(b"1"))
        server = await coming
        server.transport.write(b"* OK [CAPABILITY IMAP4rev1] hello\r\n")
        self.assertTrue((await self.line(application)).startswith(b"1 NO [UNAVAILABLE] "))
        self.assertEqual(self.refusal(), (Stage.RESOLVE, Reason.DESTINATION_CHANGED))
        await server.ended
        application.transport.abortConnection()
        await self.gone()

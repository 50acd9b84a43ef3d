"""Sessions under test whose application brings the credential."""

from __future__ import annotations

from base64 import b64encode

from attrs import evolve
from twisted.internet.defer import Deferred

from tests.peers import HalfClosing, turn
from tests.relay.sessions import BINDING, GRANT, SessionTestCase
from tproxy.model import Bearer, GreetingMode, Offered, Reason, Refusal, RefusedError, Resolution, Secret, Stage

ME = Offered("me", Secret("hunter2"))


def authenticate(tag: bytes, offered: Offered = ME) -> bytes:
    """The application's login."""
    said = f"user={offered.user}\x01auth=Bearer {offered.secret.reveal()}\x01\x01".encode()
    return tag + b" AUTHENTICATE XOAUTH2 " + b64encode(said) + b"\r\n"


def refused(reason: Reason, stage: Stage = Stage.RESOLVE) -> RefusedError:
    return RefusedError(Refusal(stage, reason, "no"))


class AskingTestCase(SessionTestCase):
    binding = evolve(BINDING, greeting=GreetingMode.LOGIN)

    async def setUp(self) -> None:
        await super().setUp()
        self.password = self.resolution
        self.resolution = Resolution(
            evolve(self.resolution.destination, login=GRANT), Bearer("me@example.com", Secret("access"))
        )

    async def greeted(self) -> HalfClosing:
        """An application that is asked for its credential."""
        application = await self.application()
        greeting = await self.line(application)
        self.assertTrue(
            greeting.startswith(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2 LOGINDISABLED ID] mail-acme "),
            greeting,
        )
        return application

    async def attempt(self, application: HalfClosing, tag: bytes, answer: bytes, offered: Offered = ME) -> bytes:
        """An offer that gets as far as the mail server, which answers it."""
        coming = Deferred.fromCoroutine(self.server())
        application.transport.write(authenticate(tag, offered))
        await self.log_in(await coming, answer)
        return await self.line(application)

    async def gone(self) -> None:
        while self.factory.sessions:
            await turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])

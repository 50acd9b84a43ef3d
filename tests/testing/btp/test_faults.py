"""What the stand-in does wrong on demand, over HTTPS."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.web.client import ResponseFailed

from tests.testing.btp.standin import DESTINATIONS, StandInTestCase, said, until
from tproxy.model import RefusedError
from tproxy.net.http import TooLargeError
from tproxy.testing.btp import Endpoint, Fault, Heard
from tproxy.testing.tokens import (
    BROKEN,
    HUGE,
    LOGIN_PAGE,
    SILENT,
    TRUNCATED,
    UNAVAILABLE,
    Answer,
    busy,
    redirect,
)


class FaultTests(StandInTestCase):
    """`Fault`s of a running stand-in."""

    async def asks_for_mail_token(self, host: str = "login", path: str = "/token"):
        form = [("grant_type", "client_credentials"), ("client_id", "mail-client"), ("client_secret", "mail-secret")]
        return await self.ask("POST", self.btp.url(host, path), form=form)

    async def test_answers(self) -> None:
        """Every endpoint gives every wrong answer in place of the right one."""
        asks = {
            Endpoint.TOKEN: self.asks_for_token,
            Endpoint.DESTINATION: lambda: self.find(f"{DESTINATIONS}basic", token="any"),
            Endpoint.MAIL: self.asks_for_mail_token,
        }
        for endpoint, ask in asks.items():
            for wrong in (busy("7"), BROKEN, UNAVAILABLE, TRUNCATED, LOGIN_PAGE, redirect("/elsewhere")):
                self.btp.setup.faults = [Fault(endpoint, wrong)]
                answer = await ask()
                self.assertEqual((answer.status, answer.body), (wrong.status, wrong.body))
                for name, value in wrong.headers:
                    self.assertEqual(answer.header(name), value)
            self.btp.setup.faults = [Fault(endpoint, HUGE)]
            failure = await self.assertFailure(Deferred.fromCoroutine(ask()), TooLargeError, ResponseFailed)
            self.assertIn("TooLarge", repr(getattr(failure, "reasons", failure)))

    async def test_count(self) -> None:
        """A fault may be over after some requests, and another one follow it; no token is issued meanwhile."""
        self.btp.setup.faults = [
            Fault(Endpoint.TOKEN, busy(), requests=2),
            Fault(Endpoint.TOKEN, BROKEN, requests=1),
        ]
        statuses = [(await self.asks_for_token()).status for _ in range(5)]
        self.assertEqual(statuses, [429, 429, 500, 200, 200])
        self.assertEqual(self.btp.setup.faults, [])
        self.assertEqual(self.btp.heard, [Heard(Endpoint.TOKEN, "acme")] * 5)

    async def test_tenant(self) -> None:
        """A fault of one tenant's is no other's, and none of another endpoint."""
        acme, globex = await self.token("acme"), await self.token("globex")
        self.btp.setup.faults = [Fault(Endpoint.DESTINATION, UNAVAILABLE, tenant="acme")]
        self.assertEqual((await self.find(f"{DESTINATIONS}basic", token=acme)).status, 503)
        self.assertEqual((await self.find(f"{DESTINATIONS}basic", token=globex)).status, 404)
        self.assertEqual((await self.asks_for_token("acme")).status, 200)

    async def test_slow(self) -> None:
        """The right answer comes late, of each endpoint; also where the Destination service waits for a token."""
        token = await self.token()
        self.acme.destinations["subaccount"]["mail"] = {
            "Authentication": "OAuth2ClientCredentials",
            "tokenServiceURL": "https://login.localhost:{port}/token",
            "clientId": "mail-client",
            "clientSecret": "mail-secret",
        }
        for endpoint, ask in (
            (Endpoint.TOKEN, self.asks_for_token),
            (Endpoint.DESTINATION, lambda: self.find(f"{DESTINATIONS}mail", token=token)),
            (Endpoint.MAIL, self.asks_for_mail_token),
            (Endpoint.MAIL, lambda: self.find(f"{DESTINATIONS}mail", token=token)),
        ):
            self.btp.setup.faults = [Fault(endpoint, seconds=9, requests=1)]
            asked = Deferred.fromCoroutine(ask())
            await until(self.clock.getDelayedCalls)
            self.clock.advance(8)
            self.assertNoResult(asked)
            self.clock.advance(1)
            self.assertEqual((await asked).status, 200)

    async def test_silent(self) -> None:
        """An answer may never come."""
        self.btp.setup.faults = [Fault(Endpoint.TOKEN, SILENT)]
        asked = Deferred.fromCoroutine(self.asks_for_token())
        await until(lambda: self.btp.heard)
        self.clock.advance(1e6)
        self.assertNoResult(asked)
        asked.cancel()
        await self.assertFailure(asked, CancelledError, ResponseFailed)

    async def test_mail_provider(self) -> None:
        """The mail provider has one kind of path and one method, below its host, too; it may say anything."""
        for host, path in (("login", "/token"), ("login", "/acme/oauth2/v2.0/token"), ("acme.login", "/token")):
            self.assertEqual(said(await self.asks_for_mail_token(host, path))["token_type"], "Bearer")
        self.assertEqual([heard.tenant for heard in self.btp.heard], ["", "", "acme"])
        self.assertEqual((await self.asks_for_mail_token(path="/other")).status, 404)
        self.assertEqual((await self.ask("GET", self.btp.url("login", "/token"))).status, 405)
        self.btp.provider.answers.append(Answer(418))
        self.assertEqual((await self.asks_for_mail_token()).status, 418)

    async def test_down(self) -> None:
        """It may be closed for a while, and come back at the same port with the same tokens."""
        token, port = await self.token(), self.btp.port
        await self.btp.stop()
        failed = Deferred.fromCoroutine(self.find(f"{DESTINATIONS}basic", token=token))
        await self.assertFailure(failed, RefusedError)
        await self.btp.start(port=port)
        self.assertEqual((await self.find(f"{DESTINATIONS}basic", token=token)).status, 200)

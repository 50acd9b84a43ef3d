"""Applications that bring a refresh token or an authorization code: exchanged, and logged in with by Dovecot."""

from __future__ import annotations

from base64 import b64encode
from shutil import which

from tests.integration import canaries
from tests.integration.children import python, run
from tests.integration.dovecot import MISSING
from tests.integration.standin import StandInTestCase
from tests.integration.wire import Wire, connect
from tproxy.testing.btp import Endpoint


def message(user: str, token: str) -> bytes:
    """What XOAUTH2 says, in base64."""
    return b64encode(f"user={user}\x01auth=Bearer {token}\x01\x01".encode())


class OfferTests(StandInTestCase):
    """A destination of the Destination service, and one in a folder."""

    async def serve(self, kind: str, named: bool = False, **changed: str) -> str:
        """Start the proxy with a destination of this kind; returns the user, whom the documents may name."""
        user = self.mail.mailbox()
        self.mail.deliver(user, f"Subject: {user}\r\n\r\nx\r\n".encode(), 1)
        properties = self.oauth(user, Authentication=kind, **changed)
        if not named:
            del properties["mail.user"]
        self.document("acme", **properties)
        self.proxy.document("own", properties)
        service = self.proxy.configuration["config"]["integration"]["destinationService"]
        service["instances"].append({"name": "folder", "directory": "destinations"})
        self.proxy.resource("mail", tenants='["acme"]')
        self.proxy.resource("own", instance="folder")
        await self.introspect()
        self.proxy.start()
        return user

    async def greeted(self, name: str) -> Wire:
        """A connection that is not logged in."""
        wire = await connect(self, await self.proxy.port(name))
        await wire.hears(rb"^\* OK \[CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2 LOGINDISABLED ID\] [^\r]+\r\n")
        return wire

    async def test_refresh_token(self) -> None:
        """With and without an initial response; until then nothing but what belongs before a login is accepted."""
        user = await self.serve("OAuth2RefreshToken")
        for name in ("mail-acme", "own"):
            token = self.btp.provider.refresh_token(user, "mail-client", canaries.secret(f"refresh-{name}"))
            wire = await self.greeted(name)
            for command in (b"SELECT INBOX", b"LOGIN a b", b"STARTTLS", b"AUTHENTICATE PLAIN AGEAYg=="):
                await wire.ask(b"1 " + command + b"\r\n", rb"^1 (BAD|NO \[CANNOT\]) [^\r]+\r\n")
            await wire.ask(b"2 AUTHENTICATE XOAUTH2\r\n", rb"^\+ \r\n")
            await wire.ask(message(user, token) + b"\r\n", rb"^2 OK \[CAPABILITY IMAP4rev1 [^]]+\] ")
            self.assertEqual(user, await self.whose(wire))
            again = await self.greeted(name)
            await again.ask(b"3 AUTHENTICATE XOAUTH2 " + message(user, token) + b"\r\n", rb"^3 OK ")
            self.assertEqual(user, await self.whose(again))
            self.assertEqual(1, len([each for each in self.btp.provider.asked if "refresh_token" in each.form]))
            self.btp.provider.asked.clear()
        self.assertEqual(4, await self.mail.logins(user, 4))

    async def test_code(self) -> None:
        """A code is exchanged once, however many connections it opens while its token lives."""
        user = await self.serve("OAuth2AuthorizationCode", redirectUri="https://app.example/back")
        for name in ("mail-acme", "own"):
            code = canaries.secret(f"code-{name}")
            self.btp.provider.code(user, "mail-client", "https://app.example/back", code=code)
            for _ in range(2):
                wire = await self.greeted(name)
                await wire.ask(b"1 AUTHENTICATE XOAUTH2 " + message(user, code) + b"\r\n", rb"^1 OK ")
                self.assertEqual(user, await self.whose(wire))

    async def test_refused(self) -> None:
        """Wrong, malformed, cancelled: each is answered as the RFC says, and the right one still works."""
        user = await self.serve("OAuth2RefreshToken")
        token = self.btp.provider.refresh_token(user, "mail-client", canaries.secret("refresh-right"))
        wire = await self.greeted("mail-acme")
        wrong = message(user, canaries.secret("refresh-wrong"))
        await wire.ask(b"1 AUTHENTICATE XOAUTH2 " + wrong + b"\r\n", rb"^1 NO \[AUTHENTICATIONFAILED\] ")
        event = await self.proxy.logged(event="session.refused")
        self.assertEqual(("resolve", "token-refused"), (event["stage"], event["reason"]))
        self.assertIn("invalid_grant", event["message"])
        await wire.ask(b"2 AUTHENTICATE XOAUTH2 =x\r\n", rb"^2 BAD ")
        await wire.ask(b"3 AUTHENTICATE XOAUTH2\r\n", rb"^\+ ")
        await wire.ask(b"*\r\n", rb"^3 BAD ")
        await wire.ask(b"4 AUTHENTICATE XOAUTH2 " + message(user, token) + b"\r\n", rb"^4 OK ")
        self.assertEqual(user, await self.whose(wire))
        self.assertEqual(0, self.count(Endpoint.MAIL))

    async def test_another_user(self) -> None:
        """Where the document names the user, an application that names another one gets nobody's mailbox."""
        user = await self.serve("OAuth2RefreshToken", named=True)
        token = self.btp.provider.refresh_token(user, "mail-client", canaries.secret("refresh-named"))
        for name in ("mail-acme", "own"):
            wire = await self.greeted(name)
            another = message("somebody", token)
            await wire.ask(b"1 AUTHENTICATE XOAUTH2 " + another + b"\r\n", rb"^1 NO \[AUTHORIZATIONFAILED\] ")
            self.assertEqual([], self.btp.provider.asked)
            await wire.ask(b"2 AUTHENTICATE XOAUTH2 " + message("", token) + b"\r\n", rb"^2 OK ")
            self.assertEqual(user, await self.whose(wire))
            self.btp.provider.asked.clear()

    async def test_imaplib(self) -> None:
        """The lines of the documentation, with Python's imaplib; and a check with what the application would send."""
        user = await self.serve("OAuth2RefreshToken")
        token = self.btp.provider.refresh_token(user, "mail-client", canaries.secret("refresh-imaplib"))
        port = await self.port("acme")
        said = await run(self, python("with_xoauth2.py", str(port), user), self.proxy.folder, stdin=token.encode())
        self.assertIn(user.encode(), said)
        (self.proxy.folder / "token").write_text(token)
        status, said = await self.check("--tenant", "acme", "--user", user, "--credential", "token")
        self.assertEqual(0, status, said)
        status, said = await self.check("--tenant", "acme")
        self.assertEqual((1, True), (status, "--credential" in said), said)

    async def test_curl(self) -> None:
        """curl brings a token with an initial response."""
        user = await self.serve("OAuth2RefreshToken")
        token = self.btp.provider.refresh_token(user, "mail-client", canaries.secret("refresh-curl"))
        url = f"imap://127.0.0.1:{await self.port('acme')}/INBOX;MAILINDEX=1;SECTION=HEADER.FIELDS%20(SUBJECT)"
        credential = ["--user", f"{user}:", "--oauth2-bearer", token, "--login-options", "AUTH=XOAUTH2"]
        said = await run(self, [which("curl"), "-sS", *credential, url], self.proxy.folder)
        self.assertIn(user.encode(), said)

    test_curl.skip = MISSING or (None if which("curl") else "there is no curl: apt-get install curl")
    test_refresh_token.skip = test_code.skip = test_refused.skip = test_imaplib.skip = MISSING
    test_another_user.skip = MISSING

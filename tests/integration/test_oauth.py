"""Logins with OAuth 2.0 tokens: from the token endpoint to the mail server."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode

from twisted.internet import reactor
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.protocols.policies import WrappingFactory
from twisted.trial import util
from twisted.trial.unittest import TestCase
from twisted.web.server import Site

from tests.integration import canaries
from tests.integration.dovecot import MISSING, Dovecot, dovecot
from tests.integration.mailserver import CONTINUED, MailServer, Shows, listen
from tests.integration.messages import FIRST
from tests.integration.proxy import Proxy
from tests.integration.wire import connect, together
from tproxy.testing.certificates import Authority
from tproxy.testing.tokens import BROKEN, TokenEndpoint, oauth_error

CLIENT_SECRET = canaries.secret("client")
CHALLENGE = {"status": "401", "schemes": "bearer mac", "scope": "https://mail.test/"}


class Tokens(TokenEndpoint):
    """The stand-in of a token endpoint; its tokens are among the secrets that are looked for."""

    def __init__(self, username: str) -> None:
        super().__init__(reactor, ("the client", CLIENT_SECRET), username=username)

    def issue(self, *whose: str | None) -> str:
        return canaries.also(super().issue(*whose))


class OAuthTests(TestCase):
    timeout = 60
    # twisted.web looks header names up in one table, text and bytes.
    suppress = [util.suppress(category=BytesWarning)]  # noqa: RUF012

    def setUp(self):
        self.authority = Authority.create()
        self.proxy = Proxy(self)

    async def endpoint(self, username: str, mail: Dovecot | None = None) -> str:
        """Start the token endpoint; returns its URL. `mail` asks it whether a token is good."""
        self.tokens = Tokens(username)
        context = Shows(self.authority.issue("localhost").server_context())
        ports = [SSL4ServerEndpoint(reactor, 0, context, interface="127.0.0.1")]
        if mail:
            ports.append(TCP4ServerEndpoint(reactor, mail.introspection, interface="127.0.0.1"))
        for endpoint in ports:
            site = WrappingFactory(Site(self.tokens))
            port = await endpoint.listen(site)
            self.addCleanup(self._close, site)
            self.addCleanup(port.stopListening)
            if endpoint is ports[0]:
                number = port.getHost().port
        return f"https://localhost:{number}/token"

    def _close(self, site: WrappingFactory) -> None:
        for kept_alive in list(site.protocols):
            kept_alive.transport.abortConnection()

    def offer(self, url: str, port: int, user: str) -> None:
        self.proxy.offer(
            "mail",
            {
                "Type": "MAIL",
                "ProxyType": "Internet",
                "Authentication": "OAuth2ClientCredentials",
                "mail.user": user,
                "mail.transport.protocol": "imap4s",
                "mail.imap4s.host": "127.0.0.1",
                "mail.imap4s.port": str(port),
                "tokenServiceURL": url,
                "tokenServiceURLType": "Dedicated",
                "clientId": "the client",
                "clientSecret": CLIENT_SECRET,
                "scope": "https://mail.test/.default",
            },
        )

    async def greeting(self) -> bytes:
        wire = await connect(self, await self.proxy.port("mail"))
        return await wire.hears(rb"\n")

    async def before(self, mail: Dovecot) -> str:
        """The proxy in front of Dovecot; returns the user."""
        user = mail.mailbox(FIRST)
        self.proxy.trust(self.authority.pem, mail.authority)
        self.offer(await self.endpoint(user, mail), mail.tls, user)
        self.proxy.start()
        return user

    async def test_success(self):
        """One token serves many connections that come at once; Dovecot accepts it, by either mechanism."""
        for offered, method in (("oauthbearer xoauth2", "OAUTHBEARER"), ("plain xoauth2", "XOAUTH2")):
            mail = dovecot(offered)
            user = await self.before(mail)
            greetings = await together(*(self.greeting() for _ in range(5)))
            for greeting in greetings:
                self.assertRegex(greeting, rb"^\* PREAUTH ")
            self.assertEqual(5, await mail.logins(user, 5, f"method={method},"))
            (asked,) = self.tokens.asked
            self.assertEqual(["https://mail.test/.default"], asked.form["scope"])
            await self.proxy.stop()

    async def test_expired(self):
        """A cached token that the mail server refuses is replaced by one fresh token, and the login made with that."""
        mail = dovecot()
        user = await self.before(mail)
        self.assertRegex(await self.greeting(), rb"^\* PREAUTH ")
        self.tokens.revoke()
        self.assertRegex(await self.greeting(), rb"^\* PREAUTH ")
        self.assertRegex(await self.greeting(), rb"^\* PREAUTH ")
        self.assertEqual(2, len(self.tokens.asked))
        self.assertEqual(3, await mail.logins(user, 3))

    async def test_refused(self):
        """A fresh token that Dovecot refuses is no reason for another."""
        mail = dovecot()
        user = await self.before(mail)
        self.tokens.valid = lambda token: False
        self.assertRegex(await self.greeting(), rb"^\* BYE \[AUTHENTICATIONFAILED\] ")
        self.assertRegex(await self.greeting(), rb"^\* BYE \[AUTHENTICATIONFAILED\] ")
        self.assertEqual(1, len(self.tokens.asked))
        self.assertEqual(0, await mail.logins(user, 0))
        event = await self.proxy.logged(event="session.refused")
        self.assertEqual(("login", "login-refused"), (event["stage"], event["reason"]))

    test_refused.skip = test_success.skip = test_expired.skip = MISSING

    async def test_challenge(self):
        """A JSON error challenge is answered as each mechanism wants it; what it says is for the log alone."""
        challenge = b"+ " + b64encode(json.dumps(CHALLENGE).encode()) + b"\r\n"
        for mechanism, answer in ((b"XOAUTH2", b""), (b"OAUTHBEARER", b"AQ==")):
            server = MailServer(
                b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=%s] ready\r\n" % mechanism,
                {b"AUTHENTICATE": challenge, CONTINUED: b"%s NO [AUTHENTICATIONFAILED] no\r\n"},
            )
            self.proxy = Proxy(self)
            self.proxy.trust(self.authority.pem)
            url = await self.endpoint("ann")
            self.offer(url, await listen(self, server, self.authority.issue("127.0.0.1")), "ann@mail.test")
            self.proxy.start()
            greeting = await self.greeting()
            self.assertRegex(greeting, rb"^\* BYE \[AUTHENTICATIONFAILED\] ")
            self.assertNotIn(b"mail.test", greeting)
            first, second = server.received.splitlines()
            _, command, name, blob = first.split()
            self.assertEqual((b"AUTHENTICATE", mechanism), (command, name))
            self.assertIn(b"\x01auth=Bearer ", b64decode(blob))
            self.assertEqual(answer, second)
            event = await self.proxy.logged(event="session.refused")
            for words in CHALLENGE.values():
                self.assertIn(words, event["message"])

    async def test_token_endpoint(self):
        """Where there is no token there is no connection to the mail server, and the log says why."""
        server = MailServer()
        self.proxy.trust(self.authority.pem)
        url = await self.endpoint("ann")
        self.offer(url, await listen(self, server, self.authority.issue("127.0.0.1")), "ann")
        self.tokens.answers.extend([oauth_error(401, "invalid_client", f"wrong secret {CLIENT_SECRET}"), BROKEN])
        self.proxy.start()
        self.assertRegex(await self.greeting(), rb"^\* BYE \[AUTHENTICATIONFAILED\] ")
        event = await self.proxy.logged(event="session.refused")
        self.assertEqual("token-refused", event["reason"])
        self.assertIn("wrong secret", event["message"])
        self.assertEqual([], server.connections)

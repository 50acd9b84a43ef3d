"""The Destination service in trouble: what goes on, and what is said about what does not."""

from __future__ import annotations

from tests.integration import canaries
from tests.integration.dovecot import MISSING
from tests.integration.mailserver import MailServer, listen
from tests.integration.proxy import basic
from tests.integration.standin import StandInTestCase, a_moment
from tests.integration.wire import connect
from tproxy.model import Tenant
from tproxy.testing.btp import Endpoint, Fault
from tproxy.testing.btp.destinations import error
from tproxy.testing.tokens import BROKEN, LOGIN_PAGE, SILENT, TRUNCATED, Client, busy, oauth_error

NOT_JSON = "answers without a JSON object"


class TroubleTests(StandInTestCase):
    """One tenant, whose destination is asked for again after a second, and then not served without."""

    async def serve(self, **destinations: int) -> int:
        """Start the proxy in front of a mail server of the tests; returns the tenant's port."""
        server = MailServer()
        port = await listen(self, server, self.btp.authority.issue("127.0.0.1"))
        self.document("acme", **basic(port, "ann"))
        return await self.start(**destinations)

    async def start(self, **destinations: int) -> int:
        self.configure(destinations={"maxAge": 1, "maxStale": 0, **destinations})
        instances = self.proxy.configuration["config"]["integration"]["destinationService"]["instances"]
        instances[0]["readTimeoutSeconds"] = 2
        self.proxy.resource("mail", tenants='["acme"]')
        self.proxy.start()
        return await self.port("acme")

    async def refusal(self, port: int) -> tuple[bytes, dict]:
        """The first refusal from now on: the greeting, and what the log says of it."""
        after = len(self.proxy.events)
        while not (greeting := await self.greeting(port)).startswith(b"* BYE"):
            self.assertEqual(b"* PREAUTH", greeting[:9])
            await a_moment()
        return greeting, await self.proxy.logged(after, event="session.refused")

    async def recovery(self, port: int) -> None:
        """Once all is well again, so are new connections."""
        self.setup.faults.clear()
        while not (await self.greeting(port)).startswith(b"* PREAUTH"):
            await a_moment()

    async def trouble(self, port: int, fault: Fault, reason: str, *words: str) -> None:
        """One correct refusal, its reason in the log and in `tproxy check`, and no more than that."""
        self.setup.faults.append(fault)
        greeting, event = await self.refusal(port)
        self.assertRegex(greeting, rb"^\* BYE \[(UNAVAILABLE|CONTACTADMIN|AUTHENTICATIONFAILED)\] [a-z, ]+\r\n$")
        self.assertEqual(("resolve", reason), (event["stage"], event["reason"]))
        status, said = await self.check("--tenant", "acme")
        self.assertEqual(1, status, said)
        for each in words:
            self.assertIn(each, event["message"])
            self.assertIn(each, said)
        self.assertIn("What to do:", said)
        await self.recovery(port)

    async def test_destinations(self) -> None:
        """Each fault of the Destination service."""
        port = await self.serve()
        for answer, *words in (
            (busy("1"), "cannot answer now (HTTP 429)"),
            (BROKEN, "cannot answer now (HTTP 500)"),
            (TRUNCATED, NOT_JSON),
            (LOGIN_PAGE, NOT_JSON),
            (SILENT, "is too slow"),
        ):
            fault = Fault(Endpoint.DESTINATION, answer)
            await self.trouble(port, fault, "store-unavailable", "the instance local for the tenant 'acme'", *words)
        unauthorized = Fault(Endpoint.DESTINATION, error(401, "who are you?"))
        await self.trouble(
            port, unauthorized, "store-refused", "does not accept the token of the service key (HTTP 401"
        )

    async def test_tokens(self) -> None:
        """Each fault of the authorization server."""
        self.setup.token_seconds = 1
        port = await self.serve()
        for answer, *words in (
            (busy("1"), "cannot answer now (HTTP 429"),
            (BROKEN, "cannot answer now (HTTP 500"),
            (TRUNCATED, NOT_JSON),
            (LOGIN_PAGE, NOT_JSON),
            (SILENT, "is too slow"),
        ):
            fault = Fault(Endpoint.TOKEN, answer)
            await self.trouble(port, fault, "store-unavailable", "the instance local for the tenant 'acme'", *words)
        wrong = Fault(Endpoint.TOKEN, oauth_error(401, "invalid_client"))
        await self.trouble(port, wrong, "service-key-invalid", "the service key is not accepted", "invalid_client")

    async def test_mail_tokens(self) -> None:
        """What the service says about a token that it could not get, and what the token endpoint itself says."""
        greeting = b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2] ready\r\n"
        server = MailServer(greeting, {b"AUTHENTICATE": b"%s OK [CAPABILITY IMAP4rev1] in\r\n"})
        mail = await listen(self, server, self.btp.authority.issue("127.0.0.1"))
        self.document("acme", **self.oauth("ann") | {"mail.imap4s.port": str(mail)})
        self.setup.mail_seconds = 1
        self.btp.change(self.setup)
        port = await self.start()
        self.setup.faults.append(Fault(Endpoint.MAIL, oauth_error(400, "invalid_scope", "no such scope")))
        words = ("the Destination service sends no token: the scope is unknown", "invalid_scope - no such scope")
        fault = Fault(Endpoint.DESTINATION, token_error="the scope is unknown")
        await self.trouble(port, fault, "token-refused", *words)

    async def test_not_found(self) -> None:
        """A destination that is deleted: the port closes, the sessions end, and the log and the check say why."""
        port = await self.serve()
        wire = await connect(self, port)
        await wire.hears(rb"^\* PREAUTH ")
        document = self.setup.accounts[Tenant("acme")].destinations["subaccount"].pop("mail")
        refused = self.proxy.logged(event="listener.refused", listener="tests/mail-acme")
        while not refused.called:
            await self.knock(port)
        self.assertIn("there is no destination 'mail'", (await refused)["message"])
        await wire.received.closed()
        status, said = await self.check("--tenant", "acme")
        self.assertEqual(1, status)
        self.assertIn("there is no destination 'mail'", said)
        self.setup.accounts[Tenant("acme")].destinations["subaccount"]["mail"] = document

    async def test_outage(self) -> None:
        """The service is away for longer than its answers are good: new connections go on, and nothing was cut."""
        port = await self.serve(maxStale=3600)
        wire = await connect(self, port)
        await wire.hears(rb"^\* PREAUTH ")
        await self.btp.stop()
        for _ in range(3):
            failed = self.proxy.logged(len(self.proxy.events), event="destination.failed")
            while not failed.called:
                self.assertRegex(await self.greeting(port), rb"^\* PREAUTH ")
                await a_moment()
        self.assertRegex(await self.greeting(port), rb"^\* PREAUTH ")
        await wire.ask(b"1 NOOP\r\n", rb"^1 OK ")
        await self.btp.start(port=self.btp.port)
        heard = len(self.btp.heard)
        while len(self.btp.heard) == heard:
            self.assertRegex(await self.greeting(port), rb"^\* PREAUTH ")
            await a_moment()

    async def test_other_tenants(self) -> None:
        """Unsubscribed and unknown tenants are told apart in the check."""
        await self.serve()
        self.proxy.resource("mail", tenants='["acme", "globex", "nobody"]')
        self.setup.accounts[Tenant("globex")].subscribed = False
        for tenant, words in (("globex", "the tenant is not subscribed"), ("nobody", "there is no such tenant")):
            status, said = await self.check("--tenant", tenant)
            self.assertEqual((1, True), (status, words in said), said)


class TokenTests(StandInTestCase):
    """Tokens that come along with destinations, accepted by Dovecot."""

    async def test_along(self) -> None:
        """The token that came with the destination logs in; another is asked for only when it has expired."""
        user = self.mail.mailbox()
        self.mail.deliver(user, f"Subject: {user}\r\n\r\nx\r\n".encode(), 1)
        await self.introspect()
        for along in (True, False):
            self.setup.auth_tokens = along
            self.document("acme", **self.oauth(user))
            self.setup.mail_clients["mail-client"] = Client(canaries.secret("mail-client"), user)
            self.proxy.resource("mail", tenants='["acme"]')
            self.proxy.start()
            wire = await connect(self, await self.port("acme"))
            await wire.hears(rb"^\* PREAUTH ")
            self.assertEqual(user, await self.whose(wire))
            self.assertEqual(0 if along else 1, self.count(Endpoint.MAIL))
            status, said = await self.check("--tenant", "acme")
            self.assertEqual(0, status, said)
            self.btp.heard.clear()
            await self.proxy.stop()

    test_along.skip = MISSING

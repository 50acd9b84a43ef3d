"""Two tenants of one resource, their destinations from the Destination service: whose mailbox, and through what."""

from __future__ import annotations

import json

from twisted.internet import reactor

from tests.integration import canaries
from tests.integration.dovecot import MISSING
from tests.integration.mailserver import MailServer, listen
from tests.integration.proxy import basic
from tests.integration.standin import StandInTestCase, until
from tests.integration.wire import connect, together
from tproxy.model import Tenant
from tproxy.testing.btp import Endpoint

TENANTS = ("acme", "globex")
PARALLEL = 50
CHURNING = 5


class TenantTests(StandInTestCase):
    """acme and globex in front of one resource."""

    async def serve(self) -> dict[str, str]:
        """Start the proxy; the user of each tenant."""
        users = {tenant: self.mailbox(tenant) for tenant in TENANTS}
        self.proxy.resource("mail", tenants=json.dumps(TENANTS))
        self.configure(limits={"connectionsPerListener": PARALLEL + 10})
        self.proxy.start()
        return users

    async def session(self, tenant: str, user: str) -> None:
        """One session, which must be of the tenant's own mailbox."""
        wire = await connect(self, await self.port(tenant))
        await wire.hears(rb"^\* PREAUTH ")
        self.assertEqual(user, await self.whose(wire))
        await wire.ask(b"w9 LOGOUT\r\n", rb"^w9 OK ")
        await wire.received.closed()

    async def test_churn(self) -> None:
        """50 connections each, again and again: none is ever in the other's mailbox, two requests each do."""
        users = await self.serve()

        async def churn(tenant: str) -> None:
            for _ in range(4):
                await self.session(tenant, users[tenant])

        await together(*(churn(tenant) for tenant in TENANTS for _ in range(PARALLEL)))
        for tenant, user in users.items():
            self.assertEqual(PARALLEL * 4, await self.mail.logins(user, PARALLEL * 4))
            self.assertEqual(1, self.count(Endpoint.TOKEN, tenant))
            self.assertEqual(1, self.count(Endpoint.DESTINATION, tenant))

    async def test_password(self) -> None:
        """The mail password is changed while sessions come and go: nobody notices, and who is in stays in."""
        users = await self.serve()
        user = users["acme"]
        before = await connect(self, await self.port("acme"))
        await before.hears(rb"^\* PREAUTH ")
        going = [True]

        async def churn() -> int:
            sessions = 0
            while going:
                await self.session("acme", user)
                sessions += 1
            return sessions

        async def rotate() -> None:
            await self.mail.logins(user, 20)
            password = canaries.secret("rotated")
            self.setup.accounts[Tenant("acme")].destinations["subaccount"]["mail"]["mail.password"] = password
            self.mail.change_password(user, password)
            # Dovecot looks at its file once a second: until then the old password goes on working.
            await until(lambda: self.mail.failures(user))
            await self.mail.logins(user, await self.mail.logins(user, 1) + 20)
            going.clear()

        *sessions, _ = await together(*(churn() for _ in range(CHURNING)), rotate())
        refused = [event for event in self.proxy.events if event.get("event") == "session.refused"]
        self.assertEqual([], refused)
        self.assertGreater(sum(sessions), 40)
        self.assertLessEqual(self.mail.failures(user), CHURNING)
        self.assertEqual(user, await self.whose(before))

    async def test_service_key(self) -> None:
        """Another service key, and the old tokens worthless: it is picked up, and no session is refused."""
        users = await self.serve()
        before = await connect(self, await self.port("acme"))
        await before.hears(rb"^\* PREAUTH ")
        self.setup.client_secret = canaries.secret("next-service-key")
        self.btp.revoke()
        self.write_key()
        await self.proxy.logged(event="key.changed")
        other = self.mailbox("acme", "other")
        self.proxy.resource("other", tenants='["acme"]')
        wire = await connect(self, await self.port("acme", "other"))
        await wire.hears(rb"^\* PREAUTH ")
        self.assertEqual(other, await self.whose(wire))
        await self.session("acme", users["acme"])
        self.assertEqual(users["acme"], await self.whose(before))
        self.assertEqual([], [event for event in self.proxy.events if event.get("event") == "session.refused"])

    async def test_dedicated(self) -> None:
        """In dedicated mode the destinations are the provider's own."""
        self.configure(tenantMode="dedicated")
        user = self.mailbox("main")
        self.mailbox("acme")
        self.proxy.resource("mail")
        self.proxy.start()
        wire = await connect(self, await self.port())
        await wire.hears(rb"^\* PREAUTH ")
        self.assertEqual(user, await self.whose(wire))

    test_churn.skip = test_password.skip = test_service_key.skip = test_dedicated.skip = MISSING

    async def test_offboarding(self) -> None:
        """A tenant that is no longer subscribed: its port closes and its sessions end, the other's go on."""
        server = MailServer()
        port = await listen(self, server, self.btp.authority.issue("127.0.0.1"))
        for tenant in TENANTS:
            self.document(tenant, **basic(port, tenant))
        self.configure(destinations={"maxAge": 1, "maxStale": 0}, logging={"level": "debug"})
        self.setup.token_seconds = 1
        self.proxy.resource("mail", tenants=json.dumps(TENANTS))
        self.proxy.start()
        wires = [await connect(self, await self.port(tenant)) for tenant in TENANTS]
        for wire in wires:
            await wire.hears(rb"^\* PREAUTH ")
        self.setup.accounts[Tenant("acme")].subscribed = False
        closed = self.proxy.logged(event="listener.closed", listener="tests/mail-acme")
        while not closed.called:
            await self.knock(await self.port("acme"))
        await wires[0].received.closed()
        event = await closed
        self.assertIn("no longer subscribed", event["message"])
        await wires[1].ask(b"1 NOOP\r\n", rb"^1 OK ")

    async def test_cold(self) -> None:
        """1,000 connections to one destination that has to be asked for anew: one token, one destination."""
        server = MailServer()
        port = await listen(self, server, self.btp.authority.issue("127.0.0.1"))
        self.document("acme", **basic(port, "ann"))
        self.setup.token_seconds = 2
        self.configure(destinations={"maxAge": 1, "maxStale": 0}, limits={"connectionsPerListener": 1000})
        self.proxy.resource("mail", tenants='["acme"]')
        self.proxy.start()
        listener = await self.port("acme")
        issued = reactor.seconds()
        await until(lambda: reactor.seconds() > issued + self.setup.token_seconds)
        self.btp.heard.clear()
        greetings = await together(*(self.greeting(listener) for _ in range(1000)))
        self.assertEqual({b"* PREAUTH"}, {greeting[:9] for greeting in greetings})
        self.assertEqual((1, 1), (self.count(Endpoint.TOKEN), self.count(Endpoint.DESTINATION)))

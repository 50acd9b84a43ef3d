"""The stand-in on a free port, and a client of it that goes over real HTTPS."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase

from tproxy.model import Tenant, Trust
from tproxy.net.endpoints import Connector
from tproxy.net.guard import Guard
from tproxy.net.http import Answer, client
from tproxy.net.resolver import Resolver
from tproxy.net.trust import TrustStore
from tproxy.testing.btp import BTP, Account, Setup
from tproxy.testing.tokens import Client

BASIC = {"Name": "basic", "Type": "MAIL", "Authentication": "BasicAuthentication", "mail.password": "of the subaccount"}
DESTINATIONS = "/destination-configuration/v1/destinations/"
LEVELS = "/destination-configuration/v2/destinations/"


def setup() -> Setup:
    """A provider, two tenants that subscribed and one that did not, and one mail client."""
    setup = Setup(Tenant("main"), "sb-tproxy", "s3cret")
    setup.accounts |= {Tenant(name): Account() for name in ("acme", "globex")}
    setup.accounts[Tenant("lost")] = Account(subscribed=False)
    setup.accounts[Tenant("acme")].destinations["subaccount"]["basic"] = BASIC
    setup.mail_clients["mail-client"] = Client("mail-secret", "anna")
    return setup


async def until(condition: Callable[[], object]) -> None:
    """Returns in the first turn of the reactor in which the condition holds."""
    while not condition():
        await deferLater(reactor, 0)


class StandInTestCase(TestCase):
    """Starts the stand-in before every test; `clock` ages its tokens and delays its answers."""

    timeout = 20

    async def setUp(self) -> None:
        self.clock = Clock()
        self.btp = BTP(reactor, setup(), self.clock)
        self.acme = self.btp.setup.accounts[Tenant("acme")]
        self.main = self.btp.setup.accounts[Tenant("main")]
        await self.btp.start()
        self.addCleanup(self.btp.stop)
        connector = Connector(
            reactor, Resolver(reactor, Guard([ip_network("127.0.0.0/8")])), TrustStore(None, lambda _: None)
        )
        self.client = client(connector, reactor, trust=Trust((self.btp.authority.pem,)), read_seconds=5)

    async def ask(self, method: str, url: str, **more: Any) -> Answer:
        """One request."""
        return await self.client.ask(method, url, **more)

    async def asks_for_token(self, tenant: str = "acme", **changed: str) -> Answer:
        """The request for a token that a client makes which knows the secret; an empty field is left out."""
        form = {"grant_type": "client_credentials", "client_id": "sb-tproxy", "client_secret": "s3cret"} | changed
        url = self.btp.url(f"{tenant}.authentication", "/oauth/token")
        return await self.ask("POST", url, form=[(name, value) for name, value in form.items() if value])

    async def token(self, tenant: str = "acme") -> str:
        """A token for a tenant."""
        return said(await self.asks_for_token(tenant))["access_token"]

    async def find(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        queries: Sequence[tuple[str, str]] = (),
        token: str | None = None,
    ) -> Answer:
        """A request for a destination, with a fresh token of acme's if none is given."""
        authorization = {"Authorization": f"Bearer {await self.token() if token is None else token}"}
        return await self.ask(
            "GET", self.btp.url("destination", path), headers=authorization | dict(headers or {}), queries=queries
        )

    def error(self, answer: Answer, status: int) -> str:
        """The words of an error of the Destination service."""
        self.assertEqual((answer.status, answer.header("content-type")), (status, "application/json"))
        fields = said(answer)
        self.assertEqual(list(fields), ["ErrorMessage"])
        return fields["ErrorMessage"]


def said(answer: Answer) -> dict[str, Any]:
    """The fields of an answer."""
    return json.loads(answer.body)

"""A store over an instance of the stand-in's Destination service."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from tests.testing.btp.standin import StandInTestCase, until
from tproxy.config import Config, Limits, Local
from tproxy.destinations.build import build
from tproxy.destinations.store import Store
from tproxy.document import Rules
from tproxy.instances import KeyInFile, ServiceInstance
from tproxy.model import Bearer, DestinationRequest, Offered, Refusal, RefusedError, Resolution, Secret, Tenant
from tproxy.net.endpoints import Connector
from tproxy.net.guard import Guard
from tproxy.net.resolver import Resolver
from tproxy.net.trust import TrustStore
from tproxy.testing.btp import Endpoint, Heard

RULES = Rules({"imap4": 143, "imap4s": 993})
ACME, GLOBEX, LOST = Tenant("acme"), Tenant("globex"), Tenant("lost")
MAIL = DestinationRequest("", "mail", ACME)
BASIC = {
    "Type": "MAIL",
    "Authentication": "BasicAuthentication",
    "mail.user": "anna",
    "mail.password": "first-password",
    "mail.transport.protocol": "imap4s",
    "mail.imap4s.host": "imap.example.com",
}
OAUTH = {name: value for name, value in BASIC.items() if name != "mail.password"} | {
    "Authentication": "OAuth2ClientCredentials",
    "tokenServiceURL": "https://login.localhost:{port}/token",
    "clientId": "mail-client",
    "clientSecret": "mail-secret",
}
REFRESH = OAUTH | {"Authentication": "OAuth2RefreshToken"}
CODE = OAUTH | {"Authentication": "OAuth2AuthorizationCode", "redirectUri": "https://app.example.com/"}
FRESH, STALE = 120.0, 600.0
MAIL_SECONDS = 3600.0


class ServiceTestCase(StandInTestCase):
    """Before every test: a store with the instance `btp`, and the same clock for it and the stand-in."""

    async def setUp(self) -> None:
        await super().setUp()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        (self.folder / "ca.pem").write_text(self.btp.authority.pem)
        self.instance = ServiceInstance("btp", KeyInFile(self.folder / "key.json"))
        self.write_key()
        self.place()
        self.store = self.make()

    def write_key(self, **changed: str) -> None:
        (self.folder / "key.json").write_text(json.dumps(self.btp.service_key() | changed))

    def place(
        self,
        properties: dict[str, str] = BASIC,
        name: str = "mail",
        tenant: Tenant = ACME,
        level: str = "subaccount",
        **changed: str,
    ) -> None:
        """Let the stand-in have a destination."""
        account = self.btp.setup.accounts[tenant]
        account.destinations[level][name] = {"Name": name, **properties, **changed}

    def now(self) -> float:
        return 1e9 + self.clock.seconds()

    def make(self, instance: ServiceInstance | None = None, **more: Any) -> Store:
        """Another store, over this instance; it is stopped after the test."""
        local = Local(self.folder, self.folder / "state.json")
        instances = (self.instance if instance is None else instance,)
        config = Config("shared", instances, "btp", local, limits=Limits(stale_seconds=int(STALE)))
        guard = Guard([ip_network("127.0.0.0/8")])
        connector = Connector(
            reactor, Resolver(reactor, guard), TrustStore(self.folder / "ca.pem", lambda context: None)
        )
        store = build(config, RULES, connector, self.clock, self.now, **more)
        store.startService()
        self.addCleanup(store.stopService)
        return store

    def asked(self, endpoint: Endpoint, name: str | None = None) -> list[Heard]:
        """What the stand-in was asked, all or for one destination."""
        return [heard for heard in self.btp.heard if heard.endpoint is endpoint and name in (None, heard.name)]

    def counts(self) -> tuple[int, int, int]:
        """How many service tokens, destinations and mail tokens were asked for."""
        return (len(self.asked(Endpoint.TOKEN)), len(self.asked(Endpoint.DESTINATION)), len(self.btp.provider.asked))

    async def bearer(self, request: DestinationRequest = MAIL, offered: Offered | None = None) -> str:
        """The bearer token that a session logs in with."""
        credential = (await self.store.resolve(request, offered)).credential
        assert isinstance(credential, Bearer)
        return credential.token.reveal()

    async def refusal(self, answer: Deferred[Any]) -> Refusal:
        error = await self.assertFailure(answer, RefusedError)
        for secret in ("s3cret", "mail-secret", "first-password", "an-offer"):
            self.assertNotIn(secret, str(error.refusal))
        return error.refusal

    async def many(self, count: int, request: DestinationRequest = MAIL) -> list[Resolution]:
        """What so many sessions get that begin at once."""
        return await gatherResults([self.store.resolve(request) for _ in range(count)])

    async def later(self, seconds: float, until_so: Callable[[], object]) -> None:
        """Time passes, and what begins then goes on until something is so."""
        self.clock.advance(seconds)
        await until(until_so)

    def offer(self, secret: str = "an-offer", user: str = "") -> Offered:
        return Offered(user, Secret(secret))


def of(tenant: str, request: DestinationRequest = MAIL) -> DestinationRequest:
    """The same for another tenant."""
    return evolve(request, tenant=Tenant(tenant))

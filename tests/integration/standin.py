"""The proxy in front of the stand-in of the Destination service, and Dovecot behind it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater
from twisted.protocols.policies import WrappingFactory
from twisted.trial import util
from twisted.trial.unittest import TestCase
from twisted.web.server import Site

from tests.integration import canaries
from tests.integration.children import start
from tests.integration.dovecot import dovecot
from tests.integration.proxy import SOURCES, Proxy, basic
from tests.integration.transcript import EndedError
from tests.integration.wire import Wire, connect
from tproxy.model import Tenant
from tproxy.testing.btp import BTP, Account, Endpoint, Setup
from tproxy.testing.tokens import Client

TPROXY = "from tproxy.cli import main; main()"
PROVIDER_SUBDOMAIN = Tenant("main")


async def until(condition: Callable[[], object]) -> None:
    """Returns soon after the condition holds."""
    while not condition():
        await a_moment()


async def a_moment() -> None:
    """Between two looks at something."""
    await deferLater(reactor, 0.02)


class StandInTestCase(TestCase):
    """The stand-in has the tenants acme and globex, and the proxy one resource, `mail`, in front of them."""

    timeout = 120
    # twisted.web looks header names up in one table, text and bytes.
    suppress = [util.suppress(category=BytesWarning)]  # noqa: RUF012

    async def setUp(self) -> None:
        self.mail = dovecot()
        self.setup = Setup(PROVIDER_SUBDOMAIN, "sb-tproxy", canaries.secret("service-key"))
        self.setup.accounts |= {Tenant(name): Account() for name in ("acme", "globex")}
        self.setup.mail_clients["mail-client"] = Client(canaries.secret("mail-client"), "nobody")
        self.btp = BTP(reactor, self.setup)
        self.remember_tokens()
        await self.btp.start()
        self.addCleanup(self.btp.stop)
        self.proxy = Proxy(self, config={"tenantMode": "shared", "providerSubdomain": PROVIDER_SUBDOMAIN})
        service = self.proxy.configuration["config"]["integration"]["destinationService"]
        service["instances"] = [{"name": "local", "serviceCredentials": {"file": "key.json"}}]
        self.proxy.trust(self.btp.authority.pem, self.mail.authority)
        self.write_key()

    def remember_tokens(self) -> None:
        """What the stand-in issues is looked for in whatever the proxy writes."""
        self.btp.provider.issue = _also(self.btp.provider.issue)

    def configure(self, **settings: Any) -> None:
        """More of the section `config` of the configuration."""
        self.proxy.configuration["config"].update(settings)

    def write_key(self) -> None:
        """Put the service key where the proxy looks for it."""
        draft = self.proxy.folder / ".key.draft"
        draft.write_text(json.dumps(self.btp.service_key()))
        draft.rename(self.proxy.folder / "key.json")

    def document(self, tenant: str, name: str = "mail", **properties: str) -> dict[str, str]:
        """The destination of a tenant, in its subaccount; what is changed in it counts from the next request on."""
        destinations = self.setup.accounts[Tenant(tenant)].destinations["subaccount"]
        destinations[name] = {"Name": name, **properties}
        return destinations[name]

    def mailbox(self, tenant: str, name: str = "mail") -> str:
        """A destination that leads to a mailbox of its own, whose one message has the user as its subject."""
        user = self.mail.mailbox()
        self.mail.deliver(user, f"Subject: {user}\r\n\r\nx\r\n".encode(), 1)
        self.document(tenant, name, **basic(self.mail.tls, user))
        return user

    def oauth(self, user: str, **changed: str) -> dict[str, str]:
        """The properties of a destination that logs a user in with a token of the stand-in's mail provider."""
        properties = basic(self.mail.tls, user) | {
            "Authentication": "OAuth2ClientCredentials",
            "tokenServiceURL": self.btp.url("login", "/token"),
            "clientId": "mail-client",
            "clientSecret": canaries.secret("mail-client"),
            **changed,
        }
        del properties["mail.password"]
        return properties

    async def introspect(self) -> None:
        """Let Dovecot ask the mail provider whose tokens are whose."""
        site = WrappingFactory(Site(self.btp.provider))
        port = await TCP4ServerEndpoint(reactor, self.mail.introspection, interface="127.0.0.1").listen(site)

        def close() -> None:
            for kept_alive in list(site.protocols):
                kept_alive.transport.abortConnection()

        self.addCleanup(close)
        self.addCleanup(port.stopListening)

    def count(self, endpoint: Endpoint, tenant: str | None = None) -> int:
        """How many requests the stand-in has heard."""
        return sum(each.endpoint is endpoint and tenant in (None, each.tenant) for each in self.btp.heard)

    async def port(self, tenant: str = "", name: str = "mail") -> int:
        """Where a tenant's listener listens, once it does."""
        return await self.proxy.port(f"{name}-{tenant}" if tenant else name)

    async def greeting(self, port: int) -> bytes:
        """What a connection is greeted with; it is closed then."""
        wire = await connect(self, port)
        try:
            return await wire.hears(rb"\n")
        finally:
            wire.transport.abortConnection()

    async def knock(self, port: int) -> None:
        """One connection, whatever becomes of it."""
        with suppress(ConnectError, EndedError):
            await self.greeting(port)
        await a_moment()

    async def whose(self, wire: Wire) -> str:
        """Whose mailbox a session is, by its one message; the session goes on."""
        await wire.ask(b"w1 SELECT INBOX\r\n", rb"^w1 OK ")
        said = await wire.ask(b"w2 FETCH 1 BODY.PEEK[HEADER.FIELDS (SUBJECT)]\r\n", rb"^w2 OK ")
        return said.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode()

    async def check(self, *words: str) -> tuple[int, str]:
        """`tproxy check mail`: its status, and what it prints."""
        command = [sys.executable, "-c", TPROXY, "check", "mail", "--config", self.proxy.folder / "config.yaml", *words]
        child = start(self, command, self.proxy.folder, env={"PYTHONPATH": str(SOURCES)})
        status = await child.output.closed()
        self.assertEqual([], canaries.found(bytes(child.output)), "secrets in what the check printed")
        return status, " ".join(str(child.output).split())


def _also(issue: Callable[..., str]) -> Callable[..., str]:
    return lambda *whose: canaries.also(issue(*whose))

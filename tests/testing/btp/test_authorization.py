"""The authorization server of the stand-in, over HTTPS."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.web.client import Agent
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.testing.btp.standin import DESTINATIONS, StandInTestCase, said, setup
from tproxy.model import Tenant
from tproxy.net.http import Answer, Client
from tproxy.testing.btp import Endpoint, Heard
from tproxy.testing.certificates import Authority


class SecretTests(StandInTestCase):
    """Clients that know the secret."""

    async def test_token(self) -> None:
        """Each tenant's host gives tokens, the provider's too, and notes who asked."""
        for tenant in ("acme", "globex", "main"):
            answer = await self.asks_for_token(tenant)
            self.assertEqual((answer.status, answer.header("content-type")), (200, "application/json"))
            fields = said(answer)
            self.assertEqual(set(fields), {"access_token", "token_type", "expires_in", "scope", "jti"})
            self.assertEqual((fields["token_type"].lower(), fields["expires_in"]), ("bearer", 43200))
        tokens = [Heard(Endpoint.TOKEN, tenant) for tenant in ("acme", "globex", "main")]
        self.assertEqual(self.btp.heard, tokens)

    async def test_upper_case(self) -> None:
        """The name of a host has no case."""
        self.assertEqual((await self.asks_for_token("ACME")).status, 200)

    async def test_tenants(self) -> None:
        """An unknown tenant is not found; one that has not subscribed is refused, until it does."""
        self.assertEqual((await self.asks_for_token("nobody")).status, 404)
        self.assertEqual((await self.asks_for_token("lost")).status, 401)
        self.btp.setup.accounts[Tenant("lost")].subscribed = True
        self.assertEqual((await self.asks_for_token("lost")).status, 200)

    async def test_wrong(self) -> None:
        """Another client, another secret, none, or another grant are refused as RFC 6749 has it."""
        for changed, status, error in (
            ({"client_id": "other"}, 401, "invalid_client"),
            ({"client_secret": "other"}, 401, "invalid_client"),
            ({"client_secret": ""}, 401, "invalid_client"),
            ({"grant_type": "password"}, 400, "unsupported_grant_type"),
            ({"grant_type": ""}, 400, "unsupported_grant_type"),
        ):
            answer = await self.asks_for_token(**changed)
            self.assertEqual((answer.status, said(answer)["error"]), (status, error))

    async def test_elsewhere(self) -> None:
        """There is one path and one method, and hosts that are not the stand-in's are none."""
        answer = await self.ask("GET", self.btp.url("acme.authentication", "/oauth/token"))
        self.assertEqual((answer.status, answer.header("allow")), (405, "POST"))
        self.assertEqual((await self.ask("POST", self.btp.url("acme.authentication", "/token"), form=[])).status, 404)
        url = self.btp.url("destination", "/oauth/token")
        self.error(await self.ask("POST", url, headers={"Host": "mail.example"}), 404)
        self.assertEqual(self.btp.heard, [])

    async def test_rotation(self) -> None:
        """From now on the new secret counts; tokens that the old one got live on."""
        token = await self.token()
        self.btp.setup.client_secret = "new"
        self.assertEqual((await self.asks_for_token()).status, 401)
        self.assertEqual((await self.asks_for_token(client_secret="new")).status, 200)
        self.assertEqual((await self.find(f"{DESTINATIONS}basic", token=token)).status, 200)
        self.assertEqual(self.btp.service_key()["clientsecret"], "new")

    async def test_another_setup(self) -> None:
        """The whole setup may be changed; tokens live on, with the instance that they are for."""
        token = await self.token()
        self.btp.change(setup())
        self.assertEqual((await self.find(f"{DESTINATIONS}basic", token=token)).status, 200)
        other = setup()
        other.client_id = "sb-other"
        self.btp.change(other)
        self.error(await self.find(f"{DESTINATIONS}basic", token=token), 401)

    async def test_end_of_tokens(self) -> None:
        """A token ends with its time, and when it is revoked; other tenants' are left alone."""
        acme, globex = await self.token("acme"), await self.token("globex")
        self.clock.advance(43199)
        self.btp.revoke(Tenant("globex"))
        self.assertEqual((await self.find(f"{DESTINATIONS}basic", token=acme)).status, 200)
        self.error(await self.find(f"{DESTINATIONS}basic", token=globex), 401)
        self.clock.advance(1)
        self.error(await self.find(f"{DESTINATIONS}basic", token=acme), 401)
        acme = await self.token("acme")
        self.btp.revoke()
        self.error(await self.find(f"{DESTINATIONS}basic", token=acme), 401)

    async def test_service_key(self) -> None:
        """The key leads to the provider's host and to the service; nothing prints the secrets."""
        self.assertEqual(
            self.btp.service_key(),
            {
                "clientid": "sb-tproxy",
                "clientsecret": "s3cret",
                "url": f"https://main.authentication.localhost:{self.btp.port}",
                "uri": f"https://destination.localhost:{self.btp.port}",
            },
        )
        for secret in ("s3cret", "mail-secret", "of the subaccount"):
            self.assertNotIn(secret, repr(self.btp.setup))


Shown = tuple[str, str] | None
"""A client's certificate with its chain, and its key."""


@implementer(IAgentEndpointFactory, IOpenSSLClientConnectionCreator)
class Showing:
    """Connects to loopback, whatever the host, and shows a certificate where it is asked for one."""

    def __init__(self, host: str, shown: Shown) -> None:
        self.host = host
        self.context = SSL.Context(SSL.TLS_METHOD)
        if shown is not None:
            leaf, *chain = load_pem_x509_certificates(shown[0].encode())
            self.context.use_certificate(leaf)
            self.context.use_privatekey(load_pem_private_key(shown[1].encode(), None))
            for each in chain:
                self.context.add_extra_chain_cert(each)

    def endpointForURI(self, uri):
        return wrapClientTLS(self, TCP4ClientEndpoint(reactor, "127.0.0.1", uri.port))

    def clientConnectionForTLS(self, tlsProtocol):
        connection = SSL.Connection(self.context, None)
        connection.set_tlsext_host_name(self.host.encode())
        return connection


class CertificateTests(StandInTestCase):
    """Clients that have a certificate."""

    async def setUp(self) -> None:
        await super().setUp()
        self.btp.setup.client_secret = ""

    def shown(self) -> Shown:
        key = self.btp.service_key()
        return key["certificate"], key["key"]

    async def asks(self, shown: Shown, host: str = "authentication.cert", **changed: str) -> Answer:
        showing = Showing(f"acme.{host}.localhost", shown)
        form = {"grant_type": "client_credentials", "client_id": "sb-tproxy"} | changed
        client = Client(Agent.usingEndpointFactory(reactor, showing), reactor)
        return await client.ask("POST", self.btp.url(f"acme.{host}", "/oauth/token"), form=list(form.items()))

    def test_fakes(self) -> None:
        """The client offers what the real one does."""
        for interface in (IAgentEndpointFactory, IOpenSSLClientConnectionCreator):
            verifyObject(interface, Showing("acme", None))

    async def test_token(self) -> None:
        """The certificate of the service key and the client's id get a token."""
        key = self.btp.service_key()
        self.assertEqual(set(key), {"clientid", "url", "uri", "certurl", "certificate", "key"})
        self.assertEqual(key["certurl"], self.btp.url("main.authentication.cert"))
        self.assertEqual(key["certificate"].count("BEGIN CERTIFICATE"), 2)
        token = said(await self.asks(self.shown()))["access_token"]
        self.assertEqual((await self.find(f"{DESTINATIONS}basic", token=token)).status, 200)

    async def test_refused(self) -> None:
        """No certificate, another one, one on the host that asks for none, another id, and a secret are refused."""
        stranger = Authority.create().issue(common_name="sb-tproxy")
        other = stranger.pem, stranger.key_pem
        for answer in (
            await self.asks(None),
            await self.asks(other),
            await self.asks(self.shown(), "authentication"),
            await self.asks(self.shown(), client_id="other"),
            await self.asks(None, "authentication", client_secret="s3cret"),
        ):
            self.assertEqual((answer.status, said(answer)["error"]), (401, "invalid_client"))

    async def test_secret_instead(self) -> None:
        """An instance that has a secret accepts no certificate."""
        shown = self.shown()
        self.btp.setup.client_secret = "s3cret"
        self.assertEqual((await self.asks(shown)).status, 401)

    async def test_rotation(self) -> None:
        """A new certificate makes the old one worthless."""
        old = self.shown()
        self.btp.renew_certificate()
        self.assertEqual((await self.asks(old)).status, 401)
        self.assertEqual((await self.asks(self.shown())).status, 200)

"""Destinations of the Destination service, over HTTPS: what is found, for whom, and how often it is asked."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import gatherResults
from zope.interface.verify import verifyObject

from tests.destinations.services import ACME, BASIC, FRESH, GLOBEX, LOST, MAIL, OAUTH, ServiceTestCase, of
from tests.logs import logged
from tests.testing.btp.standin import until
from tproxy.destinations import warnings
from tproxy.interfaces import IDestinationStore
from tproxy.model import Bearer, Grant, NoCredential, Password, Reason, Secret
from tproxy.testing.btp import Endpoint, Fault
from tproxy.testing.tokens import BROKEN, HUGE, LOGIN_PAGE, SILENT, TRUNCATED, UNAVAILABLE, Answer, busy, redirect


class FoundTests(ServiceTestCase):
    """What a destination is, and what that costs."""

    async def test_password(self) -> None:
        """One token and one request bring the document; after that it is there at once."""
        verifyObject(IDestinationStore, self.store)
        first = await self.store.resolve(MAIL)
        self.assertEqual((first.credential, first.cached), (Password("anna", Secret("first-password")), False))
        self.assertEqual(first.destination.route.host, "imap.example.com")
        again = self.successResultOf(self.store.resolve(MAIL))
        self.assertEqual(again, evolve(first, cached=True))
        self.assertEqual(self.successResultOf(self.store.describe(MAIL)), first.destination)
        self.assertEqual(self.counts(), (1, 1, 0))

    async def test_nobody_logs_in(self) -> None:
        """NoAuthentication is a credential of its own."""
        self.place(BASIC, Authentication="NoAuthentication")
        self.assertEqual((await self.store.resolve(MAIL)).credential, NoCredential())

    async def test_thousand_passwords(self) -> None:
        """A thousand sessions of one cold destination cost one token and one request."""
        found = await self.many(1000)
        self.assertEqual({each.credential for each in found}, {Password("anna", Secret("first-password"))})
        self.assertEqual(self.counts(), (1, 1, 0))

    async def test_thousand_tokens(self) -> None:
        """Also where the token for the mailbox comes along."""
        self.place(OAUTH)
        found = await self.many(1000)
        (credential,) = {each.credential for each in found}
        assert isinstance(credential, Bearer)
        self.assertTrue(self.btp.provider.valid(credential.token.reveal()))
        self.assertEqual(self.counts(), (1, 1, 1))

    async def test_described(self) -> None:
        """Who only wants to know what it is has no token fetched."""
        self.place(OAUTH)
        described = await self.store.describe(MAIL)
        assert isinstance(described.login, Grant)
        self.assertEqual(described.login.url, f"https://login.localhost:{self.btp.port}/token")
        self.assertEqual(self.counts(), (1, 1, 0))
        self.assertTrue(self.btp.provider.valid(await self.bearer()))
        self.assertEqual(self.counts(), (1, 2, 1))

    async def test_tenants(self) -> None:
        """Each tenant has its token, its document and its mailbox, and never another's, however they mix."""
        for tenant in ("acme", "globex"):
            self.place({**OAUTH, "mail.user": f"of-{tenant}"}, tenant=of(tenant).tenant)
        for level, tenant in (("instance", ACME), ("subaccount", GLOBEX)):
            self.place({**BASIC, "mail.password": f"of-{tenant}"}, "other", tenant, level)
        requests = [of(tenant, evolve(MAIL, name=name)) for tenant in (ACME, GLOBEX) for name in ("mail", "other")] * 50
        found = await gatherResults([self.store.resolve(request) for request in requests])
        tokens: dict[str, set[str]] = {ACME: set(), GLOBEX: set()}
        for request, resolution in zip(requests, found, strict=True):
            match resolution.credential:
                case Bearer(user, token):
                    self.assertEqual(user, f"of-{request.tenant}")
                    tokens[request.tenant].add(token.reveal())
                case credential:
                    self.assertEqual(credential, Password("anna", Secret(f"of-{request.tenant}")))
        self.assertEqual([len(each) for each in tokens.values()], [1, 1])
        self.assertNotEqual(tokens[ACME], tokens[GLOBEX])
        self.assertEqual(self.counts(), (2, 4, 2))

    async def test_provider(self) -> None:
        """Without a tenant it is the provider's own."""
        self.place(tenant=self.btp.setup.provider, **{"mail.user": "provider"})
        self.assertEqual((await self.store.describe(of(""))).user, "provider")
        self.assertEqual([heard.tenant for heard in self.btp.heard], ["main", "main"])

    async def test_levels(self) -> None:
        """The level that is named is asked for alone; without one it is the instance's first."""
        self.place(level="instance", **{"mail.user": "instance"})
        self.place(tenant=self.btp.setup.provider, **{"mail.user": "provider"})
        for level, user in (
            ("", "instance"),
            ("instance", "instance"),
            ("subaccount", "anna"),
            ("provider_subaccount", "provider"),
        ):
            self.assertEqual((await self.store.describe(evolve(MAIL, level=level))).user, user)
        refusal = await self.refusal(self.store.describe(evolve(MAIL, level="provider_instance")))
        self.assertEqual(refusal.reason, Reason.DESTINATION_NOT_FOUND)
        self.assertIn("at the level provider_instance", refusal.message)

    async def test_fragments(self) -> None:
        """A fragment's properties win; one that is missing is told, unless it is optional."""
        self.acme.fragments["subaccount"]["boss"] = {"mail.user": "bert"}
        boss, none = evolve(MAIL, fragment="boss"), evolve(MAIL, fragment="none")
        self.assertEqual((await self.store.describe(boss)).user, "bert")
        self.assertEqual((await self.store.describe(evolve(none, fragment_optional=True))).user, "anna")
        refusal = await self.refusal(self.store.describe(none))
        self.assertEqual(refusal.reason, Reason.FRAGMENT_NOT_FOUND)
        self.assertIn("'none'", refusal.message)
        both = evolve(boss, level="subaccount", fragment_level="subaccount")
        self.assertEqual((await self.store.describe(both)).user, "bert")
        self.assertEqual(self.asked(Endpoint.DESTINATION)[-1].headers, {"x-fragment-name": "boss@subaccount"})

    async def test_chain(self) -> None:
        """What the service says to a chain that it does not take."""
        chain = evolve(MAIL, chain="chain", chain_variables=(("User", "anna"),))
        refusal = await self.refusal(self.store.describe(chain))
        self.assertEqual(refusal.reason, Reason.STORE_REFUSED)
        self.assertIn("refuses what it is asked (HTTP 400: this stand-in has no chains)", refusal.message)
        self.assertEqual(
            self.asked(Endpoint.DESTINATION)[-1].headers, {"x-chain-name": "chain", "x-chain-var-user": "anna"}
        )

    async def test_warns_once(self) -> None:
        """A document's warning is said once, and so are those of its variants with a fragment."""
        self.acme.fragments["subaccount"]["odd"] = {"mail.imap4s.auth": "false"}
        odd = evolve(MAIL, fragment="odd")
        with logged(warnings.log) as events:
            for _ in range(3):
                for request in (odd, MAIL):
                    await self.store.describe(request)
                self.clock.advance(FRESH)
        self.assertEqual([(event["destination"], event["tenant"]) for event in events], [("mail", "acme")])
        self.assertIn("nobody logs in", events[0]["message"])


class RefusalTests(ServiceTestCase):
    """What is said where there is none."""

    async def test_tenants_and_keys(self) -> None:
        """An unknown tenant, one that is not subscribed, and a key that is not accepted are told apart, each time."""
        for _ in range(2):
            for tenant, reason, words in (
                ("nobody", Reason.TENANT_NOT_FOUND, "for the tenant 'nobody': there is no such tenant"),
                (LOST, Reason.TENANT_NOT_SUBSCRIBED, "for the tenant 'lost': the tenant is not subscribed"),
            ):
                for name in ("mail", "other"):  # the second one is told by what is known of the first one's token
                    refusal = await self.refusal(self.store.describe(of(tenant, evolve(MAIL, name=name))))
                    self.assertEqual(refusal.reason, reason)
                    self.assertIn(f"the instance btp {words}", refusal.message)
        self.write_key(clientsecret="other")
        self.clock.advance(30)
        for tenant in ("acme", "lost", ""):
            refusal = await self.refusal(self.store.describe(of(tenant)))
            self.assertEqual(refusal.reason, Reason.SERVICE_KEY_INVALID)
            self.assertIn("the service key is not accepted", refusal.message)

    async def test_not_there(self) -> None:
        """A destination and an instance that do not exist."""
        refusal = await self.refusal(self.store.resolve(evolve(MAIL, name="other")))
        self.assertEqual(refusal.reason, Reason.DESTINATION_NOT_FOUND)
        self.assertIn("the instance btp for the tenant 'acme': there is no destination 'other'", refusal.message)
        for answer in (
            self.store.describe(evolve(MAIL, instance="other")),
            self.store.resolve(evolve(MAIL, instance="other")),
            self.store.renew(evolve(MAIL, instance="other"), NoCredential()),
        ):
            refusal = await self.refusal(answer)
            self.assertEqual(refusal.reason, Reason.RESOURCE_INVALID)
            self.assertIn("no destination service instance 'other'", refusal.message)

    async def test_invalid_document(self) -> None:
        """What a document lacks is told with where it is from, the tenant and the property."""
        self.place({name: value for name, value in BASIC.items() if name != "mail.user"})
        refusal = await self.refusal(self.store.describe(MAIL))
        self.assertEqual(refusal.reason, Reason.DOCUMENT_INVALID)
        self.assertIn(
            "the instance btp for the tenant 'acme': the destination 'mail': mail.user is missing", refusal.message
        )

    async def test_faults(self) -> None:
        """Whatever the service says instead, there is one refusal after one request."""
        for number, (wrong, reason, words) in enumerate(
            (
                (BROKEN, Reason.STORE_UNAVAILABLE, "cannot answer now (HTTP 500)"),
                (UNAVAILABLE, Reason.STORE_UNAVAILABLE, "cannot answer now (HTTP 503)"),
                (LOGIN_PAGE, Reason.STORE_UNAVAILABLE, "without a JSON object"),
                (TRUNCATED, Reason.STORE_UNAVAILABLE, "without a JSON object"),
                (HUGE, Reason.STORE_UNAVAILABLE, "sends more than a destination's worth"),
                (redirect("/elsewhere"), Reason.STORE_UNAVAILABLE, "redirects (HTTP 302)"),
                (Answer(403), Reason.STORE_REFUSED, "forbids to read the destination"),
                (busy("50"), Reason.STORE_UNAVAILABLE, "cannot answer now (HTTP 429)"),
            )
        ):
            name = f"mail{number}"
            self.place(name=name)
            self.btp.setup.faults = [Fault(Endpoint.DESTINATION, wrong, requests=1)]
            for _ in range(2):
                refusal = await self.refusal(self.store.resolve(evolve(MAIL, name=name)))
                self.assertEqual(refusal.reason, reason)
                self.assertIn(words, refusal.message)
            self.assertEqual(len(self.asked(Endpoint.DESTINATION, name)), 1)
            self.clock.advance(1)
        self.clock.advance(45)
        refusal = await self.refusal(self.store.resolve(evolve(MAIL, name=name)))
        self.assertIn("HTTP 429", refusal.message)
        self.clock.advance(5)
        self.assertEqual((await self.store.describe(evolve(MAIL, name=name))).name, name)

    async def test_silence(self) -> None:
        """Who waits for a service that says nothing is told so after its time-out."""
        self.btp.setup.faults = [Fault(Endpoint.DESTINATION, SILENT)]
        waiting = self.store.resolve(MAIL)
        await until(lambda: self.asked(Endpoint.DESTINATION))
        self.clock.advance(self.instance.read_seconds)
        refusal = await self.refusal(waiting)
        self.assertEqual(refusal.reason, Reason.STORE_UNAVAILABLE)
        self.assertIn("is too slow", refusal.message)

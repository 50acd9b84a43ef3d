"""What the Destination service is asked, and for which token."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tproxy.destinations.inquiry import Inquiry, inquiry, token_grant
from tproxy.destinations.keys import ServiceKey
from tproxy.destinations.oauth import request as token_request
from tproxy.model import (
    PROVIDER,
    Code,
    DestinationRequest,
    Grant,
    GrantKind,
    Identity,
    Offered,
    Reason,
    Refusal,
    RefusedError,
    Secret,
    Stage,
    Tenant,
    Trust,
)

ACME = Tenant("acme")
KEY = ServiceKey("client", Secret("s3cret"), None, "https://provider.auth.example:8443/uaa", "https://dest.example/api")
REQUEST = DestinationRequest("dest", "mail", ACME)
TOKEN = Secret("t0ken")


class TokenGrantTests(SynchronousTestCase):
    """`token_grant`."""

    def url(self, url: str, tenant: Tenant) -> str:
        return token_grant(evolve(KEY, url=url), tenant, 3.0, 4.0).url

    def refusal(self, url: str, tenant: Tenant) -> Refusal:
        refusal = self.assertRaises(RefusedError, self.url, url, tenant).refusal
        self.assertEqual((refusal.stage, refusal.code), (Stage.RESOLVE, Code.CONTACT_ADMIN))
        self.assertTrue(refusal.remedy)
        return refusal

    def test_client_secret(self) -> None:
        """The client's credentials go to the URL of the key, under /oauth/token."""
        self.assertEqual(
            token_grant(KEY, PROVIDER, 3.0, 4.0),
            Grant(
                "https://provider.auth.example:8443/uaa/oauth/token",
                "client",
                Secret("s3cret"),
                connect_seconds=3.0,
                read_seconds=4.0,
            ),
        )

    def test_certificate(self) -> None:
        """With a certificate the body only names the client; the connection shows the rest."""
        identity = Identity("certificates", Secret("key"))
        grant = token_grant(evolve(KEY, client_secret=None, identity=identity), ACME, 3.0, 4.0)
        self.assertEqual(grant.trust, Trust(identity=identity))
        sent = token_request(grant)
        self.assertEqual(sent.form, (("grant_type", "client_credentials"), ("client_id", "client")))
        self.assertNotIn("authorization", sent.headers)

    def test_tenants(self) -> None:
        """The tenant's subdomain takes the place of the first label, and of nothing else."""
        for url, theirs in (
            ("https://provider.auth.example", "https://acme.auth.example/oauth/token"),
            ("https://auth.example:8443/auth.", "https://acme.example:8443/auth./oauth/token"),
            ("https://a.a.example", "https://acme.a.example/oauth/token"),
        ):
            self.assertEqual(self.url(url, ACME), theirs)
            self.assertEqual(self.url(url, PROVIDER), f"{url}/oauth/token")

    def test_no_label(self) -> None:
        """A host that has no label to replace cannot be a tenant's; the provider's own works."""
        for url in ("https://192.0.2.1", "https://[2001:db8::1]:443", "https://localhost"):
            self.assertEqual(self.refusal(url, ACME).reason, Reason.SERVICE_KEY_INVALID)
            self.assertEqual(self.url(url, PROVIDER), f"{url}/oauth/token")

    def test_no_tenant(self) -> None:
        """What is no subdomain leads nowhere else."""
        for tenant in ("evil.example/", "a.b", "A", "-", "a@b"):
            refusal = self.refusal(KEY.url, Tenant(tenant))
            self.assertEqual(refusal.reason, Reason.TENANT_ANNOTATION_INVALID)
            self.assertIn(repr(tenant), refusal.message)


class InquiryTests(SynchronousTestCase):
    """`inquiry`."""

    def ask(self, *, tokens: bool = True, **changes: object) -> Inquiry:
        return inquiry(KEY, TOKEN, evolve(REQUEST, **changes), tokens=tokens)

    def headers(self, **changes: object) -> dict[str, str]:
        """Those beside the ones that are always there."""
        headers = dict(self.ask(**changes).headers)
        self.assertEqual(headers.pop("authorization"), "Bearer t0ken")
        self.assertEqual(headers.pop("accept"), "application/json")
        return headers

    def assert_refused(self, *words: str, **changes: object) -> None:
        refusal = self.assertRaises(RefusedError, self.ask, **changes).refusal
        self.assertEqual(
            (refusal.stage, refusal.reason, refusal.code),
            (Stage.RESOLVE, Reason.RESOURCE_INVALID, Code.CONTACT_ADMIN),
        )
        for word in words:
            self.assertIn(word, refusal.message)
        self.assertTrue(refusal.remedy)
        self.assertTrue(str(refusal).isprintable())

    def test_versions(self) -> None:
        """v2 for a level, v1 otherwise; the tenant is told by the token alone."""
        base = "https://dest.example/api/destination-configuration"
        self.assertEqual(self.ask().url, f"{base}/v1/destinations/mail")
        self.assertEqual(self.ask(level="provider_subaccount").url, f"{base}/v2/destinations/mail@provider_subaccount")
        self.assertEqual(self.headers(), {})
        self.assertEqual(self.headers(level="instance"), {})

    def test_names(self) -> None:
        """A name is one segment of the path, whatever it holds."""
        for name, segment in (
            ("a b/../c?d#e", "a%20b%2F..%2Fc%3Fd%23e"),
            ("100%25", "100%2525"),
            ("bücher", "b%C3%BCcher"),
            ("a@instance", "a%40instance"),
            ("...", "..."),
        ):
            self.assertTrue(self.ask(name=name).url.endswith(f"/v1/destinations/{segment}"))
        for name in ("", ".", "..", "\ud800"):
            self.assert_refused("spec.destinationRef.name", name=name)

    def test_name_and_level(self) -> None:
        """Where a level follows, a name cannot pretend to have one."""
        self.assert_refused("spec.destinationRef.name", "'@'", name="a@b", level="instance")
        self.assert_refused("spec.fragmentRef.name", "'@'", fragment="a@b", level="instance")
        self.assertEqual(self.headers(fragment="a@b"), {"x-fragment-name": "a@b"})

    def test_tokens(self) -> None:
        """Tokens that nobody wants are not fetched."""
        self.assertEqual(self.ask().queries, ())
        self.assertEqual(self.ask(tokens=False).queries, (("$skipTokenRetrieval", "true"),))

    def test_fragments(self) -> None:
        """A fragment, at its level in v2, may be optional."""
        self.assertEqual(self.headers(fragment="f"), {"x-fragment-name": "f"})
        self.assertEqual(
            self.headers(fragment="f g", fragment_optional=True),
            {"x-fragment-name": "f g", "x-fragment-optional": "true"},
        )
        self.assertEqual(self.headers(fragment_optional=True), {})
        self.assertEqual(self.headers(fragment="f", level="subaccount"), {"x-fragment-name": "f"})
        self.assertEqual(
            self.headers(fragment="f", level="subaccount", fragment_level="instance"),
            {"x-fragment-name": "f@instance"},
        )
        self.assert_refused("spec.fragmentRef.level", fragment="f", fragment_level="instance")

    def test_chains(self) -> None:
        """A chain with its variables."""
        variables = (("user", "a b"), ("Role-1", "x"))
        self.assertEqual(
            self.headers(chain="c", chain_variables=variables),
            {"x-chain-name": "c", "x-chain-var-user": "a b", "x-chain-var-role-1": "x"},
        )
        self.assertEqual(self.headers(chain_variables=variables), {})
        for second in ("", "a b", "a:", "ü", "a\r\nX-Evil", "USER"):
            both = (("user", "1"), (second, "2"))
            self.assert_refused("spec.chainRef.variables[1].name", chain="c", chain_variables=both)

    def test_values(self) -> None:
        """What a header cannot carry as it is, is not sent; the field is named."""
        for value in ("a\r\nX-Evil: 1", "a\x00", "\x7f", "ü", "Ж", " a", "a ", "\ud800", "a\n"):
            self.assert_refused("spec.fragmentRef.name", fragment=value)
            self.assert_refused("spec.chainRef.name", chain=value)
            self.assert_refused("spec.chainRef.variables[0].value", chain="c", chain_variables=(("v", value),))
        self.assert_refused("spec.chainRef.variables[0].value", chain="c", chain_variables=(("v", ""),))

    def test_offers(self) -> None:
        """What an application brought, with what belongs to an authorization code."""

        def headers(kind: GrantKind, **more: str) -> dict[str, str]:
            offer = (kind, Offered("u", Secret("0ffer")))
            asked = inquiry(KEY, TOKEN, REQUEST, tokens=True, offer=offer, **more)
            self.assertNotIn("0ffer", repr(asked))
            self.assertNotIn("t0ken", repr(asked))
            self.assertEqual(asked.secrets[:2], (TOKEN, Secret("0ffer")))
            return {name: value for name, value in asked.headers.items() if name.startswith("x-")}

        self.assertEqual(headers(GrantKind.REFRESH_TOKEN), {"x-refresh-token": "0ffer"})
        self.assertEqual(headers(GrantKind.AUTHORIZATION_CODE), {"x-code": "0ffer"})
        self.assertEqual(
            headers(GrantKind.AUTHORIZATION_CODE, redirect_uri="https://app.example/", code_verifier="v"),
            {"x-code": "0ffer", "x-redirect-uri": "https://app.example/", "x-code-verifier": "v"},
        )

    def test_bad_offers(self) -> None:
        """An application cannot add headers; nor can a document."""
        for text in ("", "0ffer\r\nX-Evil: 1", "ü"):
            offer = (GrantKind.REFRESH_TOKEN, Offered("u", Secret(text)))
            error = self.assertRaises(RefusedError, inquiry, KEY, TOKEN, REQUEST, tokens=True, offer=offer)
            self.assertEqual(error.refusal.reason, Reason.CREDENTIAL_INVALID)
            self.assertEqual(error.refusal.code, Code.AUTHENTICATION_FAILED)
            self.assertNotIn("0ffer", str(error.refusal))
        for more, word in (({"redirect_uri": "a\nb"}, "redirectUri"), ({"code_verifier": "ü"}, "code verifier")):
            error = self.assertRaises(RefusedError, inquiry, KEY, TOKEN, REQUEST, tokens=True, **more)
            self.assertEqual(error.refusal.reason, Reason.DOCUMENT_INVALID)
            self.assertIn(word, error.refusal.message)

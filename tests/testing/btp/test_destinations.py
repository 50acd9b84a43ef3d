"""The Destination service of the stand-in, over HTTPS."""

from __future__ import annotations

from typing import Any

from tests.testing.btp.standin import BASIC, DESTINATIONS, LEVELS, StandInTestCase, said
from tproxy.model import Tenant
from tproxy.testing.btp import Endpoint, Fault, Heard
from tproxy.testing.tokens import BROKEN, LOGIN_PAGE, SILENT, Answer


class DocumentTests(StandInTestCase):
    """Finding documents and merging fragments."""

    async def test_v1(self) -> None:
        """The document with its owner, and a note of the request."""
        token = await self.token()
        answer = await self.find(f"{DESTINATIONS}basic", {"X-Fragment-Optional": "true"}, token=token)
        self.assertEqual((answer.status, answer.header("content-type")), (200, "application/json"))
        fields = said(answer)
        self.assertEqual(set(fields), {"owner", "destinationConfiguration", "certificates", "authTokens"})
        self.assertEqual(set(fields["owner"]), {"SubaccountId", "InstanceId"})
        self.assertEqual(fields["destinationConfiguration"], BASIC)
        self.assertEqual((fields["certificates"], fields["authTokens"]), ([], []))
        asked = self.btp.heard[-1]
        self.assertEqual(asked, Heard(Endpoint.DESTINATION, "acme", "basic", {"x-fragment-optional": "true"}))

    async def test_instance_first(self) -> None:
        """In v1 the instance's document hides the subaccount's; each has its owner."""
        subaccount = said(await self.find(f"{DESTINATIONS}basic"))["owner"]
        self.acme.destinations["instance"]["basic"] = {**BASIC, "mail.password": "of the instance"}
        fields = said(await self.find(f"{DESTINATIONS}basic"))
        self.assertEqual(fields["destinationConfiguration"]["mail.password"], "of the instance")
        self.assertEqual(fields["owner"]["SubaccountId"], subaccount["SubaccountId"])
        self.assertIsNone(subaccount["InstanceId"])
        self.assertIsNotNone(fields["owner"]["InstanceId"])

    async def test_tenants(self) -> None:
        """A tenant's token finds what is the tenant's, not what is another's or the provider's."""
        self.main.destinations["subaccount"]["shared"] = {**BASIC, "Name": "shared"}
        for tenant, name, status in (
            ("acme", "basic", 200),
            ("globex", "basic", 404),
            ("main", "basic", 404),
            ("main", "shared", 200),
            ("acme", "shared", 404),
        ):
            answer = await self.find(f"{DESTINATIONS}{name}", token=await self.token(tenant))
            self.assertEqual(answer.status, status, (tenant, name))

    async def test_tenant_gone(self) -> None:
        """A token of a tenant that is gone finds nothing."""
        token = await self.token()
        del self.btp.setup.accounts[Tenant("acme")]
        self.error(await self.find(f"{DESTINATIONS}basic", token=token), 404)

    async def test_changed(self) -> None:
        """The next request sees what has changed."""
        token = await self.token()
        del self.acme.destinations["subaccount"]["basic"]
        self.error(await self.find(f"{DESTINATIONS}basic", token=token), 404)

    async def test_escaped_name(self) -> None:
        """A name may be escaped in the path."""
        self.acme.destinations["subaccount"]["mein Ziel"] = {**BASIC, "Name": "mein Ziel"}
        for path in (f"{DESTINATIONS}mein%20Ziel", f"{LEVELS}mein%20Ziel%40subaccount"):
            self.assertEqual((await self.find(path)).status, 200)
        names = [heard.name for heard in self.btp.heard if heard.endpoint is Endpoint.DESTINATION]
        self.assertEqual(names, ["mein Ziel", "mein Ziel@subaccount"])

    async def test_v2(self) -> None:
        """One level without fallback, the tenant's or the provider's; the owner only if asked for."""
        self.acme.destinations["instance"]["own"] = {**BASIC, "Name": "own"}
        self.main.destinations["subaccount"]["shared"] = {**BASIC, "Name": "shared"}
        self.main.destinations["instance"]["kept"] = {**BASIC, "Name": "kept"}
        token = await self.token()
        for name, levels in (
            ("basic", {"subaccount"}),
            ("own", {"instance"}),
            ("shared", {"provider_subaccount"}),
            ("kept", {"provider_instance"}),
        ):
            for level in ("subaccount", "instance", "provider_subaccount", "provider_instance"):
                answer = await self.find(f"{LEVELS}{name}@{level}", token=token)
                self.assertEqual(answer.status, 200 if level in levels else 404, (name, level))
                if level in levels:
                    self.assertEqual(said(answer)["destinationConfiguration"]["Name"], name)
                    self.assertNotIn("owner", said(answer))
        owned = await self.find(f"{LEVELS}own@instance", queries=[("includeMetadata", "owner")], token=token)
        self.assertEqual(set(said(owned)["owner"]), {"SubaccountId", "InstanceId"})

    async def test_fragments(self) -> None:
        """A fragment's properties win over the document's; in v2 its level is named with it."""
        self.acme.fragments["subaccount"]["f"] = {"mail.user": "sub"}
        self.acme.fragments["instance"]["f"] = {"mail.user": "inst", "mail.password": "other"}
        token = await self.token()
        for path, fragment, user in (
            (f"{DESTINATIONS}basic", "f", "inst"),
            (f"{LEVELS}basic@subaccount", "f@instance", "inst"),
            (f"{LEVELS}basic@subaccount", "f@subaccount", "sub"),
        ):
            document = said(await self.find(path, {"X-fragment-name": fragment}, token=token))
            self.assertEqual(document["destinationConfiguration"]["mail.user"], user)
            self.assertEqual(document["destinationConfiguration"]["Name"], "basic")
        self.assertNotIn("mail.user", BASIC)

    async def test_missing_fragment(self) -> None:
        """A fragment that is missing is an error, unless it is optional."""
        token = await self.token()
        for path, fragment in ((f"{DESTINATIONS}basic", "f"), (f"{LEVELS}basic@subaccount", "f@provider_instance")):
            headers = {"X-fragment-name": fragment}
            self.assertIn("fragment", self.error(await self.find(path, headers, token=token), 404))
            answer = await self.find(path, headers | {"X-fragment-optional": "true"}, token=token)
            self.assertEqual(said(answer)["destinationConfiguration"], BASIC)

    async def test_unauthorized(self) -> None:
        """Without a good bearer token nothing is told, not even what exists."""
        url = self.btp.url("destination", f"{DESTINATIONS}nothing")
        for value in ("", "Bearer", "Bearer wrong", f"Basic {await self.token()}"):
            self.error(await self.ask("GET", url, headers={"Authorization": value}), 401)
        self.error(await self.ask("GET", url), 401)
        self.assertEqual(self.btp.heard[-1], Heard(Endpoint.DESTINATION, "", "nothing"))

    async def test_chains(self) -> None:
        """The reference does not say what chains do."""
        headers = {"X-chain-name": "chain", "X-chain-var-user": "anna"}
        self.assertIn("no chains", self.error(await self.find(f"{DESTINATIONS}basic", headers), 400))
        self.assertEqual(self.btp.heard[-1].headers, {name.lower(): value for name, value in headers.items()})

    async def test_not_in_the_reference(self) -> None:
        """Whatever else the reference does not say is an error."""
        token = await self.token()
        wrong: list[tuple[str, dict[str, str], list[tuple[str, str]], int]] = [
            ("/destination-configuration/v1/subaccountDestinations", {}, [], 404),
            ("/destination-configuration/v3/destinations/basic", {}, [], 404),
            (f"{DESTINATIONS}", {}, [], 404),
            (f"{DESTINATIONS}basic@subaccount", {}, [], 404),
            (f"{LEVELS}basic", {}, [], 400),
            (f"{LEVELS}basic@_instance", {}, [], 400),
            (f"{LEVELS}@instance", {}, [], 400),
            (f"{LEVELS}basic@subaccount", {"X-fragment-name": "f"}, [], 400),
            (f"{DESTINATIONS}basic", {"X-tenant": "globex"}, [], 400),
            (f"{DESTINATIONS}basic", {"X-user-token": "t"}, [], 400),
            (f"{DESTINATIONS}basic", {}, [("includeMetadata", "owner")], 400),
            (f"{DESTINATIONS}basic", {}, [("$skipTokenRetrieval", "yes")], 400),
            (f"{LEVELS}basic@subaccount", {}, [("includeMetadata", "all")], 400),
        ]
        for path, headers, queries, status in wrong:
            with self.subTest(path, headers=headers, queries=queries):
                self.error(await self.find(path, headers, queries, token), status)
        url = self.btp.url("destination", f"{DESTINATIONS}basic")
        answer = await self.ask("DELETE", url, headers={"Authorization": f"Bearer {token}"})
        self.error(answer, 405)
        self.assertEqual(answer.header("allow"), "GET")


class TokenTests(StandInTestCase):
    """`authTokens` of mail destinations."""

    def offer(self, authentication: str = "OAuth2ClientCredentials", **changed: str) -> None:
        self.acme.destinations["subaccount"]["mail"] = {
            "Name": "mail",
            "Type": "MAIL",
            "Authentication": authentication,
            "tokenServiceURL": "https://login.localhost:{port}/oauth2/v2.0/token",
            "clientId": "mail-client",
            "clientSecret": "mail-secret",
        } | changed

    async def tokens(self, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
        answer = await self.find(f"{DESTINATIONS}mail", headers)
        self.assertEqual(answer.status, 200)
        return said(answer)["authTokens"]

    async def failure(self, headers: dict[str, str] | None = None) -> str:
        (entry,) = await self.tokens(headers)
        error = entry.pop("error")
        self.assertEqual(entry, {"type": "", "value": ""})
        return error

    async def username(self, token: str) -> str | None:
        """Whose token the mail provider says that it is."""
        url = self.btp.url("login", "/introspect")
        return said(await self.ask("POST", url, form=[("token", token)])).get("username")

    async def test_client_credentials(self) -> None:
        """The stand-in runs the grant, and the mail provider knows the token."""
        self.offer(scope="mail.all")
        (entry,) = await self.tokens()
        value = entry.pop("value")
        self.assertEqual(
            entry,
            {
                "type": "Bearer",
                "http_header": {"key": "Authorization", "value": f"Bearer {value}"},
                "expires_in": "3600",
                "scope": "mail.all",
            },
        )
        self.assertEqual(await self.username(value), "anna")
        url = self.btp.url("login", "/tokeninfo")
        self.assertTrue(said(await self.ask("GET", url, queries=[("access_token", value)]))["active"])
        self.assertEqual([heard.endpoint for heard in self.btp.heard], [Endpoint.TOKEN, Endpoint.DESTINATION])
        self.assertEqual(len(self.btp.provider.asked), 1)

    async def test_refresh_token(self) -> None:
        """The refresh token of the request is exchanged, for its user's token."""
        self.offer("OAuth2RefreshToken")
        refresh = self.btp.provider.refresh_token("bert")
        (entry,) = await self.tokens({"X-refresh-token": refresh})
        self.assertEqual(await self.username(entry["value"]), "bert")
        self.assertIn("refresh_token", await self.failure())
        self.assertIn("invalid_grant", await self.failure({"X-refresh-token": "other"}))

    async def test_code(self) -> None:
        """The code of the request is exchanged once, with what belongs to it; a refresh token comes along."""
        self.offer("OAuth2AuthorizationCode")
        code = self.btp.provider.code("cleo", redirect_uri="https://app.example/", code_verifier="v" * 43)
        headers = {"X-code": code, "X-redirect-uri": "https://app.example/", "X-code-verifier": "v" * 43}
        (entry,) = await self.tokens(headers)
        self.assertEqual(await self.username(entry["value"]), "cleo")
        self.assertIn("refresh_token", entry)
        self.assertIn("invalid_grant", await self.failure(headers))
        self.assertIn("code", await self.failure())

    async def test_known_before(self) -> None:
        """Refresh tokens and codes may be part of the setup."""
        self.btp.setup.refresh_tokens["r"] = "bert"
        self.btp.setup.codes["c"] = "cleo"
        self.btp.change(self.btp.setup)
        for authentication, header, value, user in (
            ("OAuth2RefreshToken", "X-refresh-token", "r", "bert"),
            ("OAuth2AuthorizationCode", "X-code", "c", "cleo"),
        ):
            self.offer(authentication)
            (entry,) = await self.tokens({header: value})
            self.assertEqual(await self.username(entry["value"]), user)

    async def test_url(self) -> None:
        """The tenant comes into a common URL; `{port}` is the stand-in's; properties may begin with `mail.`."""
        for url in (
            "https://login.localhost:{port}/{tenant}/oauth2/v2.0/token",
            "https://login.localhost:{port}/token",
        ):
            self.offer(tokenServiceURL=url, tokenServiceURLType="Common")
            self.assertEqual((await self.tokens())[0]["type"], "Bearer")
        document = said(await self.find(f"{DESTINATIONS}mail"))["destinationConfiguration"]
        self.assertEqual(document["tokenServiceURL"], self.btp.url("login", "/token"))
        self.offer(clientId="", **{"mail.clientId": "mail-client"})
        self.assertEqual((await self.tokens())[0]["type"], "Bearer")

    async def test_elsewhere(self) -> None:
        """The stand-in goes nowhere but to its own mail provider."""
        for url in (
            "",
            "https://login.localhost:1/token",
            "http://login.localhost:{port}/token",
            "https://notlogin.localhost:{port}/token",
            "https://login.localhost:{port}/other",
        ):
            self.offer(tokenServiceURL=url)
            self.assertIn("alone", await self.failure())
        for kind in ("Dedicated", "Common"):
            self.offer(tokenServiceURL="https://[", tokenServiceURLType=kind)
            self.assertIn("no URL", await self.failure())
        self.assertEqual(self.btp.provider.asked, [])

    async def test_refused(self) -> None:
        """Whatever the mail provider does, the answer is 200 with the reason."""
        self.offer(clientSecret="wrong")
        self.assertIn("invalid_client", await self.failure())
        self.offer()
        for answer, words in (
            (BROKEN, "HTTP 500"),
            (LOGIN_PAGE, "HTTP 200"),
            (SILENT, "did not answer"),
            (Answer(body=b"[]"), "HTTP 200"),
        ):
            self.btp.setup.faults = [Fault(Endpoint.MAIL, answer, tenant="acme", requests=1)]
            self.assertIn(words, await self.failure())
            self.assertEqual((await self.tokens())[0]["type"], "Bearer")

    async def test_endless(self) -> None:
        """A mail provider that does not say how long its tokens live."""
        self.offer()
        self.btp.provider.seconds = None
        self.assertNotIn("expires_in", (await self.tokens())[0])

    async def test_token_error(self) -> None:
        """That there is no token can be had at will, of a destination that wants one."""
        self.offer()
        self.btp.setup.faults = [Fault(Endpoint.DESTINATION, token_error="no way", requests=1)]
        self.assertEqual(await self.failure(), "no way")
        self.assertEqual((await self.tokens())[0]["type"], "Bearer")

    async def test_left_out(self) -> None:
        """No tokens come if they are not wanted, nor, where it is so set up, with mail destinations."""
        self.offer()
        token = await self.token()
        for queries, there in (([("$skipTokenRetrieval", "true")], False), ([("$skipTokenRetrieval", "false")], True)):
            for path in (f"{DESTINATIONS}mail", f"{LEVELS}mail@subaccount"):
                fields = said(await self.find(path, queries=queries, token=token))
                self.assertEqual("authTokens" in fields, there)
        self.btp.setup.auth_tokens = False
        self.assertNotIn("authTokens", said(await self.find(f"{DESTINATIONS}mail")))
        self.offer(Type="HTTP")
        self.assertEqual((await self.tokens())[0]["type"], "Bearer")

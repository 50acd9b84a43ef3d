"""What a document says of tokens: grants, what applications bring, and the URL of the token endpoint."""

from itertools import product

from attrs import evolve

from tests.documents import ACME, BASIC, CODE, FULL, GRANT, PEM, REFRESH, REQUEST, RULES, Refusals, read
from tproxy.document import Rules
from tproxy.model import DestinationRequest, Grant, GrantKind, Reason, Secret, Tenant, Trust


class GrantTests(Refusals):
    """How a token is asked for."""

    def test_small(self):
        """What may be left out has a default."""
        self.assertEqual(
            read(GRANT).login,
            Grant("https://token.example/oauth/token", "client", Secret("s3cret")),
        )

    def test_full(self):
        """Every property has its effect, with and without the prefix."""
        expected = Grant(
            url="https://token.example/oauth/token",
            client_id="client",
            client_secret=Secret("s3cret"),
            scope="https://outlook.office365.com/.default",
            user="user",
            password=Secret("pässword"),
            credentials_in_body=False,
            headers=(("X-Zone", Secret("z 1")), ("apikey", Secret("k"))),
            queries=(("q", Secret("ä&=")),),
            body=(("b", Secret("")), ("resource", Secret("r"))),
            connect_seconds=60.0,
            read_seconds=600.0,
            trust=Trust((PEM,)),
        )
        for prefix in ("", "mail."):
            document = {**BASIC, "Authentication": "OAuth2ClientCredentials"}
            for name in ("tokenServiceURL", "clientId", "clientSecret"):
                document[prefix + name] = GRANT[name]
            document |= {prefix + name: value for name, value in FULL}
            destination = read(document, authority=lambda location: PEM)
            self.assertEqual((destination.login, destination.warnings), (expected, ()))

    def test_no_time(self):
        """0 seconds is the default, not none at all."""
        for seconds in ("0", "", 0, "00"):
            login = read(
                GRANT,
                **{
                    "tokenServiceURL.ConnectionTimeoutInSeconds": seconds,
                    "tokenServiceURL.SocketReadTimeoutInSeconds": seconds,
                },
            ).login
            self.assertEqual((login.connect_seconds, login.read_seconds), (10.0, 10.0))

    def test_both_spellings(self):
        """A property may be given in both spellings if they agree."""
        self.assertEqual(read(GRANT, **{"mail.clientSecret": "s3cret"}), read(GRANT))
        refusal = self.refused(GRANT, **{"mail.clientSecret": "another"})
        self.assertEqual(str(refusal), "clientSecret and mail.clientSecret differ: keep one of them")
        self.assertNotIn("another", str(refusal))

    def test_scope_in_body(self):
        """The scope may come as a field of the body, if it comes once."""
        self.assertEqual(read(GRANT, **{"tokenService.body.scope": "s"}).login.body, (("scope", Secret("s")),))

    def test_mistakes(self):
        """Each is named with its property; no value is repeated."""
        header = "its name may hold letters, digits and hyphens, its value printable ASCII"
        self.table(
            GRANT,
            (
                *(({name: ""}, f"{name} is empty: give it a value") for name in ("clientId", "clientSecret")),
                ({"tokenServiceURL": ""}, "tokenServiceURL is empty: give it a value"),
                (
                    {"tokenServiceUser": "u"},
                    "tokenServicePassword is missing beside tokenServiceUser: give both or neither",
                ),
                (
                    {"tokenServicePassword": "s3cret"},
                    "tokenServiceUser is missing beside tokenServicePassword: give both or neither",
                ),
                (
                    {"tokenService.addClientCredentialsInBody": "1"},
                    'tokenService.addClientCredentialsInBody \'1\' is no truth value: write "true" or "false"',
                ),
                (
                    {"tokenServiceURL.ConnectionTimeoutInSeconds": "61"},
                    "tokenServiceURL.ConnectionTimeoutInSeconds '61' is not a number from 0 to 60: "
                    "correct or remove it",
                ),
                (
                    {"tokenServiceURL.SocketReadTimeoutInSeconds": "601"},
                    "tokenServiceURL.SocketReadTimeoutInSeconds '601' is not a number from 0 to 600: "
                    "correct or remove it",
                ),
                *(
                    ({name: value}, f"'{name.removeprefix('mail.')}' is no HTTP header: {header}")
                    for name, value in (
                        ("tokenServiceURL.headers.a b", "x"),
                        ("mail.tokenServiceURL.headers.a:", "x"),
                        ("tokenServiceURL.headers.a", "s3cret\x01"),
                        ("tokenServiceURL.headers.a", "s3crät"),
                        ("tokenServiceURL.headers.a", " s3cret"),
                        ("tokenServiceURL.headers.a", ""),
                    )
                ),
                (
                    {"tokenServiceURL.headers.a": "s3cret\r\nb: c"},
                    "'tokenServiceURL.headers.a' holds a line break or a NUL: remove it",
                ),
                *(
                    (
                        {f"tokenServiceURL.headers.{name}": "x"},
                        f"tokenServiceURL.headers.{name} is a header that the request sets itself: remove it",
                    )
                    for name in ("Host", "content-length", "Transfer-Encoding")
                ),
                *(
                    (
                        {f"tokenService.body.{name}": "x", "scope": "s"},
                        f"tokenService.body.{name} is a field that the request sets itself: remove it",
                    )
                    for name in ("grant_type", "client_id", "client_secret", "scope")
                ),
                (
                    {"mail.tokenServiceURL.queries.": "x"},
                    "'mail.tokenServiceURL.queries.' lacks a name after the last dot: name the field",
                ),
            ),
        )

    def test_missing(self):
        """What the grant needs is asked for."""
        for name in ("tokenServiceURL", "clientId", "clientSecret", "mail.user"):
            self.assertEqual(str(self.refused(GRANT, **{name: None})), f"{name} is missing: add it")


class OfferTests(Refusals):
    """What an application brings is exchanged as the document says."""

    EXCHANGES = Rules(RULES.protocols, exchanges=True)

    def test_like_client_credentials(self):
        """All that a document may say of a grant counts for these as well."""
        full = dict(FULL)
        client_credentials = read(GRANT, authority=lambda location: PEM, **full)
        for document, kind in ((REFRESH, GrantKind.REFRESH_TOKEN), (CODE, GrantKind.AUTHORIZATION_CODE)):
            destination = read(document, authority=lambda location: PEM, **full)
            self.assertEqual(destination.login, evolve(client_credentials.login, kind=kind))
            self.assertEqual((destination.user, destination.warnings), ("joe@example.com", ()))
            self.assertTrue(destination.asks)
        self.assertFalse(client_credentials.asks)

    def test_optional(self):
        """The application names the user where the document does not; a public client has no secret."""
        for document, nothing in product((REFRESH, CODE), (None, "")):
            destination = read(document, **{"mail.user": nothing, "clientSecret": nothing})
            self.assertEqual((destination.user, destination.login.client_secret), ("", Secret("")))

    def test_who_exchanges(self):
        """Only a store that can exchange by itself needs no tokenServiceURL, and then no client."""
        for document, (nothing, words) in product(
            (REFRESH, CODE), ((None, "is missing: add it"), ("", "is empty: give it a value"))
        ):
            without = {**document, "tokenServiceURL": nothing}
            self.assertEqual(str(self.refused(without)), f"tokenServiceURL {words}")
            login = read(without, rules=self.EXCHANGES).login
            self.assertEqual((login.url, login.client_id, login.client_secret), ("", "client", Secret("s3cret")))
            login = read(without, rules=self.EXCHANGES, clientId=None, clientSecret=None).login
            self.assertEqual((login.url, login.client_id, login.client_secret), ("", "", Secret("")))

    def test_where_the_url_is_given(self):
        """It is judged, and the client is needed, whoever exchanges; client credentials need both."""
        for document, rules in product((REFRESH, CODE, GRANT), (RULES, self.EXCHANGES)):
            self.assertEqual(read(document, rules=rules).login.url, GRANT["tokenServiceURL"])
            self.assertEqual(str(self.refused(document, rules=rules, clientId=None)), "clientId is missing: add it")
            self.assertIn("is no https URL", str(self.refused(document, rules=rules, tokenServiceURL="x")))
        for name in ("tokenServiceURL", "clientSecret", "mail.user"):
            self.assertEqual(
                str(self.refused(GRANT, rules=self.EXCHANGES, **{name: None})), f"{name} is missing: add it"
            )

    def test_redirect_uri(self):
        """The one that a code was asked for with is sent again as it is; other grants know none."""
        for uri, name in product(
            (
                "https://App.example:8443/back?x=%20&y",
                "http://[::1]:8080/back",
                "com.example.app:/back",
                "urn:ietf:wg:oauth:2.0:oob",
                "",
            ),
            ("redirectUri", "mail.redirectUri"),
        ):
            destination = read(CODE, **{name: uri})
            self.assertEqual((destination.login.redirect_uri, destination.warnings), (uri, ()))
            self.assertEqual(read(REFRESH, **{name: uri}), read(REFRESH))
            self.assertEqual(read(GRANT, **{name: uri}), read(GRANT))

    def test_no_redirect_uri(self):
        """What is no absolute URL without a fragment is refused, and not repeated."""
        words = "redirectUri is no URL: write the one that the code is asked for with, without a fragment"
        bad = ("s3cret", "/back", ":back", "https:", "https://a/#s3cret", "https://a/ b", "https://ü.example", "a:\x7f")
        self.table(CODE, (({"redirectUri": uri}, words) for uri in bad))

    def test_fields_of_the_request(self):
        """A document cannot set what the request says itself; what it does not say is the document's."""
        redirect = {"redirectUri": "https://app.example/back"}
        own, offered = {"grant_type", "client_id", "client_secret"}, {"refresh_token", "code", "redirect_uri"}
        for document, changes, taken in (
            (GRANT, redirect, own),
            (REFRESH, redirect, own | {"refresh_token"}),
            (CODE, {}, own | {"code"}),
            (CODE, redirect, own | {"code", "redirect_uri"}),
        ):
            for name in own | offered:
                field = f"tokenService.body.{name}"
                with self.subTest(kind=document["Authentication"], name=name, changes=changes):
                    if name in taken:
                        refusal = self.refused(document, **changes, **{field: "s3cret"})
                        self.assertEqual(str(refusal), f"{field} is a field that the request sets itself: remove it")
                    else:
                        body = read(document, **changes, **{field: "x"}).login.body
                        self.assertEqual(body, ((name, Secret("x")),))


class TokenURLTests(Refusals):
    """Where a tenant's token comes from."""

    def url(self, text, kind=None, request=ACME, rules=RULES):
        return read(GRANT, request, rules, tokenServiceURL=text, tokenServiceURLType=kind).login.url

    def test_as_it_is(self):
        """A dedicated URL is taken as it is, but for the spelling of its host."""
        for text, url in {
            "https://token.example": "https://token.example",
            "https://token.example/a%20b/t?x=1&y": "https://token.example/a%20b/t?x=1&y",
            "HTTPS://Token.Example:8443/T": "https://token.example:8443/T",
            "https://[::1]:8443/t": "https://[::1]:8443/t",
            "https://ü.example/t": "https://xn--tda.example/t",
            "https://token.example:/t": "https://token.example/t",
        }.items():
            self.assertEqual(self.url(text), url)
            self.assertEqual(self.url(text, "Dedicated"), url)

    def test_common(self):
        """The tenant is put where it belongs: in place of the placeholder, or before the host."""
        for text, url in {
            "https://authentication.eu10.example": "https://acme.authentication.eu10.example",
            "https://auth.example:8443/t?x": "https://acme.auth.example:8443/t?x",
            "https://{tenant}.auth.example/t": "https://acme.auth.example/t",
            "https://auth.example/{tenant}/t?z={tenant}": "https://auth.example/acme/t?z=acme",
            "https://127.0.0.1/{tenant}": "https://127.0.0.1/acme",
        }.items():
            self.assertEqual(self.url(text, "Common"), url)

    def test_provider(self):
        """Without a tenant the provider's own subdomain is meant, if it is known."""
        rules = Rules(RULES.protocols, provider_subdomain="provider")
        self.assertEqual(self.url("https://a.example/t", "Common", REQUEST, rules), "https://provider.a.example/t")
        self.assertEqual(self.url("https://a.example/t", "Common", ACME, rules), "https://acme.a.example/t")
        refusal = self.refused(GRANT, tokenServiceURLType="Common")
        self.assertEqual(
            str(refusal),
            "tokenServiceURLType is Common, but there is no tenant to ask for: "
            "set config.providerSubdomain, or name tenants in the Destination's annotation",
        )

    def test_tenant(self):
        """A tenant that is no host label never becomes part of a URL."""
        for tenant in ("evil.example/", "a.b", "A", "-a", "a" * 64):
            request = DestinationRequest("local", "mailbox", Tenant(tenant))
            refusal = self.refused(GRANT, request, tokenServiceURLType="Common")
            self.assertIs(refusal.reason, Reason.TENANT_ANNOTATION_INVALID)
            self.assertIn("is no subdomain", refusal.message)

    def test_http(self):
        """Only an allowed host may be asked without TLS, and only by its very name."""
        rules = Rules(RULES.protocols, http_token_hosts=frozenset({"token.example"}))
        self.assertEqual(self.url("http://Token.example:8080/t", rules=rules), "http://token.example:8080/t")
        remedy = "use https, or have config.security.httpTokenHosts name the host"
        for text, kind in (("http://a.token.example", None), ("http://token.example/t", "Common")):
            refusal = self.refused(GRANT, ACME, rules, tokenServiceURL=text, tokenServiceURLType=kind)
            self.assertEqual(str(refusal), f"tokenServiceURL is http, which would send secrets unencrypted: {remedy}")

    def test_mistakes(self):
        """Each is told without repeating the URL, which may hold a secret."""
        shape = "write https://HOST/PATH"
        credentials = "tokenServiceURL holds a user or a password: use tokenServiceUser and tokenServicePassword"
        no_host = f"the host of tokenServiceURL is neither a DNS name nor an IP address: {shape}"
        encode = "tokenServiceURL holds a character that a URL cannot: write it percent-encoded, without a fragment"
        for text, message in {
            "token.example": f"tokenServiceURL is no https URL: {shape}",
            "ftp://token.example": f"tokenServiceURL is no https URL: {shape}",
            "https:///t": f"tokenServiceURL is no https URL: {shape}",
            "https://": f"tokenServiceURL is no https URL: {shape}",
            "https://[::1/t": f"tokenServiceURL is no URL: {shape}",
            "https://token.example:x/t": f"tokenServiceURL is no URL: {shape}",
            "https://token.example:70000/t": f"tokenServiceURL is no URL: {shape}",
            "https://token.example:0/t": "tokenServiceURL holds port 0: write the token endpoint's port, or none",
            "https://user:s3cret@token.example/t": credentials,
            "https://s3cret@token.example/t": credentials,
            "https://token.example\\@evil.example/t": credentials,
            "https://token.example\\.evil.example/t": "the host of tokenServiceURL "
            f"holds a URL or a path where the host alone belongs: {shape}",
            "https://127.1/t": no_host,
            "https://%74oken.example/t": no_host,
            "https://token.example/ t": "tokenServiceURL holds a space or a control character: remove it",
            " https://token.example/t": "tokenServiceURL holds a space or a control character: remove it",
            "https://token\t.example/t": "tokenServiceURL holds a space or a control character: remove it",
            "https://token.example/ü": encode,
            "https://token.example/{x}": encode,
            "https://token.example/t#s3cret": encode,
            "https://token.example/{tenant}": "tokenServiceURL holds {tenant}, but is used as it is: "
            "set tokenServiceURLType to Common",
        }.items():
            with self.subTest(text=text):
                refusal = self.refused(GRANT, tokenServiceURL=text)
                self.assertEqual((refusal.reason, str(refusal)), (Reason.DOCUMENT_INVALID, message))

    def test_mistakes_of_common(self):
        """Where the tenant finds no place, that is told."""
        place = "put {tenant} where the subdomain belongs"
        address = f"tokenServiceURL has an IP address, which takes no tenant as its first label: {place}"
        for text, message in {
            "https://127.0.0.1/t": address,
            "https://[::1]/t": address,
            f"https://{'.'.join(['a' * 62] * 4)}/t": "the host of tokenServiceURL is longer than 253 characters: "
            "write https://HOST/PATH",
        }.items():
            refusal = self.refused(GRANT, ACME, tokenServiceURL=text, tokenServiceURLType="Common")
            self.assertEqual(str(refusal), message)
        refusal = self.refused(GRANT, tokenServiceURLType="common")
        self.assertEqual(str(refusal), "tokenServiceURLType 'common' is not known: use Dedicated or Common")

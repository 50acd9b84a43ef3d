"""Destination documents: what each property does, and one refusal that names the property for whatever is wrong."""

import json
from itertools import product

import trustme
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tproxy.document import AUTHENTICATIONS, Rules, parse
from tproxy.model import (
    DestinationRequest,
    Grant,
    GrantKind,
    NoCredential,
    Password,
    Reason,
    Refusal,
    RefusedError,
    Route,
    Secret,
    Stage,
    Tenant,
    Trust,
)

RULES = Rules({"imap4s": 993, "imap4": 143})
REQUEST = DestinationRequest("local", "mailbox")
ACME = DestinationRequest("local", "mailbox", Tenant("acme"))

BASIC = {
    "Name": "mailbox",
    "Type": "MAIL",
    "ProxyType": "Internet",
    "Authentication": "BasicAuthentication",
    "mail.user": "joe@example.com",
    "mail.password": "s3cret",
    "mail.transport.protocol": "imap4s",
    "mail.imap4s.host": "imap.example.com",
}
NOBODY = {**BASIC, "Authentication": "NoAuthentication"}
GRANT = {
    **BASIC,
    "Authentication": "OAuth2ClientCredentials",
    "tokenServiceURL": "https://token.example/oauth/token",
    "clientId": "client",
    "clientSecret": "s3cret",
}
REFRESH = {**GRANT, "Authentication": "OAuth2RefreshToken"}
CODE = {**GRANT, "Authentication": "OAuth2AuthorizationCode"}
CA = trustme.CA(key_type=trustme.KeyType.ECDSA)
PEM = CA.cert_pem.bytes().decode()
KEY = CA.private_key_pem.bytes().decode()


def no_authority(location):
    raise RefusedError(Refusal(Stage.RESOLVE, Reason.DOCUMENT_INVALID, f"TrustStoreLocation names {location!r}"))


def read(document, request=REQUEST, rules=RULES, authority=no_authority, **changes):
    """The destination that a document with some properties changed describes; None takes one out."""
    changed = {name: value for name, value in (document | changes).items() if value is not None}
    return parse(changed, request, rules, authority)


class Refusals(SynchronousTestCase):
    """Asks for refusals."""

    def refused(self, document, request=REQUEST, rules=RULES, authority=no_authority, **changes):
        error = self.assertRaises(RefusedError, read, document, request, rules, authority, **changes)
        self.assertIs(error.refusal.stage, Stage.RESOLVE)
        self.assertNotIn("s3cret", str(error))
        return error.refusal

    def table(self, document, cases, **context):
        """Each case: the properties that are changed, and the whole refusal."""
        for changes, message in cases:
            with self.subTest(changes=changes):
                refusal = self.refused(document | changes, **context)
                self.assertEqual((refusal.reason, str(refusal)), (Reason.DOCUMENT_INVALID, message))


class RouteTests(Refusals):
    """Which mail server it is."""

    def test_route(self):
        """Protocol, host, port."""
        self.assertEqual(read(BASIC, **{"mail.imap4s.port": "1993"}).route, Route("imap4s", "imap.example.com", 1993))

    def test_default_port(self):
        """The port is the protocol's own unless there is one."""
        self.assertEqual(read(BASIC).route.port, 993)
        plain = {"mail.transport.protocol": "imap4", "mail.imap4.host": "imap.example.com"}
        self.assertEqual(read(BASIC, **plain).route, Route("imap4", "imap.example.com", 143))
        self.assertEqual(read(BASIC, **{"mail.imap4s.port": ""}).route.port, 993)

    def test_loopback(self):
        """A host that means this machine is refused as the installation has it, in the spelling that is judged."""
        rules = Rules(RULES.protocols, is_loopback=lambda host: host == "localhost")
        refusal = self.refused(BASIC, rules=rules, **{"mail.imap4s.host": "LOCALHOST"})
        self.assertIs(refusal.reason, Reason.LOOPBACK_NOT_SUPPORTED)
        self.assertIn("mail.imap4s.host is this machine itself", refusal.message)
        self.assertEqual(read(BASIC, rules=rules).route.host, "imap.example.com")

    def test_host_spelling(self):
        """Hosts come in one spelling."""
        for host, spelled in {"IMAP.example.": "imap.example", "[::1]": "::1", "ü.example": "xn--tda.example"}.items():
            self.assertEqual(read(BASIC, **{"mail.imap4s.host": host}).route.host, spelled)

    def test_proxy_type_default(self):
        """Without a ProxyType the mail server is in the Internet."""
        self.assertEqual(read(BASIC, ProxyType=None), read(BASIC))

    def test_what_is_not_served(self):
        """Types, protocols and ways that no plug-in serves have reasons of their own."""
        protocol = {"mail.transport.protocol": "pop3s"}
        for changes, reason, message in (
            ({"Type": "HTTP"}, Reason.TYPE_NOT_SUPPORTED, "Type 'HTTP' is not served: only \"MAIL\" is"),
            ({"Type": "mail"}, Reason.TYPE_NOT_SUPPORTED, "Type 'mail' is not served: only \"MAIL\" is"),
            (
                protocol,
                Reason.TYPE_NOT_SUPPORTED,
                "mail.transport.protocol 'pop3s' is not served: served here are imap4, imap4s",
            ),
            *(
                (
                    {"ProxyType": way},
                    Reason.PROXY_TYPE_NOT_SUPPORTED,
                    f"ProxyType '{way}' is not served: only \"Internet\" is",
                )
                for way in ("OnPremise", "PrivateLink", "internet")
            ),
        ):
            with self.subTest(changes=changes):
                refusal = self.refused(BASIC, **changes)
                self.assertEqual((refusal.reason, str(refusal)), (reason, message))

    def test_mistakes(self):
        """Each is named with its property and what would be right."""
        host, port = "mail.imap4s.host", "mail.imap4s.port"
        alone = f"write a host name or IP address alone, and the port as {port}"
        number = f"{port} {{}} is not a number from 1 to 65535: correct or remove it"
        self.table(
            BASIC,
            (
                ({"Type": ""}, "Type is empty: give it a value"),
                ({"Name": ""}, "Name is empty: give it a value"),
                ({"Name": "x" * 201}, "Name is no name: give it 1 to 200 printable characters"),
                ({"Name": "x\x1b"}, "Name is no name: give it 1 to 200 printable characters"),
                ({host: ""}, f"{host} is empty: give it a value"),
                ({host: "imaps://imap.example"}, f"{host} holds a URL or a path where the host alone belongs: {alone}"),
                ({host: "imap.example:993"}, f"{host} holds a port, or is no IP address: {alone}"),
                ({host: "imap example"}, f"{host} holds a space or a control character: {alone}"),
                ({host: "127.1"}, f"{host} is neither a DNS name nor an IP address: {alone}"),
                ({host: "imap.example\r\n"}, f"'{host}' holds a line break or a NUL: remove it"),
                ({port: "imap"}, number.format("'imap'")),
                ({port: "0"}, number.format("'0'")),
                ({port: "65536"}, number.format("'65536'")),
                ({port: "-1"}, number.format("'-1'")),
                ({port: " 993"}, number.format("' 993'")),
                ({port: "٩٩٣"}, number.format("'٩٩٣'")),
                ({port: "9" * 5000}, number.format(repr("9" * 59 + "…"))),
                ({port: 993.0}, f"'{port}' is not a text: put its value in quotes"),
                ({port: 10**30}, f"'{port}' is not a text: put its value in quotes"),
            ),
        )

    def test_missing(self):
        """What is missing is named, with the one that may be meant instead."""
        for name, changes, message in (
            ("Type", {}, "Type is missing: add it"),
            ("Name", {}, "Name is missing: add it"),
            ("Name", {"name": "x"}, "Name is missing: rename 'name', if that is what it should be"),
            ("mail.transport.protocol", {}, "mail.transport.protocol is missing: add it"),
            ("mail.imap4s.host", {}, "mail.imap4s.host is missing: add it"),
            *(
                (
                    "mail.imap4s.host",
                    {meant: "imap.example"},
                    f"mail.imap4s.host is missing: rename '{meant}', if that is what it should be",
                )
                for meant in ("mail.imaps.host", "mail.imap4.host", "imap4s.host")
            ),
            ("Authentication", {}, "Authentication is missing: add it"),
            ("mail.user", {}, "mail.user is missing: add it"),
            ("mail.user", {"User": "x"}, "mail.user is missing: rename 'User', if that is what it should be"),
            ("mail.password", {}, "mail.password is missing: add it"),
        ):
            with self.subTest(name=name, changes=changes):
                refusal = self.refused(BASIC, **{name: None}, **changes)
                self.assertEqual((refusal.reason, str(refusal)), (Reason.DOCUMENT_INVALID, message))


class LoginTests(Refusals):
    """Who logs in, and whether anybody does."""

    def test_password(self):
        """A user and a password, byte for byte."""
        user, password = ' jö"e\\\t', ' \x01p"ä\\ '
        destination = read(BASIC, **{"mail.user": user, "mail.password": password})
        self.assertEqual(destination.login, Password(user, Secret(password)))
        self.assertEqual((destination.name, destination.user, destination.warnings), ("mailbox", user, ()))

    def test_auth(self):
        """`auth` says whether anybody logs in; where it contradicts Authentication, nobody does, with a warning."""
        warning = 'mail.imap4s.auth is "false": nobody logs in, although Authentication is '
        for kind, auth in product(AUTHENTICATIONS, (None, "true", "false", "FALSE", False)):
            with self.subTest(kind=kind, auth=auth):
                document = {**GRANT, "Authentication": kind, "mail.imap4s.auth": auth}
                wanted = auth in (None, "true")
                destination = read(document)
                if kind == "NoAuthentication":
                    self.assertEqual((destination.login, destination.user), (NoCredential(), ""))
                    contradiction = 'mail.imap4s.auth is "true", but Authentication is NoAuthentication: nobody logs in'
                    self.assertEqual(destination.warnings, (contradiction,) if auth == "true" else ())
                elif wanted:
                    self.assertIsInstance(destination.login, (Password, Grant))
                    self.assertEqual((destination.user, destination.warnings), ("joe@example.com", ()))
                else:
                    self.assertEqual((destination.login, destination.user), (NoCredential(), ""))
                    self.assertEqual(destination.warnings, (warning + kind,))

    def test_nobody_needs_no_credentials(self):
        """Where nobody logs in, user and password need not be there."""
        document = {**NOBODY, "mail.user": None, "mail.password": None}
        self.assertEqual(read(document).login, NoCredential())

    def test_mistakes(self):
        """Each is named with its property; no value of a secret is repeated."""
        kinds = (
            "NoAuthentication, BasicAuthentication, "
            "OAuth2ClientCredentials, OAuth2RefreshToken, OAuth2AuthorizationCode"
        )
        self.table(
            BASIC,
            (
                ({"Authentication": ""}, "Authentication is empty: give it a value"),
                ({"Authentication": "Basic"}, f"Authentication 'Basic' is not known: use one of {kinds}"),
                (
                    {"mail.imap4s.auth": "no"},
                    'mail.imap4s.auth \'no\' is no truth value: write "true" or "false"',
                ),
                ({"mail.user": ""}, "mail.user is empty: give it a value"),
                ({"mail.password": ""}, "mail.password is empty: give it a value"),
                ({"mail.user": "joe\rx"}, "'mail.user' holds a line break or a NUL: remove it"),
                ({"mail.password": "s3cret\n"}, "'mail.password' holds a line break or a NUL: remove it"),
                ({"mail.password": "s3cret\0"}, "'mail.password' holds a line break or a NUL: remove it"),
                (
                    {"mail.password": "s3cret\ud800"},
                    "'mail.password' holds half of a character (a lone surrogate): write the whole character",
                ),
                ({"mail.password": ["s3cret"]}, "'mail.password' is not a text: put its value in quotes"),
            ),
        )

    def test_null(self):
        """A property that is null is not one that is missing."""
        error = self.assertRaises(RefusedError, parse, {**BASIC, "mail.password": None}, REQUEST, RULES, no_authority)
        self.assertEqual(str(error), "'mail.password' is not a text: put its value in quotes")

    def test_numbers_as_text(self):
        """A number that somebody forgot to quote is the text as it was written."""
        self.assertEqual(read(BASIC, **{"mail.password": 123456}).login.password, Secret("123456"))
        self.assertEqual(read(BASIC, **{"mail.imap4s.port": 994}).route.port, 994)

    def test_bearer_separator(self):
        """U+0001 separates fields of an OAuth login: no user can hold it."""
        self.assertIsInstance(read(BASIC, **{"mail.user": "joe\x01"}).login, Password)
        for document in (GRANT, REFRESH, CODE):
            refusal = self.refused(document, **{"mail.user": "joe\x01auth=Bearer x"})
            self.assertEqual(str(refusal), "mail.user holds a control character (U+0001): remove it")


class GrantTests(Refusals):
    """How a token is asked for."""

    def test_small(self):
        """What may be left out has a default."""
        self.assertEqual(
            read(GRANT).login,
            Grant("https://token.example/oauth/token", "client", Secret("s3cret")),
        )

    FULL = (
        ("tokenServiceURLType", "Dedicated"),
        ("scope", "https://outlook.office365.com/.default"),
        ("tokenServiceUser", "user"),
        ("tokenServicePassword", "pässword"),
        ("tokenService.addClientCredentialsInBody", "false"),
        ("tokenServiceURL.headers.X-Zone", "z 1"),
        ("tokenServiceURL.headers.apikey", "k"),
        ("tokenServiceURL.queries.q", "ä&="),
        ("tokenService.body.b", ""),
        ("tokenService.body.resource", "r"),
        ("tokenServiceURL.ConnectionTimeoutInSeconds", "60"),
        ("tokenServiceURL.SocketReadTimeoutInSeconds", "600"),
        ("TrustStoreLocation", "ca.pem"),
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
            document |= {prefix + name: value for name, value in self.FULL}
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
        full = dict(GrantTests.FULL)
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


class TrustTests(Refusals):
    """Whose certificates are believed."""

    def test_none(self):
        """Without a word the installation's are."""
        self.assertEqual(read(BASIC).route.trust, Trust())

    def test_authority(self):
        """The location's certificates count for mail server and token endpoint; a key beside them is dropped."""
        asked = []

        def authority(location):
            asked.append(location)
            return f"Präambel\n{KEY}{PEM}"

        for prefix in ("", "mail."):
            destination = read(GRANT, authority=authority, **{f"{prefix}TrustStoreLocation": "ca.pem"})
            self.assertEqual(destination.route.trust, Trust((PEM,)))
            self.assertEqual(destination.login.trust, Trust((PEM,)))
        self.assertEqual(asked, ["ca.pem", "ca.pem"])

    def test_several(self):
        """All certificates of a file count."""
        other = trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.bytes().decode()
        trust = read(BASIC, authority=lambda location: PEM + "\n" + other, TrustStoreLocation="x").route.trust
        self.assertEqual(trust, Trust((PEM + other,)))

    def test_no_authority(self):
        """What the store says about the location is the refusal; an empty one is none."""
        self.assertEqual(str(self.refused(BASIC, TrustStoreLocation="x")), "TrustStoreLocation names 'x'")
        self.assertEqual(read(BASIC, TrustStoreLocation="").route.trust, Trust())

    def test_no_certificates(self):
        """A file that holds none is refused before anybody logs in."""
        words = (
            "TrustStoreLocation names no certificates in PEM: "
            "convert the trust store to PEM; JKS and PKCS #12 are not read"
        )
        for text in ("", "x", KEY, PEM[:100], PEM.replace("A", "B"), PEM.replace("BEGIN CERT", "BEGIN X509 CERT")):
            refusal = self.refused(BASIC, authority=lambda location, text=text: text, TrustStoreLocation="x")
            self.assertEqual(str(refusal), words)

    def test_trust_all(self):
        """Not to look is refused unless it is allowed, and then warned of; token endpoints are looked at anyway."""
        refusal = self.refused(GRANT, TrustAll="true")
        self.assertEqual(
            str(refusal),
            "TrustAll is not allowed here: "
            "name the server's CA with TrustStoreLocation, or have config.security.allowTrustAll set",
        )
        destination = read(GRANT, rules=Rules(RULES.protocols, allow_trust_all=True), TrustAll="true")
        self.assertEqual((destination.route.trust, destination.login.trust), (Trust(verify=False), Trust()))
        self.assertEqual(destination.warnings, ("TrustAll: nobody checks the mail server's certificate",))
        self.assertEqual(read(GRANT, TrustAll="false"), read(GRANT))


class UnknownTests(Refusals):
    """Properties that mean nothing here."""

    def test_tolerated(self):
        """Other properties do no harm, whatever their value."""
        others = {
            "Description": "x",
            "mail.smtp.host": "smtp.example",
            "mail.store": None,
            "x": [1],
            "": {},
            "mail.": 1,
        }
        self.assertEqual(read(BASIC | others).warnings, ())

    def test_misspelt(self):
        """One that nearly is a known one is warned of, unless the known one is there too."""
        for name, known in {
            "mail.imaps.port": "mail.imap4s.port",
            "imap4s.port": "mail.imap4s.port",
            "mail.imap4s.Auth": "mail.imap4s.auth",
            "proxytype": "ProxyType",
            "mail.trustAll": "TrustAll",
            "trustStoreLocation": "TrustStoreLocation",
        }.items():
            warning = f"'{name}' is not known and not used; is it meant to be {known}?"
            document = {key: value for key, value in BASIC.items() if key != known}
            self.assertEqual(read(document | {name: "x"}).warnings, (warning,))
        self.assertEqual(read(BASIC | {"mail.imaps.host": "x"}).warnings, ())

    def test_many(self):
        """A document of thousands of properties costs no search for each of them."""
        many = {f"mail.imap4s.por{number}": "x" for number in range(5000)}
        self.assertEqual(len(read(BASIC | many).warnings), 20)


CANARY = "cAnArY"
SECRETS = (
    "mail.password",
    "clientSecret",
    "mail.clientSecret",
    "tokenServicePassword",
    "redirectUri",
    "tokenServiceURL",
    "tokenServiceURL.headers.x",
    "tokenServiceURL.queries.x",
    "tokenService.body.x",
    "mail.user",
    "mail.imap4s.host",
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


class AnyDocumentTests(SynchronousTestCase):
    """Whatever a document says, there is a destination or a refusal, and neither tells a secret."""

    def judge(self, document, request=ACME):
        """What can be shown of what became of a document."""
        rules = Rules(RULES.protocols, allow_trust_all=True, provider_subdomain="provider")
        try:
            destination = parse(document, request, rules, lambda location: location)
        except RefusedError as error:
            shown = str(error)
            self.assertTrue(error.refusal.remedy)
        else:
            shown = " ".join(destination.warnings)
        self.assertEqual(len(shown.splitlines()), 1 if shown else 0)
        return shown

    @given(st.dictionaries(st.sampled_from([*GRANT, *(name for name, _ in GrantTests.FULL)]) | st.text(), JSON))
    @settings(deadline=None)
    def test_any_document(self, document):
        """Nothing but a refusal is raised."""
        self.judge(document)

    @given(
        st.sampled_from([BASIC, GRANT, NOBODY, REFRESH, CODE]),
        st.dictionaries(
            st.sampled_from([*GRANT, *(name for name, _ in GrantTests.FULL)]) | st.text(), JSON, max_size=2
        ),
        st.sampled_from([REQUEST, ACME]),
    )
    @settings(deadline=None)
    def test_good_document_changed(self, good, changes, request):
        """Neither where all but little of a document is right."""
        self.judge(good | changes, request)

    @given(
        st.sampled_from([BASIC, GRANT, REFRESH, CODE]),
        st.sampled_from(SECRETS),
        st.text(max_size=5),
        st.text(max_size=5),
        st.sampled_from(["text", "list", "url"]),
    )
    @settings(deadline=None)
    def test_secrets(self, good, name, before, after, shape):
        """Whatever stands around a secret, no refusal and no warning shows it."""
        value = {
            "text": before + CANARY + after,
            "list": [before + CANARY + after],
            "url": f"https://{before}:{CANARY}@token.example/{after}",
        }[shape]
        self.assertNotIn(CANARY, self.judge(good | {name: value}))

    def test_read_from_json(self):
        """The documents of this test are such as a file may hold."""
        for document in (BASIC, GRANT, REFRESH, CODE):
            self.assertEqual(read(json.loads(json.dumps(document))), read(document))

"""Destination documents: what each property does, and one refusal that names the property for whatever is wrong."""

import json
from itertools import product

import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.documents import (
    ACME,
    BASIC,
    CODE,
    FULL,
    GRANT,
    KEY,
    NOBODY,
    PEM,
    REFRESH,
    REQUEST,
    RULES,
    Refusals,
    no_authority,
    read,
)
from tproxy.document import AUTHENTICATIONS, Rules, parse
from tproxy.model import Grant, NoCredential, Password, Reason, RefusedError, Route, Secret, Trust


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

    @given(st.dictionaries(st.sampled_from([*GRANT, *(name for name, _ in FULL)]) | st.text(), JSON))
    @settings(deadline=None)
    def test_any_document(self, document):
        """Nothing but a refusal is raised."""
        self.judge(document)

    @given(
        st.sampled_from([BASIC, GRANT, NOBODY, REFRESH, CODE]),
        st.dictionaries(st.sampled_from([*GRANT, *(name for name, _ in FULL)]) | st.text(), JSON, max_size=2),
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

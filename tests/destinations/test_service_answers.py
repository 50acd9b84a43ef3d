"""What is understood of the Destination service's answers."""

from __future__ import annotations

import json
from base64 import b64encode
from urllib.parse import quote

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from tests.destinations.answers import BODY, DOCUMENT, JSON, NOT_ACCEPTED, NOT_FOUND, REQUEST, VALUES, answer, said
from tproxy.destinations.answers import DEFAULT_LIFE, LONGEST_LIFE, QUOTE_LIMIT
from tproxy.destinations.inquiry import Inquiry
from tproxy.destinations.service import AuthToken, Found, ServiceUnavailableError, TokenNotAcceptedError, read
from tproxy.model import Code, DestinationRequest, Reason, Refusal, RefusedError, Secret, Stage
from tproxy.net.http import Answer
from tproxy.testing.certificates import Authority

ASKED = Inquiry(
    "https://dest.example/",
    {"authorization": "Bearer t0ken-canary", "x-refresh-token": "rt-canary", "x-code-verifier": "cv-canary"},
    (),
)


class FoundTests(SynchronousTestCase):
    """`read` on destinations."""

    def found(self, **more: object) -> Found:
        return read(answer(200, BODY | more), REQUEST, ASKED, 0.0)

    def token(self, **entry: object) -> AuthToken:
        (token,) = self.found(authTokens=[entry]).tokens
        return token

    def test_document(self) -> None:
        """The flat properties; media types may have parameters, and owner need not be there."""
        self.assertEqual(self.found(), Found(DOCUMENT, {}, ()))
        body = b"\xef\xbb\xbf" + json.dumps({"destinationConfiguration": DOCUMENT}).encode()
        self.assertEqual(
            read(answer(200, body, "Application/JSON;charset=utf-8"), REQUEST, ASKED, 0.0).values, DOCUMENT
        )

    def test_never_printed(self) -> None:
        """What was found does not show itself."""
        token = {"type": "bearer", "value": "at-canary"}
        certificate = {"Name": "ca", "Content": b64encode(b"-----BEGIN CERTIFICATE-----canary").decode()}
        self.assertNotIn("canary", repr(self.found(authTokens=[token], certificates=[certificate])))

    def test_certificates(self) -> None:
        """What TrustStoreLocation may name: PEM; other formats, and what is not there, with what to do."""
        pem = Authority.create().pem
        found = self.found(
            certificates=[
                {"Name": "ca.pem", "Content": b64encode(pem.encode()).decode(), "Type": "CERTIFICATE"},
                {"Name": "ca.pem", "Content": ""},
                {"Name": "ca.jks", "Content": b64encode(b"\xfe\xed\xfe\xed").decode()},
                {"Name": "odd.pem", "Content": "="},
                {"Name": "ü.pem", "Content": "ü"},
                {"Name": "none.pem"},
                {"Name": 1, "Content": ""},
                {"Content": ""},
                "ca",
            ]
        )
        self.assertEqual(found.authority("ca.pem"), pem)
        self.assertEqual(len(found.certificates), 5)
        for name, words in (
            ("ca.jks", "'ca.jks', which is not PEM"),
            ("odd.pem", "which is not PEM"),
            ("ü.pem", "which is not PEM"),
            ("none.pem", "which is not PEM"),
            ("CA.pem", "'CA.pem', and no such certificate"),
        ):
            refusal = self.assertRaises(RefusedError, found.authority, name).refusal
            self.assertEqual((refusal.reason, refusal.code), (Reason.DOCUMENT_INVALID, Code.CONTACT_ADMIN))
            self.assertIn(words, refusal.message)
            self.assertTrue(refusal.remedy)
        for nothing in (None, {}, "", [None]):
            self.assertEqual(self.found(certificates=nothing).certificates, {})

    def test_tokens(self) -> None:
        """A bearer token with its life, however that is spelt."""
        for expires_in, seconds in (
            (3599, 3599.0),
            ("3599", 3599.0),
            (10**9, LONGEST_LIFE),
            (None, DEFAULT_LIFE),
            ("soon", DEFAULT_LIFE),
            (True, DEFAULT_LIFE),
            (10**20, LONGEST_LIFE),
            ([], DEFAULT_LIFE),
        ):
            token = self.token(type="Bearer", value="a.b-c~", expires_in=expires_in, http_header={})
            self.assertEqual(token, AuthToken(Secret("a.b-c~"), seconds, ""))
        two = self.found(
            authTokens=[{"type": "bearer", "value": "a"}, 7, {"type": "bearer", "value": "b", "error": ""}]
        )
        self.assertEqual([token.value for token in two.tokens], [Secret("a"), Secret("b")])
        for nothing in (None, {}, "", [None]):
            self.assertEqual(self.found(authTokens=nothing).tokens, ())

    def test_unusable_tokens(self) -> None:
        """The documented failure and all that is no bearer token, with the reason."""
        for entry, words in (
            ({"type": "", "value": "", "error": "invalid_client"}, "invalid_client"),
            ({"type": "bearer", "value": "t", "error": "but no"}, "but no"),
            ({"type": "", "value": "", "error": None}, "no usable value"),
            ({"type": "bearer", "value": "a b"}, "no usable value"),
            ({"type": "bearer", "value": "ü"}, "no usable value"),
            ({"type": "bearer", "value": 1}, "no usable value"),
            ({"type": "bearer"}, "no usable value"),
            ({"type": "Basic", "value": "dTpw"}, "no bearer token"),
            ({"value": "t"}, "no bearer token"),
            ({"type": "bearer", "value": "t", "expires_in": 0}, "expired"),
            ({"type": "bearer", "value": "t", "expires_in": "-5"}, "expired"),
        ):
            token = self.token(**entry)
            self.assertEqual((token.value, token.seconds), (Secret(""), 0.0))
            self.assertIn(words, token.error)

    def test_words_of_tokens(self) -> None:
        """An error is escaped and short and repeats no secret, neither of the request nor of the document."""
        for secret in ("t0ken-canary", "rt-canary", "cv-canary", "pw-canary", "cs-canary"):
            token = self.token(type="", value="", error=f"\x1b[2J {secret} {b64encode(secret.encode()).decode()}")
            self.assertEqual(token.error, "\\x1b[2J *** ***")
        self.assertEqual(len(self.token(error="x" * 1000).error), QUOTE_LIMIT)


class RefusedTests(SynchronousTestCase):
    """`read` on everything else."""

    def refusal(self, sent: Answer, request: DestinationRequest = REQUEST) -> Refusal:
        error = self.assertRaises(RefusedError, read, sent, request, ASKED, 0.0)
        refusal = error.refusal
        unavailable = refusal.reason is Reason.STORE_UNAVAILABLE
        self.assertEqual(isinstance(error, ServiceUnavailableError), unavailable)
        self.assertEqual(refusal.code, Code.UNAVAILABLE if unavailable else Code.CONTACT_ADMIN)
        self.assertEqual(refusal.stage, Stage.RESOLVE)
        self.assertTrue(refusal.remedy)
        return refusal

    def test_token(self) -> None:
        """A 401 is about the token, whatever its body."""
        for sent in (NOT_ACCEPTED, answer(401), answer(401, b"<h1>", "text/html")):
            error = self.assertRaises(TokenNotAcceptedError, read, sent, REQUEST, ASKED, 0.0)
            self.assertEqual(error.refusal.reason, Reason.STORE_REFUSED)
            self.assertIn("does not accept the token of the service key", error.refusal.message)

    def test_refused(self) -> None:
        """A no is final."""
        for sent, reason, words in (
            (answer(403), Reason.STORE_REFUSED, "forbids"),
            (answer(403, said("scope")), Reason.STORE_REFUSED, "(HTTP 403: scope)"),
            (NOT_FOUND, Reason.DESTINATION_NOT_FOUND, "no destination 'mail' (HTTP 404: no such destination)"),
            (answer(404, {}), Reason.DESTINATION_NOT_FOUND, "no destination 'mail' (HTTP 404)"),
            (answer(404, {"ErrorMessage": 1}), Reason.DESTINATION_NOT_FOUND, "(HTTP 404)"),
            (answer(400, said("chain")), Reason.STORE_REFUSED, "refuses what it is asked (HTTP 400: chain)"),
            (answer(422, {}), Reason.STORE_REFUSED, "(HTTP 422)"),
            (answer(200, {"destinationConfiguration": {"Name": "Mail"}}), Reason.STORE_REFUSED, "another destination"),
            (answer(200, {"destinationConfiguration": {}}), Reason.STORE_REFUSED, "another destination than 'mail'"),
        ):
            refusal = self.refusal(sent)
            self.assertEqual(refusal.reason, reason)
            self.assertIn(words, refusal.message)
        level = self.refusal(NOT_FOUND, evolve(REQUEST, level="instance"))
        self.assertIn("no destination 'mail' at the level instance", level.message)

    def test_outages(self) -> None:
        """What is not the service's word, or not its last one, closes nothing."""
        for sent, words in (
            (answer(200, BODY, "text/html"), "without a JSON object"),
            (answer(200, BODY, ""), "without a JSON object"),
            (answer(200, b'{"destinationConfiguration": {"Name": "ma'), "without a JSON object"),
            (answer(200, b"[" * 100_000), "without a JSON object"),
            (answer(200, b"\xff"), "without a JSON object"),
            (answer(200, [BODY]), "without a JSON object"),
            (answer(200, {}), "without destinationConfiguration"),
            (answer(200, {"destinationConfiguration": [DOCUMENT]}), "without destinationConfiguration"),
            (answer(204), "cannot answer now (HTTP 204)"),
            (answer(302, b"", Location="https://canary"), "redirects (HTTP 302), which is not followed"),
            (answer(404, b"<h1>", "text/html"), "HTTP 404"),
            (answer(404, said("unknown"), X_Cf_RouterError="unknown_route"), "HTTP 404"),
            (answer(401, X_Cf_RouterError="x"), "HTTP 401"),
            (answer(400, b"<h1>", "text/html"), "HTTP 400"),
            (answer(408, said("slow")), "(HTTP 408: slow)"),
            (answer(429, said("too many")), "(HTTP 429: too many)"),
            (answer(500, said("NPE")), "(HTTP 500: NPE)"),
            (answer(503, b"<h1>", "text/html"), "(HTTP 503)"),
        ):
            refusal = self.refusal(sent)
            self.assertEqual(refusal.reason, Reason.STORE_UNAVAILABLE)
            self.assertIn(words, refusal.message)
            self.assertNotIn("canary", str(refusal))

    def test_pauses(self) -> None:
        """The pause that was asked for, in seconds or as a date."""
        for sent, pause in (
            (answer(429, b"", Retry_After="7"), 7.0),
            (answer(503, b"", Retry_After="Thu, 01 Jan 1970 00:00:30 GMT"), 20.0),
            (answer(500), 0.0),
            (answer(200), 0.0),
        ):
            error = self.assertRaises(ServiceUnavailableError, read, sent, REQUEST, ASKED, 10.0)
            self.assertEqual(error.retry_after, pause)

    def test_words(self) -> None:
        """The service's words are escaped and short and repeat no secret of the request."""
        for status in (400, 401, 403, 404, 429, 500):
            for secret in ("t0ken-canary", "rt-canary", "cv-canary"):
                error = self.assertRaises(
                    RefusedError, read, answer(status, said(f"no\r\n* OK {secret}")), REQUEST, ASKED, 0.0
                )
                self.assertIn(f"HTTP {status}: no\\r\\n* OK ***", error.refusal.message)
            error = self.assertRaises(RefusedError, read, answer(status, said("x" * 1000)), REQUEST, ASKED, 0.0)
            self.assertLess(len(error.refusal.message), 2 * QUOTE_LIMIT)


TOKENS = st.fixed_dictionaries({}, optional=dict.fromkeys(("type", "value", "error", "expires_in"), VALUES))
CERTIFICATES = st.fixed_dictionaries({}, optional=dict.fromkeys(("Name", "Content"), VALUES))
OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "ErrorMessage": VALUES,
        "destinationConfiguration": VALUES | st.just({"Name": "mail"}),
        "authTokens": VALUES | st.lists(TOKENS, max_size=3),
        "certificates": VALUES | st.lists(CERTIFICATES, max_size=3),
    },
)
BODIES = st.binary() | (VALUES | OBJECTS).map(lambda value: json.dumps(value).encode())
STATUS = st.sampled_from([200, 204, 302, 400, 401, 403, 404, 408, 429, 500, 503]) | st.integers(100, 599)


class AnyAnswerTests(SynchronousTestCase):
    """Whatever the service sends."""

    @settings(deadline=None)
    @given(STATUS, BODIES, st.sampled_from([JSON, "text/html", ""]), st.text(), st.booleans())
    def test_found_or_refused(self, status: int, body: bytes, kind: str, pause: str, routed: bool) -> None:
        """There is a destination or a refusal in one printable line, and nothing else is raised."""
        headers = Headers({b"Content-Type": [kind.encode()], b"Retry-After": [pause.encode()]})
        if not routed:
            headers.addRawHeader(b"X-Cf-RouterError", b"unknown_route")
        try:
            found = read(Answer(status, headers, body), REQUEST, ASKED, 0.0)
        except RefusedError as error:
            self.assertTrue(error.refusal.message.isprintable())
            self.assertLess(len(error.refusal.message), 3 * QUOTE_LIMIT)
        else:
            self.assertEqual(found.values["Name"], "mail")
            for token in found.tokens:
                self.assertEqual(token.value == Secret(""), bool(token.error))
                self.assertTrue(token.error.isprintable())
                self.assertTrue(0 <= token.seconds <= LONGEST_LIFE)

    @settings(deadline=None)
    @given(st.data(), st.text("kqxzw-+/=%&~", min_size=6), st.sampled_from(["authorization", "x-code"]), STATUS)
    def test_no_secret_comes_back(self, data: st.DataObject, secret: str, name: str, status: int) -> None:
        """However the service echoes a secret of the request, no words hold it."""
        headers = {"authorization": "Bearer other"} | {name: f"Bearer {secret}" if name == "authorization" else secret}
        asked = Inquiry("https://dest.example/", headers, ())
        octets = secret.encode()
        spelling = data.draw(
            st.sampled_from([secret, quote(secret, safe=""), b64encode(octets).decode(), octets.hex()])
        )
        text = f"it says {spelling}."
        body = {
            "ErrorMessage": text,
            "destinationConfiguration": {"Name": "mail"},
            "authTokens": [{"type": "", "value": "", "error": text}],
        }
        try:
            words = read(answer(status, body), REQUEST, asked, 0.0).tokens[0].error
        except RefusedError as error:
            words = str(error.refusal)
        for unwanted in (secret, spelling.rstrip("=") or spelling):
            self.assertNotIn(unwanted, words)

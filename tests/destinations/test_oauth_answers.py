"""Answers of token endpoints: what is understood, what is said about failures."""

from __future__ import annotations

import json
from base64 import b64encode
from urllib.parse import quote, quote_plus

from attrs import evolve
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from tests.destinations.answers import VALUES, answer
from tests.destinations.grants import CODE, GRANT, PUBLIC, REFRESH
from tproxy.destinations.answers import DEFAULT_LIFE, LONGEST_LIFE, QUOTE_LIMIT
from tproxy.destinations.oauth import Token, TokenUnavailableError, read, shown
from tproxy.model import Code, Grant, Reason, Refusal, RefusedError, Secret, Stage
from tproxy.net.http import Answer


class ReadTests(SynchronousTestCase):
    """What is understood."""

    def refusal(self, said: Answer, grant: Grant = GRANT) -> Refusal:
        return self.assertRaises(RefusedError, read, said, grant, 0.0).refusal

    def test_token(self) -> None:
        """A bearer token with its life, however the endpoint spells these."""
        for fields, seconds in (
            ({"token_type": "bearer", "expires_in": 3599}, 3599),
            ({"token_type": "BEARER", "expires_in": "60"}, 60),
            ({"expires_in": 1.5}, 1.5),
            ({"expires_in": 10**9}, LONGEST_LIFE),
            ({}, DEFAULT_LIFE),
            ({"expires_in": None}, DEFAULT_LIFE),
            ({"expires_in": True}, DEFAULT_LIFE),
            ({"expires_in": "soon"}, DEFAULT_LIFE),
            ({"expires_in": "nan"}, DEFAULT_LIFE),
            ({"expires_in": 10**400}, DEFAULT_LIFE),
            ({"expires_in": []}, DEFAULT_LIFE),
        ):
            self.assertEqual(
                read(answer(200, {"access_token": "t0k~"} | fields), GRANT, 0.0), Token(Secret("t0k~"), seconds)
            )

    def test_refresh_token_in_the_answer(self) -> None:
        """It belongs to the application, and is left alone."""
        said = answer(200, {"access_token": "t", "refresh_token": "new"})
        self.assertEqual(read(said, REFRESH, 0.0), Token(Secret("t")))

    def test_media_types(self) -> None:
        """JSON under its names, with or without parameters and a byte order mark."""
        body = b'\xef\xbb\xbf{"access_token": "t"}'
        for kind in ("application/json;charset=utf-8", "Application/JSON", "application/vnd.x+json"):
            self.assertEqual(read(answer(200, body, kind), GRANT, 0.0).value, Secret("t"))

    def test_garbage(self) -> None:
        """What holds no usable token is an endpoint that is not there for now."""
        for said, words in (
            (answer(200, {"access_token": "t"}, "text/html"), "without a JSON object"),
            (answer(200, b"{"), "without a JSON object"),
            (answer(200, b"[" * 100_000), "without a JSON object"),
            (answer(200, b"\xff"), "without a JSON object"),
            (answer(200, ["t"]), "without a JSON object"),
            (answer(200, b'{"access_token": "t", "expires_in": NaN}'), "without a JSON object"),
            (answer(200, {"token": "t"}), "without a usable access_token"),
            (answer(200, {"access_token": 1}), "without a usable access_token"),
            (answer(200, {"access_token": "a b"}), "without a usable access_token"),
            (answer(200, {"access_token": "a\x01"}), "without a usable access_token"),
            (answer(200, {"access_token": "t", "token_type": "mac"}), "no bearer token"),
            (answer(200, {"access_token": "t", "token_type": 1}), "no bearer token"),
            (answer(200, {"access_token": "t", "expires_in": 0}), "expired already"),
            (answer(302, b"", Location="https://elsewhere"), "not followed"),
            (answer(400, b"<h1>", "text/html"), "HTTP 400"),
            (answer(418, {"error": 1}), "HTTP 418"),
            (answer(201, {}), "HTTP 201"),
        ):
            refusal = self.refusal(said)
            self.assertEqual(refusal.reason, Reason.TOKEN_UNAVAILABLE)
            self.assertIn(words, refusal.message)
            self.assertIn("login.example.com", refusal.message)

    def test_refused(self) -> None:
        """An answer of OAuth, or of HTTP where it is one about us, is final."""
        for said, words in (
            (answer(400, {"error": "invalid_scope", "error_description": "no such scope"}), "invalid_scope - no such"),
            (answer(401, {"error": "invalid_client"}), "invalid_client"),
            (answer(200, {"error": "bad_verification_code"}), "bad_verification_code"),
            (answer(401, b"", "text/plain"), "HTTP 401"),
            (answer(403, {"error": []}), "HTTP 403"),
            (answer(404, b"<h1>", "text/html"), "HTTP 404"),
        ):
            refusal = self.refusal(said)
            self.assertEqual(refusal.reason, Reason.TOKEN_REFUSED)
            self.assertEqual((refusal.stage, refusal.code), (Stage.RESOLVE, Code.AUTHENTICATION_FAILED))
            self.assertIn(words, refusal.message)
            self.assertTrue(refusal.remedy)

    def test_stale(self) -> None:
        """Where the application's part is no good, the remedy is its; nobody else's grant is told so."""
        said = answer(400, {"error": "invalid_grant", "error_description": "offered is expired"})
        words = "has expired, was revoked or used already, or is for another clientId or redirectUri"
        for grant, kind in ((REFRESH, "refresh token"), (CODE, "authorization code")):
            refusal = self.refusal(said, grant)
            self.assertEqual((refusal.reason, refusal.code), (Reason.TOKEN_REFUSED, Code.AUTHENTICATION_FAILED))
            self.assertEqual(
                refusal.message,
                "the token endpoint at login.example.com refused the grant: invalid_grant - *** is expired",
            )
            self.assertEqual(refusal.remedy, f"have the application send a new {kind}: what it sent {words}")
        self.assertEqual(self.refusal(said).remedy, "correct the destination")

    def test_remedies(self) -> None:
        """What to do names the kind of grant, where that matters."""
        for grant, kind in ((GRANT, "client credentials"), (REFRESH, "refresh token"), (CODE, "authorization code")):
            for error, remedy in (
                ("unauthorized_client", f"allow the {kind} grant for this client at the provider"),
                ("unsupported_grant_type", f"use a tokenServiceURL that knows the {kind} grant"),
                ("unheard_of", "correct the destination"),
            ):
                self.assertEqual(self.refusal(answer(400, {"error": error}), grant).remedy, remedy)

    def test_outages(self) -> None:
        """Too many requests, errors of the server, and those that say so: later, when the endpoint likes."""
        for said, pause in (
            (answer(429, b"", Retry_After="7"), 7),
            (answer(429, {"error": "invalid_client"}), 0),
            (answer(503, b"", Retry_After="Thu, 01 Jan 1970 00:00:30 GMT"), 30),
            (answer(500, b"", Retry_After="never"), 0),
            (answer(400, {"error": "temporarily_unavailable"}), 0),
            (answer(404, b"", X_Cf_RouterError="unknown_route", Retry_After="3"), 3),
        ):
            error = self.assertRaises(TokenUnavailableError, read, said, GRANT, 0.0)
            self.assertEqual((error.refusal.reason, error.retry_after), (Reason.TOKEN_UNAVAILABLE, pause))


FIELDS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("access_token", "token_type", "expires_in", "error", "error_description"), VALUES)
)
BODIES = (
    st.binary()
    | VALUES.map(lambda value: json.dumps(value).encode())
    | FIELDS.map(lambda value: json.dumps(value).encode())
)
STATUS = st.sampled_from([200, 204, 301, 400, 401, 403, 404, 418, 429, 500, 503]) | st.integers(100, 599)
KINDS = st.sampled_from(["application/json", "application/json; charset=x", "text/html", ""])


class AnyAnswerTests(SynchronousTestCase):
    """Whatever an endpoint sends."""

    @settings(deadline=None)
    @given(STATUS, BODIES, KINDS, st.binary())
    def test_a_token_or_a_refusal(self, status: int, body: bytes, kind: str, pause: bytes) -> None:
        """There is a usable token or a refusal in one printable line, and nothing else is raised."""
        headers = Headers(
            {b"Content-Type": [kind.encode()], b"Retry-After": [pause.replace(b"\n", b"").replace(b"\r", b"")]}
        )
        try:
            token = read(Answer(status, headers, body), GRANT, 0.0)
        except RefusedError as error:
            self.assertIn(error.refusal.reason, (Reason.TOKEN_REFUSED, Reason.TOKEN_UNAVAILABLE))
            self.assertTrue(error.refusal.message.isprintable())
            self.assertLess(len(error.refusal.message), 3 * QUOTE_LIMIT)
        else:
            self.assertTrue(0 < token.seconds <= LONGEST_LIFE)
            self.assertTrue(token.value.reveal().isascii())

    @settings(deadline=None)
    @given(st.data(), st.text('kqxzw-+/=%&é"\\<', min_size=6), st.sampled_from(range(7)))
    def test_no_secret_comes_back(self, data: st.DataObject, secret: str, place: int) -> None:
        """However the endpoint echoes a secret of the grant, the message does not hold it."""
        other = Secret("unrelated")
        grant = [
            evolve(GRANT, client_secret=Secret(secret)),
            evolve(GRANT, user="u", password=Secret(secret)),
            evolve(GRANT, headers=(("X", Secret(secret)), ("Y", other))),
            evolve(GRANT, queries=(("x", Secret(secret)),)),
            evolve(GRANT, body=(("x", Secret(secret)),)),
            evolve(REFRESH, offered=Secret(secret)),
            evolve(CODE, offered=Secret(secret)),
        ][place]
        spelling = data.draw(
            st.sampled_from(
                [
                    secret,
                    quote(secret),
                    quote(secret, safe=""),
                    quote_plus(secret).lower(),
                    b64encode(secret.encode()).decode(),
                    secret.encode().hex().upper(),
                ]
            )
        )
        assume("***" not in spelling)
        around = data.draw(st.text("ab \x1b\n")), data.draw(st.text("ab \x1b\n"))
        said = answer(400, {"error": "invalid_client", "error_description": spelling.join(around)})
        message = self.assertRaises(RefusedError, read, said, grant, 0.0).refusal.message
        for text in (secret, spelling.rstrip("=")):
            self.assertNotIn(text, message)
        self.assertTrue("***" in message or "repeat a secret" in message)


class ShownTests(SynchronousTestCase):
    """Foreign words in a message."""

    def test_escaped(self) -> None:
        """Control characters and what turns the writing direction are spelled out."""
        self.assertEqual(shown("a\x1b[2J\r\n\u202e é", GRANT), "a\\x1b[2J\\r\\n\\u202e é")

    def test_cut(self) -> None:
        """Long words are cut, after the secrets were taken out of them."""
        text = shown("x" * (QUOTE_LIMIT - 8) + "secret" * 2, GRANT)
        self.assertEqual(len(text), QUOTE_LIMIT - 2)
        self.assertTrue(shown("y" * 1000, GRANT).endswith("y…"))
        self.assertEqual(len(shown("\x00" * 1000, GRANT)), QUOTE_LIMIT)

    def test_spelt_otherwise(self) -> None:
        """A secret that cannot be cut out of the text takes the text with it."""
        for text in ("a %73ecret", "a s&#101;cret", "a s\\ecret"):
            self.assertEqual(shown(text, GRANT), "(its words repeat a secret)")

    def test_no_secret(self) -> None:
        """Where there is none to cut out, the words stay as they are."""
        words = "no log of Y2xpZW50Og or 3A"
        for client_id in ("client", ""):
            self.assertEqual(shown(words, evolve(GRANT, client_id=client_id, client_secret=PUBLIC)), words)

    def test_pairs(self) -> None:
        """The Authorization header does not come back either."""
        grant = evolve(GRANT, user="u", password=Secret("pw"))
        for pair in (b"client:secret", b"u:pw"):
            self.assertEqual(shown("got Basic " + b64encode(pair).decode().rstrip("="), grant), "got Basic ***")

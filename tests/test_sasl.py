"""SASL mechanisms, the client's side, and of one what a server reads."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64decode, b64encode

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tproxy import sasl
from tproxy.model import Bearer, NoCredential, Offered, Password, Secret
from tproxy.sasl import Answers, Denied, Explained, Presented, Proven, Spoken

words = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=20)
visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)
printable = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20)


class Openings(SynchronousTestCase):
    """What is sent first says the credential exactly."""

    @settings(deadline=None)
    @given(words, words)
    def test_plain(self, user, password):
        """PLAIN: two NULs part nobody, the user, and the password."""
        opening = sasl.plain(Password(user, Secret(password)))
        wire = sasl.encoded_initial(opening.initial)
        self.assertEqual(b64decode(wire, validate=True).decode().split("\0"), ["", user, password])
        self.assertTrue(sasl.may_succeed(opening.then))

    @settings(deadline=None)
    @given(words, words)
    def test_login(self, user, password):
        """LOGIN: the server begins, is told the user, then the password, and may agree only then."""
        opening = sasl.login(Password(user, Secret(password)))
        self.assertIsNone(opening.initial)
        exchange, said = opening.held(), []
        for _ in range(2):
            self.assertFalse(sasl.may_succeed(exchange))
            exchange, response = sasl.respond(exchange, b"whatever, this need not be base64")
            said.append(b64decode(sasl.encoded(response), validate=True).decode())
        self.assertEqual((said, sasl.may_succeed(exchange)), ([user, password], True))

    @settings(deadline=None)
    @given(printable, visible)
    def test_xoauth2(self, user, token):
        """XOAUTH2: user and token, on one line whatever their length."""
        wire = sasl.encoded_initial(sasl.xoauth2(Bearer(user, Secret(token * 50))).initial)
        self.assertNotIn(b"\n", wire)
        self.assertEqual(
            b64decode(wire, validate=True).decode().split("\x01"),
            [f"user={user}", f"auth=Bearer {token * 50}", "", ""],
        )

    @settings(deadline=None)
    @given(printable, visible, st.integers(1, 65535))
    def test_oauthbearer(self, user, token, port):
        """OAUTHBEARER: the user escaped, the host and the port, and the token."""
        wire = sasl.encoded_initial(sasl.oauthbearer(Bearer(user, Secret(token)), "mail.example", port).initial)
        head, *fields = b64decode(wire, validate=True).decode().split("\x01")
        gs2, acting, rest = head.split(",")
        self.assertEqual((gs2, rest), ("n", ""))
        self.assertEqual(acting.removeprefix("a=").replace("=2C", ",").replace("=3D", "="), user)
        self.assertEqual(fields, ["host=mail.example", f"port={port}", f"auth=Bearer {token}", "", ""])

    def test_held(self):
        """An initial response may have to wait for a challenge, and then success waits too."""
        opening = sasl.plain(Password("u", Secret("p")))
        held = opening.held()
        self.assertFalse(sasl.may_succeed(held))
        self.assertEqual(sasl.respond(held, b""), (opening.then, b"\0u\0p"))

    def test_empty_initial_response(self):
        """An empty initial response is `=`; an empty response is an empty line."""
        self.assertEqual((sasl.encoded_initial(b""), sasl.encoded(b"")), (b"=", b""))

    def test_examine(self):
        """What would end a line or a field is refused, by name."""
        for credential in (
            NoCredential(),
            Password("ü\x01", Secret("\t\x7f\U0001f511")),
            Bearer("ü@x,=", Secret("a-._~+/=")),
        ):
            sasl.examine(credential)
        for bad in ("\r", "\n", "\0", "\ud800"):
            for credential in (Password(f"canary{bad}", Secret("")), Password("", Secret(f"canary{bad}"))):
                error = self.assertRaises(sasl.CredentialError, sasl.examine, credential)
                self.assertNotIn("canary", str(error))
        for bad in ("\r", "\n", "\0", "\x01", "\x7f", "\t", "\udfff"):
            self.assertRaises(sasl.CredentialError, sasl.examine, Bearer(bad, Secret("t")))
        for bad in ("\r", "\n", "\0", "\x01", "\x7f", "\t", "\udfff", " ", "ü"):
            self.assertRaises(sasl.CredentialError, sasl.examine, Bearer("u", Secret(bad)))


class Offers(SynchronousTestCase):
    """What an application brings in XOAUTH2."""

    @settings(deadline=None)
    @given(printable, visible)
    def test_round_trip(self, user, token):
        """What `xoauth2` writes is read again."""
        opening = sasl.xoauth2(Bearer(user, Secret(token)))
        self.assertEqual(sasl.offered(opening.initial), Offered(user, Secret(token)))

    @settings(deadline=None)
    @given(st.binary(max_size=40), st.binary(max_size=40), st.sampled_from([b"", b"\x01", b"user=", b"\x01\x01"]))
    def test_anything(self, user, token, end):
        """Whatever else is said, it is read as it was meant, or not at all."""
        message = b"user=" + user + b"\x01auth=Bearer " + token + b"\x01\x01" + end
        offered = sasl.offered(message)
        if offered is not None:
            self.assertEqual((offered.user.encode(), offered.secret.reveal().encode(), end), (user, token, b""))

    def test_word(self):
        """The word Bearer is written in any case (RFC 6750 and RFC 9110, section 11.1)."""
        for word in (b"bearer", b"BEARER", b"bEaReR"):
            self.assertEqual(sasl.offered(b"user=u\x01auth=" + word + b" t x\x01\x01"), Offered("u", Secret("t x")))

    def test_other_messages(self):
        """What is no such message brings nothing."""
        for message in (
            b"",
            b"user=u",
            b"auth=Bearer t\x01\x01",
            b"user=u\x01auth=Bearer t\x01",
            b"user=u\x01auth=Bearer t\x01\x01\x01",
            b"user=u\x01auth=Bearer \x01\x01",
            b"user=u\x01auth=Bearert\x01\x01",
            b"user=u\x01auth=Basic t\x01\x01",
            b"user=u\x01auth=Bearer t\n\x01\x01",
            b"user=u\x01auth=Bearer \xc3\xbc\x01\x01",
            b"user=u\r\n\x01auth=Bearer t\x01\x01",
            b"user=\x7f\x01auth=Bearer t\x01\x01",
            b"user=\xff\x01auth=Bearer t\x01\x01",
            b"user=u\x01host=h\x01auth=Bearer t\x01\x01",
            b"n,a=u,\x01auth=Bearer t\x01\x01",
        ):
            self.assertIsNone(sasl.offered(message), message)


class Challenges(SynchronousTestCase):
    """What a challenge moves."""

    def test_spoken(self):
        """Who has said all has nothing to add."""
        for exchange in (Spoken(), Explained(""), Denied()):
            self.assertRaises(sasl.SASLError, sasl.respond, exchange, b"")

    def test_may_succeed(self):
        """A success counts only when all was said, and the server has proven what it has to."""
        secret = Secret("x")
        for exchange, may in (
            (Answers((b"",), Spoken()), False),
            (Spoken(), True),
            (Presented(secret, b""), True),
            (Explained(""), False),
            (sasl.Claimed("", "", secret), False),
            (Proven(b""), False),
            (Denied(), False),
        ):
            self.assertEqual(sasl.may_succeed(exchange), may)

    def test_nothing_is_shown(self):
        """No exchange shows what it says."""
        password = Password("canary", Secret("canary"))
        bearer = Bearer("canary", Secret("canary"))
        for opening in (
            sasl.plain(password),
            sasl.login(password),
            sasl.xoauth2(bearer),
            sasl.oauthbearer(bearer, "h", 1),
            sasl.scram_sha_256(password, "canary"),
        ):
            self.assertNotIn("canary", repr((opening, opening.held())))
        self.assertNotIn("canary", repr(Proven(b"canary")))


class Explanations(SynchronousTestCase):
    """Why a token is refused."""

    def why(self, said: object, token: str = "t" * 40) -> str:
        """What is made of an error."""
        octets = said if isinstance(said, bytes) else b64encode(json.dumps(said).encode())
        exchange, _ = sasl.respond(sasl.xoauth2(Bearer("u", Secret(token))).then, octets)
        return exchange.why

    def test_farewell(self):
        """XOAUTH2 answers an error with nothing, OAUTHBEARER with one octet."""
        bearer = Bearer("u", Secret("t"))
        self.assertEqual(sasl.respond(sasl.xoauth2(bearer).then, b""), (Explained(""), b""))
        self.assertEqual(sasl.respond(sasl.oauthbearer(bearer, "h", 1).then, b""), (Explained(""), b"\x01"))

    def test_fields(self):
        """Status, schemes and scope are kept, and nothing else."""
        self.assertEqual(
            self.why({"scope": "mail", "status": "400", "schemes": "Bearer", "else": "x"}),
            "status '400', schemes 'Bearer', scope 'mail'",
        )
        self.assertEqual(self.why({"status": 401}), "status 401")
        self.assertEqual(self.why({"else": "x"}), "")

    def test_printable(self):
        """It is safe to print, and short."""
        self.assertEqual(self.why({"status": "\x1b[2J\nü"}), "status '\\x1b[2J\\n\\xfc'")
        self.assertEqual(len(self.why({"scope": "x" * 1000})), 200)

    def test_garbage(self):
        """What is no such error explains nothing."""
        for said in (
            b"",
            b"not base64",
            b64encode(b"\xff"),
            b64encode(b"{"),
            b64encode(b"[" * 100_000),
            1,
            "status",
            [],
        ):
            self.assertEqual(self.why(said), "")

    def test_echo(self):
        """An error that says the token again, whole, in part or encoded, explains nothing."""
        token = "canary-0123456789-abcdefgh"
        for part in (token, token[3:20], b64encode(f"user=u\x01auth=Bearer {token}\x01\x01".encode())[20:40].decode()):
            for name in ("status", "scope"):
                self.assertEqual(self.why({name: f"x{part}x"}, token), "")
        self.assertEqual(self.why({"status": token[:12]}, token), "")
        self.assertEqual(self.why({"status": token[:11]}, token), f"status '{token[:11]}'")


class SCRAM(SynchronousTestCase):
    """SCRAM-SHA-256 (RFC 7677)."""

    NONCE = "rOprNGfwEbeRWgbNEkqO"
    SERVER_NONCE = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    FIRST = f"r={SERVER_NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"

    def opening(self) -> sasl.Opening:
        """The example of RFC 7677, section 3."""
        return sasl.scram_sha_256(Password("user", Secret("pencil")), self.NONCE)

    def breach(self, exchange: sasl.Exchange, message: str) -> str:
        """Why this challenge is refused."""
        return str(self.assertRaises(sasl.SASLError, sasl.respond, exchange, b64encode(message.encode())))

    def test_example(self):
        """The example of the RFC, byte for byte."""
        opening = self.opening()
        self.assertEqual(opening.initial, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
        exchange, response = sasl.respond(opening.then, b64encode(self.FIRST.encode()))
        self.assertEqual(
            response, f"c=biws,r={self.SERVER_NONCE},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".encode()
        )
        exchange, response = sasl.respond(exchange, b64encode(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="))
        self.assertEqual((exchange, response), (Spoken(), b""))

    @settings(deadline=None, max_examples=20)
    @given(words, words, st.binary(min_size=1, max_size=20))
    def test_with_a_server(self, user, password, salt):
        """A server that knows the password agrees with the proof; one that does not is found out."""
        try:
            prepared = [sasl.saslprep(word) for word in (user, password)]
            opening = sasl.scram_sha_256(Password(user, Secret(password)), "nonce")
        except (ValueError, sasl.CredentialError):
            return
        bare = opening.initial.decode().removeprefix("n,,")
        name = bare.removeprefix("n=").removesuffix(",r=nonce")
        self.assertEqual(name.replace("=2C", ",").replace("=3D", "="), prepared[0])
        first = f"r=nonceS,s={b64encode(salt).decode()},i=4096"
        exchange, response = sasl.respond(opening.then, b64encode(first.encode()))
        final, _, proof = response.decode().partition(",p=")
        said = f"{bare},{first},{final}".encode()

        def mac(key: bytes, message: bytes) -> bytes:
            return hmac.new(key, message, hashlib.sha256).digest()

        salted = hashlib.pbkdf2_hmac("sha256", prepared[1].encode(), salt, 4096)
        stored = hashlib.sha256(mac(salted, b"Client Key")).digest()
        key = bytes(a ^ b for a, b in zip(b64decode(proof), mac(stored, said), strict=True))
        self.assertEqual(hashlib.sha256(key).digest(), stored)
        signature = mac(mac(salted, b"Server Key"), said)
        self.assertEqual(sasl.respond(exchange, b64encode(b"v=" + b64encode(signature)))[0], Spoken())
        self.breach(exchange, f"v={b64encode(bytes(32)).decode()}")

    def test_breaches(self):
        """A server's first message is checked in every part."""
        for message, words_ in (
            (self.FIRST.replace(self.NONCE, "x"), "another"),
            (f"r={self.NONCE},s=W22Z,i=4096", "another"),
            ("s=W22Z,i=4096", "another"),
            (f"r={self.SERVER_NONCE},s=W22Z,i=4095", "iterations"),
            (f"r={self.SERVER_NONCE},s=W22Z,i=100001", "iterations"),
            (f"r={self.SERVER_NONCE},s=W22Z,i=-5000", "iterations"),
            (f"r={self.SERVER_NONCE},s=W22Z,i=٥٠٠٠", "iterations"),
            (f"r={self.SERVER_NONCE},s=W22Z,i=99999999999999999999", "iterations"),
            (f"r={self.SERVER_NONCE},s=W22Z", "iterations"),
            (f"r={self.SERVER_NONCE},i=4096", "salt"),
            (f"r={self.SERVER_NONCE},s=W2,i=4096", "base64"),
            (f"m=x,{self.FIRST}", "extension"),
            ("", "SCRAM"),
            ("hello", "SCRAM"),
            (f"{self.FIRST},", "SCRAM"),
        ):
            self.assertIn(words_, self.breach(self.opening().then, message))
        error = self.assertRaises(sasl.SASLError, sasl.respond, self.opening().then, b"not base64")
        self.assertIn("base64", str(error))
        error = self.assertRaises(sasl.SASLError, sasl.respond, self.opening().then, b64encode(b"r=\xff"))
        self.assertNotIn("\xff", str(error))

    def test_bounds_of_iterations(self):
        """Both ends of the range are accepted."""
        for count in (sasl.MIN_ITERATIONS, sasl.MAX_ITERATIONS):
            message = f"r={self.SERVER_NONCE},s=W22Z,i={count}"
            exchange, _ = sasl.respond(self.opening().then, b64encode(message.encode()))
            self.assertIsInstance(exchange, Proven)

    def test_server_without_proof(self):
        """No signature, a wrong one, or an error: the login does not count."""
        exchange, _ = sasl.respond(self.opening().then, b64encode(self.FIRST.encode()))
        self.assertFalse(sasl.may_succeed(exchange))
        for message in ("v=AAAA", "x=AAAA", "v="):
            self.assertIn("prove", self.breach(exchange, message))
        self.assertIn("base64", self.breach(exchange, "v=A"))
        denied, response = sasl.respond(exchange, b64encode(b"e=invalid-proof"))
        self.assertEqual((denied, response, sasl.may_succeed(denied)), (Denied(), b"", False))

    def test_key_is_kept(self):
        """The same credential, salt and count are stretched once; the store of keys is bounded."""
        sasl._salted.cache_clear()
        for _ in range(3):
            sasl.respond(self.opening().then, b64encode(self.FIRST.encode()))
        self.assertEqual(sasl._salted.cache_info()[:2], (2, 1))
        other = sasl.scram_sha_256(Password("user", Secret("pen")), self.NONCE)
        sasl.respond(other.then, b64encode(self.FIRST.encode()))
        self.assertEqual(sasl._salted.cache_info(), (2, 2, sasl.SALTED_KEYS, 2))

    def test_credential(self):
        """What SASLprep does not allow is named, not shown."""
        for credential, name in (
            (Password("canary\ue000", Secret("x")), "mail.user"),
            (Password("x", Secret("canary\ue000")), "mail.password"),
        ):
            error = self.assertRaises(sasl.CredentialError, sasl.scram_sha_256, credential, "nonce")
            self.assertIn(name, str(error))
            self.assertNotIn("canary", str(error))
            self.assertIsNone(error.__cause__)
            self.assertTrue(error.__suppress_context__)


class SASLprep(SynchronousTestCase):
    """Users and passwords are prepared as RFC 4013 says."""

    def test_examples(self):
        """The examples of section 3, and empty text."""
        for text, prepared in (
            ("I\u00adX", "IX"),
            ("user", "user"),
            ("USER", "USER"),
            ("\u00aa", "a"),
            ("\u2168", "IX"),
            ("a\u00a0b", "a b"),
            ("", ""),
            ("\u0627a"[:1], "\u0627"),
            ("\u0627\u0031\u0628", "\u0627\u0031\u0628"),
            ("\U0001f511", "\U0001f511"),
        ):
            self.assertEqual(sasl.saslprep(text), prepared)

    def test_prohibited(self):
        """Controls, private use, surrogates, and mixed directions are refused without being shown."""
        for text in (
            "\u0007",
            "\u0627\u0031",
            "\u0031\u0627",
            "\u0627a\u0628",
            "\ue000",
            "\ud800",
            "\ufffd",
            "\u200e",
            "\ufff9",
            "\u2ff0",
        ):
            error = self.assertRaises(ValueError, sasl.saslprep, text)
            self.assertNotIn(text, str(error))

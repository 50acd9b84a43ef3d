"""The client half within TLS: how an access token is presented, and what its refusal says."""

from __future__ import annotations

from base64 import b64encode

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.protocols.imap4.logins import BEARER, GREETED, refusal
from tests.protocols.transcripts import Transcripts
from tproxy.model import Bearer, Secret
from tproxy.protocols.imap4 import imap4s


class Tokens(Transcripts, SynchronousTestCase):
    """How an access token is presented, and what its refusal says."""

    XOAUTH2 = b64encode(b"user=u@x\x01auth=Bearer tok\x01\x01").decode()
    OAUTHBEARER = b64encode(b"n,a=u@x,\x01host=mail.example\x01port=993\x01auth=Bearer tok\x01\x01").decode()
    ERROR = b64encode(b'{"status":"invalid_token","schemes":"Bearer","scope":"mail"}').decode()

    def test_oauthbearer_first(self):
        """OAUTHBEARER is preferred."""
        self.holds(
            imap4s.log_in(BEARER),
            rf"""
            P: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2 AUTH=OAUTHBEARER AUTH=PLAIN] ready
            A: t1 AUTHENTICATE OAUTHBEARER {self.OAUTHBEARER}
            P: t1 OK [CAPABILITY IMAP4rev1] in
            = LoggedIn IMAP4rev1
            """,
        )

    def test_xoauth2(self):
        """XOAUTH2 where the other is not offered, held back without SASL-IR."""
        self.holds(
            imap4s.log_in(BEARER),
            rf"""
            P: * OK [CAPABILITY IMAP4rev1 AUTH=XOAUTH2] ready
            A: t1 AUTHENTICATE XOAUTH2
            P: +
            A: {self.XOAUTH2}
            P: t1 OK [CAPABILITY IMAP4rev1] in
            = LoggedIn IMAP4rev1
            """,
        )

    def test_oauthbearer_refused(self):
        """OAUTHBEARER answers the error with AQ==, then comes the tagged NO."""
        self.holds(
            imap4s.log_in(BEARER),
            rf"""
            P: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=OAUTHBEARER] ready
            A: t1 AUTHENTICATE OAUTHBEARER {self.OAUTHBEARER}
            P: + {self.ERROR}
            A: AQ==
            P: t1 NO [AUTHENTICATIONFAILED] no
            = Refuse login login-refused AUTHENTICATIONFAILED
            """,
        )

    def test_xoauth2_refused(self):
        """XOAUTH2 answers the error with an empty line."""
        self.holds(
            imap4s.log_in(BEARER),
            rf"""
            P: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2] ready
            A: t1 AUTHENTICATE XOAUTH2 {self.XOAUTH2}
            P: + {self.ERROR}
            A:
            P: t1 NO no
            = Refuse login login-refused AUTHENTICATIONFAILED
            """,
        )

    def test_why(self):
        """What the error says goes to the operator."""
        error = b"+ " + self.ERROR.encode() + b"\r\n"
        refused = refusal(imap4s.log_in(BEARER), GREETED, error, b"t1 NO no\r\n")
        self.assertIn("status 'invalid_token', schemes 'Bearer', scope 'mail'", refused.message)
        self.assertIn("scope", refused.remedy)

    def test_success_after_an_error(self):
        """A login that was explained to be refused cannot succeed."""
        error = b"+ " + self.ERROR.encode() + b"\r\n"
        refused = refusal(imap4s.log_in(BEARER), GREETED, error, b"t1 OK yes\r\n")
        self.assertEqual(refused.reason, "protocol-violation")

    def test_not_offered(self):
        """A token is never sent in a mechanism that was not offered, nor with the LOGIN command."""
        refused = refusal(imap4s.log_in(BEARER), b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] ready\r\n")
        self.assertEqual((refused.stage, refused.reason), ("login", "mechanism-not-offered"))
        self.assertIn("OAUTHBEARER", refused.message)

    def test_token_with_the_wrong_characters(self):
        """What would leave its field is refused before a byte is sent, by name and not by value."""
        for user, token, named in (
            ("canary\x01", "t", "mail.user"),
            ("canary\n", "t", "mail.user"),
            ("canary\ud800", "t", "mail.user"),
            ("u", "canary\x01", "access token"),
            ("u", "canary k", "access token"),
            ("u", "canaryö", "access token"),
        ):
            credential = Bearer(user, Secret(token))
            refused = refusal(imap4s.log_in(evolve(BEARER, credential=credential)), b"* OK ready\r\n")
            self.assertEqual(refused.reason, "credential-invalid")
            self.assertIn(named, refused.message)
            self.assertNotIn("canary", str(refused))

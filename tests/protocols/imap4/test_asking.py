"""The server half that asks the application for its credential: logins, and refusals."""

from __future__ import annotations

from base64 import b64encode

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.protocols.imap4.askings import (
    ASKING,
    BEGUN,
    LISTED,
    LOGGED_IN,
    MALFORMED,
    ME,
    OFFERED,
    REFUSED,
    begun,
    exchanging,
    said,
)
from tests.protocols.transcripts import Transcripts
from tproxy.model import Code, Offered, Reason, Refusal, Secret, Stage
from tproxy.session import Close, CredentialOffered, Refuse


class Logins(Transcripts, SynchronousTestCase):
    """From the greeting to the conversation."""

    def test_login(self):
        """Greeted, asked, logged in with the application's own tag; then as after any login."""
        transcript = (
            BEGUN
            + OFFERED
            + LOGGED_IN
            + r"""
            P: a2 CAPABILITY
            A: * CAPABILITY IMAP4rev1 IDLE
            A: a2 OK that is all
            P: a3 NOOP
            F: a3 NOOP
            U: * 3 EXISTS
            U: a3 OK done
            A: * 3 EXISTS
            A: a3 OK done
            P: a4 SELECT INBOX
            P: a5 FETCH 1 …
            = HandOver
            H: a4 SELECT INBOX
            R: a5 FETCH 1 …
            """
        )
        self.holds(ASKING, transcript)
        self.holds_with_bare_lf(ASKING, transcript)

    def test_without_initial_response(self):
        """The response may wait for its prompt (RFC 9051, section 6.2.2)."""
        transcript = (
            BEGUN
            + rf"""
            P: a1 authenticate xoauth2
            A: + …
            A:
            P: {ME}
            = CredentialOffered me@example.com canary
            """
            + LOGGED_IN
        )
        self.holds(ASKING, transcript)
        self.holds_with_bare_lf(ASKING, transcript)

    def test_nobody_named(self):
        """The application may leave it to the destination who it is; the word Bearer is written in any case."""
        for word in ("bearer", "BEARER", "Bearer"):
            self.holds(
                ASKING, BEGUN + f"P: a1 AUTHENTICATE XOAUTH2 {said('', 'canary', word)}\n= CredentialOffered  canary"
            )

    def test_pipelined(self):
        """What comes behind the credential waits for what comes of it; so does the end behind that."""
        behind = "P: a2 CAPABILITY\nP: a3 LIST …\n"
        self.holds(
            ASKING,
            BEGUN
            + OFFERED
            + behind
            + LOGGED_IN
            + r"""
            A: * CAPABILITY IMAP4rev1 IDLE
            A: a2 OK that is all
            P: x
            = HandOver
            H: a3 LIST x
            """,
        )
        self.holds(
            ASKING,
            BEGUN
            + OFFERED
            + behind
            + rf"""
            ! Ended
            ! Refuse AUTHENTICATIONFAILED
            A: a1 {REFUSED}
            A: * CAPABILITY {LISTED}
            A: a2 OK that is all
            = Close
            """,
        )

    def test_once(self):
        """Who has logged in may not log in as somebody else; nothing of the attempt goes on."""
        self.holds(
            ASKING,
            BEGUN
            + OFFERED
            + LOGGED_IN
            + rf"""
            P: a2 AUTHENTICATE XOAUTH2 {ME}
            A: a2 BAD you are logged in already
            P: a3 AUTHENTICATE PLAIN
            A: a3 BAD you are logged in already
            P: a4 LOGIN me {{6+}}
            P: a LOGO
            A: a4 BAD you are logged in already
            P: a5 LOGIN me secret
            A: a5 BAD you are logged in already
            """,
        )

    def test_fin_behind_the_credential(self):
        """An application that has nothing more to say is still answered."""
        self.holds(
            ASKING,
            BEGUN
            + OFFERED
            + r"""
            ! Ended
            ! LoggedIn IMAP4rev1
            A: a1 OK [CAPABILITY IMAP4rev1] logged in
            = Close
            """,
        )
        self.holds(
            ASKING,
            BEGUN
            + OFFERED
            + r"""
            ! Ended
            ! Refuse EXPIRED
            A: a1 NO [EXPIRED] what you logged in with has expired
            = Close
            """,
        )


class Refusals(Transcripts, SynchronousTestCase):
    """A login that is refused, or is none."""

    def test_again(self):
        """After a NO the application may try again, twice."""
        self.holds(
            ASKING,
            BEGUN
            + OFFERED
            + rf"""
            ! Refuse AUTHENTICATIONFAILED
            A: a1 {REFUSED}
            P: a2 AUTHENTICATE XOAUTH2
            A: + …
            A:
            P: {ME}
            = CredentialOffered me@example.com canary
            ! Refuse UNAVAILABLE
            A: a2 NO [UNAVAILABLE] the mail server is not available, try again later
            P: a3 AUTHENTICATE XOAUTH2 {ME}
            = CredentialOffered me@example.com canary
            ! Refuse AUTHENTICATIONFAILED
            A: a3 {REFUSED}
            A: * BYE [LIMIT] 3 logins were refused
            = Close
            P: a4 NOOP
            R: a4 NOOP
            """,
        )

    def test_then_accepted(self):
        """The second may be better."""
        self.holds(
            ASKING,
            BEGUN
            + OFFERED.replace("a1", "a0")
            + rf"""
            ! Refuse AUTHENTICATIONFAILED
            A: a0 {REFUSED}
            """
            + OFFERED
            + LOGGED_IN,
        )

    def test_empty_line_behind_the_refusal(self):
        """Some take the NO for a challenge, and answer it as XOAUTH2 answers an error: that is no command."""
        transcript = (
            BEGUN
            + OFFERED.replace("a1", "a0")
            + rf"""
            ! Refuse AUTHENTICATIONFAILED
            A: a0 {REFUSED}
            P:
            P: a1 AUTHENTICATE XOAUTH2 {ME}
            = CredentialOffered me@example.com canary
            """
            + LOGGED_IN
        )
        self.holds(ASKING, transcript)
        self.holds_with_bare_lf(ASKING, transcript)
        dialogue = begun()
        self.assertEqual(dialogue.receive(b"\r\n" * 1000), [])

    def test_in_our_words(self):
        """A refusal is said with its code and our words alone, whether it answers a login or not."""
        for code in Code:
            refuse = Refuse(Refusal(Stage.LOGIN, Reason.LOGIN_REFUSED, "canary", "canary", code))
            [sent] = exchanging().tell(refuse)
            self.assertRegex(sent.octets, rb"\Aa1 NO \[%s\] [a-z ,]+\r\n\Z" % code.encode())
            sent, closed = begun().tell(refuse)
            self.assertRegex(sent.octets, rb"\A\* BYE \[%s\] [a-z ,]+\r\n\Z" % code.encode())
            self.assertEqual(closed, Close())
            self.assertNotIn(b"canary", sent.octets)

    def test_revoked(self):
        """A listener that is gone takes no other login."""
        self.holds(
            ASKING,
            BEGUN
            + OFFERED
            + r"""
            ! Revoke
            A: a1 NO [UNAVAILABLE] the mail server is not available, try again later
            A: * BYE [UNAVAILABLE] the mail server is not available, try again later
            = Close
            """,
        )

    def test_not_xoauth2(self):
        """What is base64 but no message of XOAUTH2 is a refused login, an empty response too."""
        for text in (
            "user=me",
            "user=me\x01auth=Basic x\x01\x01",
            "user=me\x01auth=Bearer \x01\x01",
            "n,a=me,\x01",
            "",
        ):
            said = b64encode(text.encode()).decode()
            self.holds(
                ASKING,
                BEGUN
                + rf"""
                P: a1 AUTHENTICATE XOAUTH2 {said or "="}
                A: a1 {MALFORMED}
                P: a2 AUTHENTICATE XOAUTH2
                A: + …
                A:
                P: {said}
                A: a2 {MALFORMED}
                P: a3 AUTHENTICATE XOAUTH2 =
                A: a3 {MALFORMED}
                A: * BYE [LIMIT] 3 logins were refused
                = Close
                """,
            )

    def test_not_base64(self):
        """What is not base64 breaks the protocol, and is no attempt."""
        for text in ("x", "====", "YQ", "YQ==YQ==", "!!!!", "bWU= ", "="):
            self.holds(
                ASKING,
                BEGUN
                + rf"""
                P: a1 AUTHENTICATE XOAUTH2
                A: + …
                A:
                P: {text.replace(" ", chr(92) + "x20")}
                A: a1 BAD that is not base64
                """,
            )
        dialogue = begun()
        for _ in range(10):
            [sent] = dialogue.receive(b"a1 AUTHENTICATE XOAUTH2 x\r\n")
            self.assertEqual(sent.octets, b"a1 BAD that is not base64\r\n")

    def test_cancelled(self):
        """A `*` takes AUTHENTICATE back."""
        transcript = (
            BEGUN
            + r"""
            P: a1 AUTHENTICATE XOAUTH2
            A: + …
            A:
            P: *
            A: a1 BAD cancelled, as you asked
            """
        )
        self.holds(ASKING, transcript)
        self.holds_with_bare_lf(ASKING, transcript)

    def test_other_mechanisms(self):
        """What is not offered is refused, with words."""
        self.holds(
            ASKING,
            BEGUN
            + r"""
            P: a1 AUTHENTICATE PLAIN AG1lAHNlY3JldA==
            A: a1 NO [CANNOT] only XOAUTH2 is offered
            P: a2 AUTHENTICATE OAUTHBEARER
            A: a2 NO [CANNOT] only XOAUTH2 is offered
            P: a3 AUTHENTICATE
            A: a3 BAD AUTHENTICATE takes a mechanism and at most one response
            P: a4 AUTHENTICATE XOAUTH2 bWU= c2VjcmV0
            A: a4 BAD AUTHENTICATE takes a mechanism and at most one response
            """,
        )

    @settings(deadline=None, max_examples=100)
    @given(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=10),
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=20),
    )
    def test_nothing_is_kept(self, user, token):
        """Once it is offered, the credential is in no state and no answer."""
        user, token = f"canary{user}", f"canary{token}"
        dialogue = begun()
        [effect] = dialogue.receive(f"a1 AUTHENTICATE XOAUTH2 {said(user, token)}\r\n".encode())
        self.assertEqual(effect, CredentialOffered(Offered(user, Secret(token))))
        self.assertNotIn("canary", repr(dialogue.state))
        self.assertEqual(dialogue.held, 0)
        [no] = dialogue.tell(Refuse(Refusal(Stage.LOGIN, Reason.LOGIN_REFUSED, "")))
        self.assertNotIn(b"canary", no.octets)

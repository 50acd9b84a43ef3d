"""The server half that asks the application for its credential."""

from __future__ import annotations

from base64 import b64encode

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.protocols.transcripts import Transcripts
from tproxy.lines import Dialogue
from tproxy.model import Code, GreetingMode, Offered, Reason, Refusal, Secret, Stage
from tproxy.protocols.imap4 import imap4s
from tproxy.session import LINE_LIMIT, Accepted, Close, CredentialOffered, Greeting, LoggedIn, Refuse, Send

ASKING = imap4s.greet(Greeting("mail", GreetingMode.LOGIN))
LISTED = "IMAP4rev1 SASL-IR AUTH=XOAUTH2 LOGINDISABLED ID"
BEGUN = rf"""
    ! Accepted
    A: * OK [CAPABILITY {LISTED}] mail ready, log in with AUTHENTICATE XOAUTH2
"""


def said(user: str, token: str, word: str = "Bearer") -> str:
    """XOAUTH2, as an application says it."""
    return b64encode(f"user={user}\x01auth={word} {token}\x01\x01".encode()).decode()


ME = said("me@example.com", "canary")
OFFERED = rf"""
    P: a1 AUTHENTICATE XOAUTH2 {ME}
    = CredentialOffered me@example.com canary
"""
LOGGED_IN = r"""
    ! LoggedIn IMAP4rev1 IDLE AUTH=XOAUTH2 STARTTLS LOGINDISABLED
    A: a1 OK [CAPABILITY IMAP4rev1 IDLE] logged in
"""
REFUSED = "NO [AUTHENTICATIONFAILED] the login was refused"
MALFORMED = "NO [AUTHENTICATIONFAILED] this is no message of XOAUTH2"


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


class OtherCommands(Transcripts, SynchronousTestCase):
    """What an application may say that is not logged in, and what not."""

    def test_answered(self):
        """CAPABILITY, NOOP and LOGOUT."""
        transcript = (
            BEGUN
            + rf"""
            P: a1 CAPABILITY
            A: * CAPABILITY {LISTED}
            A: a1 OK that is all
            P: a2 NOOP
            A: a2 OK nothing done
            P: a3 LOGOUT
            P: a4 NOOP
            A: * BYE good bye
            A: a3 OK logged out
            = Close
            R: a4 NOOP
            """
        )
        self.holds(ASKING, transcript)

    def test_id(self):
        """ID is answered here, with nothing; its literals are asked for and dropped."""
        transcript = (
            BEGUN
            + r"""
            P: a1 ID NIL
            A: * ID NIL
            A: a1 OK that is all
            P: a2 ID ("name" {4}
            A: + go on
            P: a\r\nb "version" {0+}
            P:  "os" {3}
            A: + go on
            P: a3 )
            A: * ID NIL
            A: a2 OK that is all
            """
        )
        self.holds(ASKING, transcript)

    def test_login(self):
        """LOGIN is refused: with its arguments, without asking for them, and swallowing what comes unasked."""
        no = "NO [CANNOT] only AUTHENTICATE XOAUTH2 works here"
        transcript = (
            BEGUN
            + rf"""
            P: a1 LOGIN me secret
            A: a1 {no}
            P: a2 login {{2}}
            A: a2 {no}
            P: a3 LOGIN {{13+}}
            P: x1 LOGOUT\r\nme {{6+}}
            P: secret
            A: a3 {no}
            P: a4 LOGIN {{2+}}
            P: me {{6}}
            A: a4 {no}
            P: a5 LOGIN
            A: a5 {no}
            """
        )
        self.holds(ASKING, transcript)

    def test_not_yet(self):
        """All else has to wait for the login, and the dialogue goes on; literals are never taken for commands."""
        bad = "BAD log in with AUTHENTICATE XOAUTH2 first"
        self.holds(
            ASKING,
            BEGUN
            + rf"""
            P: a1 STARTTLS
            A: a1 {bad}
            P: a2 SELECT INBOX
            A: a2 {bad}
            P: a3 UNAUTHENTICATE
            A: a3 {bad}
            P: a4 CAPABILITY now
            A: a4 {bad}
            P: a5 APPEND INBOX {{3}}
            A: a5 {bad}
            P: a6 APPEND INBOX {{11+}}
            P: x1 LOGOUT\r\n
            A: a6 {bad}
            P: a7 AUTHENTICATE XOAUTH2 {{11+}}
            P: x1 LOGOUT\r\n
            A: a7 {bad}
            P: a8
            A: * BAD that is no command
            P: \x00\xff {{11+}}
            P: x1 LOGOUT\r\n
            A: * BAD that is no command
            """,
        )

    def test_large_literals(self):
        """A literal over the limit is not asked for; where it comes unasked, the session ends."""
        for command in ("ID (", "LOGIN me", "APPEND INBOX"):
            self.holds(
                ASKING,
                BEGUN
                + rf"""
                P: a1 {command} {{65537+}}
                A: * BYE [LIMIT] the literal is too large
                = Close
                """,
            )
        dialogue = begun()
        [sent] = dialogue.receive(b"a1 ID ({65537}\r\n")
        self.assertNotIn(b"+ ", sent.octets)
        secret = b"s" * LINE_LIMIT
        [asked, sent] = dialogue.receive(b"a2 ID (NIL {%d}\r\n%b)\r\n" % (len(secret), secret))
        self.assertEqual((asked.octets, sent.octets), (b"+ go on\r\n", b"* ID NIL\r\na2 OK that is all\r\n"))

    def test_flood(self):
        """Many small commands are answered one by one, and nothing of them stays."""
        dialogue = begun()
        effects = dialogue.receive(b"".join(b"c%d SELECT x\r\n" % number for number in range(1000)))
        self.assertEqual([effect.octets.split()[0] for effect in effects], [b"c%d" % number for number in range(1000)])
        self.assertEqual((dialogue.held, dialogue.state), (0, begun().state))


class Endings(Transcripts, SynchronousTestCase):
    """Ends without a login."""

    def test_turned_away(self):
        """An application that is one too many is told so instead of a greeting."""
        self.holds(
            ASKING,
            r"""
            ! Refuse LIMIT
            A: * BYE [LIMIT] too many connections or logins, try again later
            = Close
            """,
        )
        self.holds(ASKING, "! Ended\n= Close")

    def test_out_of_order(self):
        """A login that nobody asked for is nobody's."""
        self.holds(
            ASKING,
            r"""
            ! LoggedIn IMAP4rev1
            A: * BYE [UNAVAILABLE] the mail server is not available, try again later
            = Close
            """,
        )

    def test_expired(self):
        """Nobody is waited for without end."""
        for unfinished in ("", "P: a1 AUTHENTICATE XOAUTH2\nA: + …\nA:\n", "P: a1 LOGIN me {9+}\nP: sec…\n"):
            rest = "R: sec…" if unfinished.endswith("sec…\n") else ""
            self.holds(ASKING, BEGUN + unfinished + "! Expired\nA: * BYE nobody logged in in time\n= Close\n" + rest)

    def test_gone(self):
        """Half a command at the application's end goes nowhere: it may be half a token."""
        for unfinished in ("", "P: a1 AUTHENTICATE XOAUTH2 c2Vj…", "P: a1 AUTHENTICATE XOAUTH2\nA: + …\nA:\nP: c2V…"):
            self.holds(ASKING, BEGUN + unfinished + "\n! Ended\n= Close")

    def test_endless_line(self):
        """A line that does not end within the limit ends the session."""
        dialogue = begun()
        self.assertEqual(dialogue.receive(b"x" * (LINE_LIMIT - 1)), [])
        self.assertEqual(dialogue.receive(b"x"), [Send(b"* BYE [LIMIT] the line is too long\r\n"), Close()])

    def test_mode(self):
        """After the login the conversation is the one of the other modes, but for further logins."""
        dialogue = exchanging()
        dialogue.tell(LoggedIn(("IMAP4rev1", "IDLE")))
        self.assertEqual((dialogue.state.shown, dialogue.state.mode), (("IMAP4rev1", "IDLE"), GreetingMode.LOGIN))


def begun() -> Dialogue:
    """A dialogue after its greeting."""
    dialogue = Dialogue(ASKING)
    dialogue.tell(Accepted())
    return dialogue


def exchanging() -> Dialogue:
    """A dialogue whose credential is on its way."""
    dialogue = begun()
    dialogue.receive(f"a1 AUTHENTICATE XOAUTH2 {ME}\r\n".encode())
    return dialogue

"""The server half that asks the application for its credential: what it answers beside the login, and how it ends."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.protocols.imap4.askings import ASKING, BEGUN, LISTED, begun, exchanging
from tests.protocols.transcripts import Transcripts
from tproxy.model import GreetingMode
from tproxy.session import LINE_LIMIT, Close, LoggedIn, Send


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

"""The server half: its greeting, and the commands that it answers or sends on."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.protocols.imap4.greetings import BEGUN, OPEN, PREAUTH, SHOWN
from tests.protocols.transcripts import Transcripts
from tproxy.lines import Dialogue
from tproxy.model import Code, Reason, Refusal, Stage
from tproxy.session import Close, Ended, LoggedIn, Refuse


class Greetings(Transcripts, SynchronousTestCase):
    """The first line, and the only one that nobody asked for."""

    def test_preauth(self):
        """The documented session: greeted as logged in, then the first command is the mail server's."""
        transcript = rf"""
            ! LoggedIn IMAP4rev1 IDLE
            A: * PREAUTH [CAPABILITY {SHOWN}] mail ready
            P: 2 LIST "" "*"
            P: 3 SELECT INBOX
            P: 5 FETCH 1 …
            = HandOver
            H: 2 LIST "" "*"
            R: 3 SELECT INBOX
            R: 5 FETCH 1 …
            """
        self.holds(PREAUTH, transcript)

    def test_open(self):
        """The other greeting: open to any login, and to none."""
        self.holds(
            OPEN,
            rf"""
            ! LoggedIn IMAP4rev1 IDLE
            A: * OK [CAPABILITY {SHOWN}] mail ready
            P: a1 SELECT INBOX
            = HandOver
            H: a1 SELECT INBOX
            """,
        )

    def test_filtered(self):
        """What means nothing after a login is not shown, in whatever case; a list is never empty."""
        self.holds(
            PREAUTH,
            rf"""
            ! LoggedIn IMAP4rev1 auth=plain SASL-IR STARTTLS LOGINDISABLED LOGIN-REFERRALS unauthenticate IDLE
            A: * PREAUTH [CAPABILITY {SHOWN}] mail ready
            P: a CAPABILITY
            A: * CAPABILITY {SHOWN}
            A: a OK that is all
            """,
        )
        [greeting] = Dialogue(PREAUTH).tell(LoggedIn(("AUTH=PLAIN",)))
        self.assertTrue(greeting.octets.startswith(b"* PREAUTH [CAPABILITY IMAP4rev1 AUTH=PLAIN "))

    def test_refused(self):
        """A refusal is said with its code and our words alone."""
        for code in Code:
            effects = Dialogue(PREAUTH).tell(
                Refuse(Refusal(Stage.LOGIN, Reason.LOGIN_REFUSED, "canary", "canary", code))
            )
            sent, closed = effects
            self.assertRegex(sent.octets, rb"\A\* BYE \[%s\] [a-z ,]+\r\n\Z" % code.encode())
            self.assertNotIn(b"canary", sent.octets)
            self.assertEqual(closed, Close())

    def test_commands_before_the_greeting(self):
        """A hundred commands before the greeting wait, and are answered in order; so does the end behind them."""
        dialogue = Dialogue(PREAUTH)
        for number in range(100):
            self.assertEqual(dialogue.receive(b"c%d CAPABILITY\r\n" % number), [])
        self.assertEqual(dialogue.tell(Ended()), [])
        self.assertGreater(dialogue.held, 1000)
        greeting, *answers, last = dialogue.tell(LoggedIn(("IMAP4rev1",)))
        self.assertTrue(greeting.octets.startswith(b"* PREAUTH"))
        self.assertEqual(
            [answer.octets.split(b"\r\n")[1].split()[0] for answer in answers],
            [b"c%d" % number for number in range(100)],
        )
        self.assertEqual(last, Close())

    def test_gone_before_the_greeting(self):
        """An application that says nothing and leaves ends it; so does a mail server that leaves."""
        self.holds(
            PREAUTH,
            """
            ! Ended
            = Close
            """,
        )
        self.holds(
            PREAUTH,
            """
            ! UpstreamEnded
            A: * BYE [UNAVAILABLE] the mail server is not available, try again later
            = Close
            """,
        )

    def test_lines_before_the_greeting(self):
        """What the mail server said behind its tagged OK comes after the greeting, once."""
        self.holds(
            PREAUTH,
            rf"""
            U: * OK [ALERT] x
            U: * 3 EX…
            ! LoggedIn IMAP4rev1 IDLE
            A: * PREAUTH [CAPABILITY {SHOWN}] mail ready
            A: * OK [ALERT] x
            U: ISTS
            A: * 3 EXISTS
            """,
        )


class OtherCommands(Transcripts, SynchronousTestCase):
    """What the server half answers itself, sends on, and leaves to the mail server."""

    def test_refused(self):
        """There is no TLS on this port, and no way to become nobody."""
        self.holds(
            PREAUTH,
            BEGUN
            + r"""
            P: a1 STARTTLS
            A: a1 BAD there is no TLS on this port
            P: a2 UNAUTHENTICATE
            A: a2 BAD this session stays logged in
            P: a3 unauthenticate now
            A: a3 BAD this session stays logged in
            """,
        )

    def test_logout(self):
        """LOGOUT is answered, then both connections are closed."""
        self.holds(
            PREAUTH,
            BEGUN
            + r"""
            P: a1 LOGOUT
            P: a2 CAPABILITY
            A: * BYE good bye
            A: a1 OK logged out
            = Close
            R: a2 CAPABILITY
            """,
        )

    def test_noop(self):
        """NOOP goes to the mail server; what it says meanwhile is passed on, what the application says waits."""
        self.holds(
            PREAUTH,
            BEGUN
            + rf"""
            P: a1 noop
            P: a2 CAPABILITY
            F: a1 noop
            U: * OK still here
            A: * OK still here
            U: a2 OK not what was asked
            A: a2 OK not what was asked
            U: a1 OK done
            A: a1 OK done
            A: * CAPABILITY {SHOWN}
            A: a2 OK that is all
            """,
        )

    def test_id(self):
        """So does ID, as it is."""
        transcript = (
            BEGUN
            + r"""
            P: a1 ID ("name" "x" "version" NIL)
            P: a2 ID NIL
            F: a1 ID ("name" "x" "version" NIL)
            U: * ID ("name" "Dovecot")
            A: * ID ("name" "Dovecot")
            U: a1 OK done
            A: a1 OK done
            F: a2 ID NIL
            U: a2 BAD no
            A: a2 BAD no
            P: a3 SELECT INBOX
            = HandOver
            H: a3 SELECT INBOX
            """
        )
        self.holds(PREAUTH, transcript)
        self.holds_with_bare_lf(PREAUTH, transcript)

    def test_id_with_literals(self):
        """Its literals wait for the mail server's `+` where they have to."""
        self.holds(
            PREAUTH,
            BEGUN
            + r"""
            P: a1 ID ("name" {6}
            F: a1 ID ("name" {6}
            U: * OK one moment
            A: * OK one moment
            U: + go on
            A: + go on
            P: a\r\nb c "version" {3+}
            P: 1.0)
            P: a2 LOGIN me secret
            F: a\r\nb c "version" {3+}
            F: 1.0)
            U: * ID NIL
            U: a1 OK done
            A: * ID NIL
            A: a1 OK done
            A: a2 OK [CAPABILITY IMAP4rev1 IDLE] logged in already
            """,
        )

    def test_id_refused_at_its_literal(self):
        """A literal that the mail server does not want is not sent."""
        self.holds(
            PREAUTH,
            BEGUN
            + r"""
            P: a1 ID ("name" {6}
            F: a1 ID ("name" {6}
            U: a1 BAD no
            A: a1 BAD no
            P: a2 LOGOUT
            A: * BYE good bye
            A: a2 OK logged out
            = Close
            """,
        )

    def test_id_answered_too_early(self):
        """An answer in the middle of the command is odd enough to leave the rest to the two of them."""
        self.holds(
            PREAUTH,
            BEGUN
            + r"""
            P: a1 ID ("name" {6+}
            F: a1 ID ("name" {6+}
            U: * OK one moment
            A: * OK one moment
            P: abc…
            U: a1 BAD no
            U: * more…
            A: a1 BAD no
            = HandOver
            R: abc…
            RU: * more…
            """,
        )
        self.holds(
            PREAUTH,
            BEGUN
            + r"""
            P: a1 ID ("name" {6+}
            P: abcdef x…
            F: a1 ID ("name" {6+}
            F: abcdef…
            U: a1 BAD no
            A: a1 BAD no
            = HandOver
            R: \x20x…
            """,
        )

    def test_large_id(self):
        """An ID whose literal is over the limit is the mail server's business."""
        self.holds(
            PREAUTH,
            BEGUN
            + r"""
            P: a1 ID ("name" {65536}
            F: a1 ID ("name" {65536}
            U: a1 BAD no
            A: a1 BAD no
            P: a1 ID ("name" {65537}
            = HandOver
            H: a1 ID ("name" {65537}
            """,
        )

    def test_left_to_the_mail_server(self):
        """So is all that is not known, or not even a command."""
        for line in (
            "a1 IDLE",
            "a1 COMPRESS DEFLATE",
            "a1 APPEND INBOX {5}",
            "a1 NOOP {5}",
            "a1 LOGOUT now",
            "a1",
            "* LOGIN me secret",
            "+ LOGIN",
            " a1 LOGIN me secret",
            "a(1 LOGIN me secret",
            "a1 X-LOGIN",
            r"\x00\xff\x1b",
            "",
        ):
            self.holds(PREAUTH, BEGUN + f"P: {line}\nP: more…\n= HandOver\nH: {line}\nR: more…")

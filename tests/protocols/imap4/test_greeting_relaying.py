"""The server half: what the mail server says in between, and how it all ends."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.protocols.imap4.greetings import BEGUN, PREAUTH, SHOWN, greeted
from tests.protocols.transcripts import Transcripts
from tproxy.session import LINE_LIMIT, Close, HandOver, Send


class BothSides(Transcripts, SynchronousTestCase):
    """What the mail server says in between, and how it all ends."""

    def test_in_order(self):
        """Unsolicited lines are passed on between the answers, in order, cut as they may be."""
        self.holds(
            PREAUTH,
            BEGUN
            + rf"""
            P: a1 CAPAB…
            U: * OK [ALERT] x
            A: * OK [ALERT] x
            U: * 3 EXI…
            P: ILITY
            A: * CAPABILITY {SHOWN}
            A: a1 OK that is all
            U: STS
            A: * 3 EXISTS
            P: a2 LOGIN {{2}}
            A: + go on
            U: * 4 EXISTS
            A: * 4 EXISTS
            P: me x
            A: a2 OK [CAPABILITY IMAP4rev1 IDLE] logged in already
            U: * 5 EX…
            P: a3 SELECT INBOX
            = HandOver
            H: a3 SELECT INBOX
            RU: * 5 EX…
            """,
        )

    def test_literals(self):
        """Literals of the mail server are passed on, and their bytes never taken for a line's beginning."""
        self.holds(
            PREAUTH,
            BEGUN
            + r"""
            P: a1 NOOP
            F: a1 NOOP
            U: * X (A {22}
            U: * BYE x\r\na1 OK {9}\r\n B ~{0}
            U:  C {3}
            U: d\r\n)
            U: * OK {3}
            U: a1 OK {5}
            A: * X (A {22}
            A: * BYE x\r\na1 OK {9}\r\n B ~{0}
            A:  C {3}
            A: d\r\n)
            A: * OK {3}
            A: a1 OK {5}
            """,
        )

    def test_no_answer_inside_a_literal(self):
        """While the mail server is in the middle of a response, the application waits."""
        self.holds(
            PREAUTH,
            BEGUN
            + r"""
            U: * X {3}
            A: * X {3}
            P: a1 LOGOUT
            U: abc…
            A: abc…
            U:  {2}
            A:  {2}
            U: de
            A: de
            A: * BYE good bye
            A: a1 OK logged out
            = Close
            """,
        )

    def test_large_literal(self):
        """A large literal is passed on in pieces, not held."""
        dialogue = greeted()
        sent = b"".join(effect.octets for effect in dialogue.receive_upstream(b"* X {1000000}\r\n"))
        for _ in range(1000):
            sent += b"".join(effect.octets for effect in dialogue.receive_upstream(b"x" * 1000))
            self.assertLess(dialogue.held_upstream, LINE_LIMIT)
        sent += b"".join(effect.octets for effect in dialogue.receive_upstream(b"\r\n"))
        self.assertEqual(sent, b"* X {1000000}\r\n" + b"x" * 1_000_000 + b"\r\n")

    def test_bye(self):
        """A BYE of the mail server is passed on and ends the session."""
        self.holds(
            PREAUTH,
            BEGUN
            + """
            U: * 3 EXISTS
            U: * bye shutting down
            U: * more
            A: * 3 EXISTS
            A: * bye shutting down
            = Close
            RU: * more
            """,
        )

    def test_end_of_the_mail_server(self):
        """So does its end."""
        self.holds(
            PREAUTH,
            BEGUN
            + """
            U: * 3 EXISTS
            U: * 4 EX…
            A: * 3 EXISTS
            ! UpstreamEnded
            = Close
            RU: * 4 EX…
            """,
        )

    def test_endless_line_of_the_mail_server(self):
        """A mail server whose line does not end within the limit is not waited for."""
        dialogue = greeted()
        self.assertEqual(dialogue.receive_upstream(b"* " + b"x" * LINE_LIMIT), [Close()])

    def test_endless_line(self):
        """A line of the application that does not end within the limit may hold a password: the session ends."""
        dialogue = greeted()
        self.assertEqual(dialogue.receive(b"x" * (LINE_LIMIT - 1)), [])
        self.assertEqual(dialogue.receive(b"x"), [Send(b"* BYE [LIMIT] the line is too long\r\n"), Close()])

    def test_half_closed(self):
        """After the application's end the mail server still answers what was sent on; the commands come first."""
        self.holds(
            PREAUTH,
            BEGUN
            + r"""
            P: a1 NOOP
            P: a2 LOGIN me secret
            P: a3 CAPABILITY
            F: a1 NOOP
            ! Ended
            U: a1 OK done
            A: a1 OK done
            A: a2 OK [CAPABILITY IMAP4rev1 IDLE] logged in already
            A: * CAPABILITY IMAP4rev1 IDLE
            A: a3 OK that is all
            = Close
            """,
        )

    def test_half_a_command(self):
        """Half a command at the application's end goes nowhere: it may be half a LOGIN."""
        for unfinished in ("P: a1 LOGIN me sec…", "P: a1 LOGIN me {9+}\nP: sec…", "P: a1 AUTHENTICATE PLAIN c2Vj…"):
            self.holds(PREAUTH, BEGUN + unfinished + "\n! Ended\n= Close")

    def test_revoked(self):
        """A session that is revoked during the dialogue is told so, unless a response is going on."""
        bye = """
            ! Refuse UNAVAILABLE
            A: * BYE [UNAVAILABLE] the mail server is not available, try again later
            = Close
            """
        self.holds(PREAUTH, BEGUN + bye)
        self.holds(PREAUTH, BEGUN + "P: a1 NOOP\nF: a1 NOOP\n" + bye)
        self.holds(PREAUTH, BEGUN + "U: * X {3}\nA: * X {3}\n! Refuse UNAVAILABLE\n= Close")

    @settings(deadline=None, max_examples=100)
    @given(st.data())
    def test_any_cut(self, data):
        """However both peers' bytes are cut and mixed, each side gets the same."""
        said = (
            b"1 CAPABILITY\r\n2 LOGIN {2}\r\nme {3+}\r\na\r\n\r\n3 AUTHENTICATE LOGIN\r\nx\r\n*\r\n4 SELECT x\r\nrest"
        )
        heard = b"* OK hi\r\n* X {6}\r\n* BYE  {0}\r\n\r\n* OK {9}\r\n"
        dialogue = greeted()
        answered, passed, over = b"", b"", b""
        left = {"own": said, "upstream": heard}
        while any(left.values()):
            side = data.draw(st.sampled_from([side for side in left if left[side]]))
            octets, left[side] = (lambda at, all_: (all_[:at], all_[at:]))(
                data.draw(st.integers(1, len(left[side]))), left[side]
            )
            receive = dialogue.receive if side == "own" else dialogue.receive_upstream
            for effect in receive(octets):
                match effect:
                    case Send(sent) if side == "upstream" and sent in heard:
                        passed += sent
                    case Send(sent):
                        answered += sent
                    case HandOver(sent):
                        over += sent
        self.assertEqual(over + dialogue.rest(), b"4 SELECT x\r\nrest")
        self.assertEqual(passed + dialogue.rest_upstream(), heard)

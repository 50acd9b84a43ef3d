"""The server half that asks for a credential, as a table."""

from __future__ import annotations

from base64 import b64encode

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.protocols.tables import read, table, written
from tproxy.model import GreetingMode, Reason, Refusal, Stage
from tproxy.protocols.imap4 import asking, greeting
from tproxy.session import (
    Accepted,
    Ended,
    Expired,
    Greeting,
    Hold,
    Line,
    LineTooLong,
    Literal,
    LoggedIn,
    ReadLine,
    ReadLiteral,
    Refuse,
    TLSEstablished,
    Upstream,
)

ASKING = asking.Asking()
VERDICT = asking.Verdict(b"a1 OK", invites=True)

STATES = {
    "Wait": greeting.Waiting(Greeting("mail", GreetingMode.LOGIN)),
    "Comm": ASKING,
    "Comm2": evolve(ASKING, refused=2),
    "Swal": evolve(ASKING, phase=asking.Swallowing(VERDICT, 1)),
    "Cont": evolve(ASKING, phase=asking.Continuing(VERDICT)),
    "Prom": evolve(ASKING, phase=greeting.Prompting(b"a1")),
    "Exch": evolve(ASKING, phase=asking.Exchanging(b"a1")),
    "Exch2": evolve(ASKING, phase=asking.Exchanging(b"a1"), refused=2),
    "Part": evolve(ASKING, phase=asking.Parting(b"a1")),
    "In": greeting.Conversation(("IMAP4rev1",), ("IMAP4rev1",), GreetingMode.LOGIN),
}
MESSAGE = b64encode(b"user=u\x01auth=Bearer t\x01\x01")
EVENTS = {
    "accepted": Accepted(),
    "line": Line(b"x\r\n"),
    "command": Line(b"a1 SELECT x\r\n"),
    "id": Line(b"a1 ID {1}\r\n"),
    "login": Line(b"a1 LOGIN {1+}\r\n"),
    "auth": Line(b"a1 AUTHENTICATE XOAUTH2\r\n"),
    "offer": Line(b"a1 AUTHENTICATE XOAUTH2 " + MESSAGE + b"\r\n"),
    "message": Line(MESSAGE + b"\r\n"),
    "other": Line(b"bWU=\r\n"),
    "*": Line(b"*\r\n"),
    "empty": Line(b"\n"),
    "literal": Literal(b"x"),
    "long": LineTooLong(),
    "ended": Ended(),
    "expired": Expired(),
    "loggedin": LoggedIn(("IMAP4rev1",)),
    "refuse": Refuse(Refusal(Stage.LOGIN, Reason.LOGIN_REFUSED, "")),
    "revoke": Refuse(Refusal(Stage.ACCEPT, Reason.REVOKED, "")),
    "tls": TLSEstablished(),
    "upstream": Upstream(Line(b"* 3 EXISTS\r\n")),
}


def name(state: greeting.Waiting | asking.Asking | greeting.Conversation) -> str:
    """The phase of the asking, with the number of refused logins."""
    match state:
        case greeting.Waiting():
            return "Wait"
        case greeting.Conversation():
            return "In"
        case _:
            return type(state.phase).__name__[:4] + (str(state.refused) if state.refused else "")


class Table(SynchronousTestCase):
    """Every state, every event."""

    def test_every_pair(self):
        """What is not foreseen ends the session; nobody gets in but by what was offered."""
        self.assertEqual(written(table(asking.step, STATES, EVENTS, name)), written(read(EXPECTED)))

    def test_what_is_read(self):
        """Nothing is read of the application while its credential is on its way, nor ever of a mail server."""
        self.assertEqual(
            [state.reads for state in STATES.values()],
            [
                Hold(),
                ReadLine(),
                ReadLine(),
                ReadLiteral(1),
                ReadLine(),
                ReadLine(),
                Hold(),
                Hold(),
                Hold(),
                ReadLine(),
            ],
        )
        self.assertEqual((ASKING.reads_upstream, ASKING.stage), (Hold(), Stage.LOGIN))


EXPECTED = """
event     Wait   Comm   Comm2  Swal   Cont   Prom   Exch   Exch2  Part   In
accepted  Comm   Close  Close  Close  Close  Close  Close  Close  Close  HandOver
line      Close  .      .      Close  Comm   Comm   Close  Close  Close  HandOver
command   Close  .      .      Close  Comm   Comm   Close  Close  Close  HandOver
id        Close  Swal   Swal2  Close  Swal   Comm   Close  Close  Close  .
login     Close  Swal   Swal2  Close  Swal   Comm   Close  Close  Close  .
auth      Close  Prom   Prom2  Close  Comm   Comm   Close  Close  Close  .
offer     Close  Exch   Exch2  Close  Comm   Comm   Close  Close  Close  .
message   Close  .      .      Close  Comm   Exch   Close  Close  Close  HandOver
other     Close  .      .      Close  Comm   Comm1  Close  Close  Close  HandOver
*         Close  .      .      Close  Comm   Comm   Close  Close  Close  HandOver
empty     Close  .      .      Close  Comm   Comm1  Close  Close  Close  HandOver
literal   Close  Close  Close  Cont   Close  Close  Close  Close  Close  HandOver
long      Close  Close  Close  Close  Close  Close  Close  Close  Close  Close
ended     Close  Close  Close  Close  Close  Close  Part   Part2  Close  Close
expired   Close  Close  Close  Close  Close  Close  Close  Close  Close  HandOver
loggedin  Close  Close  Close  Close  Close  Close  In     In     Close  HandOver
refuse    Close  Close  Close  Close  Close  Close  Comm1  Close  Close  Close
revoke    Close  Close  Close  Close  Close  Close  Close  Close  Close  Close
tls       Close  Close  Close  Close  Close  Close  Close  Close  Close  HandOver
upstream  Close  Close  Close  Close  Close  Close  Close  Close  Close  .
"""

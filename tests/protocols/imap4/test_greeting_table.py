"""The server half as a table."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.protocols.tables import read, table, written
from tproxy.model import Reason, Refusal, Stage
from tproxy.protocols.imap4 import greeting
from tproxy.protocols.imap4.grammar import After, Between, Inside
from tproxy.session import (
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

CONVERSATION = greeting.Conversation(("IMAP4rev1", "SASL-IR"), ("IMAP4rev1",))

STATES = {
    "Wait": greeting.Waiting(Greeting("mail")),
    "Comm": CONVERSATION,
    "Swal": evolve(CONVERSATION, phase=greeting.Swallowing(b"a1", 1, 1)),
    "Cont": evolve(CONVERSATION, phase=greeting.Continuing(b"a1", 1)),
    "Prom": evolve(CONVERSATION, phase=greeting.Prompting(b"a1", (b"",))),
    "Rela": evolve(CONVERSATION, phase=greeting.Relaying(b"a1")),
    "Offe": evolve(CONVERSATION, phase=greeting.Offering(b"a1", 1)),
    "Pass": evolve(CONVERSATION, phase=greeting.Passing(b"a1", 1)),
    "Resu": evolve(CONVERSATION, phase=greeting.Resuming(b"a1")),
    "Comm+": evolve(CONVERSATION, flow=Inside(2)),
}
EVENTS = {
    "line": Line(b"x\r\n"),
    "login": Line(b"a1 LOGIN {1}\r\n"),
    "*": Line(b"*\r\n"),
    "empty": Line(b"\r\n"),
    "literal": Literal(b"x"),
    "long": LineTooLong(),
    "ended": Ended(),
    "expired": Expired(),
    "loggedin": LoggedIn(("IMAP4rev1",)),
    "refuse": Refuse(Refusal(Stage.LOGIN, Reason.LOGIN_REFUSED, "")),
    "tls": TLSEstablished(),
    "u:data": Upstream(Line(b"* 3 EXISTS\r\n")),
    "u:bye": Upstream(Line(b"* BYE\r\n")),
    "u:ok": Upstream(Line(b"a1 OK\r\n")),
    "u:other": Upstream(Line(b"a2 OK\r\n")),
    "u:+": Upstream(Line(b"+\r\n")),
    "u:garbage": Upstream(Line(b"x\r\n")),
    "u:literal": Upstream(Literal(b"x")),
    "u:long": Upstream(LineTooLong()),
    "u:ended": Upstream(Ended()),
}


def name(state: greeting.Waiting | greeting.Conversation) -> str:
    """The phase of a conversation, with a plus while the mail server is inside a response."""
    if isinstance(state, greeting.Waiting):
        return "Wait"
    return type(state.phase).__name__[:4] + ("" if isinstance(state.flow, Between) else "+")


class Table(SynchronousTestCase):
    """Every state, every event."""

    def test_every_pair(self):
        """The dialogue goes on while it knows its way; else it hands over, or closes while a password may be near."""
        self.assertEqual(written(table(greeting.step, STATES, EVENTS, name)), written(read(EXPECTED)))

    def test_what_is_read(self):
        """The application is read as its phase says, but never while the mail server is inside a response."""
        self.assertEqual(
            [state.reads for state in STATES.values()],
            [
                Hold(),
                ReadLine(),
                ReadLiteral(1),
                ReadLine(),
                ReadLine(),
                Hold(),
                Hold(),
                ReadLiteral(1),
                ReadLine(),
                Hold(),
            ],
        )
        self.assertEqual(STATES["Wait"].reads_upstream, Hold())
        for flow, reads in ((Between(), ReadLine()), (Inside(3), ReadLiteral(3)), (After(), ReadLine())):
            self.assertEqual(evolve(CONVERSATION, flow=flow).reads_upstream, reads)

    def test_stages(self):
        """Failures are filed under the greeting until it is said."""
        self.assertEqual((STATES["Wait"].stage, CONVERSATION.stage), (Stage.GREETING, Stage.LOGIN))


EXPECTED = """
event      Wait   Comm      Swal      Cont      Prom      Rela      Offe      Pass      Resu      Comm+
line       Close  HandOver  HandOver  Comm      .         HandOver  HandOver  HandOver  Rela      HandOver
login      Close  Swal      HandOver  Comm      .         HandOver  HandOver  HandOver  Offe      Swal+
*          Close  HandOver  HandOver  Comm      Comm      HandOver  HandOver  HandOver  Rela      HandOver
empty      Close  HandOver  HandOver  Comm      .         HandOver  HandOver  HandOver  Rela      HandOver
literal    Close  HandOver  Cont      HandOver  HandOver  HandOver  HandOver  Resu      HandOver  HandOver
long       Close  Close     Close     Close     Close     Close     Close     Close     Close     Close
ended      Close  Close     Close     Close     Close     HandOver  HandOver  HandOver  HandOver  HandOver
expired    Close  HandOver  HandOver  HandOver  HandOver  HandOver  HandOver  HandOver  HandOver  HandOver
loggedin   Comm   HandOver  HandOver  HandOver  HandOver  HandOver  HandOver  HandOver  HandOver  HandOver
refuse     Close  Close     Close     Close     Close     Close     Close     Close     Close     Close
tls        Close  HandOver  HandOver  HandOver  HandOver  HandOver  HandOver  HandOver  HandOver  HandOver
u:data     Close  .         .         .         .         .         .         .         .         Comm
u:bye      Close  Close     Close     Close     Close     Close     Close     Close     Close     Comm
u:ok       Close  .         .         .         .         Comm      Comm      HandOver  HandOver  Comm
u:other    Close  .         .         .         .         .         .         .         .         Comm
u:+        Close  .         .         .         .         .         Pass      .         .         Comm
u:garbage  Close  .         .         .         .         .         .         .         .         Comm
u:literal  Close  .         .         .         .         .         .         .         .         .
u:long     Close  Close     Close     Close     Close     Close     Close     Close     Close     Close
u:ended    Close  Close     Close     Close     Close     Close     Close     Close     Close     Close
"""

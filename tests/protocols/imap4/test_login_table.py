"""The client half as a table."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.protocols.imap4.logins import GREETED, NOBODY, PASSWORD
from tests.protocols.tables import read, table, written
from tproxy import sasl
from tproxy.model import Reason, Refusal, Stage
from tproxy.protocols.imap4 import login
from tproxy.session import Ended, Expired, Line, LineTooLong, Literal, LoggedIn, Refuse, TLSEstablished, Upstream

TALK = login.Talk(PASSWORD, commands=1)

STATES = {
    "Conn": login.Connected(PASSWORD),
    "Conn/no": login.Connected(NOBODY),
    "Surv": login.Surveying(TALK, GREETED, ("STARTTLS",)),
    "Cons": login.Consenting(TALK),
    "Secu": login.Securing(TALK),
    "Aski": login.Asking(TALK, ("AUTH=PLAIN",)),
    "Auth": login.Authenticating(TALK, sasl.Answers((b"",), sasl.Spoken())),
    "Auth/2": login.Authenticating(TALK, sasl.Spoken()),
    "Pass": login.Passing(TALK, (b"pw",)),
    "Pass/2": login.Passing(TALK, ()),
    "Conf": login.Confirming(TALK, ("IMAP4rev1",)),
}
EVENTS = {
    "*OK": Line(b"* OK [CAPABILITY AUTH=PLAIN] x\r\n"),
    "*NO": Line(b"* NO x\r\n"),
    "*BAD": Line(b"* BAD x\r\n"),
    "*BYE": Line(b"* BYE x\r\n"),
    "*PREAUTH": Line(b"* PREAUTH x\r\n"),
    "*data": Line(b"* 3 EXISTS\r\n"),
    "OK": Line(b"t1 OK x\r\n"),
    "NO": Line(b"t1 NO x\r\n"),
    "BAD": Line(b"t1 BAD x\r\n"),
    "other": Line(b"t2 OK x\r\n"),
    "otherNO": Line(b"t2 NO x\r\n"),
    "+": Line(b"+ x\r\n"),
    "garbage": Line(b"x\r\n"),
    "literal": Literal(b"x"),
    "long": LineTooLong(),
    "tls": TLSEstablished(),
    "ended": Ended(),
    "expired": Expired(),
    "loggedin": LoggedIn(()),
    "refuse": Refuse(Refusal(Stage.LOGIN, Reason.LOGIN_REFUSED, "")),
    "upstream": Upstream(Ended()),
}


class Table(SynchronousTestCase):
    """Every state, every event."""

    def test_every_pair(self):
        """What belongs to a stage moves it, what may come at any time is borne with, all else is a breach."""
        self.assertEqual(
            written(table(login.step, STATES, EVENTS, lambda state: type(state).__name__[:4])),
            written(read(EXPECTED)),
        )

    def test_stages(self):
        """Failures are filed under the stage in which they happen."""
        self.assertEqual(
            {name: str(state.stage) for name, state in STATES.items()},
            {
                "Conn": "greeting",
                "Conn/no": "greeting",
                "Surv": "tls",
                "Cons": "tls",
                "Secu": "tls",
                "Aski": "login",
                "Auth": "login",
                "Auth/2": "login",
                "Pass": "login",
                "Pass/2": "login",
                "Conf": "login",
            },
        )
        for state in STATES.values():
            for event, reason in ((Ended(), "upstream-ended"), (Expired(), "timed-out")):
                [effect] = login.step(state, event)[1]
                self.assertEqual((effect.refusal.stage, effect.refusal.reason), (state.stage, reason))


EXPECTED = """
event     Conn    Conn/no   Surv    Cons    Secu    Aski    Auth    Auth/2  Pass    Pass/2  Conf
*OK       Auth    HandOver  .       .       !       .       .       .       .       .       .
*NO       Refuse  Refuse    .       .       !       .       .       .       .       .       .
*BAD      Refuse  Refuse    .       .       !       .       .       .       .       .       .
*BYE      Refuse  HandOver  Refuse  Refuse  !       Refuse  Refuse  Refuse  Refuse  Refuse  Refuse
*PREAUTH  Refuse  Refuse    !       !       !       !       !       !       !       !       !
*data     Refuse  Refuse    .       .       !       .       .       .       .       .       .
OK        Refuse  Refuse    Cons    Secu    !       Auth    !       Conf    !       Conf    LoggedIn
NO        Refuse  Refuse    !       Refuse  !       !       Refuse  Refuse  Refuse  Refuse  Refuse
BAD       Refuse  Refuse    !       Refuse  !       !       Refuse  Refuse  Refuse  Refuse  Refuse
other     Refuse  Refuse    !       !       !       !       !       !       !       !       !
otherNO   Refuse  Refuse    !       !       !       !       !       !       !       !       !
+         Refuse  Refuse    !       !       !       !       .       !       .       !       !
garbage   Refuse  Refuse    !       !       !       !       !       !       !       !       !
literal   !       !         !       !       !       !       !       !       !       !       !
long      !       !         !       !       !       !       !       !       !       !       !
tls       !       !         !       !       Aski    !       !       !       !       !       !
ended     Refuse  Refuse    Refuse  Refuse  Refuse  Refuse  Refuse  Refuse  Refuse  Refuse  Refuse
expired   Refuse  Refuse    Refuse  Refuse  Refuse  Refuse  Refuse  Refuse  Refuse  Refuse  Refuse
loggedin  !       !         !       !       !       !       !       !       !       !       !
refuse    !       !         !       !       !       !       !       !       !       !       !
upstream  !       !         !       !       !       !       !       !       !       !       !
"""

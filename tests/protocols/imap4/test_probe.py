"""The probe: one harmless command after a login."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.protocols.imap4.logins import PASSWORD
from tests.protocols.tables import read, table, written
from tests.protocols.transcripts import Transcripts
from tproxy.lines import Dialogue
from tproxy.model import Reason, Refusal, Stage
from tproxy.protocols.imap4 import imap4s, probe
from tproxy.protocols.imap4.grammar import Inside
from tproxy.session import (
    Ended,
    Expired,
    Line,
    LineTooLong,
    Literal,
    LoggedIn,
    Refuse,
    TLSEstablished,
    Upstream,
)

WITH_NAMESPACE = imap4s.probe(PASSWORD, ("IMAP4rev1", "Namespace"))
WITHOUT = imap4s.probe(PASSWORD, ("IMAP4rev1",))


def refusal(answer: bytes) -> Refusal:
    """How a probe is refused."""
    dialogue = Dialogue(WITHOUT)
    dialogue.tell(LoggedIn(()))
    [effect] = dialogue.receive(answer)
    return effect.refusal


class Probe(Transcripts, SynchronousTestCase):
    """Does the session answer?"""

    def test_namespace(self):
        """NAMESPACE where the server has it, with whatever literals and news."""
        self.holds(
            WITH_NAMESPACE,
            r"""
            ! LoggedIn
            A: tP NAMESPACE
            P: * OK [ALERT] {5}
            P: * NAMESPACE (({8}
            P: tP NO\r\nx "/")) NIL {0}
            P:
            P: tP OK done
            = Verified
            """,
        )

    def test_noop(self):
        """NOOP else."""
        self.holds(
            WITHOUT,
            r"""
            ! LoggedIn
            A: tP NOOP
            P: tP ok
            P: * 3 EXISTS
            = Verified
            R: * 3 EXISTS
            """,
        )

    def test_not_connected(self):
        """Microsoft's answer to a service principal without a mailbox is explained."""
        refused = refusal(b"tP BAD User is authenticated but not connected.\r\n")
        self.assertEqual((refused.stage, refused.reason), (Stage.LOGIN, Reason.SESSION_UNUSABLE))
        self.assertIn("service principal", refused.remedy)

    def test_refused(self):
        """Other refusals, and a BYE, are named without the server's words."""
        for answer, shown in (
            (b"tP NO canary", "(NO)"),
            (b"tP NO [LIMIT] canary", "(NO LIMIT)"),
            (b"* BYE canary", "BYE"),
        ):
            refused = refusal(answer + b"\r\n")
            self.assertEqual((refused.stage, refused.reason), (Stage.LOGIN, Reason.SESSION_UNUSABLE))
            self.assertIn(shown, refused.message)
            self.assertNotIn("canary", str(refused))

    def test_every_pair(self):
        """Every state, every event."""
        states = {
            "Unasked": probe.Unasked(b"t1", b"NOOP"),
            "Asked": probe.Asked(b"t1"),
            "Asked+": probe.Asked(b"t1", Inside(2)),
        }
        events = {
            "*OK": Line(b"* OK x\r\n"),
            "*data": Line(b"* 3 EXISTS\r\n"),
            "*data{}": Line(b"* X {2}\r\n"),
            "*BYE": Line(b"* BYE x\r\n"),
            "OK": Line(b"t1 OK x\r\n"),
            "NO": Line(b"t1 NO x\r\n"),
            "other": Line(b"t2 OK x\r\n"),
            "+": Line(b"+\r\n"),
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
        self.assertEqual(
            written(table(probe.step, states, events, lambda state: type(state).__name__)), written(read(EXPECTED))
        )


EXPECTED = """
event     Unasked  Asked     Asked+
*OK       !        .         .
*data     !        .         .
*data{}   !        .         .
*BYE      !        Refuse    .
OK        !        Verified  .
NO        !        Refuse    .
other     !        !         .
+         !        !         .
garbage   !        !         .
literal   !        .         .
long      !        !         !
tls       !        !         !
ended     Refuse   Refuse    Refuse
expired   Refuse   Refuse    Refuse
loggedin  Asked    !         !
refuse    !        !         !
upstream  !        !         !
"""

"""What `tproxy check` may say about a dialogue."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tproxy.interfaces import ICommentary
from tproxy.protocols.imap4 import imap4, imap4s
from tproxy.session import Ended, Line, Literal

CANARY = b"canary-90ee"


class Commentary(SynchronousTestCase):
    """Words for a reader, without a credential."""

    def test_offered(self) -> None:
        """Both plug-ins have words."""
        for plugin in (imap4, imap4s):
            self.assertTrue(verifyObject(ICommentary, plugin))

    def test_capabilities(self) -> None:
        """How many, and what they say about logins, wherever they are listed."""
        for line in (b"* CAPABILITY %b\r\n", b"* OK [CAPABILITY %b] ready\r\n", b"a1 OK [CAPABILITY %b] in\n"):
            self.assertEqual(
                imap4s.heard(Line(line % b"IMAP4rev1 AUTH=PLAIN auth=xoauth2 SASL-IR STARTTLS LoginDisabled")),
                "6 capabilities; mechanisms PLAIN, XOAUTH2; SASL-IR; STARTTLS; LOGINDISABLED",
            )
        self.assertEqual(imap4s.heard(Line(b"* CAPABILITY IMAP4rev1 IDLE\r\n")), "2 capabilities")

    def test_nothing_else_is_heard(self) -> None:
        """Of all else that a mail server says nothing is repeated."""
        for event in (Line(b"* OK " + CANARY), Line(b"a1 NO " + CANARY), Line(CANARY), Literal(CANARY), Ended()):
            self.assertEqual(imap4s.heard(event), "")

    def test_commands(self) -> None:
        """A command begins a step, and its arguments are not repeated."""
        for line, step in (
            (b"a1 CAPABILITY\r\n", ("capabilities", "")),
            (b"a1 STARTTLS\r\n", ("tls", "STARTTLS")),
            (b"a1 AUTHENTICATE PLAIN " + CANARY + b"\r\n", ("login", "AUTHENTICATE PLAIN")),
            (b"a1 AUTHENTICATE XOAUTH2\r\n", ("login", "AUTHENTICATE XOAUTH2")),
            (b"a1 LOGIN " + CANARY + b" " + CANARY + b"\r\n", ("login", "LOGIN")),
            (b"a1 NAMESPACE\r\n", ("session", "NAMESPACE")),
            (b"a1 NOOP\r\n", ("session", "NOOP")),
            (b"a1 OTHER " + CANARY + b"\r\n", ("", "")),
            (CANARY + b"\r\n", ("", "")),
            (b"user pass" + CANARY, ("", "")),
            (b"", ("", "")),
            (b"half AUTHENTICATE", ("login", "AUTHENTICATE")),
            (b"of AUTHENTICATE " + CANARY, ("login", "AUTHENTICATE")),
        ):
            self.assertEqual(imap4s.said(line), step)

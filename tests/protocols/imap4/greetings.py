"""Server halves to try."""

from __future__ import annotations

from tproxy.lines import Dialogue
from tproxy.model import GreetingMode
from tproxy.protocols.imap4 import imap4s
from tproxy.session import Greeting, LoggedIn

PREAUTH = imap4s.greet(Greeting("mail"))
OPEN = imap4s.greet(Greeting("mail", GreetingMode.OPEN))

SHOWN = "IMAP4rev1 IDLE AUTH=PLAIN AUTH=LOGIN AUTH=XOAUTH2 AUTH=OAUTHBEARER SASL-IR"

BEGUN = rf"""
    ! LoggedIn IMAP4rev1 IDLE
    A: * PREAUTH [CAPABILITY {SHOWN}] mail ready
"""


def greeted() -> Dialogue:
    """A dialogue after its greeting."""
    dialogue = Dialogue(PREAUTH)
    dialogue.tell(LoggedIn(("IMAP4rev1", "IDLE")))
    return dialogue

"""Server halves that ask for a credential, to try."""

from __future__ import annotations

from base64 import b64encode

from tproxy.lines import Dialogue
from tproxy.model import GreetingMode
from tproxy.protocols.imap4 import imap4s
from tproxy.session import Accepted, Greeting

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

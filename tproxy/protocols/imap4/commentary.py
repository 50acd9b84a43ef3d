"""What a dialogue tells whoever looks for the reason of a failure; no credential is repeated."""

from __future__ import annotations

from tproxy.protocols.imap4 import grammar
from tproxy.protocols.imap4.grammar import Data, Status
from tproxy.protocols.imap4.login import ENCRYPTED_ORDER, TOKEN_ORDER
from tproxy.session import Event, Line

MECHANISMS = (*ENCRYPTED_ORDER, *TOKEN_ORDER)
STEPS = {"STARTTLS": "tls", "LOGIN": "login", "NAMESPACE": "session", "NOOP": "session"}
"""The step that begins with a command."""


def heard(event: Event) -> str:
    """The capabilities that the mail server lists: how many, and what they say about logins."""
    match grammar.response(event.text) if isinstance(event, Line) else None:
        case Data("CAPABILITY", arguments) | Status(code="CAPABILITY", arguments=arguments):
            listed = grammar.capabilities(arguments)
        case _:
            return ""
    names = [name.upper() for name in listed]
    mechanisms = [name.removeprefix("AUTH=") for name in names if name.startswith("AUTH=")]
    about = [
        f"{len(names)} capabilities",
        *([f"mechanisms {', '.join(mechanisms)}"] if mechanisms else []),
        *(name for name in ("SASL-IR", "STARTTLS", "LOGINDISABLED") if name in names),
    ]
    return "; ".join(about)


def said(octets: bytes) -> tuple[str, str]:
    """The command of a line that we send, with its mechanism; nothing of what else is sent."""
    match grammar.command(octets.removesuffix(b"\r\n")):
        case grammar.Command(name="CAPABILITY"):
            return "capabilities", ""
        case grammar.Command(name="AUTHENTICATE", rest=rest):
            mechanism = next((name for name in MECHANISMS if rest.split()[:1] == [name.encode()]), "")
            return "login", f"AUTHENTICATE {mechanism}".rstrip()
        case grammar.Command(name=name) if name in STEPS:
            return STEPS[name], name
        case _:
            return "", ""

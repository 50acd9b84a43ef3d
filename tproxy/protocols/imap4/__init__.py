"""IMAP: the protocols `imap4s` (TLS from the first byte) and `imap4` (a plain port upgraded with STARTTLS)."""

from __future__ import annotations

from attrs import frozen
from twisted.plugin import IPlugin
from zope.interface import implementer

from tproxy.interfaces import ICommentary, IProtocolPlugin
from tproxy.model import GreetingMode
from tproxy.protocols.imap4 import asking, commentary
from tproxy.protocols.imap4 import greeting as server_half
from tproxy.protocols.imap4 import login as client_half
from tproxy.protocols.imap4 import probe as probing
from tproxy.session import Event, Greeting, Login, Machine


@implementer(IPlugin, IProtocolPlugin, ICommentary)
@frozen
class IMAP:
    """IMAP on one kind of port."""

    name: str
    default_port: int
    encrypted: bool

    def log_in(self, login: Login) -> Machine:
        """The client half: from the mail server's greeting to a session that is logged in."""
        return client_half.machine(login)

    def greet(self, greeting: Greeting) -> Machine:
        """The server half: from the greeting of an application to its first real command."""
        if greeting.mode is GreetingMode.LOGIN:
            return asking.machine(greeting)
        return server_half.machine(greeting)

    def probe(self, login: Login, capabilities: tuple[str, ...]) -> Machine:
        """NAMESPACE or NOOP, after the login."""
        return probing.machine(login, capabilities)

    def heard(self, event: Event) -> str:
        """The capabilities that the mail server lists."""
        return commentary.heard(event)

    def said(self, octets: bytes) -> tuple[str, str]:
        """The command, and of AUTHENTICATE the mechanism."""
        return commentary.said(octets)


imap4s = IMAP("imap4s", 993, encrypted=True)
imap4 = IMAP("imap4", 143, encrypted=False)

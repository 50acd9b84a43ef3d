"""The server half where the application brings the credential: it is asked for it before anything is done.

    Waiting ─ Accepted ─ Asking ─ AUTHENTICATE XOAUTH2 ─ CredentialOffered ─┬─ LoggedIn ── Conversation
                           └──────────────────── Refuse ────────────────────┘

What it brings is exchanged elsewhere; nothing of it is kept here. Until then it is told what every server
tells those who are not logged in (RFC 9051, section 6.2), and no mail server is there that could answer.
"""

from __future__ import annotations

from binascii import Error, a2b_base64
from typing import ClassVar

from attrs import evolve, field, frozen

from tproxy import sasl
from tproxy.lines import Over
from tproxy.model import Code, GreetingMode, Reason, Stage
from tproxy.protocols.imap4 import grammar
from tproxy.protocols.imap4.grammar import Announced, Command
from tproxy.protocols.imap4.greeting import (
    LITERAL_LIMIT,
    WORDS,
    Commanding,
    Conversation,
    Moved,
    Prompting,
    Waiting,
    bye,
    listing,
)
from tproxy.protocols.imap4.greeting import step as converse
from tproxy.session import (
    Accepted,
    Close,
    CredentialOffered,
    Ended,
    Event,
    Expired,
    Greeting,
    Hold,
    Line,
    LineTooLong,
    Literal,
    LoggedIn,
    Machine,
    ReadLine,
    ReadLiteral,
    Reads,
    Refuse,
    Send,
    State,
)

ATTEMPTS = 3
"""So many logins may be refused in one session."""

CAPABILITIES = ("IMAP4rev1", "SASL-IR", "AUTH=XOAUTH2", "LOGINDISABLED", "ID")

_WORDS = {
    **WORDS,
    Code.AUTHENTICATION_FAILED: "the login was refused",
    Code.EXPIRED: "what you logged in with has expired",
}

# What is read from the application next, beside `Commanding` and `Prompting`


@frozen
class Verdict:
    """What a command is answered once it is whole; `invites` says whether a literal that waits is asked for."""

    answer: bytes
    invites: bool = False


@frozen
class Swallowing:
    """A literal, whatever it says."""

    verdict: Verdict
    octets: int

    @property
    def reads(self) -> Reads:
        return ReadLiteral(self.octets)


@frozen
class Continuing:
    """What follows a literal."""

    verdict: Verdict
    reads: ClassVar[Reads] = ReadLine()


@frozen
class Exchanging:
    """Nothing, until what was offered has led to a login, or has not."""

    tag: bytes
    reads: ClassVar[Reads] = Hold()


@frozen
class Parting:
    """Nothing more: the application has sent its FIN, and is owed this answer."""

    tag: bytes
    reads: ClassVar[Reads] = Hold()


Phase = Commanding | Swallowing | Continuing | Prompting | Exchanging | Parting

# The state


@frozen
class Asking:
    """The application is greeted, and not logged in; `refused` logins were."""

    phase: Phase = field(factory=Commanding)
    refused: int = 0
    reads_upstream: ClassVar[Reads] = Hold()
    stage: ClassVar[Stage] = Stage.LOGIN

    @property
    def reads(self) -> Reads:
        """As the phase says."""
        return self.phase.reads


def machine(greeting: Greeting) -> Machine:
    """The server half of one session."""
    return Machine(Waiting(greeting), step)


def step(state: State, event: Event) -> Moved:
    """One event further; whoever is not logged in and does what is not foreseen is sent away."""
    match state, event:
        case Waiting(Greeting(name)), Accepted():
            words = f" {name} ready, log in with AUTHENTICATE XOAUTH2\r\n".encode()
            return Asking(), (Send(b"* OK [" + listing(CAPABILITIES) + b"]" + words),)
        case (Waiting(), Refuse() | Ended()) | (Conversation(), _):
            return converse(state, event)

        # commands (RFC 9051, sections 6.1 and 6.2) and what belongs to them
        case Asking(phase=Commanding()), Line(b"\r\n" | b"\n"):
            return state, ()  # some answer the NO to XOAUTH2 as if it were the challenge with the error
        case Asking(phase=Commanding()), Line():
            return _command(state, event.text)
        case Asking(phase=Swallowing(verdict)), Literal():
            return evolve(state, phase=Continuing(verdict)), ()
        case Asking(phase=Continuing(verdict)), Line():
            return _answer(state, verdict, event.text)
        case Asking(phase=Prompting(tag)), Line(b"*\r\n" | b"*\n"):
            return _answer(state, Verdict(tag + b" BAD cancelled, as you asked"))
        case Asking(phase=Prompting(tag)), Line():
            return _offer(state, tag, event.text)

        # what came of the credential
        case Asking(phase=Exchanging(tag)), LoggedIn(capabilities):
            inside = grammar.inside(capabilities)
            return Conversation(inside, inside, GreetingMode.LOGIN), (_logged_in(tag, inside),)
        case Asking(phase=Exchanging(tag)), Refuse(refusal) if refusal.reason is Reason.REVOKED:
            return Over(), (_no(tag, refusal.code), bye(refusal.code), Close())
        case Asking(phase=Exchanging(tag)), Refuse(refusal):
            return _refused(state, _no(tag, refusal.code))
        case Asking(phase=Exchanging(tag)), Ended():
            return evolve(state, phase=Parting(tag)), ()
        case Asking(phase=Parting(tag)), LoggedIn(capabilities):
            return Over(), (_logged_in(tag, grammar.inside(capabilities)), Close())
        case Asking(phase=Parting(tag)), Refuse(refusal):
            return Over(), (_no(tag, refusal.code), Close())

        # endings
        case Asking(), Refuse(refusal):
            return Over(), (bye(refusal.code), Close())
        case Asking(), Expired():
            return Over(), (Send(b"* BYE nobody logged in in time\r\n"), Close())
        case Asking(), LineTooLong():
            return Over(), (bye(Code.LIMIT, "the line is too long"), Close())
        case Asking(), Ended():
            return Over(), (Close(),)
        case _:
            return Over(), (bye(Code.UNAVAILABLE), Close())


def _command(state: Asking, text: bytes) -> Moved:
    match grammar.command(text):
        case Command(tag, "CAPABILITY", b""):
            return _answer(state, Verdict(b"* " + listing(CAPABILITIES) + b"\r\n" + tag + b" OK that is all"))
        case Command(tag, "NOOP", b""):
            return _answer(state, Verdict(tag + b" OK nothing done"))
        case Command(tag, "ID"):  # RFC 2971
            return _answer(state, Verdict(b"* ID NIL\r\n" + tag + b" OK that is all", invites=True), text)
        case Command(tag, "LOGOUT", b""):
            return Over(), (Send(b"* BYE good bye\r\n" + tag + b" OK logged out\r\n"), Close())
        case Command(tag, "AUTHENTICATE", rest) if grammar.announced(text) is None:
            return _authenticate(state, tag, rest.split())
        case Command(tag, "LOGIN"):  # LOGINDISABLED (RFC 9051, section 6.2.3)
            return _answer(state, Verdict(tag + b" NO [CANNOT] only AUTHENTICATE XOAUTH2 works here"), text)
        case Command(tag):
            return _answer(state, Verdict(tag + b" BAD log in with AUTHENTICATE XOAUTH2 first"), text)
        case _:
            return _answer(state, Verdict(b"* BAD that is no command"), text)


def _authenticate(state: Asking, tag: bytes, arguments: list[bytes]) -> Moved:
    match arguments:
        case [mechanism] | [mechanism, _] if mechanism.upper() != b"XOAUTH2":
            return _answer(state, Verdict(tag + b" NO [CANNOT] only XOAUTH2 is offered"))
        case [_]:
            return evolve(state, phase=Prompting(tag)), (Send(b"+ \r\n"),)
        case [_, response]:  # RFC 4959, section 3
            return _offer(state, tag, b"" if response == b"=" else response)
        case _:
            return _answer(state, Verdict(tag + b" BAD AUTHENTICATE takes a mechanism and at most one response"))


def _offer(state: Asking, tag: bytes, response: bytes) -> Moved:
    try:
        offered = sasl.offered(a2b_base64(response, strict_mode=True))
    except Error:
        return _answer(state, Verdict(tag + b" BAD that is not base64"))
    if offered is None:
        return _refused(state, _no(tag, Code.AUTHENTICATION_FAILED, "this is no message of XOAUTH2"))
    return evolve(state, phase=Exchanging(tag)), (CredentialOffered(offered),)


def _answer(state: Asking, verdict: Verdict, text: bytes = b"") -> Moved:
    """The end of a line of a command, and of the command unless the line announces a literal."""
    match grammar.announced(text):
        case Announced(octets, waits) if octets <= LITERAL_LIMIT and (verdict.invites or not waits):
            asked = (Send(b"+ go on\r\n"),) if waits else ()
            return evolve(state, phase=Swallowing(verdict, octets)), asked
        case Announced(waits=False):  # its octets are on their way, and must not be taken for commands
            return Over(), (bye(Code.LIMIT, "the literal is too large"), Close())
        case _:
            return evolve(state, phase=Commanding()), (Send(verdict.answer + b"\r\n"),)


def _refused(state: Asking, no: Send) -> Moved:
    """One login less."""
    if state.refused + 1 < ATTEMPTS:
        return evolve(state, phase=Commanding(), refused=state.refused + 1), (no,)
    return Over(), (no, bye(Code.LIMIT, f"{ATTEMPTS} logins were refused"), Close())


def _no(tag: bytes, code: Code, words: str = "") -> Send:
    return Send(tag + f" NO [{code}] {words or _WORDS[code]}\r\n".encode())


def _logged_in(tag: bytes, inside: tuple[str, ...]) -> Send:
    return Send(tag + b" OK [" + listing(inside) + b"] logged in\r\n")

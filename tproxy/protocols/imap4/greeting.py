"""The server half: greets an application, and speaks for itself until a command is the mail server's business.

Nothing of a login that an application makes is checked, kept or passed on: the session is logged in already.
Where the application has to bring a credential first, see `asking`, which ends in the same conversation.

    Waiting ─ LoggedIn ── Conversation ── the first other command ── HandOver
                            Commanding ⇄ LOGIN: Swallowing, Continuing · AUTHENTICATE: Prompting
                                       ⇄ NOOP: Relaying · ID: Relaying, Offering, Passing, Resuming

A mail server's lines are passed on in between, never into the middle of a response.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import evolve, field, frozen

from tproxy.lines import Over
from tproxy.model import Code, GreetingMode, Stage
from tproxy.protocols.imap4 import grammar
from tproxy.protocols.imap4.grammar import Announced, Between, Command, Continuation, Flow, Status
from tproxy.session import (
    LINE_LIMIT,
    Close,
    Effect,
    Ended,
    Event,
    Forward,
    Greeting,
    HandOver,
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
    Upstream,
)

LITERAL_LIMIT = LINE_LIMIT
"""The largest literal that is read before the relay, in octets."""

WORDS = {
    Code.AUTHENTICATION_FAILED: "the mail server refused the login",
    Code.AUTHORIZATION_FAILED: "the mail server refused access to the mailbox",
    Code.CONTACT_ADMIN: "the destination has to be corrected, ask its administrator",
    Code.EXPIRED: "the credential of the destination has expired",
    Code.LIMIT: "too many connections or logins, try again later",
    Code.PRIVACY_REQUIRED: "the mail server offers no encryption",
    Code.UNAVAILABLE: "the mail server is not available, try again later",
}
"""What an application is told, by the code of a refusal."""

# What is read from the application next


@frozen
class Commanding:
    """A command."""

    reads: ClassVar[Reads] = ReadLine()


@frozen
class Swallowing:
    """A literal of LOGIN; `missing` more arguments come after it."""

    tag: bytes
    octets: int
    missing: int

    @property
    def reads(self) -> Reads:
        return ReadLiteral(self.octets)


@frozen
class Continuing:
    """What follows a literal of LOGIN: `missing` more arguments."""

    tag: bytes
    missing: int
    reads: ClassVar[Reads] = ReadLine()


@frozen
class Prompting:
    """A response of AUTHENTICATE; `prompts` are still to come after it."""

    tag: bytes
    prompts: tuple[bytes, ...] = ()
    reads: ClassVar[Reads] = ReadLine()


@frozen
class Relaying:
    """Nothing, until the mail server has answered the command that was sent on."""

    tag: bytes
    reads: ClassVar[Reads] = Hold()


@frozen
class Offering:
    """Nothing, until the mail server wants the literal of ID, or does not."""

    tag: bytes
    octets: int
    reads: ClassVar[Reads] = Hold()


@frozen
class Passing:
    """A literal of ID, for the mail server."""

    tag: bytes
    octets: int

    @property
    def reads(self) -> Reads:
        return ReadLiteral(self.octets)


@frozen
class Resuming:
    """What follows a literal of ID, for the mail server."""

    tag: bytes
    reads: ClassVar[Reads] = ReadLine()


Phase = Commanding | Swallowing | Continuing | Prompting | Relaying | Offering | Passing | Resuming

# The states


@frozen
class Waiting:
    """The login upstream is not done; whatever the application says already has to wait."""

    greeting: Greeting
    reads: ClassVar[Reads] = Hold()
    reads_upstream: ClassVar[Reads] = Hold()
    stage: ClassVar[Stage] = Stage.GREETING


@frozen
class Conversation:
    """The application is greeted.

    `shown` is what CAPABILITY answers now, `inside` what it answers after a login; `flow` is where the
    mail server stands: as long as it is in the middle of a response, the application is not answered.
    In mode `LOGIN` it has logged in, and may not do so again: it could mean somebody else.
    """

    shown: tuple[str, ...]
    inside: tuple[str, ...]
    mode: GreetingMode = GreetingMode.PREAUTH
    phase: Phase = Commanding()
    flow: Flow = field(factory=Between)
    stage: ClassVar[Stage] = Stage.LOGIN

    @property
    def reads(self) -> Reads:
        """As the phase says, between two responses of the mail server."""
        return self.phase.reads if isinstance(self.flow, Between) else Hold()

    @property
    def reads_upstream(self) -> Reads:
        """The mail server is read all the time."""
        return self.flow.reads


Moved = tuple[State, tuple[Effect, ...]]


def machine(greeting: Greeting) -> Machine:
    """The server half of one session."""
    return Machine(Waiting(greeting), step)


def step(state: State, event: Event) -> Moved:
    """One event further; what is odd is handed over to the mail server, whose business it is."""
    match state, event:
        case Waiting(greeting), LoggedIn(capabilities):
            return _greet(greeting, capabilities)
        case Waiting(), Refuse(refusal):
            return Over(Stage.GREETING), (bye(refusal.code), Close())
        case Waiting(), Ended():
            return Over(Stage.GREETING), (Close(),)
        case Waiting(), _:
            return Over(Stage.GREETING), (bye(Code.UNAVAILABLE), Close())

        # the mail server (RFC 9051, section 7)
        case Conversation(), Upstream(Line() | Literal() as said):
            return _pass_on(state, said)
        case Conversation(), Upstream():
            return Over(), (Close(),)

        # commands (RFC 9051, section 6) and what belongs to them
        case Conversation(phase=Commanding()), Line():
            return _command(state, event)
        case Conversation(phase=Swallowing(tag, _, missing)), Literal():
            return evolve(state, phase=Continuing(tag, missing)), ()
        case Conversation(phase=Continuing(tag, missing)), Line():
            return _arguments(state, tag, event.text, missing)
        case Conversation(phase=Prompting(tag)), Line(b"*\r\n" | b"*\n"):
            return _answer(state, tag, b"BAD cancelled, as you asked")
        case Conversation(phase=Prompting(tag, prompts)), Line():
            return _prompt(state, tag, prompts)
        case Conversation(phase=Passing(tag)), Literal(octets):
            return evolve(state, phase=Resuming(tag)), (Forward(octets),)
        case Conversation(phase=Resuming(tag)), Line():
            return _forward(state, tag, event)

        # endings; an unfinished line may hold a password and goes nowhere
        case Conversation(), LineTooLong():
            return Over(), (bye(Code.LIMIT, "the line is too long"), Close())
        case Conversation(flow=Between()), Refuse(refusal):
            return Over(), (bye(refusal.code), Close())
        case Conversation(), Refuse():
            return Over(), (Close(),)
        case Conversation(phase=Commanding() | Swallowing() | Continuing() | Prompting(), flow=Between()), Ended():
            return Over(), (Close(),)  # nothing is outstanding
        case _:
            return Over(), (HandOver(b""),)


def _greet(greeting: Greeting, capabilities: tuple[str, ...]) -> Moved:
    inside = grammar.inside(capabilities)
    state = Conversation((*inside, *grammar.SASL_SHOWN), inside, greeting.mode)
    condition = b"PREAUTH" if greeting.mode is GreetingMode.PREAUTH else b"OK"
    words = f" {greeting.name} ready\r\n".encode()
    return state, (Send(b"* " + condition + b" [" + listing(state.shown) + b"]" + words),)


def _command(state: Conversation, line: Line) -> Moved:
    match grammar.command(line.text):
        case Command(tag, "CAPABILITY", b""):
            return _answer(state, tag, b"OK that is all", before=b"* " + listing(state.shown) + b"\r\n")
        case Command(tag, "LOGIN", rest):
            return _arguments(state, tag, rest, 2)
        case Command(tag, "AUTHENTICATE") if state.mode is GreetingMode.LOGIN:
            return _logged_in(state, tag)
        case Command(tag, "AUTHENTICATE", rest):
            return _authenticate(state, tag, rest.split())
        case Command(tag, "STARTTLS"):
            return _answer(state, tag, b"BAD there is no TLS on this port")
        case Command(tag, "UNAUTHENTICATE"):
            return _answer(state, tag, b"BAD this session stays logged in")
        case Command(tag, "NOOP", b""):
            return _forward(state, tag, line)
        case Command(tag, "ID"):
            return _forward(state, tag, line)
        case Command(tag, "LOGOUT", b""):
            return Over(), (Send(b"* BYE good bye\r\n" + tag + b" OK logged out\r\n"), Close())
        case _:
            return Over(), (HandOver(line.raw),)


def _arguments(state: Conversation, tag: bytes, text: bytes, missing: int) -> Moved:
    """LOGIN, or what is left of it: anybody may, and what was said is dropped."""
    match grammar.strings(text), grammar.announced(text):
        case grammar.Strings(count), None if count == missing:
            return _logged_in(state, tag)
        case grammar.Strings(count), Announced(octets, waits) if count <= missing and octets <= LITERAL_LIMIT:
            asked = (Send(b"+ go on\r\n"),) if waits else ()
            return evolve(state, phase=Swallowing(tag, octets, missing - count)), asked
        case _, Announced(waits=False):  # its octets are on their way, and must not be taken for commands
            return Over(), (bye(Code.LIMIT, "the literal is too large or out of place"), Close())
        case _:
            return _answer(state, tag, b"BAD LOGIN takes a user and a password")


def _authenticate(state: Conversation, tag: bytes, arguments: list[bytes]) -> Moved:
    match arguments:
        case [mechanism] | [mechanism, _]:
            prompts = _PROMPTS.get(mechanism.upper())
            if prompts is None:
                return _answer(state, tag, b"NO [CANNOT] this mechanism is not offered")
            return _prompt(state, tag, prompts[len(arguments) - 1 :])
        case _:
            return _answer(state, tag, b"BAD AUTHENTICATE takes a mechanism and at most one response")


_PROMPTS = {
    b"PLAIN": (b"",),
    b"XOAUTH2": (b"",),
    b"OAUTHBEARER": (b"",),
    b"LOGIN": (b"VXNlcm5hbWU6", b"UGFzc3dvcmQ6"),
}


def _prompt(state: Conversation, tag: bytes, prompts: tuple[bytes, ...]) -> Moved:
    if not prompts:
        return _logged_in(state, tag)
    return evolve(state, phase=Prompting(tag, prompts[1:])), (Send(b"+ " + prompts[0] + b"\r\n"),)


def _logged_in(state: Conversation, tag: bytes) -> Moved:
    if state.mode is GreetingMode.LOGIN:
        return _answer(state, tag, b"BAD you are logged in already")
    state = evolve(state, shown=state.inside)
    return _answer(state, tag, b"OK [" + listing(state.shown) + b"] logged in already")


def _forward(state: Conversation, tag: bytes, line: Line) -> Moved:
    """A line of a command that the mail server answers, and whatever literal it announces."""
    literal = grammar.announced(line.text)
    if literal is None:
        return evolve(state, phase=Relaying(tag)), (Forward(line.raw),)
    if literal.octets > LITERAL_LIMIT:
        return Over(), (HandOver(line.raw),)
    phase = Offering(tag, literal.octets) if literal.waits else Passing(tag, literal.octets)
    return evolve(state, phase=phase), (Forward(line.raw),)


def _pass_on(state: Conversation, said: Line | Literal) -> Moved:
    """What the mail server says, and what that means for the command it was asked."""
    sent = Send(said.raw if isinstance(said, Line) else said.octets)
    begins = isinstance(state.flow, Between)
    response = grammar.response(said.text) if begins and isinstance(said, Line) else None
    state = evolve(state, flow=grammar.follow(state.flow, said))
    match state.phase, response:
        case _, Status(b"*", "BYE"):
            return Over(), (sent, Close())
        case Offering(tag, octets), Continuation():
            return evolve(state, phase=Passing(tag, octets)), (sent,)
        case ((Relaying(tag) | Offering(tag)), Status(answered)) if answered == tag:
            return evolve(state, phase=Commanding()), (sent,)
        case ((Passing(tag) | Resuming(tag)), Status(answered)) if answered == tag:
            return Over(), (sent, HandOver(b""))
        case _:
            return state, (sent,)


def _answer(state: Conversation, tag: bytes, words: bytes, before: bytes = b"") -> Moved:
    return evolve(state, phase=Commanding()), (Send(before + tag + b" " + words + b"\r\n"),)


def bye(code: Code, words: str = "") -> Send:
    """An untagged BYE, in our words."""
    return Send(f"* BYE [{code}] {words or WORDS[code]}\r\n".encode())


def listing(capabilities: tuple[str, ...]) -> bytes:
    """CAPABILITY, as a response code and as a response."""
    return " ".join(("CAPABILITY", *capabilities)).encode()

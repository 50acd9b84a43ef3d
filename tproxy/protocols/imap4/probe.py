"""One harmless command after a login: does the session answer (RFC 9051, sections 6.3.10 and 6.1.2)?"""

from __future__ import annotations

from typing import ClassVar

from attrs import evolve, field, frozen

from tproxy.lines import Over
from tproxy.model import Stage
from tproxy.protocols.imap4 import grammar, refusals
from tproxy.protocols.imap4.grammar import Between, Data, Flow, Status
from tproxy.session import (
    Effect,
    Ended,
    Event,
    Expired,
    Hold,
    Line,
    Literal,
    LoggedIn,
    Login,
    Machine,
    ProtocolError,
    Reads,
    Refuse,
    Send,
    State,
    Verified,
)


@frozen
class Unasked:
    """The login is not done yet."""

    tag: bytes
    command: bytes
    reads: ClassVar[Reads] = Hold()
    reads_upstream: ClassVar[Reads] = Hold()
    stage: ClassVar[Stage] = Stage.LOGIN


@frozen
class Asked:
    """The answer is due."""

    tag: bytes
    flow: Flow = field(factory=Between)
    reads_upstream: ClassVar[Reads] = Hold()
    stage: ClassVar[Stage] = Stage.LOGIN

    @property
    def reads(self) -> Reads:
        """A line, or what is left of a literal."""
        return self.flow.reads


def machine(login: Login, capabilities: tuple[str, ...]) -> Machine:
    """NAMESPACE where the mail server has it, else NOOP; begins with `LoggedIn`."""
    command = b"NAMESPACE" if "NAMESPACE" in map(str.upper, capabilities) else b"NOOP"
    return Machine(Unasked(f"{login.tag}P".encode(), command), step)


def step(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """One event further.

    @raise ProtocolError: the mail server broke the protocol
    """
    match state, event:
        case Unasked(tag, command), LoggedIn():
            return Asked(tag), (Send(tag + b" " + command + b"\r\n"),)
        case _, Ended():
            return Over(), (Refuse(refusals.ended(state.stage)),)
        case _, Expired():
            return Over(), (Refuse(refusals.expired(state.stage)),)
        case Asked(tag, Between()), Line():
            match grammar.response(event.text):
                case Status(answered, "OK") if answered == tag:
                    return Over(), (Verified(),)
                case Status(answered, condition) as said if answered == tag or condition == "BYE":
                    return Over(), (Refuse(refusals.session(said)),)
                case Data() | Status(b"*"):
                    return evolve(state, flow=grammar.follow(state.flow, event)), ()
        case Asked(), Line() | Literal():
            return evolve(state, flow=grammar.follow(state.flow, event)), ()
    raise ProtocolError("the mail server said something that does not belong here")

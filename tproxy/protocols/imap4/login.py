"""The client half: from a mail server's greeting to a session that is logged in (RFC 9051, section 3).

    Connected ─┬─ imap4s ────────────────────────────────────┬─ Asking ─┬─ Authenticating ─┬─ Confirming ─ LoggedIn
               └─ imap4 ─ Surveying ─ Consenting ─ Securing ─┘          └─ Passing ────────┘

What the server lists in passing (in the greeting, in a tagged OK) is not asked for, so that a server
which does so, and takes an initial response, costs one round trip. Anything that is not expected is refused.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import evolve, field, frozen

from tproxy import sasl
from tproxy.lines import Over
from tproxy.model import Bearer, NoCredential, Password, Refusal, Stage
from tproxy.protocols.imap4 import grammar, refusals
from tproxy.protocols.imap4.grammar import Continuation, Data, Status
from tproxy.session import (
    LOGIN_LINE_LIMIT,
    Effect,
    Ended,
    Event,
    Expired,
    HandOver,
    Hold,
    Line,
    LineTooLong,
    LoggedIn,
    Login,
    Machine,
    ProtocolError,
    ReadLine,
    Reads,
    Refuse,
    Send,
    StartTLS,
    State,
    TLSEstablished,
)

MAX_UNTAGGED = 100
"""So many untagged responses a mail server may send before the login is done."""

MAX_INITIAL_LINE = 8_000
"""A longer initial response waits for the server's `+`: servers end connections over long command lines."""

ENCRYPTED_ORDER = ("PLAIN", "SCRAM-SHA-256", "LOGIN")
PLAINTEXT_ORDER = ("SCRAM-SHA-256", "PLAIN", "LOGIN")
TOKEN_ORDER = ("OAUTHBEARER", "XOAUTH2")

Capabilities = tuple[str, ...]
Moved = tuple[State, tuple[Effect, ...]]


@frozen
class Talk:
    """What every stage after the greeting knows: the login, and how much was said on either side."""

    login: Login
    commands: int = 0
    untagged: int = 0

    @property
    def tag(self) -> bytes:
        """The last command's tag."""
        return f"{self.login.tag}{self.commands}".encode()

    def command(self, words: bytes) -> tuple[Talk, Send]:
        """One more command, with a tag of its own."""
        talk = evolve(self, commands=self.commands + 1)
        return talk, Send(talk.tag + b" " + words + b"\r\n")


@frozen
class Connected:
    """The greeting is due."""

    login: Login
    reads: ClassVar[Reads] = ReadLine(LOGIN_LINE_LIMIT)
    reads_upstream: ClassVar[Reads] = Hold()
    stage: ClassVar[Stage] = Stage.GREETING


@frozen
class Surveying:
    """CAPABILITY was asked without TLS: is there STARTTLS? The greeting is kept for one who logs in alone."""

    talk: Talk
    greeting: bytes = field(repr=False)
    listed: Capabilities | None = None
    reads: ClassVar[Reads] = ReadLine(LOGIN_LINE_LIMIT)
    reads_upstream: ClassVar[Reads] = Hold()
    stage: ClassVar[Stage] = Stage.TLS


@frozen
class Consenting:
    """STARTTLS was sent (RFC 9051, section 6.2.1)."""

    talk: Talk
    reads: ClassVar[Reads] = ReadLine(LOGIN_LINE_LIMIT)
    reads_upstream: ClassVar[Reads] = Hold()
    stage: ClassVar[Stage] = Stage.TLS


@frozen
class Securing:
    """The handshake is going on; what was listed before is forgotten."""

    talk: Talk
    reads: ClassVar[Reads] = Hold()
    reads_upstream: ClassVar[Reads] = Hold()
    stage: ClassVar[Stage] = Stage.TLS


@frozen
class Asking:
    """CAPABILITY was asked, within TLS."""

    talk: Talk
    listed: Capabilities | None = None
    reads: ClassVar[Reads] = ReadLine(LOGIN_LINE_LIMIT)
    reads_upstream: ClassVar[Reads] = Hold()
    stage: ClassVar[Stage] = Stage.LOGIN


@frozen
class Authenticating:
    """AUTHENTICATE was sent (RFC 9051, section 6.2.2)."""

    talk: Talk
    exchange: sasl.Exchange
    listed: Capabilities | None = None
    reads: ClassVar[Reads] = ReadLine(LOGIN_LINE_LIMIT)
    reads_upstream: ClassVar[Reads] = Hold()
    stage: ClassVar[Stage] = Stage.LOGIN


@frozen
class Passing:
    """LOGIN was sent (RFC 9051, section 6.2.3); what is left of it waits for the server's `+`."""

    talk: Talk
    pieces: tuple[bytes, ...] = field(repr=False)
    listed: Capabilities | None = None
    reads: ClassVar[Reads] = ReadLine(LOGIN_LINE_LIMIT)
    reads_upstream: ClassVar[Reads] = Hold()
    stage: ClassVar[Stage] = Stage.LOGIN


@frozen
class Confirming:
    """The login is accepted, CAPABILITY was asked; other lines (`kept`) are the application's already."""

    talk: Talk
    listed: Capabilities | None = None
    kept: bytes = field(default=b"", repr=False)
    reads: ClassVar[Reads] = ReadLine(LOGIN_LINE_LIMIT)
    reads_upstream: ClassVar[Reads] = Hold()
    stage: ClassVar[Stage] = Stage.LOGIN


Conversing = Surveying | Consenting | Asking | Authenticating | Passing | Confirming


def machine(login: Login) -> Machine:
    """The client half of one session."""
    return Machine(Connected(login), step)


def step(state: State, event: Event) -> Moved:
    """One event further.

    @raise ProtocolError: the mail server broke the protocol
    """
    said = grammar.response(event.text) if isinstance(event, Line) else event
    match state, said:
        case _, Ended():
            return _refuse(refusals.ended(state.stage))
        case _, Expired():
            return _refuse(refusals.expired(state.stage))
        case _, LineTooLong():
            raise ProtocolError(f"the mail server sent a line of more than {LOGIN_LINE_LIMIT} bytes")

        # the greeting (RFC 9051, section 7.1)
        case Connected(login), Status(b"*", "OK") if isinstance(event, Line):
            return _greeted(login, said, event)
        case Connected(Login(credential=NoCredential())), Status(b"*", "BYE") if isinstance(event, Line):
            return Over(), (HandOver(event.raw),)
        case Connected(), _ if isinstance(event, Line):
            return _refuse(refusals.greeting(said if isinstance(said, Status) else None, event.text))

        # what may come at any time afterwards
        case Securing(talk), TLSEstablished():
            return _ask(talk)
        case Securing(), _:
            raise ProtocolError("something came in the middle of the TLS handshake")
        case _, Status(b"*", "BYE"):
            return _refuse(refusals.bye(state.stage, said))
        case _, Data() | Status(b"*", "OK" | "NO" | "BAD") if isinstance(state, Conversing) and isinstance(event, Line):
            return _noted(state, said, event), ()

        # STARTTLS (RFC 9051, section 6.2.1)
        case Surveying(talk), Status(tag, "OK") if tag == talk.tag:
            return _secure(talk, state.greeting, _listed(said, state.listed))
        case Consenting(talk), Status(tag, "OK") if tag == talk.tag:
            return Securing(talk), (StartTLS(),)
        case Consenting(talk), Status(tag) if tag == talk.tag:
            return _refuse(refusals.encryption("the mail server offers STARTTLS but refuses it"))

        # CAPABILITY, AUTHENTICATE, LOGIN (RFC 9051, sections 6.1.1, 6.2.2, 6.2.3; RFC 4959)
        case Asking(talk), Status(tag, "OK") if tag == talk.tag:
            return _begin(talk, _listed(said, state.listed), ENCRYPTED_ORDER)
        case Authenticating(exchange=exchange), Continuation(challenge):
            return _answer(state, exchange, challenge)
        case Authenticating(talk, exchange), Status(tag, "OK") if tag == talk.tag and sasl.may_succeed(exchange):
            return _accepted(talk, said, state.listed)
        case Authenticating(talk, exchange), Status(tag, "NO" | "BAD") if tag == talk.tag:
            why = exchange.why if isinstance(exchange, sasl.Explained) else ""
            return _refuse(refusals.login(said, talk.login.credential, why))
        case Passing(pieces=(piece, *others)), Continuation():
            return evolve(state, pieces=tuple(others)), (Send(piece + b"\r\n"),)
        case Passing(talk, ()), Status(tag, "OK") if tag == talk.tag:
            return _accepted(talk, said, state.listed)
        case Passing(talk), Status(tag, "NO" | "BAD") if tag == talk.tag:
            return _refuse(refusals.login(said, talk.login.credential))

        # what is in force after the login
        case Confirming(talk), Status(tag, "OK") if tag == talk.tag:
            return Over(unread=state.kept), (LoggedIn(_listed(said, state.listed)),)
        case Confirming(talk), Status(tag) if tag == talk.tag:
            return _refuse(refusals.session(said))
        case _:
            raise ProtocolError("the mail server said something that does not belong here")


def _greeted(login: Login, said: Status, line: Line) -> Moved:
    try:
        sasl.examine(login.credential)
    except sasl.CredentialError as error:
        return _refuse(refusals.credential_invalid(error))
    match login:
        case Login(credential=NoCredential(), encrypted=True):
            return Over(), (HandOver(line.raw),)
        case Login(encrypted=True) if said.code == "CAPABILITY":
            return _begin(Talk(login), _listed(said, None), ENCRYPTED_ORDER)
        case Login(encrypted=True):
            return _ask(Talk(login))
        case _ if said.code == "CAPABILITY":
            return _secure(Talk(login), line.raw, _listed(said, None))
        case _:
            talk, sent = Talk(login).command(b"CAPABILITY")
            return Surveying(talk, line.raw), (sent,)


def _secure(talk: Talk, greeting: bytes, listed: Capabilities) -> Moved:
    if "STARTTLS" in _names(listed):
        talk, sent = talk.command(b"STARTTLS")
        return Consenting(talk), (sent,)
    if not talk.login.plaintext_allowed:
        return _refuse(refusals.encryption("the mail server offers no STARTTLS"))
    if isinstance(talk.login.credential, NoCredential):
        return Over(), (HandOver(greeting),)
    return _begin(talk, listed, PLAINTEXT_ORDER)


def _ask(talk: Talk) -> Moved:
    talk, sent = talk.command(b"CAPABILITY")
    return Asking(talk), (sent,)


def _begin(talk: Talk, listed: Capabilities, order: tuple[str, ...]) -> Moved:
    """The first mechanism of the order that is offered; one that is not offered is never sent."""
    login, offered = talk.login, _names(listed)
    if isinstance(login.credential, Bearer):
        order = TOKEN_ORDER
    match login.credential, next((name for name in order if f"AUTH={name}" in offered), None):
        case NoCredential(), _:
            shown = " ".join(name for name in listed if name.upper() != "STARTTLS")
            return Over(), (HandOver(f"* OK [CAPABILITY {shown}] ready\r\n".encode()),)
        case Bearer() as bearer, "OAUTHBEARER":
            return _authenticate(talk, sasl.oauthbearer(bearer, login.host, login.port), offered)
        case Bearer() as bearer, "XOAUTH2":
            return _authenticate(talk, sasl.xoauth2(bearer), offered)
        case Password() as password, "PLAIN":
            return _authenticate(talk, sasl.plain(password), offered)
        case Password() as password, "SCRAM-SHA-256":
            try:
                opening = sasl.scram_sha_256(password, login.nonce)
            except sasl.CredentialError as error:
                return _refuse(refusals.credential_invalid(error))
            return _authenticate(talk, opening, offered)
        case Password() as password, "LOGIN":
            return _authenticate(talk, sasl.login(password), offered)
        case Password() as password, None if "LOGINDISABLED" not in offered:
            return _pass(talk, password, offered)
        case _:
            return _refuse(refusals.mechanism(login.credential))


def _authenticate(talk: Talk, opening: sasl.Opening, offered: frozenset[str]) -> Moved:
    words = b"AUTHENTICATE " + opening.name.encode()
    if opening.initial is not None and "SASL-IR" in offered:
        initial = sasl.encoded_initial(opening.initial)
        if len(initial) <= MAX_INITIAL_LINE:
            talk, sent = talk.command(words + b" " + initial)
            return Authenticating(talk, opening.then), (sent,)
    talk, sent = talk.command(words)
    return Authenticating(talk, opening.held()), (sent,)


def _answer(state: Authenticating, exchange: sasl.Exchange, challenge: bytes) -> Moved:
    try:
        exchange, response = sasl.respond(exchange, challenge)
    except sasl.SASLError as error:
        raise ProtocolError(str(error)) from None
    return evolve(state, exchange=exchange), (Send(sasl.encoded(response) + b"\r\n"),)


def _pass(talk: Talk, credential: Password, offered: frozenset[str]) -> Moved:
    at_once = LOGIN_LINE_LIMIT if "LITERAL+" in offered else 4096 if "LITERAL-" in offered else 0
    user = grammar.string(credential.user.encode(), at_once)
    password = grammar.string(credential.password.reveal().encode(), at_once)
    lines = (*user[:-1], user[-1] + b" " + password[0], *password[1:])
    talk, sent = talk.command(b"LOGIN " + lines[0])
    return Passing(talk, lines[1:]), (sent,)


def _accepted(talk: Talk, said: Status, listed: Capabilities | None) -> Moved:
    if said.code == "CAPABILITY" or listed is not None:
        return Over(), (LoggedIn(_listed(said, listed)),)
    talk, sent = talk.command(b"CAPABILITY")
    return Confirming(talk), (sent,)


def _noted(state: Conversing, said: Data | Status, line: Line) -> Conversing:
    talk = evolve(state.talk, untagged=state.talk.untagged + 1)
    if talk.untagged > MAX_UNTAGGED:
        raise ProtocolError(f"the mail server said more than {MAX_UNTAGGED} things that nobody asked for")
    if isinstance(said, Data) and grammar.announced(line.text):
        raise ProtocolError("the mail server sent a literal before the login was done")
    match state, said:
        case Consenting(), _:
            return evolve(state, talk=talk)
        case _, Data("CAPABILITY", arguments):
            return evolve(state, talk=talk, listed=grammar.capabilities(arguments))
        case Confirming(kept=kept), _:
            return evolve(state, talk=talk, kept=kept + line.raw)
        case _:
            return evolve(state, talk=talk)


def _listed(said: Status, listed: Capabilities | None) -> Capabilities:
    if said.code == "CAPABILITY":
        return grammar.capabilities(said.arguments)
    if listed is None:
        raise ProtocolError("the mail server did not list its capabilities when it was asked to")
    return listed


def _names(listed: Capabilities) -> frozenset[str]:
    return frozenset(name.upper() for name in listed)


def _refuse(refusal: Refusal) -> Moved:
    return Over(refusal.stage), (Refuse(refusal),)

"""As much of IMAP's grammar as a login and a greeting need (RFC 9051, section 9; RFC 3501)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar

from attrs import field, frozen

from tproxy.session import Line, Literal, ReadLine, ReadLiteral, Reads

SASL_SHOWN = ("AUTH=PLAIN", "AUTH=LOGIN", "AUTH=XOAUTH2", "AUTH=OAUTHBEARER", "SASL-IR")
"""What an application that has not logged in yet is offered beside the mail server's own capabilities."""

_HIDDEN = frozenset({"SASL-IR", "STARTTLS", "LOGINDISABLED", "LOGIN-REFERRALS", "UNAUTHENTICATE"})

_CHUNK = 16 * 1024

_ATOM = re.compile(rb"[!#$&'+,\-./0-9:;<=>?@A-Z^_`a-z|~]+")
_LITERAL = re.compile(rb"\{(\d{1,19})(\+?)\}\Z")
_COMMAND = re.compile(rb"([!#$&',\-./0-9:;<=>?@A-Z\[\]^_`a-z|}~]+) +([A-Za-z]+)(| .*)", re.DOTALL)
_STRING = re.compile(rb""" +(?:"(?:[^"\\\r\0]|\\[^\r\0])*"|[^ "{\r\0][^ \r\0]*)(?= |\Z)""")
_STATUS = re.compile(
    rb"(\*|[!#$&',\-./0-9:;<=>?@A-Z\[\]^_`a-z|}~]+) (OK|NO|BAD|BYE|PREAUTH)"
    rb"(?: (?:\[([A-Z0-9\-]+)(?: ([^\]]*))?\])? ?(.*))?",
    re.DOTALL | re.IGNORECASE,
)
_DATA = re.compile(rb"\* ([!-~]+)(?: (.*))?", re.DOTALL)
_CONTINUATION = re.compile(rb"\+(?: (.*))?", re.DOTALL)
_QUOTED = re.compile(rb"[ -~]*")
_SPECIAL = re.compile(rb'["\\]')


# What an application says


@frozen
class Announced:
    """A literal at the end of a line: its octets follow, at once or after a `+` (RFC 7888)."""

    octets: int
    waits: bool


@frozen
class Command:
    """A command's line: its tag, its name in capitals, and the rest, which begins with a space or is empty."""

    tag: bytes
    name: str
    rest: bytes = field(repr=False)


@frozen
class Strings:
    """So many strings on one line, and perhaps one more as a literal after it. What they say is not kept."""

    count: int
    literal: Announced | None


def command(text: bytes) -> Command | None:
    """A line read as a command; None if it is none."""
    found = _COMMAND.fullmatch(text)
    return Command(found[1], found[2].decode("ascii").upper(), found[3].rstrip(b" ")) if found else None


def announced(text: bytes) -> Announced | None:
    """The literal that a line ends with, if any."""
    found = _LITERAL.search(text)
    return Announced(int(found[1]), waits=not found[2]) if found else None


def strings(text: bytes) -> Strings | None:
    """Counts the arguments of LOGIN on one line, or after a literal of it: atoms of any kind, quoted strings.

    @return: None where it is neither
    """
    literal = announced(text)
    position, count = 0, 0
    end = len(text)
    if literal is not None:
        end = text.rindex(b"{")
        if not text[:end].endswith(b" "):
            return None
    text = text[:end].rstrip(b" ")
    while found := _STRING.match(text, position):
        position, count = found.end(), count + 1
    if position != len(text):
        return None
    return Strings(count + (literal is not None), literal)


# What a mail server says


@frozen
class Status:
    """A tagged or untagged (`*`) OK, NO, BAD, BYE or PREAUTH, with its response code in capitals, if any."""

    tag: bytes
    condition: str
    code: str = ""
    arguments: bytes = field(default=b"", repr=False)
    text: bytes = field(default=b"", repr=False)


@frozen
class Data:
    """Any other untagged response; its first word in capitals."""

    name: str
    arguments: bytes = field(repr=False)


@frozen
class Continuation:
    """A `+`, with or without something behind it."""

    text: bytes = field(repr=False)


@frozen
class Garbage:
    """Not a response."""


Response = Status | Data | Continuation | Garbage


def response(text: bytes) -> Response:
    """A line of a mail server; a status other than OK, NO and BAD is never tagged."""
    if found := _STATUS.fullmatch(text):
        condition = found[2].decode("ascii").upper()
        if found[1] == b"*" or condition in {"OK", "NO", "BAD"}:
            code = (found[3] or b"").decode("ascii").upper()
            return Status(found[1], condition, code, found[4] or b"", found[5] or b"")
    if found := _DATA.fullmatch(text):
        return Data(found[1].decode("ascii").upper(), found[2] or b"")
    if found := _CONTINUATION.fullmatch(text):
        return Continuation(found[1] or b"")
    return Garbage()


def capabilities(arguments: bytes) -> tuple[str, ...]:
    """The capabilities of a list, as they are spelled; what is no atom, and so could not be shown on, is left out."""
    return tuple(word.decode("ascii") for word in arguments.split(b" ") if _ATOM.fullmatch(word))


def inside(listed: Iterable[str]) -> tuple[str, ...]:
    """The capabilities that mean something to an application that is logged in already."""
    kept = (name for name in listed if name.upper() not in _HIDDEN and not name.upper().startswith("AUTH="))
    return tuple(kept) or ("IMAP4rev1",)


# Where a mail server stands between two responses


@frozen
class Between:
    """The next line begins a response."""

    reads: ClassVar[Reads] = ReadLine()


@frozen
class Inside:
    """So many octets of a literal are still to come; they are read in pieces."""

    octets: int

    @property
    def reads(self) -> Reads:
        return ReadLiteral(min(self.octets, _CHUNK))


@frozen
class After:
    """The next line continues the response that a literal interrupted."""

    reads: ClassVar[Reads] = ReadLine()


Flow = Between | Inside | After


def follow(flow: Flow, event: Line | Literal) -> Flow:
    """Where a mail server stands after this; the words of a status are never taken for a literal's beginning."""
    match flow, event:
        case Inside(octets), Literal(taken):
            return Inside(octets - len(taken)) if octets > len(taken) else After()
        case Between(), Line() if not isinstance(response(event.text), Data):
            return Between()
        case _, Line() if literal := announced(event.text):
            return Inside(literal.octets)
        case _:
            return Between()


# What we say to a mail server


def string(value: bytes, at_once: int) -> tuple[bytes, ...]:
    """A string in the lines in which it is sent, each after the `+` that the one before asks for.

    Quoted where quoted strings can carry it, else a literal; up to `at_once` octets the server
    takes a literal without its `+` (RFC 7888).
    """
    if _QUOTED.fullmatch(value):
        return (b'"' + _SPECIAL.sub(rb"\\\g<0>", value) + b'"',)
    if len(value) <= at_once:
        return (b"{%d+}\r\n" % len(value) + value,)
    return (b"{%d}" % len(value), value)

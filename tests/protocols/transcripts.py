"""Dialogues as readable text, run however the network may cut them.

A transcript has one line a mark and a text:

    P: * OK ready           this half's own peer says this line
    U: * 3 EXISTS           (server half) the mail server says this line
    ! Ended                 an event that is told
    A: t1 CAPABILITY        this half answers its own peer
    F: 2 NOOP               (server half) this goes to the mail server
    = LoggedIn IMAP4rev1    any other effect
    H: 2 SELECT INBOX       what is handed over with the effect `HandOver`
    R: 3 LIST "" "*"        in the end, this is what the own peer said and nobody read
    RU: * 4 EXISTS          the same of the mail server

Lines end with CRLF; one that ends with an ellipsis does not. Escapes are Python's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

from attrs import evolve, frozen

from tproxy.lines import Dialogue
from tproxy.model import Code, Reason, Refusal, Stage
from tproxy.session import (
    Accepted,
    CredentialOffered,
    Effect,
    Ended,
    Event,
    Expired,
    Forward,
    HandOver,
    LoggedIn,
    Machine,
    Refuse,
    Send,
    TLSEstablished,
    Upstream,
)

Cut = Callable[[int, bytes], list[bytes]]
"""How the n-th stretch of input reaches us."""


@frozen
class Stretch:
    """Lines of one mark in a row."""

    mark: str
    octets: bytes


def parse(transcript: str) -> list[Stretch]:
    """The stretches of a transcript; effects and events stay apart, one each."""
    marked = []
    for line in filter(None, map(str.strip, transcript.splitlines())):
        mark, _, text = line.partition(" ")
        marked.append(Stretch(mark.rstrip(":"), _octets(text) if mark.endswith(":") else text.encode()))
    return _joined(marked)


def _octets(text: str) -> bytes:
    line, end = (text[:-1], b"") if text.endswith("…") else (text, b"\r\n")
    return line.encode("latin-1").decode("unicode_escape").encode("latin-1") + end


def _joined(stretches: list[Stretch]) -> list[Stretch]:
    joined = []
    for mark, several in groupby(stretches, lambda stretch: stretch.mark):
        if mark in {"=", "!"}:
            joined += several
        else:
            joined.append(Stretch(mark, b"".join(stretch.octets for stretch in several)))
    return joined


def play(machine: Machine, transcript: list[Stretch], cut: Cut) -> list[Stretch]:
    """What comes of the input of a transcript, with that input, as a transcript of its own."""
    dialogue = Dialogue(machine)
    played: list[Stretch] = []
    for number, stretch in enumerate(transcript):
        match stretch.mark:
            case "P":
                effects = [dialogue.receive(piece) for piece in cut(number, stretch.octets)]
            case "U":
                effects = [dialogue.receive_upstream(piece) for piece in cut(number, stretch.octets)]
            case "!":
                effects = [dialogue.tell(_event(stretch.octets.decode()))]
            case _:
                continue
        played += (stretch, *(shown for several in effects for effect in several for shown in _shown(effect)))
    held, held_upstream = dialogue.held, dialogue.held_upstream
    rests = Stretch("R", dialogue.rest()), Stretch("RU", dialogue.rest_upstream())
    assert (held, held_upstream) == tuple(len(rest.octets) for rest in rests)
    assert not dialogue.rest() + dialogue.rest_upstream()
    return _joined([*played, *(rest for rest in rests if rest.octets)])


def whole(number: int, octets: bytes) -> list[bytes]:
    """Nothing is cut."""
    return [octets]


def cuts(transcript: list[Stretch]) -> Iterator[Cut]:
    """Whole, byte by byte, and each single cut."""
    yield whole
    yield lambda number, octets: [bytes([octet]) for octet in octets]
    for at, stretch in enumerate(transcript):
        if stretch.mark in {"P", "U"}:
            for place in range(1, len(stretch.octets)):
                yield (
                    lambda number, octets, at=at, place=place: (
                        [octets[:place], octets[place:]] if number == at else [octets]
                    )
                )


class Transcripts:
    """For a test case: a transcript holds, at whatever splits."""

    def holds(self, machine: Machine, transcript: str) -> None:
        """Each input gets the answers that stand behind it."""
        expected = parse(transcript)
        for cut in cuts(expected):
            self.assertEqual(_text(play(machine, expected, cut)), _text(expected))

    def holds_with_bare_lf(self, machine: Machine, transcript: str) -> None:
        """The same where this half's own peer ends its lines with LF alone; what is passed on keeps that."""
        bare = [
            evolve(stretch, octets=stretch.octets.replace(b"\r\n", b"\n")) if stretch.mark in "PFHR" else stretch
            for stretch in parse(transcript)
        ]
        self.assertEqual(_text(play(machine, bare, whole)), _text(bare))


def _text(stretches: list[Stretch]) -> str:
    return "\n".join(f"{stretch.mark} {stretch.octets!r}" for stretch in stretches)


def _shown(effect: Effect) -> Iterator[Stretch]:
    match effect:
        case Send(octets):
            yield Stretch("A", octets)
        case Forward(octets):
            yield Stretch("F", octets)
        case HandOver(octets):
            yield Stretch("=", b"HandOver")
            if octets:
                yield Stretch("H", octets)
        case LoggedIn(capabilities):
            yield Stretch("=", " ".join(("LoggedIn", *capabilities)).encode())
        case CredentialOffered(offered):
            yield Stretch("=", f"CredentialOffered {offered.user} {offered.secret.reveal()}".encode())
        case Refuse(Refusal(stage, reason, _, _, code)):
            yield Stretch("=", f"Refuse {stage} {reason} {code}".encode())
        case _:
            yield Stretch("=", type(effect).__name__.encode())


def _event(text: str) -> Event:
    match text.split():
        case ["Accepted"]:
            return Accepted()
        case ["Ended"]:
            return Ended()
        case ["Expired"]:
            return Expired()
        case ["TLSEstablished"]:
            return TLSEstablished()
        case ["UpstreamEnded"]:
            return Upstream(Ended())
        case ["LoggedIn", *capabilities]:
            return LoggedIn(tuple(capabilities))
        case ["Refuse", code]:
            return Refuse(Refusal(Stage.LOGIN, Reason.LOGIN_REFUSED, "a message for the operator", "", Code(code)))
        case ["Revoke"]:
            return Refuse(Refusal(Stage.ACCEPT, Reason.REVOKED, "a message for the operator"))
    raise AssertionError(text)

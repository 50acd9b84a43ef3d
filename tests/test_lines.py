"""The line reader, and the driver of dialogues."""

from __future__ import annotations

from itertools import pairwise
from time import process_time
from typing import ClassVar

from attrs import field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tproxy.lines import Dialogue, LineReader, Over
from tproxy.model import Reason, Stage
from tproxy.session import (
    Close,
    Effect,
    Ended,
    Event,
    Expired,
    HandOver,
    Hold,
    Line,
    LineTooLong,
    Literal,
    LoggedIn,
    Machine,
    ProtocolError,
    ReadLine,
    ReadLiteral,
    Reads,
    Refuse,
    Send,
    StartTLS,
    TLSEstablished,
    Upstream,
)


def cut(octets: bytes, places: list[int]) -> list[bytes]:
    """The octets in pieces."""
    bounds = [0, *sorted(place % (len(octets) + 1) for place in places), len(octets)]
    return [octets[start:end] for start, end in pairwise(bounds)]


class Reader(SynchronousTestCase):
    """Bytes become lines and literals."""

    def test_lines(self):
        """A line ends with CRLF or a bare LF, and keeps its end; a bare CR is no end."""
        reader = LineReader()
        reader.feed(b"a\r\nb\n\n\r\nc\rd\r\r\ne")
        lines = []
        while line := reader.take(ReadLine()):
            lines.append((line.raw, line.text))
        self.assertEqual(
            lines, [(b"a\r\n", b"a"), (b"b\n", b"b"), (b"\n", b""), (b"\r\n", b""), (b"c\rd\r\r\n", b"c\rd\r")]
        )
        self.assertEqual((len(reader), reader.rest(), len(reader)), (1, b"e", 0))

    def test_literals(self):
        """A literal has just its octets, none if that is its size."""
        reader = LineReader()
        self.assertEqual(reader.take(ReadLiteral(0)), Literal(b""))
        reader.feed(b"a\r\nbc")
        self.assertIsNone(reader.take(ReadLiteral(6)))
        self.assertEqual(reader.take(ReadLiteral(4)), Literal(b"a\r\nb"))
        self.assertEqual(reader.rest(), b"c")

    def test_limit(self):
        """The limit includes the line's end; over it, nothing more is read, at whatever split."""
        for octets, limit, taken in (
            (b"abc\r\n", 5, Line(b"abc\r\n")),
            (b"abcd\r\n", 5, LineTooLong()),
            (b"abcde", 5, LineTooLong()),
            (b"abcd", 5, None),
        ):
            for places in ([], *([place] for place in range(len(octets))), list(range(len(octets)))):
                reader = LineReader()
                seen = []
                for piece in cut(octets, places):
                    reader.feed(piece)
                    while (event := reader.take(ReadLine(limit))) is not None:
                        seen.append(event)
                self.assertEqual(seen, [] if taken is None else [taken])

    def test_end(self):
        """The end comes once, behind all that can be read, and waits behind what is held."""
        reader = LineReader()
        reader.feed(b"a\nb")
        reader.end()
        self.assertIsNone(reader.take(Hold()))
        self.assertEqual(reader.take(ReadLine()), Line(b"a\n"))
        self.assertEqual(reader.take(ReadLine()), Ended())
        self.assertIsNone(reader.take(ReadLine()))
        self.assertEqual(reader.rest(), b"b")
        for reads in (Hold(), ReadLine(), ReadLiteral(1)):
            reader = LineReader()
            self.assertIsNone(reader.take(reads))
            reader.end()
            self.assertEqual(reader.take(reads), Ended())

    def test_unread(self):
        """What is put back comes first, and is searched again."""
        reader = LineReader()
        reader.feed(b"b")
        self.assertIsNone(reader.take(ReadLine()))
        reader.unread(b"a\n")
        self.assertEqual(reader.take(ReadLine()), Line(b"a\n"))
        self.assertEqual(reader.rest(), b"b")

    @settings(deadline=None)
    @given(
        st.lists(st.tuples(st.booleans(), st.binary(max_size=12)), max_size=12),
        st.lists(st.integers(0, 200), max_size=9),
    )
    def test_nothing_lost(self, parts, places):
        """Lines and literals come out as they went in, however they were cut; so does the rest."""
        wanted = [
            (ReadLiteral(len(octets)), Literal(octets))
            if literal
            else (ReadLine(), Line(octets.replace(b"\n", b"") + b"\n"))
            for literal, octets in parts
        ]
        octets = b"".join(e.octets if isinstance(e, Literal) else e.raw for _, e in wanted) + b"rest"
        reader, taken = LineReader(), []
        for piece in cut(octets, places):
            reader.feed(piece)
            while len(taken) < len(wanted) and (event := reader.take(wanted[len(taken)][0])) is not None:
                taken.append(event)
        self.assertEqual(taken, [event for _, event in wanted])
        self.assertEqual(reader.rest(), b"rest")

    def test_linear(self):
        """No byte is searched or moved again and again, in many small lines nor in one long one: that took minutes."""
        for octets, size in ((b"ab\n" * 300_000, 900_000), (b"x" * 10_000_000, 100)):
            reader, since = LineReader(), process_time()
            for at in range(0, len(octets), size):
                reader.feed(octets[at : at + size])
                while reader.take(ReadLine(10**9)) is not None:
                    pass
            self.assertLess(process_time() - since, 10)


@frozen
class Echoing:
    """Says each line again; a line may also say what is to happen."""

    stage: Stage = Stage.GREETING
    reads: Reads = field(factory=lambda: ReadLine(16))
    reads_upstream: ClassVar[Reads] = ReadLine(16)


def echo(state: Echoing, event: Event) -> tuple[Echoing | Over, tuple[Effect, ...]]:
    """One event further."""
    match event:
        case Line(b"error\n") | LineTooLong():
            raise ProtocolError("the peer erred")
        case Line(b"tls\n"):
            return state, (StartTLS(),)
        case Line(b"hold\n"):
            return Echoing(reads=Hold()), ()
        case Line(b"over\n"):
            return Over(Stage.TLS, b"un\nread\n"), (HandOver(b""),)
        case LoggedIn():
            return Echoing(), ()
        case Line(raw):
            return state, (Send(raw),)
        case Upstream(Line(raw)):
            return state, (Send(b"u" + raw),)
        case Ended() | Upstream(Ended() | LineTooLong()):
            return Over(), (Close(),)
        case _:
            return state, ()


class Driver(SynchronousTestCase):
    """Events in, effects out."""

    def setUp(self):
        self.dialogue = Dialogue(Machine(Echoing(), echo))

    def refused(self, effects: list[Effect], message: str) -> None:
        """The one effect is a refusal of a breach."""
        (effect,) = effects
        self.assertIsInstance(effect, Refuse)
        refusal = effect.refusal
        self.assertEqual(
            (refusal.stage, refusal.reason, refusal.message), (Stage.GREETING, Reason.PROTOCOL_VIOLATION, message)
        )
        self.assertIn("host and port", refusal.remedy)
        self.assertEqual(self.dialogue.state, Over(Stage.GREETING))

    def test_many(self):
        """One read may be many events, and many reads one."""
        self.assertEqual(self.dialogue.receive(b"a\nb\nc"), [Send(b"a\n"), Send(b"b\n")])
        self.assertEqual((self.dialogue.held, self.dialogue.held_upstream), (1, 0))
        self.assertEqual(self.dialogue.receive_upstream(b"x\ny"), [Send(b"ux\n")])
        self.assertEqual((self.dialogue.held, self.dialogue.held_upstream), (1, 1))
        self.assertEqual((self.dialogue.rest(), self.dialogue.rest_upstream()), (b"c", b"y"))
        self.assertEqual((self.dialogue.held, self.dialogue.held_upstream), (0, 0))

    def test_hold(self):
        """What is held is read as soon as an event lets it be."""
        self.assertEqual(self.dialogue.receive(b"hold\na\nb\n"), [])
        self.assertEqual(self.dialogue.tell(LoggedIn(())), [Send(b"a\n"), Send(b"b\n")])

    def test_breach(self):
        """A breach of the protocol is a refusal of its stage, and the end."""
        self.refused(self.dialogue.receive(b"error\na\n"), "the peer erred")
        self.assertEqual(self.dialogue.receive(b"b\n"), [])
        self.assertEqual(self.dialogue.tell(Expired()), [])
        self.assertEqual(self.dialogue.tell(Ended()), [])
        self.assertEqual(self.dialogue.rest(), b"a\nb\n")

    def test_long_line(self):
        """A line over the state's limit is an event."""
        self.refused(self.dialogue.receive(b"x" * 20), "the peer erred")
        self.setUp()
        self.assertEqual(self.dialogue.receive_upstream(b"x" * 20), [Close()])

    def test_long_line_overlooked(self):
        """A machine that reads on after a line that is too long is told so once."""
        dialogue = Dialogue(Machine(Echoing(), lambda state, event: (state, (Send(type(event).__name__.encode()),))))
        self.assertEqual(dialogue.receive(b"x" * 20), [Send(b"LineTooLong")])
        self.assertEqual(dialogue.receive(b"x\nab\n"), [])

    def test_injection(self):
        """Bytes between the consent to TLS and the handshake are a breach, whether they came with it or later."""
        message = "the mail server sent bytes between its consent to TLS and the handshake"
        self.refused(self.dialogue.receive(b"tls\na"), message)
        self.setUp()
        self.assertEqual(self.dialogue.receive(b"tls\n"), [StartTLS()])
        self.assertEqual(self.dialogue.receive(b"a"), [])
        self.refused(self.dialogue.tell(TLSEstablished()), message)
        self.setUp()
        self.assertEqual(self.dialogue.receive(b"tls\n"), [StartTLS()])
        self.assertEqual(self.dialogue.tell(TLSEstablished()), [])

    def test_put_back(self):
        """What a machine read though it is another's is put back before the rest."""
        self.assertEqual(self.dialogue.receive(b"over\nmore"), [HandOver(b"")])
        self.assertEqual(self.dialogue.state, Over(Stage.TLS, b"un\nread\n"))
        self.assertEqual(self.dialogue.rest(), b"un\nread\nmore")

    def test_end_behind_the_bytes(self):
        """The peer's end comes behind what is held, and takes along what is unfinished."""
        self.dialogue.receive(b"hold\na\nb")
        self.assertEqual(self.dialogue.tell(Ended()), [])
        self.assertEqual(self.dialogue.tell(LoggedIn(())), [Send(b"a\n"), Close()])
        self.assertEqual(self.dialogue.rest(), b"")

    def test_end_of_the_mail_server(self):
        """So does the mail server's; what it left unfinished stays to be passed on."""
        self.dialogue.receive_upstream(b"a")
        self.assertEqual(self.dialogue.tell(Upstream(Ended())), [Close()])
        self.assertEqual(self.dialogue.rest_upstream(), b"a")

    def test_silence_about_bytes(self):
        """Nothing that was said is in the repr of an event, an effect or the last state."""
        for kind in (Line, Literal, Send, HandOver, lambda octets: Over(unread=octets)):
            value = kind(b"canary")
            self.assertNotIn("canary", repr(value))

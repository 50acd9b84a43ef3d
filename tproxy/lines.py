"""Bytes become lines and literals, and these move a machine: the driver of every dialogue."""

from __future__ import annotations

from typing import ClassVar

from attrs import field, frozen

from tproxy.model import Reason, Refusal, Stage
from tproxy.session import (
    Effect,
    Ended,
    Event,
    Hold,
    Line,
    LineTooLong,
    Literal,
    Machine,
    ProtocolError,
    ReadLine,
    ReadLiteral,
    Reads,
    Refuse,
    StartTLS,
    State,
    TLSEstablished,
    Upstream,
)

_CHECK_ROUTE = "check that host and port are those of a mail server of this protocol"


@frozen
class Over:
    """The last state of any dialogue: nothing is read, and no event reaches the machine any more.

    `unread` was read, but is not this dialogue's: it is put back before all that was not read.
    """

    stage: Stage = Stage.LOGIN
    unread: bytes = field(default=b"", repr=False)
    reads: ClassVar[Reads] = Hold()
    reads_upstream: ClassVar[Reads] = Hold()


class LineReader:
    """The bytes of one peer that were not read yet, in order.

    No byte is searched twice, so that the work is linear in what came, however the network cut it.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._searched = 0
        self._ended = False
        self._overrun = False

    def __len__(self) -> int:
        return len(self._bytes)

    def feed(self, data: bytes) -> None:
        """Add what came from the peer."""
        self._bytes += data

    def unread(self, data: bytes) -> None:
        """Put back what was taken."""
        self._bytes[:0] = data
        self._searched = 0

    def end(self) -> None:
        """The peer will send nothing more: `take` says so once what came before is read."""
        self._ended = True

    def take(self, reads: Reads) -> Line | Literal | LineTooLong | Ended | None:
        """The next event of this kind; None while it is not whole.

        The end of the stream follows all that can be read; while bytes are held, it is held behind them.
        After `LineTooLong` there is nothing more to take.
        """
        if self._overrun:
            return None
        match reads:
            case ReadLine(limit):
                end = self._bytes.find(b"\n", self._searched, limit) + 1
                if end:
                    return Line(self._cut(end))
                if len(self._bytes) >= limit:
                    self._overrun = True
                    return LineTooLong()
                self._searched = len(self._bytes)
            case ReadLiteral(octets) if len(self._bytes) >= octets:
                return Literal(self._cut(octets))
            case Hold() if self._bytes:
                return None
        if self._ended:
            self._ended = False
            return Ended()
        return None

    def rest(self) -> bytes:
        """All that was not read; nothing is left."""
        return self._cut(len(self._bytes))

    def _cut(self, octets: int) -> bytes:
        taken = bytes(self._bytes[:octets])
        del self._bytes[:octets]
        self._searched = 0
        return taken


class Dialogue:
    """Runs one machine: bytes and events in, effects out; keeps what was not read.

    It decides two things for every protocol: what breaks the protocol is refused, under the stage
    in which it happened; and bytes that came between the consent to TLS and the handshake are such
    a breach (they could have been put there by anybody: CVE-2011-0411).
    """

    def __init__(self, machine: Machine) -> None:
        self.state: State = machine.state
        self._step = machine.step
        self._own = LineReader()
        self._upstream = LineReader()

    @property
    def held(self) -> int:
        """How many bytes of this half's own peer wait to be read."""
        return len(self._own)

    @property
    def held_upstream(self) -> int:
        """For a server half: how many bytes of the mail server wait to be read."""
        return len(self._upstream)

    def receive(self, data: bytes) -> list[Effect]:
        """Bytes came from this half's own peer."""
        self._own.feed(data)
        return self._advance()

    def receive_upstream(self, data: bytes) -> list[Effect]:
        """For a server half: bytes came from the mail server."""
        self._upstream.feed(data)
        return self._advance()

    def tell(self, event: Event) -> list[Effect]:
        """Something else happened.

        `Ended` and `Upstream(Ended())` take their place behind the bytes that came before them. What
        this half's own peer left unfinished (half a command, half a password) goes with its end.
        """
        effects: list[Effect] = []
        match event:
            case Ended():
                self._own.end()
            case Upstream(Ended()):
                self._upstream.end()
            case _:
                effects += self._apply(event)
        return effects + self._advance()

    def rest(self) -> bytes:
        """The bytes of this half's own peer that were not read; nothing is left."""
        return self._own.rest()

    def rest_upstream(self) -> bytes:
        """For a server half: the bytes of the mail server that were not read; nothing is left."""
        return self._upstream.rest()

    def _advance(self) -> list[Effect]:
        effects: list[Effect] = []
        while (event := self._next()) is not None:
            effects += self._apply(event)
        return effects

    def _next(self) -> Event | None:
        if (event := self._upstream.take(self.state.reads_upstream)) is not None:
            return Upstream(event)
        event = self._own.take(self.state.reads)
        if isinstance(event, Ended):
            self._own.rest()
        return event

    def _apply(self, event: Event) -> tuple[Effect, ...]:
        if isinstance(self.state, Over):
            return ()
        try:
            state, effects = self._step(self.state, event)
            if self._own and (isinstance(event, TLSEstablished) or StartTLS() in effects):
                raise ProtocolError("the mail server sent bytes between its consent to TLS and the handshake")
        except ProtocolError as error:
            stage = self.state.stage
            refusal = Refusal(stage, Reason.PROTOCOL_VIOLATION, str(error), _CHECK_ROUTE)
            state, effects = Over(stage), (Refuse(refusal),)
        self.state = state
        if isinstance(state, Over):
            self._own.unread(state.unread)
        return effects

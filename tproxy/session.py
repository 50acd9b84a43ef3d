"""Events and effects of a dialogue: what sans-IO protocol machines are told, and what they ask for.

A half of a session is a pure function `step(state, event) -> (state, effects)`. The client half
speaks with the mail server (upstream), the server half with the application (downstream). Each
state says what is read next, so that a line, or a literal of known length, is one event however
the network cut it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from attrs import field, frozen

from tproxy.model import Credential, GreetingMode, Offered, Refusal, Stage

LINE_LIMIT = 64 * 1024
"""The longest line that an application may send before the relay, in bytes."""

LOGIN_LINE_LIMIT = 8 * 1024
"""The longest line that a mail server may send before the login is done, in bytes."""


class ProtocolError(Exception):
    """The mail server broke the protocol; the words are ours and hold nothing of what it sent."""


# What is read next


@frozen
class ReadLine:
    """The next event is a `Line` of at most `limit` bytes, its end included."""

    limit: int = LINE_LIMIT


@frozen
class ReadLiteral:
    """The next event is a `Literal` of `octets` bytes."""

    octets: int


@frozen
class Hold:
    """Bytes wait where they are: the dialogue is over, or it is another's turn."""


Reads = ReadLine | ReadLiteral | Hold


# Events


@frozen
class Line:
    """One line as it came, with its end: CRLF or a bare LF."""

    raw: bytes = field(repr=False)

    @property
    def text(self) -> bytes:
        """The line without its end."""
        return self.raw.removesuffix(b"\n").removesuffix(b"\r")


@frozen
class Literal:
    """The octets of a literal."""

    octets: bytes = field(repr=False)


@frozen
class LineTooLong:
    """A line grew past the limit that the state had set; the rest of it is not read."""


@frozen
class Upstream:
    """For the server half: the mail server said this while the dialogue was going on."""

    event: Line | Literal | LineTooLong | Ended


@frozen
class TLSEstablished:
    """The handshake that `StartTLS` asked for is done and the certificate is verified."""


@frozen
class Ended:
    """The peer will send nothing more."""


@frozen
class Expired:
    """The time for the dialogue is up."""


@frozen
class Accepted:
    """For a server half in mode `LOGIN`: an application is there, and nothing was done for it yet."""


# Effects; the first two are also events of the other half


@frozen
class LoggedIn:
    """The mail server accepted the login; `capabilities` are those in force now, as the server spelled them."""

    capabilities: tuple[str, ...]


@frozen
class Refuse:
    """There will be no session."""

    refusal: Refusal


@frozen
class CredentialOffered:
    """The application brought what is exchanged for a token: the answer is `LoggedIn` or `Refuse`."""

    offered: Offered


@frozen
class Send:
    """Bytes for this half's own peer."""

    octets: bytes = field(repr=False)


@frozen
class Forward:
    """Bytes for the other half's peer."""

    octets: bytes = field(repr=False)


@frozen
class StartTLS:
    """Begin TLS on the connection to the mail server."""


@frozen
class HandOver:
    """The dialogue is over. `octets`, then all that was not read, belong to the other half's peer."""

    octets: bytes = field(repr=False)


@frozen
class Close:
    """Close both connections once what was sent is delivered."""


@frozen
class Verified:
    """For a probe: the session answers commands."""


Event = Line | Literal | LineTooLong | Upstream | TLSEstablished | Ended | Expired | Accepted | LoggedIn | Refuse
Effect = LoggedIn | Refuse | CredentialOffered | Send | Forward | StartTLS | HandOver | Close | Verified


class State(Protocol):
    """Where a dialogue stands; a frozen value with the data of this stage alone."""

    @property
    def reads(self) -> Reads:
        """What is read from this half's own peer next."""

    @property
    def reads_upstream(self) -> Reads:
        """For a server half: what is read from the mail server next; `Hold` for a client half."""

    @property
    def stage(self) -> Stage:
        """What a failure now is filed under."""


Step = Callable[[State, Event], tuple[State, tuple[Effect, ...]]]


@frozen
class Machine:
    """A dialogue that has not begun: the first state and the function that moves it."""

    state: State
    step: Step


@frozen
class Login:
    """What the client half needs: who logs in where, and its share of randomness.

    `encrypted` says that TLS is up from the first byte; `plaintext_allowed` that credentials may be
    sent without it. `tag` is an unguessable prefix of command tags (ASCII letters and digits),
    `nonce` the client's nonce of a SCRAM exchange (RFC 5802: printable ASCII without a comma).
    """

    credential: Credential
    host: str
    port: int
    encrypted: bool
    plaintext_allowed: bool
    tag: str
    nonce: str


@frozen
class Greeting:
    """What the server half needs: the name it greets with, and how."""

    name: str
    mode: GreetingMode = GreetingMode.PREAUTH

"""SASL mechanisms, without I/O; of the client's side: an opening, then challenge → response (RFC 4422).

An exchange is a frozen value; `respond` is the one machine that moves all of them. Challenges come in
as the base64 text that the server sent, responses go out as bytes that are not encoded yet.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
import re
import stringprep
import unicodedata
from base64 import b64decode, b64encode
from functools import lru_cache

from attrs import field, frozen

from tproxy.model import Bearer, Credential, Offered, Password, Secret

MIN_ITERATIONS = 4_096
MAX_ITERATIONS = 100_000
SALTED_KEYS = 1_024
"""How many salted keys are kept, so that a login costs no key stretching again."""


_LINE_ENDS = re.compile("[\r\n\0\ud800-\udfff]")
_CONTROLS = re.compile("[\0-\x1f\x7f\ud800-\udfff]")
_NOT_VISIBLE = re.compile("[^!-~]")
_XOAUTH2 = re.compile(rb"user=([^\x01]*)\x01auth=(?i:Bearer) ([ -~]+)\x01\x01", re.DOTALL)
_ECHO = 12
"""So many characters of a token in a row, coming back, are a leak."""


class SASLError(Exception):
    """The server broke the mechanism; the words are ours and hold nothing of what it sent."""


class CredentialError(Exception):
    """The credential can't be said in this mechanism; the words name the property, not its value."""


# Exchanges


@frozen
class Answers:
    """Each challenge, whatever it says, gets the next of these: LOGIN, and openings that had to wait."""

    responses: tuple[bytes, ...] = field(repr=False)
    then: Exchange


@frozen
class Spoken:
    """All is said; a challenge now is a breach."""


@frozen
class Presented:
    """A bearer token was sent. A challenge explains why it is refused; `farewell` is what the server waits for then.

    `spoken` is what must not come back in the explanation.
    """

    spoken: Secret
    farewell: bytes


@frozen
class Explained:
    """A bearer token was refused, and why (printable, at most 200 characters)."""

    why: str


@frozen
class Claimed:
    """SCRAM: the first message was sent (RFC 5802, section 5)."""

    bare: str = field(repr=False)
    nonce: str = field(repr=False)
    password: Secret


@frozen
class Proven:
    """SCRAM: the proof was sent; the server owes its own."""

    signature: bytes = field(repr=False)


@frozen
class Denied:
    """SCRAM: the server said that the proof is wrong; all that is left is its tagged NO."""


Exchange = Answers | Spoken | Presented | Explained | Claimed | Proven | Denied


@frozen
class Opening:
    """A mechanism about to be spoken: its initial response, None where the server begins, and what follows."""

    name: str
    initial: bytes | None = field(repr=False)
    then: Exchange

    def held(self) -> Exchange:
        """The exchange where the initial response must wait for the first challenge."""
        return self.then if self.initial is None else Answers((self.initial,), self.then)


# Openings


def examine(credential: Credential) -> None:
    """Passes what can be said to a mail server in one line of whatever mechanism.

    @raise CredentialError: there is a character that would end the line, or the field that it stands in
    """
    match credential:
        case Password(user, password):
            _examine("mail.user", user, _LINE_ENDS)
            _examine("mail.password", password.reveal(), _LINE_ENDS)
        case Bearer(user, token):
            _examine("mail.user", user, _CONTROLS)
            _examine("the access token", token.reveal(), _NOT_VISIBLE)


def plain(credential: Password) -> Opening:
    """PLAIN (RFC 4616): nobody to act for, the user, the password."""
    user, password = credential.user.encode(), credential.password.reveal().encode()
    return Opening("PLAIN", b"\0" + user + b"\0" + password, Spoken())


def login(credential: Password) -> Opening:
    """LOGIN (draft-murchison-sasl-login): the server asks for the user, then for the password."""
    responses = (credential.user.encode(), credential.password.reveal().encode())
    return Opening("LOGIN", None, Answers(responses, Spoken()))


def scram_sha_256(credential: Password, nonce: str) -> Opening:
    """SCRAM-SHA-256 (RFC 7677), without channel binding.

    @raise CredentialError: the user or the password holds what SASLprep does not allow
    """
    try:
        user = saslprep(credential.user)
    except ValueError:
        raise CredentialError("mail.user holds characters that SCRAM does not allow (RFC 4013)") from None
    try:
        password = Secret(saslprep(credential.password.reveal()))
    except ValueError:
        raise CredentialError("mail.password holds characters that SCRAM does not allow (RFC 4013)") from None
    bare = f"n={_escaped(user)},r={nonce}"
    return Opening("SCRAM-SHA-256", f"n,,{bare}".encode(), Claimed(bare, nonce, password))


def xoauth2(credential: Bearer) -> Opening:
    """XOAUTH2, as Google and Microsoft define it."""
    return _presented("XOAUTH2", f"user={credential.user}", credential.token, b"")


def oauthbearer(credential: Bearer, host: str, port: int) -> Opening:
    """OAUTHBEARER (RFC 7628)."""
    head = f"n,a={_escaped(credential.user)},\x01host={host}\x01port={port}"
    return _presented("OAUTHBEARER", head, credential.token, b"\x01")


# The server's side


def offered(response: bytes) -> Offered | None:
    """What an application says in XOAUTH2, read as `xoauth2` writes it; None where it says something else.

    It brings a refresh token or a code (RFC 6749, appendix A: VSCHAR); its user holds no control characters.
    """
    found = _XOAUTH2.fullmatch(response)
    if found is None:
        return None
    try:
        user = found[1].decode()
    except UnicodeDecodeError:
        return None
    return None if _CONTROLS.search(user) else Offered(user, Secret(found[2].decode("ascii")))


# The machine


def respond(exchange: Exchange, challenge: bytes) -> tuple[Exchange, bytes]:
    """What to answer to a challenge (base64 text), and the exchange after it.

    @raise SASLError: the server broke the mechanism
    """
    match exchange:
        case Answers((response, *others), then):
            return (Answers(tuple(others), then) if others else then), response
        case Presented(spoken, farewell):  # RFC 7628, section 3.2.3
            return Explained(_explanation(challenge, spoken)), farewell
        case Claimed():  # RFC 5802, section 3
            return _prove(exchange, _message(challenge))
        case Proven(signature):
            attributes = _attributes(_message(challenge))
            if "e" in attributes:
                return Denied(), b""
            if not hmac.compare_digest(_decoded(attributes.get("v", "").encode()), signature):
                raise SASLError("the mail server could not prove that it knows the password")
            return Spoken(), b""
        case _:
            raise SASLError("the mail server asked for more than the mechanism has to say")


def may_succeed(exchange: Exchange) -> bool:
    """Whether the server may call the login done now: all was said, and the server has proven what it has to."""
    return isinstance(exchange, Spoken | Presented)


def encoded(response: bytes) -> bytes:
    """A response as it goes over the wire: base64 on one line."""
    return b64encode(response)


def encoded_initial(response: bytes) -> bytes:
    """An initial response on the command's line; an empty one is `=` (RFC 4959, section 3)."""
    return b64encode(response) or b"="


def saslprep(text: str) -> str:
    """A user or a password prepared for comparison (RFC 4013), as a query (RFC 3454, section 7).

    @raise ValueError: it holds a character that is prohibited; the words don't show it
    """
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in text if not stringprep.in_table_b1(char)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(prohibited(char) for char in prepared for prohibited in _PROHIBITED):
        raise ValueError("a prohibited character")
    if any(map(stringprep.in_table_d1, prepared)):
        ends = stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1])
        if any(map(stringprep.in_table_d2, prepared)) or not ends:
            raise ValueError("a mix of writing directions")
    return prepared


_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)

_ATTRIBUTES = re.compile(r"[A-Za-z]=[^,\0]*(?:,[A-Za-z]=[^,\0]*)*")


def _escaped(user: str) -> str:
    return user.replace("=", "=3D").replace(",", "=2C")


def _decoded(challenge: bytes) -> bytes:
    try:
        return b64decode(challenge, validate=True)
    except binascii.Error:
        raise SASLError("the mail server sent a challenge that is not base64") from None


def _message(challenge: bytes) -> str:
    text = _decoded(challenge).decode("utf-8", "replace")
    if not _ATTRIBUTES.fullmatch(text):
        raise SASLError("the mail server sent a challenge that is not SCRAM")
    return text


def _attributes(message: str) -> dict[str, str]:
    return {part[0]: part[2:] for part in message.split(",")}


def _prove(claimed: Claimed, first: str) -> tuple[Exchange, bytes]:
    """The proof of a SCRAM client, and what the server has to prove in turn (RFC 5802, section 3)."""
    attributes = _attributes(first)
    if "m" in attributes:
        raise SASLError("the mail server asks for an extension of SCRAM")
    nonce, count = attributes.get("r", ""), attributes.get("i", "")
    if not nonce.startswith(claimed.nonce) or nonce == claimed.nonce:
        raise SASLError("the mail server did not answer this SCRAM exchange but another")
    if not re.fullmatch("[1-9][0-9]{0,9}", count) or not MIN_ITERATIONS <= int(count) <= MAX_ITERATIONS:
        raise SASLError(
            f"the mail server asks for a number of SCRAM iterations outside {MIN_ITERATIONS} to {MAX_ITERATIONS}"
        )
    salt = _decoded(attributes.get("s", "").encode())
    if not salt:
        raise SASLError("the mail server sent no salt for SCRAM")
    final = f"c=biws,r={nonce}"
    message = f"{claimed.bare},{first},{final}".encode()
    salted = _salted(claimed.password, salt, int(count))
    client = _mac(salted, b"Client Key")
    proof = bytes(a ^ b for a, b in zip(client, _mac(hashlib.sha256(client).digest(), message), strict=True))
    signature = _mac(_mac(salted, b"Server Key"), message)
    return Proven(signature), f"{final},p={b64encode(proof).decode()}".encode()


@lru_cache(maxsize=SALTED_KEYS)
def _salted(password: Secret, salt: bytes, count: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password.reveal().encode(), salt, count)


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _presented(name: str, head: str, token: Secret, farewell: bytes) -> Opening:
    initial = f"{head}\x01auth=Bearer {token.reveal()}\x01\x01".encode()
    spoken = Secret(f"{token.reveal()} {b64encode(initial).decode()}")
    return Opening(name, initial, Presented(spoken, farewell))


def _explanation(challenge: bytes, spoken: Secret) -> str:
    """The `status`, `schemes` and `scope` of an OAuth error, safe to print; empty where there are none."""
    try:
        fields = json.loads(_decoded(challenge))
        named = (name for name in ("status", "schemes", "scope") if name in fields)
        said = ", ".join(f"{name} {fields[name]!a}" for name in named)[:200]
    except (SASLError, ValueError, TypeError, RecursionError):
        return ""
    return "" if _echoes(said, spoken.reveal()) else said


def _echoes(said: str, spoken: str) -> bool:
    """Whether a piece of what we said comes back: a server may be careless, or hostile to our logs."""
    return any(said[at : at + _ECHO] in spoken for at in range(len(said) - _ECHO + 1))


def _examine(name: str, value: str, refused: re.Pattern[str]) -> None:
    if refused.search(value):
        raise CredentialError(f"{name} holds characters that can't be sent to a mail server")

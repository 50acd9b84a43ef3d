"""What came back from an endpoint, or did not, in a form that can be judged, kept and shown."""

from __future__ import annotations

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable
from html import escape, unescape
from math import isfinite
from typing import NoReturn
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from tproxy.model import Secret
from tproxy.net.http import Answer, TooLargeError, TooSlowError

DEFAULT_LIFE = 300.0
"""How long a token is taken to live where the endpoint does not say, in seconds."""

LONGEST_LIFE = 24 * 3600.0
"""What a longer life is cut to, in seconds."""

QUOTE_LIMIT = 200
"""How much of the endpoint's own words is passed on, in characters."""


_JSON = re.compile("application/json")


def fields(answer: Answer, media: re.Pattern[str] = _JSON) -> dict[str, object] | None:
    """The JSON object (RFC 8259, in UTF-8) that an answer is, if it says so and is one.

    @param media: the media types by which it says so
    """
    if not media.fullmatch(answer.header("content-type").partition(";")[0].strip().lower()):
        return None
    try:
        found = json.loads(answer.body.decode("utf-8-sig"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _no_constant(name: str) -> NoReturn:
    raise ValueError("no number of JSON")


def life(expires_in: object) -> float:
    """How long a token lives, in seconds: endpoints send a number, or the number as a string, or nothing."""
    if expires_in is None or isinstance(expires_in, bool) or not isinstance(expires_in, int | float | str):
        return DEFAULT_LIFE
    try:
        seconds = float(expires_in)
    except (ValueError, OverflowError):
        return DEFAULT_LIFE
    return min(seconds, LONGEST_LIFE) if isfinite(seconds) else DEFAULT_LIFE


def fault(error: Exception, what: str) -> str:
    """In our words what went wrong below HTTP.

    @param what: what the answer would have been
    """
    reasons = [failure.value for failure in getattr(error, "reasons", ())]
    for cause in [error, *reasons]:
        match cause:
            case TooLargeError():
                return f"sends more than a {what}'s worth"
            case TooSlowError():
                return "is too slow"
    return f"broke off or broke HTTP ({type((reasons or [error])[0]).__name__})"


def shown(text: str, secrets: Iterable[Secret], pairs: Iterable[tuple[str, Secret]] = ()) -> str:
    """Foreign text made fit for a log: secrets as `***`, controls escaped, cut to `QUOTE_LIMIT`.

    Where a secret comes back in a spelling that cannot be cut out, nothing of the text is shown.

    @param pairs: users with passwords that are among the secrets, as HTTP Basic authentication joins them
    """
    plain = {secret.reveal() for secret in secrets} - {""}
    longest_first = sorted(plain | _encoded(plain, pairs), key=len, reverse=True)
    if longest_first:
        text = re.sub("|".join(map(re.escape, longest_first)), "***", text, flags=re.IGNORECASE)
    readings = (unquote(text), unquote_plus(text), unescape(text), text.replace("\\", ""))
    if any(secret in reading for reading in readings for secret in plain):
        return "(its words repeat a secret)"
    return printable(text)


def _encoded(plain: set[str], pairs: Iterable[tuple[str, Secret]]) -> set[str]:
    """Secrets as some layer on the way may have encoded them."""
    joined = {f"{user}:{password.reveal()}" for user, password in pairs}
    encoded = {each for text in plain for each in (quote(text, safe=""), quote_plus(text), escape(text))}
    for octets in (text.encode() for text in plain | joined):
        encoded |= {each.decode().rstrip("=") for each in (b64encode(octets), urlsafe_b64encode(octets))}
        encoded.add(octets.hex())
    return encoded


def printable(text: str) -> str:
    """The text with controls escaped, cut to `QUOTE_LIMIT`."""
    cut = text[: QUOTE_LIMIT + 1]
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return escaped if len(escaped) <= QUOTE_LIMIT else escaped[: QUOTE_LIMIT - 1] + "…"

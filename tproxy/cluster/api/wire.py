"""What the API server says, read: answers, pages of a list, lines of a watch. Everything odd is an `APIError`."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from attrs import frozen

from tproxy.cluster.api.objects import APIError, Change, Gone, Kind, Mark, Object, Put, Why
from tproxy.model import Secret
from tproxy.net.http import Answer

QUOTE_LIMIT = 200
"""How much of the server's own words is passed on, in characters."""

LINE_LIMIT = 8 * 1024 * 1024
"""The longest line of a watch, in bytes: one object, of which etcd takes 1.5 MiB in its own encoding."""

SHARED_LENGTH, SHARED_LIMIT = 64, 16_384
"""The longest strings that objects share, in characters, and how many of them are known."""

LONGEST_RETRY_AFTER = 300.0
"""The longest pause that the server gets by asking for it, in seconds."""

_BY_STATUS = {
    400: Why.BAD_REQUEST,
    401: Why.UNAUTHORIZED,
    403: Why.FORBIDDEN,
    404: Why.NOT_FOUND,
    405: Why.METHOD_NOT_ALLOWED,
    409: Why.CONFLICT,
    410: Why.EXPIRED,
    413: Why.REQUEST_TOO_LARGE,
    415: Why.UNSUPPORTED_MEDIA_TYPE,
    422: Why.INVALID,
    429: Why.TOO_MANY_REQUESTS,
    500: Why.INTERNAL_ERROR,
    503: Why.SERVICE_UNAVAILABLE,
    504: Why.TIMEOUT,
}
_SPOKEN = frozenset(_BY_STATUS.values()) | {Why.ALREADY_EXISTS, Why.SERVER_TIMEOUT}


class Lines:
    """A stream cut into lines, wherever the network cut it; work and memory are linear in what came.

    @param limit: the longest line, in bytes
    """

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, without their ends. Raises APIError for one that is too long."""
        lines = []
        *complete, rest = data.split(b"\n")
        for piece in complete:
            self._keep(piece)
            lines.append(b"".join(self._pieces))
            self._pieces, self._size = [], 0
        self._keep(rest)
        return lines

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limit:
            raise APIError(200, Why.TOO_LARGE, f"one event of the watch is longer than {self._limit} bytes")
        if piece:
            self._pieces.append(piece)


@frozen
class Page:
    """A part of a list; `token` asks for the next one and is empty in the last."""

    objects: tuple[Object, ...]
    version: str
    token: str


def read_object(body: bytes, kind: Kind) -> Object:
    """The object that an answer is."""
    return _object(_json(body), kind)


def read_page(body: bytes, kind: Kind) -> Page:
    """A page of a list of `kind`: nothing is taken for an empty list but an empty list."""
    match _json(body):
        case {"kind": name, "metadata": {"resourceVersion": str(version)} as metadata, "items": list() | None as items}:
            token = metadata.get("continue") or ""
            if name == f"{kind.name}List" and version and isinstance(token, str):
                return Page(tuple(_object(item, kind) for item in items or ()), version, token)
    _broken(f"the answer is no list of {kind.plural}")


def read_change(line: bytes, kind: Kind, *secrets: Secret) -> Change:
    """What a line of a watch tells; an ERROR in it is raised."""
    match _json(line):
        case {"type": "ADDED" | "MODIFIED", "object": thing}:
            return Put(_object(thing, kind))
        case {"type": "DELETED", "object": thing}:
            return Gone(_object(thing, kind))
        case {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}} if version:
            return Mark(version)
        case {"type": "ERROR", "object": {"kind": "Status"} as status}:
            code = status.get("code")
            raise _refused(code if isinstance(code, int) else 500, status, 0.0, secrets)
    _broken(f"the watch of {kind.plural} tells something else than a change")


def read_refusal(answer: Answer, *secrets: Secret) -> APIError:
    """Why a request failed, from an answer that is no success."""
    pause = _seconds(answer.header("retry-after"))
    try:
        status = _json(answer.body)
    except APIError:
        status = {}
        if answer.header("content-type").startswith("text/plain"):
            status = {"message": answer.body[: 4 * QUOTE_LIMIT].decode("utf-8", "replace").strip()}
    return _refused(answer.status, status if isinstance(status, dict) else {}, pause, secrets)


def shown(text: str, *secrets: Secret) -> str:
    """The server's words made fit for a log: secrets as `***`, controls escaped, cut to `QUOTE_LIMIT`."""
    for secret in secrets:
        text = text.replace(secret.reveal(), "***")
    cut = text[: QUOTE_LIMIT + 1]
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return escaped if len(escaped) <= QUOTE_LIMIT else escaped[: QUOTE_LIMIT - 1] + "…"


def _refused(code: int, status: dict[str, Any], pause: float, secrets: tuple[Secret, ...]) -> APIError:
    said, words, details = (status.get(name) for name in ("reason", "message", "details"))
    reason = _BY_STATUS.get(code, Why.UNKNOWN)
    if code != 410 and isinstance(said, str) and said in _SPOKEN:
        reason = Why(said)
    if not pause and isinstance(details, dict) and isinstance(details.get("retryAfterSeconds"), int):
        pause = float(details["retryAfterSeconds"])
    message = shown(words, *secrets) if isinstance(words, str) and words else f"the API server answers HTTP {code}"
    return APIError(code, reason, message, min(max(pause, 0.0), LONGEST_RETRY_AFTER))


def _seconds(value: str) -> float:
    value = value.strip()
    return float(value[:10]) if value.isascii() and value.isdigit() else 0.0


def _object(thing: Any, kind: Kind) -> Object:
    """An object as it is kept: with its kind, which lists leave out, and without what only server-side apply needs."""
    match thing:
        case {"metadata": {"name": str(), "uid": str(), "resourceVersion": str()} as metadata} if isinstance(
            metadata.get("namespace", ""), str
        ):
            metadata = {name: value for name, value in metadata.items() if name != "managedFields"}
            return {**thing, "apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata}
    _broken(f"the answer holds something that is no object of {kind.plural}")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body, object_pairs_hook=_shared)
    except (ValueError, RecursionError):
        _broken("the answer is no JSON")


_strings: dict[str, str] = {}


def _shared(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose strings are those of the others: thousands of objects have the same, half of their size."""
    return {_one(name): _one(value) if type(value) is str else value for name, value in pairs}


def _one(text: str) -> str:
    """The one string that stands for all that are equal; what `sys.intern` knows stays for ever in Python 3.12."""
    if len(text) > SHARED_LENGTH:
        return text
    if len(_strings) >= SHARED_LIMIT:
        _strings.clear()
    return _strings.setdefault(text, text)


def _broken(message: str) -> NoReturn:
    raise APIError(200, Why.BROKEN, message)

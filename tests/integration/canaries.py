"""Secrets that are easy to recognise, and the search for them in whatever a proxy wrote."""

from __future__ import annotations

import json
from base64 import b64encode
from functools import cache
from urllib.parse import quote, quote_plus

_issued: dict[str, str] = {}


def secret(name: str) -> str:
    """A secret of the test suite: the same for the same name, long enough never to occur by chance."""
    return also(f"Canary.{name}.9f+7/Q=zk")


def also(value: str) -> str:
    """Make `value` (a token of a stand-in, a password with odd characters) one of the secrets looked for."""
    _issued[value] = value
    return value


def _base64_cores(octets: bytes) -> set[bytes]:
    """What base64 of any text that contains `octets` must contain, for each of the three alignments."""
    cores = set()
    for before in range(3):
        encoded = b64encode(b"\0" * before + octets)
        first = -(-before * 4 // 3)
        last = (before + len(octets)) * 4 // 3
        cores.add(encoded[first:last])
    return cores


@cache
def spellings(value: str) -> set[bytes]:
    """How a secret may look in a log: as it is, escaped, URL-encoded, in hexadecimal, in base64, in UTF-16."""
    octets = value.encode()
    escaped = {
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
        repr(octets)[2:-1],
        quote(value, safe=""),
        quote(value),
        quote_plus(value),
        octets.hex(),
        octets.hex(" "),
        octets.hex().upper(),
        value[::-1],
    }
    wide = {value.encode("utf-16-le"), value.encode("utf-16-be")}
    once = set().union(*map(_base64_cores, {octets, *wide}))
    twice = set().union(*map(_base64_cores, _base64_cores(octets)))
    urlsafe = {core.replace(b"+", b"-").replace(b"/", b"_") for core in once}
    return {octets} | {text.encode() for text in escaped} | wide | once | twice | urlsafe


def found(output: bytes) -> list[str]:
    """The secrets that occur in `output`, in any spelling; a further layer of JSON escapes is seen through."""
    texts = (output, output.replace(b"\\\\", b"\\"), output.replace(b"\\/", b"/"), output.replace(b'\\"', b'"'))
    return [value for value in _issued if any(spelling in text for spelling in spellings(value) for text in texts)]

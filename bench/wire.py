"""What the load generator and its mail server say to each other: an IMAP just large enough to measure with."""

from __future__ import annotations

from functools import cache

MIB = 1024 * 1024
LITERAL = 10 * MIB
"""The size of what is downloaded and uploaded, in bytes."""

PASSWORD = "an open secret"

GREETING = b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN LITERAL+ IDLE] bench ready\r\n"
LOGGED_IN = b" OK [CAPABILITY IMAP4rev1 LITERAL+ IDLE] logged in\r\n"
CAPABILITY = b"* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN LITERAL+ IDLE\r\n"

SELECT = b"s SELECT INBOX\r\n"
SELECTED = b"s OK done\r\n"
NOOP = b"n NOOP\r\n"
NOOP_ANSWER = b"n OK done\r\n"
LOGOUT = b"o LOGOUT\r\n"
DOWNLOAD = b"d FETCH 1 BODY[]\r\n"
FETCH_SMALL = b"d FETCH 2 BODY[]\r\n"
UPLOAD = b"u APPEND INBOX {%d}\r\n" % LITERAL
UPLOADED = b"u OK done\r\n"


def login(user: str) -> bytes:
    """The command that logs a client in by itself."""
    return f'l LOGIN {user} "{PASSWORD}"\r\n'.encode()


def fetched(number: int, octets: int) -> bytes:
    """The answer to a fetch of a message of so many octets, for the tag of `DOWNLOAD` and `FETCH_SMALL`."""
    return b"* %d FETCH (BODY[] {%d}\r\n%s)\r\nd OK done\r\n" % (number, octets, message(octets))


@cache
def message(octets: int) -> bytes:
    """A message of so many octets."""
    line = b"All work and no play makes a dull message; it is as long as this, then it begins anew, on and on.\r\n"
    return (line * (octets // len(line) + 1))[:octets]

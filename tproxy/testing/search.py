"""SEARCH (RFC 3501, section 6.4.4): a query becomes a test of one message."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

from twisted.mail.imap4 import IllegalQueryError, parseIdList

from tproxy.testing.messages import Entity


class Candidate(Protocol):
    """What a query is asked about."""

    uid: int
    flags: set[str]
    date: datetime
    content: Entity


Query = Sequence["bytes | Query"]
Test = Callable[[int, Candidate], bool]

_FLAGS = {"ANSWERED", "DELETED", "DRAFT", "FLAGGED", "RECENT", "SEEN"}


def compile(query: Query, last: int, last_uid: int) -> Test:
    """A test of sequence number and message; raises IllegalQueryError.

    `last` and `last_uid` are what `*` stands for.
    """

    def every(words: Iterator[bytes | Query]) -> Test:
        tests = [key(word, words) for word in words]
        return lambda number, message: all(test(number, message) for test in tests)

    def key(word: bytes | Query, words: Iterator[bytes | Query]) -> Test:
        def text() -> str:
            return _text(next(words)).lower()

        def day() -> date:
            return datetime.strptime(_text(next(words)), "%d-%b-%Y").date()

        if not isinstance(word, bytes):
            return every(iter(word))
        name = _text(word).upper()
        match name:
            case "ALL":
                return lambda number, message: True
            case "NOT":
                inner = key(next(words), words)
                return lambda number, message: not inner(number, message)
            case "OR":
                one, other = key(next(words), words), key(next(words), words)
                return lambda number, message: one(number, message) or other(number, message)
            case "UID":
                uids = _numbers(next(words), last_uid)
                return lambda number, message: message.uid in uids
            case "NEW":
                return lambda number, message: "\\Recent" in message.flags and "\\Seen" not in message.flags
            case "KEYWORD" | "UNKEYWORD":
                keyword = _text(next(words))
                return lambda number, message: (keyword in message.flags) is (name == "KEYWORD")
            case "SUBJECT" | "FROM" | "TO" | "CC" | "BCC":
                wanted = text()
                return lambda number, message: wanted in message.content.words(name).lower()
            case "HEADER":
                field, wanted = text(), text()
                return lambda number, message: (
                    field in message.content.fields and wanted in message.content.words(field).lower()
                )
            case "BODY":
                wanted = text()
                return lambda number, message: wanted in message.content.text().lower()
            case "TEXT":
                wanted = text()
                return lambda number, message: any(
                    wanted in found.lower()
                    for found in (*map(message.content.words, message.content.fields), message.content.text())
                )
            case "LARGER":
                size = int(text())
                return lambda number, message: len(message.content.raw) > size
            case "SMALLER":
                size = int(text())
                return lambda number, message: len(message.content.raw) < size
            case "BEFORE" | "ON" | "SINCE":
                compared = _COMPARISONS[name](day())
                return lambda number, message: compared(message.date.date())
            case "SENTBEFORE" | "SENTON" | "SENTSINCE":
                compared = _COMPARISONS[name.removeprefix("SENT")](day())
                return lambda number, message: compared(parsedate_to_datetime(message.content.words("date")).date())
            case _ if name in _FLAGS:
                flag = "\\" + name.capitalize()
                return lambda number, message: flag in message.flags
            case _ if name.removeprefix("UN") in _FLAGS or name == "OLD":
                flag = "\\" + name.replace("OLD", "UNRECENT").removeprefix("UN").capitalize()
                return lambda number, message: flag not in message.flags
            case _ if name[:1].isdigit() or name[:1] == "*":
                numbers = _numbers(word, last)
                return lambda number, message: number in numbers
        raise IllegalQueryError("no such search key")

    try:
        return every(iter(query))
    except (StopIteration, RuntimeError, ValueError):
        raise IllegalQueryError("an argument is missing or wrong") from None


_COMPARISONS: dict[str, Callable[[date], Callable[[date], bool]]] = {
    "BEFORE": lambda day: lambda other: other < day,
    "ON": lambda day: lambda other: other == day,
    "SINCE": lambda day: lambda other: other >= day,
}


def _text(word: bytes | Query) -> str:
    if not isinstance(word, bytes):
        raise IllegalQueryError("a word was expected")
    return word.decode("utf-8", "replace")


def _numbers(word: bytes | Query, last: int) -> frozenset[int] | Sequence[int]:
    found: Sequence[int] = parseIdList(_text(word).encode(), last)
    return found

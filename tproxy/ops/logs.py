"""Log lines: what an event may say, and how it is written.

An event is a sentence with named fields. Only the fields in `FIELDS` are ever written, whoever logged
them: a library's event keeps its words and loses its values, a Failure keeps its type and its place and
loses its message. So neither a secret nor a byte of a dialogue can reach a log by way of a careless line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import PurePath
from string import Formatter
from typing import TextIO

from attrs import field, frozen
from twisted.logger import ILogObserver, LogEvent, LogLevel
from twisted.python.failure import Failure
from zope.interface import implementer

from tproxy.model import ListenerKey, RefusedError, Secret
from tproxy.ops.level import Level

FIELDS = (
    "event",
    "listener",
    "destination",
    "tenant",
    "connection",
    "stage",
    "reason",
    "message",
    "remedy",
    "address",
    "port",
    "seconds",
    "received",
    "sent",
    "file",
    "line",
    "key",
)
"""What a log line may say, in this order."""

LEVELS = tuple(str(level.name) for level in LogLevel.iterconstants())
"""From the quietest to the loudest; `config.logging.level` is one of them."""

_LOUDNESS = {level: number for number, level in enumerate(LEVELS)}

ALWAYS = frozenset({"log.level"})
"""The events that are written whatever the level is."""

LONGEST = 1000
"""A value is cut after so many characters."""

WITHHELD = "…"

Value = str | int | float


def escaped(text: str) -> str:
    """The text on one line: what a terminal would act upon, or not show, is spelled out."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def plain(text: str) -> str:
    """The text on one line, cut where it is too long for one."""
    return escaped(text if len(text) <= LONGEST else text[:LONGEST] + WITHHELD)


def value_of(value: object) -> Value | None:
    """What may be written of a field's value, or None: of most types nothing is known, so nothing is said."""
    match value:
        case str() | PurePath() | ListenerKey() | Secret():
            return plain(str(value))
        case bool() | int():
            return value
        case float():
            return round(value, 3)
        case type():
            return value.__name__
        case _:
            return None


def fields_of(event: LogEvent) -> dict[str, Value]:
    """The fields that a log line may say."""
    said = {name: value_of(event[name]) for name in FIELDS if name in event}
    return {name: value for name, value in said.items() if value is not None and value != ""}


def words_of(event: LogEvent, said: Mapping[str, Value]) -> str:
    """The event's sentence, with no values but those in `said`, which are of `fields_of`.

    Text that a library had made before it logged is not repeated: nobody knows what it holds.
    """
    form = event.get("log_format")
    pieces = pieces_of(form) if isinstance(form, str) else None
    if pieces is None:
        return WITHHELD
    words = [text if name is None else f"{text}{said.get(name, WITHHELD)}" for text, name in pieces]
    return escaped("".join(words).strip())


@lru_cache(maxsize=256)
def pieces_of(form: str) -> tuple[tuple[str, str | None], ...] | None:
    """A format in pieces, each a text and the name of the field after it, if there is one; None if it is no format."""
    try:
        return tuple((text, name) for text, name, _, _ in Formatter().parse(form))
    except ValueError:
        return None


def failure_of(event: LogEvent) -> dict[str, Value]:
    """Of a Failure: its type and place; of a refusal, its own words, too."""
    failure = event.get("log_failure")
    if not isinstance(failure, Failure):
        return {}
    said: dict[str, Value] = {}
    if isinstance(failure.value, RefusedError):
        refusal = failure.value.refusal
        said = fields_of(
            {
                "stage": refusal.stage,
                "reason": refusal.reason,
                "message": refusal.message,
                "remedy": refusal.remedy,
            }
        )
    said["failure"] = failure.type.__name__ if failure.type is not None else WITHHELD
    place = place_of(failure)
    return {**said, "at": place} if place else said


def place_of(failure: Failure) -> str:
    """Where it happened: the innermost frame that is ours, else the innermost one."""
    places = [(PurePath(frame[1]), int(frame[2]), str(frame[0])) for frame in failure.frames]
    ours = [place for place in places if "tproxy" in place[0].parts[-4:-1]]
    for file, line, function in (ours or places)[-1:]:
        return escaped(f"{'/'.join(file.parts[-3:])}:{line} {function}")
    return ""


def library_of(event: LogEvent) -> str:
    """The name of the library that logged it; empty for tproxy itself."""
    namespace = str(event.get("log_namespace", ""))
    return "" if namespace.partition(".")[0] == "tproxy" else escaped(namespace) or WITHHELD


def level_of(event: LogEvent) -> str:
    """How loud the event is: one of `LEVELS`."""
    return str(event.get("log_level", LogLevel.info).name)


def content_of(event: LogEvent, said: Mapping[str, Value]) -> dict[str, Value]:
    """All that is said beside time, level and sentence; `said` is of `fields_of`."""
    library = library_of(event)
    return {**failure_of(event), **said, **({"library": library} if library else {})}


def as_json(event: LogEvent) -> str:
    """One JSON object on one line, in ASCII."""
    moment = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
    said = fields_of(event)
    content = {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level_of(event),
        "text": words_of(event, said),
    }
    return json.dumps({**content, **content_of(event, said)})


def as_text(event: LogEvent) -> str:
    """One line for a reader at a terminal: the time, the sentence, and the fields that it does not say."""
    moment = datetime.fromtimestamp(event.get("log_time", 0.0)).astimezone()
    said = fields_of(event)
    words = words_of(event, said)
    spoken = {"event"} if words == WITHHELD else {"event", *named_in(event["log_format"])}
    pairs = [
        f"{name}={json.dumps(value, ensure_ascii=False) if ' ' in str(value) else value}"
        for name, value in content_of(event, said).items()
        if name not in spoken
    ]
    return "  ".join(filter(None, (f"{moment:%H:%M:%S} {level_of(event):<5} {words}", " ".join(pairs))))


def named_in(form: str) -> set[str]:
    """The names of the fields in a format."""
    return {name for _, name in pieces_of(form) or () if name}


@implementer(ILogObserver)
@frozen
class LineObserver:
    """Writes events from `level` on to `stream`, a line each: JSON, or text where `text` is true.

    What libraries say of their own accord is written from warnings on, or at level debug. That the level was changed
    is written always.
    """

    stream: TextIO = field(repr=False)
    level: Level = field(factory=lambda: Level("info"))
    text: bool = False

    def __call__(self, event: LogEvent) -> None:
        least = _LOUDNESS[self.level.now]
        if least and library_of(event):
            least = max(least, _LOUDNESS["warn"])
        if _LOUDNESS[level_of(event)] < least and event.get("event") not in ALWAYS:
            return
        line = as_text(event) if self.text else as_json(event)
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        self.stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        self.stream.flush()

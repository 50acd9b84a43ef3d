"""Writes Events, which `kubectl describe` shows: few of them, and never at the cost of anything else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from secrets import token_hex
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from tproxy.cluster.api.client import Client
from tproxy.cluster.api.objects import APIError, Kind, Object, key, uid, version

EVENTS = Kind("events.k8s.io", "v1", "Event", "events")

NOTE_LIMIT = 1024
"""The longest note that the API server takes, in bytes."""

WORD_LIMIT = 128
"""The longest reason, action and name of a reporter, in characters."""

NAME_LIMIT = 253

PERIOD = 60.0
"""How long a count of Events lasts, in seconds."""

OBJECT_LIMIT, LIMIT = 10, 200
"""How many Events are written in one period: about one object, and in all."""

log = Logger()


class Severity(StrEnum):
    """The two types of Events."""

    NORMAL = "Normal"
    WARNING = "Warning"


@frozen
class Note:
    """What happened: `reason` in CamelCase, `action` as what was done about it, `text` for people."""

    reason: str
    action: str
    text: str
    severity: Severity = Severity.NORMAL


def event(regarding: Object, note: Note, controller: str, instance: str, now: float, suffix: str) -> dict[str, Any]:
    """An `events.k8s.io/v1` Event, made to be accepted.

    The API server refuses a `generateName` that ends with a dot, so the name is made here.

    @param regarding: the object that it is about, as it was read
    @param now: wall-clock time in seconds since the epoch
    @param suffix: what makes the name unique
    """
    namespace, name = key(regarding)
    stem = name[: NAME_LIMIT - len(suffix) - 1].rstrip(".-")
    return {
        "metadata": {"namespace": namespace or "default", "name": f"{stem}.{suffix}"},
        "eventTime": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": controller[:WORD_LIMIT],
        "reportingInstance": instance[:WORD_LIMIT],
        "type": str(note.severity),
        "reason": note.reason[:WORD_LIMIT],
        "action": note.action[:WORD_LIMIT],
        "note": _cut(note.text),
        "regarding": {
            "apiVersion": regarding["apiVersion"],
            "kind": regarding["kind"],
            "namespace": namespace,
            "name": name,
            "uid": uid(regarding),
            "resourceVersion": version(regarding),
        },
    }


class Recorder:
    """Writes Events in the name of a controller.

    @param instance: which of its processes this is, such as a pod's name
    @param now: wall-clock time in seconds since the epoch
    @param suffix: makes names unique
    """

    def __init__(
        self,
        client: Client,
        controller: str,
        instance: str,
        clock: IReactorTime,
        now: Callable[[], float],
        suffix: Callable[[], str] = lambda: token_hex(8),
    ) -> None:
        self._client, self._controller, self._instance = client, controller, instance
        self._clock, self._now, self._suffix = clock, now, suffix
        self._written: Counter[str] = Counter()
        self._since = clock.seconds()

    def record(self, regarding: Object, note: Note) -> Deferred[bool]:
        """Write one Event; says whether it was. It never fails: an Event that cannot be written is in the log."""
        return Deferred.fromCoroutine(self._record(regarding, note))

    async def _record(self, regarding: Object, note: Note) -> bool:
        if not self._room(uid(regarding)):
            return False
        made = event(regarding, note, self._controller, self._instance, self._now(), self._suffix())
        try:
            await self._client.create(EVENTS, made)
        except APIError as error:
            log.warn(
                "an Event about {key} could not be written: {message}",
                event="kubernetes.unrecorded",
                key="/".join(key(regarding)),
                reason=str(error.reason),
                message=error.message,
            )
            return False
        return True

    def _room(self, about: str) -> bool:
        if self._clock.seconds() >= self._since + PERIOD:
            self._written.clear()
            self._since = self._clock.seconds()
        if self._written[about] >= OBJECT_LIMIT or self._written.total() >= LIMIT:
            return False
        self._written[about] += 1
        return True


def _cut(text: str) -> str:
    """The text, or as much of it as is taken."""
    octets = text.encode("utf-8", "replace")
    if len(octets) <= NOTE_LIMIT:
        return octets.decode()
    return octets[: NOTE_LIMIT - 3].decode("utf-8", "ignore") + "…"

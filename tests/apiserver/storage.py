"""What an API server does to objects: versions, preconditions, merge patches, pages, and a history to watch."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from attrs import field, frozen

from tproxy.cluster.api.objects import Key, Kind

Thing = dict[str, Any]

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
HISTORY = 1000
MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"
OLD_TOKEN = "The provided continue parameter is too old to display a consistent list result."


class Status(Exception):
    """A request that is refused."""

    def __init__(self, code: int, reason: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.retry_after = code, reason, message, retry_after

    def object(self) -> Thing:
        details = {} if self.retry_after is None else {"details": {"retryAfterSeconds": self.retry_after}}
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
            **details,
        }


def _anything(thing: Thing) -> str:
    return ""


@frozen
class Served:
    """A kind that is served, and what is special about it.

    `status`: it has that subresource; `generation`: its generation counts changes of the spec;
    `custom`: it is made by a CRD; `check` says what is wrong with an object.
    """

    kind: Kind
    status: bool = False
    generation: bool = False
    custom: bool = False
    names: re.Pattern[str] = SUBDOMAIN
    longest: int = 253
    check: Callable[[Thing], str] = _anything

    @property
    def resource(self) -> str:
        return f"{self.kind.plural}.{self.kind.group}" if self.kind.group else self.kind.plural


@frozen
class Happened:
    """A change: `before` and `after` are None where there was or is nothing."""

    version: int
    served: Served
    before: Thing | None
    after: Thing | None
    gone: Thing | None = None


@frozen
class Selection:
    """Which objects of a kind are meant."""

    namespace: str = ""
    labels: tuple[tuple[str, str, frozenset[str]], ...] = ()
    fields: tuple[tuple[str, bool, str], ...] = ()
    text: tuple[str, str] = field(default=("", ""))

    @classmethod
    def read(cls, namespace: str, labels: str, fields: str) -> Selection:
        """Equality, `in`, `notin`, presence and absence of labels; equality of a name or namespace."""
        return cls(namespace, tuple(_labels(labels)), tuple(_fields(fields)), (labels, fields))

    def means(self, thing: Thing | None) -> bool:
        if thing is None:
            return False
        metadata = thing["metadata"]
        given = metadata.get("labels", {})
        return (
            (not self.namespace or metadata.get("namespace") == self.namespace)
            and all(_holds(given.get(name), operator, values) for name, operator, values in self.labels)
            and all((metadata.get(name, "") == value) is equal for name, equal, value in self.fields)
        )


def _holds(value: str | None, operator: str, values: frozenset[str]) -> bool:
    match operator:
        case "exists":
            return value is not None
        case "absent":
            return value is None
        case "in":
            return value in values
        case _:
            return value not in values


def _labels(text: str) -> Iterator[tuple[str, str, frozenset[str]]]:
    for part in filter(None, re.split(r",(?![^(]*\))", text)):
        if found := re.fullmatch(r"\s*([-\w./]+)\s+(in|notin)\s+\(([^)]*)\)\s*", part):
            yield found[1], found[2], frozenset(value.strip() for value in found[3].split(","))
        elif found := re.fullmatch(r"\s*([-\w./]+)\s*(=|==|!=)\s*([-\w.]*)\s*", part):
            yield found[1], "notin" if found[2] == "!=" else "in", frozenset({found[3]})
        elif found := re.fullmatch(r"\s*(!?)\s*([-\w./]+)\s*", part):
            yield found[2], "absent" if found[1] else "exists", frozenset()
        else:
            raise Status(400, "BadRequest", f"unable to parse requirement: {part}")


def _fields(text: str) -> Iterator[tuple[str, bool, str]]:
    for part in filter(None, text.split(",")):
        found = re.fullmatch(r"metadata\.(name|namespace)(=|==|!=)([-\w.]*)", part)
        if not found:
            raise Status(400, "BadRequest", f"field label not supported: {part}")
        yield found[1], found[2] != "!=", found[3]


class Storage:
    """All objects of one API server; `short` are those that lists leave out though they are there.

    @param now: wall-clock time in seconds since the epoch
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.served: dict[tuple[str, str, str], Served] = {}
        self.objects: dict[tuple[str, str], dict[Key, Thing]] = {}
        self.version = 1000
        self.history: list[Happened] = []
        self.oldest = self.version
        self.watchers: list[Callable[[Happened], None]] = []
        self.short: set[tuple[Kind, Key]] = set()
        self._snapshots: dict[str, list[Thing]] = {}

    def serve(self, *served: Served) -> None:
        """Serve a kind from now on."""
        for each in served:
            kind = each.kind
            self.served[kind.group, kind.version, kind.plural] = each
            self.objects.setdefault((kind.group, kind.plural), {})

    def withdraw(self, served: Served) -> None:
        """A kind and all its objects are gone, as when its CRD is deleted."""
        for each in list(self._of(served)):
            self.remove(served, each)
        del self.served[served.kind.group, served.kind.version, served.kind.plural]

    def compact(self) -> None:
        """Forget the history and the lists that are under way."""
        self.history.clear()
        self._snapshots.clear()
        self.oldest = self.version

    def get(self, served: Served, each: Key) -> Thing:
        found = self._of(served).get(each)
        if found is None:
            raise Status(404, "NotFound", f'{served.resource} "{each[1]}" not found')
        return deepcopy(found)

    def list(self, served: Served, selection: Selection, limit: int, token: str) -> Thing:
        """A list, or a page of one: all pages show what was there at the first."""
        if token:
            try:
                version, start, text = urlsafe_b64decode(token).decode().split(" ", 2)
            except ValueError:
                raise Status(400, "BadRequest", "continue key is not valid") from None
            snapshot = self._snapshots.get(f"{version} {text}")
            if snapshot is None:
                raise Status(410, "Expired", OLD_TOKEN)
            rest = snapshot[int(start) :]
        else:
            version, start, text = str(self.version), "0", f"{served.resource} {selection}"
            there = sorted(
                (each, thing) for each, thing in self._of(served).items() if (served.kind, each) not in self.short
            )
            rest = [deepcopy(thing) for _, thing in there if selection.means(thing)]
            self._snapshots[f"{version} {text}"] = rest
        metadata: Thing = {"resourceVersion": version}
        if limit and len(rest) > limit:
            following = f"{version} {int(start) + limit} {text}"
            metadata |= {
                "continue": urlsafe_b64encode(following.encode()).decode(),
                "remainingItemCount": len(rest) - limit,
            }
            rest = rest[:limit]
        items = [thing if served.custom else {k: v for k, v in thing.items() if k not in _TYPE} for thing in rest]
        return {
            "kind": f"{served.kind.name}List",
            "apiVersion": served.kind.api_version,
            "metadata": metadata,
            "items": items,
        }

    def create(self, served: Served, namespace: str, given: Thing) -> Thing:
        thing = deepcopy(given)
        metadata = thing.setdefault("metadata", {})
        name = metadata.get("name", "")
        if metadata.get("namespace", namespace) != namespace:
            raise Status(400, "BadRequest", "the namespace of the provided object does not match the namespace sent")
        if metadata.get("resourceVersion"):
            raise Status(500, "InternalError", "resourceVersion should not be set on objects to be created")
        if namespace and ("", namespace) not in self.objects.get(("", "namespaces"), {}):
            raise Status(404, "NotFound", f'namespaces "{namespace}" not found')
        if (namespace, name) in self._of(served):
            raise Status(409, "AlreadyExists", f'{served.resource} "{name}" already exists')
        self._check(served, thing)
        if served.status:
            thing.pop("status", None)
        created = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata |= {"uid": str(uuid4()), "creationTimestamp": created}
        metadata |= {"namespace": namespace} if namespace else {}
        metadata |= {"generation": 1} if served.generation else {}
        metadata["managedFields"] = [{"manager": "stand-in"}]
        thing |= {"apiVersion": served.kind.api_version, "kind": served.kind.name}
        return self._put(served, None, thing)

    def patch(self, served: Served, each: Key, patch: Thing, subresource: str) -> Thing:
        if subresource and not (subresource == "status" and served.status):
            raise Status(404, "NotFound", "the server could not find the requested resource")
        before = self.get(served, each)
        thing = merged(before, patch)
        given, was = thing["metadata"], before["metadata"]
        if (given.get("namespace", ""), given.get("name")) != each:
            raise Status(400, "BadRequest", "the name of the object does not match the name on the URL")
        if given.get("resourceVersion") not in (None, was["resourceVersion"]):
            words = f'Operation cannot be fulfilled on {served.resource} "{each[1]}": {MODIFIED}'
            raise Status(409, "Conflict", words)
        if given.get("uid") != was["uid"]:
            words = f'{served.kind.name} "{each[1]}" is invalid: metadata.uid: Invalid value: field is immutable'
            raise Status(422, "Invalid", words)
        if subresource:
            thing = before | {"status": thing.get("status")}
            if thing["status"] is None:
                del thing["status"]
        elif served.status:
            thing.pop("status", None)
            thing |= {"status": before["status"]} if "status" in before else {}
        for name in ("resourceVersion", "creationTimestamp", "generation", "managedFields", "deletionTimestamp"):
            given.pop(name, None)
            if name in was:
                given[name] = was[name]
        self._check(served, thing)
        if thing == before:
            return before
        if served.generation and _spec(thing) != _spec(before):
            thing["metadata"]["generation"] = was["generation"] + 1
        if was.get("deletionTimestamp") and not thing["metadata"].get("finalizers"):
            return self.remove(served, each)
        return self._put(served, before, thing)

    def delete(self, served: Served, each: Key, preconditions: Thing) -> Thing:
        before = self.get(served, each)
        for name in ("uid", "resourceVersion"):
            wanted, is_now = preconditions.get(name), before["metadata"][name]
            if wanted not in (None, is_now):
                words = f"Precondition failed: {name} in precondition: {wanted}, {name} in object meta: {is_now}"
                raise Status(409, "Conflict", words)
        if not before["metadata"].get("finalizers"):
            return self.remove(served, each)
        if before["metadata"].get("deletionTimestamp"):
            return before
        deleted = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return self._put(served, before, merged(before, {"metadata": {"deletionTimestamp": deleted}}))

    def remove(self, served: Served, each: Key) -> Thing:
        before = self._of(served).pop(each)
        self.version += 1
        gone = merged(before, {"metadata": {"resourceVersion": str(self.version)}})
        self._tell(Happened(self.version, served, before, None, gone))
        return gone

    def _put(self, served: Served, before: Thing | None, thing: Thing) -> Thing:
        self.version += 1
        thing["metadata"]["resourceVersion"] = str(self.version)
        self._of(served)[thing["metadata"].get("namespace", ""), thing["metadata"]["name"]] = thing
        self._tell(Happened(self.version, served, before, thing))
        return deepcopy(thing)

    def _tell(self, happened: Happened) -> None:
        self.history.append(happened)
        if len(self.history) > HISTORY:
            self.oldest = self.history.pop(0).version
        for watcher in list(self.watchers):
            watcher(happened)

    def _check(self, served: Served, thing: Thing) -> None:
        name = thing["metadata"].get("name", "")
        wrong = served.check(thing)
        if not served.names.fullmatch(name) or len(name) > served.longest:
            wrong = f'metadata.name: Invalid value: "{name}"'
        if wrong:
            raise Status(422, "Invalid", f'{served.kind.name} "{name}" is invalid: {wrong}')

    def _of(self, served: Served) -> dict[Key, Thing]:
        return self.objects[served.kind.group, served.kind.plural]


_TYPE = ("apiVersion", "kind")


def merged(thing: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return deepcopy(patch)
    result = dict(thing) if isinstance(thing, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def told(happened: Happened, selection: Selection) -> Thing | None:
    """What a watch says of a change, if anything."""
    before, after = selection.means(happened.before), selection.means(happened.after)
    if after:
        return {"type": "MODIFIED" if before else "ADDED", "object": happened.after}
    if before:
        return {"type": "DELETED", "object": happened.gone or _as_of(happened)}
    return None


def _as_of(happened: Happened) -> Thing:
    """An object that is no longer selected: as it was, at the version of the change."""
    return merged(happened.before, {"metadata": {"resourceVersion": str(happened.version)}})


def _spec(thing: Thing) -> Thing:
    return {name: value for name, value in thing.items() if name not in ("metadata", "status")}

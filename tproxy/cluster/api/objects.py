"""The vocabulary of the Kubernetes API: kinds, what is asked of them, objects, and how it says no."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from attrs import frozen

Object = Mapping[str, Any]
"""An object of Kubernetes, as its JSON says it. It is shared, so nobody changes it."""

Key = tuple[str, str]
"""Namespace and name of an object; the namespace is empty where a kind has none."""


class Why(StrEnum):
    """Why a request failed: the words of the API server (`metav1.StatusReason`), and ours where it said nothing."""

    BAD_REQUEST = "BadRequest"
    UNAUTHORIZED = "Unauthorized"
    FORBIDDEN = "Forbidden"
    NOT_FOUND = "NotFound"
    METHOD_NOT_ALLOWED = "MethodNotAllowed"
    ALREADY_EXISTS = "AlreadyExists"
    CONFLICT = "Conflict"
    EXPIRED = "Expired"
    REQUEST_TOO_LARGE = "RequestEntityTooLarge"
    UNSUPPORTED_MEDIA_TYPE = "UnsupportedMediaType"
    INVALID = "Invalid"
    TOO_MANY_REQUESTS = "TooManyRequests"
    INTERNAL_ERROR = "InternalError"
    SERVICE_UNAVAILABLE = "ServiceUnavailable"
    TIMEOUT = "Timeout"
    SERVER_TIMEOUT = "ServerTimeout"
    UNKNOWN = "Unknown"
    # no answer that counts
    UNREACHABLE = "Unreachable"
    TOO_SLOW = "TooSlow"
    TOO_LARGE = "TooLarge"
    BROKEN = "Broken"


class APIError(Exception):
    """A request to the API server failed.

    `status` is the HTTP status, 0 where no answer came; `message` may be logged;
    `retry_after` is the pause that the server asks for, in seconds, 0 where it asks for none.
    """

    def __init__(self, status: int, reason: Why, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


@frozen
class Kind:
    """A kind of objects, and where the API has them; `group` is empty for the core group."""

    group: str
    version: str
    name: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What `apiVersion` says."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def collection(self, namespace: str = "") -> str:
        """The path of all objects, or of those in one namespace."""
        root = f"/apis/{self.group}" if self.group else "/api"
        place = f"/namespaces/{_segment(namespace)}" if namespace else ""
        return f"{root}/{self.version}{place}/{self.plural}"

    def path(self, key: Key, subresource: str = "") -> str:
        """The path of one object. Raises ValueError for what is no key of this kind."""
        namespace, name = key
        if bool(namespace) != self.namespaced:
            raise ValueError(f"{self.plural} {'have a' if self.namespaced else 'have no'} namespace")
        path = f"{self.collection(namespace)}/{_segment(name)}"
        return f"{path}/{subresource}" if subresource else path


@frozen
class Query:
    """Some objects of a kind: all, or those in one namespace, narrowed down by selectors."""

    kind: Kind
    namespace: str = ""
    labels: str = ""
    fields: str = ""

    @classmethod
    def single(cls, kind: Kind, key: Key) -> Query:
        """One object, by its name: what a role with `resourceNames` allows to list and watch."""
        namespace, name = key
        return cls(kind, namespace, fields=f"metadata.name={name}")

    @property
    def selectors(self) -> tuple[tuple[str, str], ...]:
        """The selectors as parameters of a request."""
        given = (("labelSelector", self.labels), ("fieldSelector", self.fields))
        return tuple((name, value) for name, value in given if value)

    def __str__(self) -> str:
        where = f" in {self.namespace}" if self.namespace else ""
        which = "".join(f" with {value}" for _, value in self.selectors)
        return f"{self.kind.plural}{where}{which}"


@frozen
class Listing:
    """All objects that a query means, as they were at one version."""

    objects: tuple[Object, ...]
    version: str


@frozen
class Put:
    """An object is there, or is there in another version."""

    object: Object


@frozen
class Gone:
    """An object is no longer there, or no longer meant; this is what it was."""

    object: Object


@frozen
class Mark:
    """All changes up to this version have been told."""

    version: str


Change = Put | Gone | Mark


def key(thing: Object) -> Key:
    """Namespace and name of an object."""
    return thing["metadata"].get("namespace", ""), thing["metadata"]["name"]


def version(thing: Object) -> str:
    """The version of an object: it says no more than whether two are the same."""
    return str(thing["metadata"]["resourceVersion"])


def uid(thing: Object) -> str:
    """Which object it is, among all that had or will have its name."""
    return str(thing["metadata"]["uid"])


def preconditions(thing: Object) -> dict[str, str]:
    """What a change says of the object that it is meant for: another object or version is left alone."""
    return {"uid": uid(thing), "resourceVersion": version(thing)}


def _segment(name: str) -> str:
    if name in ("", ".", ".."):
        raise ValueError("a name is not empty, and not made of dots alone")
    return quote(name, safe="")

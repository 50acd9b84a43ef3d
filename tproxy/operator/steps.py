"""What is done in a cluster: by each replica to its ports, and by the one that leads to objects."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from attrs import field, frozen

from tproxy.model import Binding, ListenerKey, RefusedError
from tproxy.operator.manifests import Name, Status
from tproxy.operator.objects import PORT_SERVICE, Port, Sort, Thing
from tproxy.operator.plan import Close, Open, Rebind


class OutdatedError(RefusedError):
    """What a step was planned on is no longer so: by the next plan it is known how it is."""


# Looks: what is to be taken away depends on them, so that neither an error nor a short list takes anything away


@frozen
class Unwanted:
    """The API server says now that the resource is gone, is another one, or no longer includes the listener."""

    key: ListenerKey
    uid: str


@frozen
class Released:
    """The API server says now that the port is no longer recorded as that key's, or, without a mark, not at all."""

    port: int
    mark: str


@frozen
class Vacant:
    """The API server says now that the name of the key that had the port does not lead there."""

    key: ListenerKey
    host: str


@frozen
class Departed:
    """The API server says now that the pod is gone."""

    pod: str
    uid: str


# A replica's own ports


@frozen
class Take:
    """A spare that is open becomes somebody's; the connections that wait for it begin."""

    binding: Binding
    port: int


@frozen
class Narrow:
    """Bind an open listener to a narrower scope: sessions end, and who may still come comes again."""

    binding: Binding


# Objects


@frozen
class Create:
    """Make an object."""

    sort: Sort
    manifest: dict[str, Any] = field(repr=False)


@frozen
class Change:
    """Change the very object that was read, by a merge patch."""

    sort: Sort
    read: Thing = field(repr=False)
    change: dict[str, Any]


@frozen
class Remove:
    """Delete the very object that was read."""

    sort: Sort
    read: Thing = field(repr=False)


@frozen
class Tell:
    """Tell the resource that was read how it fares."""

    name: Name
    read: Thing = field(repr=False)
    status: Status
    before: Status | None


Look = Unwanted | Released | Vacant | Departed
Write = Create | Change | Remove | Tell
Serve = Open | Take | Rebind | Narrow | Close
Step = Look | Write | Serve


@frozen
class Steps:
    """Steps that are taken one after the other, up to the first that fails.

    No two are under way for one subject, and where one fails its subjects rest.
    """

    subjects: tuple[Hashable, ...]
    steps: tuple[Step, ...]


def reference(sort: Sort, namespace: str, name: str) -> Hashable:
    """What an object is called among the subjects."""
    return (sort, namespace, name)


def record(namespace: str, port: Port | int) -> Hashable:
    """What the record of a port is called among the subjects."""
    number = port if isinstance(port, int) else port.port
    return reference(Sort.SERVICE, namespace, f"p{number}")


def recorded(subject: Hashable) -> int:
    """The port whose record a subject is; 0 for any other subject."""
    match subject:
        case (Sort.SERVICE, str(), str(name)) if found := PORT_SERVICE.fullmatch(name):
            return int(found[1])
    return 0

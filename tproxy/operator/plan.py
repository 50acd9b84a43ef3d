"""What should exist: a frozen picture of the world becomes the actions that are missing.

A listener goes through Claim (its port is recorded as its own), Open, and, once its resource no longer
wants it, Close and Release. A recorded port is never given to another key, also after it was released.
"""

from __future__ import annotations

import errno
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from itertools import chain

from attrs import field, frozen

from tproxy.model import Binding, DestinationRequest, GreetingMode, ListenerKey, Reason, Refusal, Stage
from tproxy.operator.fates import GONE, TRANSIENT, bound, down, duplicate, summary
from tproxy.operator.manifests import (
    SUCCESS,
    ListenerStatus,
    Name,
    Rejected,
    Resource,
    Status,
    condition_reason,
    shortened,
)
from tproxy.operator.objects import Objects

RANGE = (range(10000, 15000), range(15100, 32768))
"""The ports that are given where no other is asked for; the hole is what Istio uses."""

# What is there


@frozen
class Record:
    """Whose port it is, written down before it is opened.

    `asked` is the `spec.service.port` that it was claimed for (0: none). An active record holds the
    name of its service. `reserved` are the ports that the key had before.
    """

    key: ListenerKey
    port: int
    asked: int = 0
    active: bool = True
    reserved: tuple[int, ...] = ()

    @property
    def ports(self) -> tuple[int, ...]:
        """Every port that is not for others."""
        return (self.port, *self.reserved)


@frozen
class Snapshot:
    """What a cluster holds: the resources, the records, and what the resources were last told.

    No two resources have the same namespace and name. Ports are opened on `address`. Where it is Kubernetes,
    `objects` are there, and records among them.
    """

    resources: tuple[Resource | Rejected, ...] = ()
    records: tuple[Record, ...] = ()
    statuses: Mapping[Name, Status] = field(factory=dict)
    address: str = ""
    objects: Objects | None = None

    def told(self, key: ListenerKey, port: int) -> ListenerStatus | None:
        """What was last said of a listener on that port."""
        status = self.statuses.get((key.namespace, key.name))
        rows = status.listeners if status else ()
        return next((row for row in rows if row.key == key and row.port == port), None)


@frozen
class Listening:
    """A port that is open."""

    binding: Binding
    port: int


@frozen
class Known:
    """What a destination's port depends on: the name of its protocol and the port where none is asked for.

    `asks` says that applications bring the credential, whatever greeting the resource chooses.
    """

    protocol: str
    port: int
    asks: bool = False


@frozen
class Observed:
    """All that a plan depends on.

    `described` holds what is known of destinations, or why one cannot be served; a request that is not in
    it has not been answered yet. `failures` are listeners, or other things, that rest after an error; `blocked`
    are ports that could not be bound. `used` says of ports when they were last connected to: the greater, the later.
    `busy` is what steps are under way for.
    """

    cluster: Snapshot
    described: Mapping[DestinationRequest, Known | Refusal] = field(factory=dict)
    listening: Mapping[ListenerKey, Listening] = field(factory=dict)
    failures: Mapping[Hashable, Refusal] = field(factory=dict)
    blocked: frozenset[int] = frozenset()
    used: Mapping[int, float] = field(factory=dict)
    busy: Set[Hashable] = frozenset()

    def free(self, subjects: Iterable[Hashable]) -> bool:
        """Whether steps for these can be taken now: none of them is busy, or rests."""
        return not any(subject in self.busy or subject in self.failures for subject in subjects)


# What is to be done


@frozen
class Claim:
    """Record the port as the key's; `instead` is the port that it should have had (0: none)."""

    key: ListenerKey
    port: int
    asked: int = 0
    instead: int = 0


@frozen
class Release:
    """The key no longer holds its service's name; its ports stay recorded."""

    key: ListenerKey


@frozen
class Open:
    """Open the port, or move the open listener to it."""

    binding: Binding
    address: str
    port: int

    @property
    def key(self) -> ListenerKey:
        """Whose port."""
        return self.binding.key


@frozen
class Rebind:
    """Bind new connections of an open listener to something else."""

    binding: Binding

    @property
    def key(self) -> ListenerKey:
        """Whose connections."""
        return self.binding.key


@frozen
class Close:
    """Close the port at once and end its sessions."""

    key: ListenerKey
    reason: str


@frozen
class SetStatus:
    """Tell the resource how it fares; the last action of a resource, true if all before it were done."""

    name: Name
    status: Status


Action = Claim | Release | Open | Rebind | Close | SetStatus


def subject(action: Action) -> Name:
    """The resource that an action is about."""
    return action.name if isinstance(action, SetStatus) else (action.key.namespace, action.key.name)


def plan(observed: Observed) -> tuple[Action, ...]:
    """The actions that are missing, in the order namespace, name, tenant; none where all is as it should be.

    Actions of one key have to be carried out in their order; those of different keys are independent.
    """
    cluster = observed.cluster
    records = {record.key: record for record in cluster.records}
    active = {record.key for record in cluster.records if record.active}
    present: dict[Name, list[ListenerKey]] = {}
    for key in sorted(active | observed.listening.keys(), key=_order):
        present.setdefault((key.namespace, key.name), []).append(key)
    holders = _holders(cluster, active, present)
    ports = _Ports(observed)
    actions: list[Action] = []
    stays: set[ListenerKey] = set()

    for resource in sorted(cluster.resources, key=_name):
        status: Status | None
        if isinstance(resource, Rejected):
            kept = [key for key in present.get(_name(resource), ()) if resource.keeps(key.tenant)]
            stays.update(kept)
            status = _rejection(resource, kept, observed)
        else:
            rows: list[ListenerStatus | None] = []
            for binding in resource.bindings:
                key = binding.key
                holder = holders[key.namespace, key.service]
                if holder != key:
                    rows.append(down(key, duplicate(holder)))
                    continue
                stays.add(key)
                steps, row = _settle(binding, resource.port, observed, records.get(key), ports)
                actions += steps
                rows.append(row)
            rows += (down(ListenerKey(*_name(resource), tenant), refusal) for tenant, refusal in resource.refused)
            status = summary(rows)
        if status is not None and status != cluster.statuses.get(_name(resource)):
            actions.append(SetStatus(_name(resource), status))

    there = {_name(resource) for resource in cluster.resources}
    for key in (active | observed.listening.keys()) - stays:
        if key in observed.listening:
            why = "no longer names this tenant" if (key.namespace, key.name) in there else "is gone"
            actions.append(Close(key, f"the resource {why}"))
        if key in active:
            actions.append(Release(key))
    return tuple(sorted(actions, key=_place))


def _place(action: Action) -> tuple[Name, bool, str]:
    if isinstance(action, SetStatus):
        return action.name, True, ""
    return subject(action), False, action.key.tenant


def unbindable(address: str, port: int, number: int | None) -> Refusal:
    """Why a port could not be bound, by its errno; another port may do where the reason is `PORT_NOT_AVAILABLE`."""
    match number:
        case errno.EADDRINUSE:
            why, remedy = "is in use by another process", "end that process, or ask for another port"
        case errno.EACCES | errno.EPERM:
            why, remedy = "may not be opened by this user", "ask for a port above 1023"
        case _:
            return Refusal(
                Stage.ACCEPT,
                Reason.INTERNAL_ERROR,
                f"port {port} of {address} cannot be opened ({errno.errorcode.get(number or 0, 'unknown error')})",
                "check the address to listen on",
            )
    return Refusal(Stage.ACCEPT, Reason.PORT_NOT_AVAILABLE, f"port {port} of {address} {why}", remedy)


def _order(key: ListenerKey) -> tuple[str, str, str]:
    """As keys compare, in a tenth of the time."""
    return key.namespace, key.name, key.tenant


def _name(resource: Resource | Rejected) -> Name:
    return resource.namespace, resource.name


def _holders(
    cluster: Snapshot, active: Set[ListenerKey], present: Mapping[Name, Sequence[ListenerKey]]
) -> Mapping[tuple[str, str], ListenerKey]:
    """Whose each service name is: who holds it keeps it, then the first in order."""
    claimants: list[ListenerKey] = []
    for resource in cluster.resources:
        if isinstance(resource, Resource):
            claimants += (binding.key for binding in resource.bindings)
        else:
            claimants += (key for key in present.get(_name(resource), ()) if resource.keeps(key.tenant))
    holders: dict[tuple[str, str], ListenerKey] = {}
    for key in sorted(claimants, key=lambda key: (key not in active, _order(key))):
        holders.setdefault((key.namespace, key.service), key)
    return holders


class _Ports:
    """The ports that can still be given out; each is given once."""

    def __init__(self, observed: Observed) -> None:
        self._owners = {listening.port: key for key, listening in observed.listening.items()}
        self._owners |= {port: record.key for record in observed.cluster.records for port in record.ports}
        self._unusable = set(observed.blocked)
        self._range = chain.from_iterable(RANGE)

    def take(self, key: ListenerKey, preferred: int) -> int | None:
        """A port for the key, the preferred one (0: none) where that is free; None once all are used up."""
        own = (port for port in (preferred,) if port and self._owners.get(port, key) == key)
        others = (port for port in self._range if port not in self._owners)
        port = next((port for port in chain(own, others) if port not in self._unusable), None)
        if port is not None:
            self._unusable.add(port)
        return port


def _settle(
    binding: Binding, asked: int, observed: Observed, record: Record | None, ports: _Ports
) -> tuple[Sequence[Action], ListenerStatus | None]:
    """What one listener needs, and how it fares once that is done: None while its destination is looked up."""
    key = binding.key
    there = observed.listening.get(key)
    known = observed.described.get(binding.request)
    if known is None:
        return (), None
    if isinstance(known, Refusal):
        if known.reason in GONE:
            return (Close(key, GONE[known.reason]),) if there else (), down(key, known)
        if record is None or not record.active:
            return (), down(key, known)
    if key in observed.failures:
        return (), _down(key, observed.failures[key], there, observed.cluster.address)

    if isinstance(known, Known):
        binding = bound(binding, known.protocol, known.asks)
    elif there is not None:
        binding = bound(binding, there.binding.protocol, there.binding.greeting is GreetingMode.LOGIN)
    steps: list[Action] = []
    moves = record is not None and asked not in (0, record.asked)
    preferred = asked if record is None or moves else record.port
    if not preferred and isinstance(known, Known):
        preferred = known.port
    if record is not None and record.active and not moves and _usable(record, there, observed.blocked):
        port = record.port
    else:
        taken = ports.take(key, preferred)
        if taken is None:
            return (), _down(key, _USED_UP, there, observed.cluster.address)
        port = taken
        steps.append(Claim(key, port, asked, instead=preferred if preferred != port else 0))
    now = Listening(binding, port)
    if there is None or there.port != port:
        steps.append(Open(binding, observed.cluster.address, port))
    elif there != now:
        steps.append(Rebind(binding))
    if isinstance(known, Known):
        return steps, ListenerStatus(key, observed.cluster.address, port, True, SUCCESS)
    before = observed.cluster.told(key, port) if known.reason in TRANSIENT else None
    return steps, before or _down(key, known, now, observed.cluster.address)


def _usable(record: Record, there: Listening | None, blocked: frozenset[int]) -> bool:
    return record.port not in blocked or (there is not None and there.port == record.port)


def _down(key: ListenerKey, refusal: Refusal, there: Listening | None, address: str) -> ListenerStatus:
    return down(key, refusal, address, there.port) if there else down(key, refusal)


def _rejection(resource: Rejected, kept: Sequence[ListenerKey], observed: Observed) -> Status:
    """A resource that is wrong as a whole: what was open goes on."""
    reason, message = condition_reason(resource.refusal.reason), shortened(str(resource.refusal))
    rows = []
    for key in kept:
        there = observed.listening.get(key)
        address, port = (observed.cluster.address, there.port) if there else ("", 0)
        rows.append(ListenerStatus(key, address, port, there is not None, reason, message))
    rows = rows or [down(ListenerKey(resource.namespace, resource.name), resource.refusal)]
    return Status(False, reason, message, tuple(rows))


_USED_UP = Refusal(
    Stage.RESOLVE,
    Reason.PORT_NOT_AVAILABLE,
    "all ports are used up",
    "remove resources, or the records of ports that nobody uses any more",
)

"""What is followed of a cluster: resources, what is ours, our pods, and the namespaces that are managed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from typing import Generic, TypeVar

from attrs import frozen
from twisted.application.service import MultiService, Service
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from tproxy.cluster.api.client import Client
from tproxy.cluster.api.objects import Gone, Key, Object, Put, Query, key, uid, version
from tproxy.cluster.api.store import Store
from tproxy.cluster.kinds import DESTINATIONS, NAMESPACES, PODS, POLICIES, SERVICES, SLICES
from tproxy.cluster.spread import Spread
from tproxy.config import Config
from tproxy.model import RefusedError
from tproxy.operator import objects
from tproxy.operator.manifests import Name, Rejected, Resource, Status, parse
from tproxy.operator.objects import (
    COMPONENT,
    INSTALLATION,
    MANAGED_BY,
    MANAGED_NAMESPACE,
    ROLE,
    US,
    Installation,
    Role,
    Sort,
)
from tproxy.operator.plan import Snapshot
from tproxy.operator.statuses import read_status

log = Logger()
T = TypeVar("T")


class _Reading(Generic[T]):
    """What is read from objects: once from each version of them, though it is asked for again and again."""

    def __init__(self, read: Callable[[Object, T | None], T]) -> None:
        self._read = read
        self._objects: Mapping[Key, Object] = {}
        self._known: dict[Key, T] = {}

    def of(self, objects: Mapping[Key, Object]) -> Mapping[Key, T]:
        """What the objects say as they are now."""
        before, self._objects = self._objects, objects
        for each, thing in objects.items():
            known = before.get(each)
            if known is thing:
                continue
            if known is None or (uid(known), version(known)) != (uid(thing), version(thing)):
                self._known[each] = self._read(thing, self._known.get(each))
        for each in before.keys() - objects.keys():
            del self._known[each]
        return self._known


class _Derived(Generic[T]):
    """What is made of the objects of a spread: anew after a change, else the same."""

    def __init__(self, spread: Spread, derive: Callable[[Mapping[Key, Object]], T]) -> None:
        self._spread, self._derive = spread, derive
        self._from: Mapping[Key, Object] | None = None

    @property
    def now(self) -> T:
        """As it is now."""
        objects = self._spread.objects
        if objects is not self._from:
            self._from, self._made = objects, self._derive(objects)
        return self._made


@frozen
class _Resources:
    """Resources, and of each which one it is and what it was told last."""

    resources: tuple[Resource | Rejected, ...]
    identities: Mapping[Name, objects.Identity]
    statuses: Mapping[Name, Status]


@frozen
class _Read:
    """A resource as it was read: what it asks for, which one it is, and what it was told last."""

    resource: Resource | Rejected | None
    identity: objects.Identity
    status: Status | None


class Following(MultiService):
    """Follows, while it runs, what the operator depends on; no failure makes it forget anything.

    @param changed: called after each change
    """

    def __init__(
        self,
        config: Config,
        installation: Installation,
        client: Client,
        clock: IReactorTime,
        changed: Callable[[], None],
    ) -> None:
        MultiService.__init__(self)
        self._config, self._installation = config, installation
        self._client, self._clock, self._changed = client, clock, changed
        self._reading = _Reading(self._resource)
        self._reading_ports = _Reading(lambda thing, _: objects.read_port(thing))
        self.everywhere = config.managed_namespaces_mode == "all"
        namespace = installation.namespace
        ours = f"{MANAGED_BY}={US},{INSTALLATION}={namespace}"
        self._destinations = self._spread(Query(DESTINATIONS))
        self._names = self._spread(Query(SERVICES, labels=f"{ours},{ROLE}={Role.NAME}"))
        self._records = self._spread(Query(SERVICES, labels=f"{ours},{ROLE}={Role.PORT}"), namespace)
        self._slices = self._spread(Query(SLICES, labels=ours), namespace)
        self._policies = self._spread(Query(POLICIES, labels=ours), namespace)
        self._pods = self._spread(Query(PODS, labels=f"{COMPONENT}={US}"), namespace)
        self._always = [self._records, self._slices, self._policies, self._pods]
        self._resources = _Derived(self._destinations, self._read_resources)
        self._ports = _Derived(self._records, self._read_ports)
        self._named_slices = _Derived(self._slices, _by_name)
        self._named_policies = _Derived(self._policies, _by_name)
        self._announced = _Derived(self._slices, _announced)
        if self.everywhere:
            self._always += [self._destinations, self._names]
            self._destinations.follow([""])
            self._names.follow([""])
        else:
            managed = Query(NAMESPACES, labels=f"{MANAGED_NAMESPACE}={namespace}")
            self._namespaces = self._spread(managed, "")
            self._always.append(self._namespaces)

    def _spread(self, query: Query, namespace: str | None = None) -> Spread:
        spread = Spread(self._client, query, self._clock, self._changed)
        if namespace is not None:
            spread.follow([namespace])
        Service.setServiceParent(spread, self)
        return spread

    # what is known

    def snapshot(
        self, address: str, replicas: tuple[objects.Replica, ...], leading: bool, now: float
    ) -> Snapshot | None:
        """What is there, as far as we were told; None until everything was listed once.

        @param address: where listeners listen
        @param now: seconds of the epoch
        """
        ports = self._ports.now
        if not self.everywhere:  # names are looked for where there may be some still, too
            managed = {name for _, name in self._namespaces.objects}
            self._destinations.follow(managed)
            self._names.follow(managed.union(port.holder.namespace for port in ports.values() if port.holder))
        if any(each.unseen for each in self._always):
            return None
        read = self._resources.now
        there = objects.Objects(
            self._installation,
            read.identities,
            ports,
            self._names.objects,
            self._named_slices.now,
            self._named_policies.now,
            replicas,
            self._destinations.unseen | self._names.unseen,
            leading,
            now,
        )
        return Snapshot(read.resources, (), read.statuses, address, there)

    def _read_ports(self, things: Mapping[Key, Object]) -> Mapping[int, objects.Port]:
        return {port.port: port for port in self._reading_ports.of(things).values() if port}

    def _read_resources(self, things: Mapping[Key, Object]) -> _Resources:
        found = {name: read for name, read in self._reading.of(things).items() if read.resource is not None}
        return _Resources(
            tuple(read.resource for read in found.values() if read.resource is not None),
            {name: read.identity for name, read in found.items()},
            {name: read.status for name, read in found.items() if read.status is not None},
        )

    def _resource(self, thing: Object, before: _Read | None) -> _Read:
        identity = objects.Identity(uid(thing), thing["metadata"].get("creationTimestamp", ""), thing)
        resource = self.judged(thing)
        if before is not None and before.resource == resource:  # one object is compared sooner than two equal ones
            resource = before.resource
        return _Read(resource, identity, read_status(thing))

    def judged(self, thing: Object) -> Resource | Rejected | None:
        """What a resource asks for; None where that cannot even be answered."""
        try:
            return parse(thing, self._config)
        except RefusedError as error:
            log.warn("{message}", event="resource.refused", key="/".join(key(thing)), message=str(error.refusal))
            return None

    @property
    def pods(self) -> Iterator[Object]:
        """Our pods, but for those that have ended: what stood in them is nowhere, and their addresses are others'."""
        return (pod for pod in self._pods.objects.values() if not ended(pod))

    @property
    def announced(self) -> Set[str]:
        """The addresses that are named in any slice."""
        return self._announced.now

    # what is learnt from answers, before a watch tells it

    def learn(self, sort: Sort, thing: Object) -> None:
        """The API server just said that this is there: known at once, if it is followed."""
        if sort is Sort.DESTINATION or objects.role(thing, self._installation):
            _put(self._store(sort, thing), thing)

    def learn_namespace(self, thing: Object) -> None:
        """… that a namespace is to be served, where only some are."""
        _put(self._namespaces.store(""), thing)

    def learn_pod(self, thing: Object) -> None:
        """… that a pod of ours is there."""
        _put(self._pods.store(self._installation.namespace), thing)

    def forget(self, sort: Sort, thing: Object) -> None:
        """The API server just said that this is no longer there."""
        store = self._store(sort, thing)
        if store is not None:
            store.apply(Gone(thing))

    def _store(self, sort: Sort, thing: Object) -> Store | None:
        each: Key = key(thing)
        spreads = {Sort.DESTINATION: self._destinations, Sort.SLICE: self._slices, Sort.POLICY: self._policies}
        record = objects.role(thing, self._installation) is Role.PORT
        spread = spreads.get(sort, self._records if record else self._names)
        return spread.store(each[0])


def ended(pod: Object) -> bool:
    """Whether nothing runs in a pod any more, nor will again."""
    return (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")


def _by_name(things: Mapping[Key, Object]) -> Mapping[str, Object]:
    return {name: thing for (_, name), thing in things.items()}


def _announced(things: Mapping[Key, Object]) -> Set[str]:
    return {
        address
        for thing in things.values()
        for entry in objects.endpoints(thing)
        for address in entry.get("addresses") or ()
    }


def _put(store: Store | None, thing: Object) -> None:
    if store is not None:
        store.apply(Put(thing))

"""The objects of a kind in many namespaces: in all of a cluster, or in each that is managed, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime

from tproxy.cluster.api.client import Client
from tproxy.cluster.api.objects import Key, Object, Query
from tproxy.cluster.api.reflector import Reflector
from tproxy.cluster.api.store import Store


class Spread(Service):
    """Follows a query in some namespaces, while it runs; `""` is all of them.

    @param changed: called when any of the objects came, changed or went
    """

    def __init__(self, client: Client, query: Query, clock: IReactorTime, changed: Callable[[], None]) -> None:
        self._client, self._query, self._clock, self._changed = client, query, clock, changed
        self._parts: dict[str, Reflector] = {}
        self._objects: dict[Key, Object] | None = None

    def startService(self) -> None:
        Service.startService(self)
        for part in self._parts.values():
            part.startService()

    def stopService(self) -> None:
        Service.stopService(self)
        for part in self._parts.values():
            part.stopService()

    def follow(self, namespaces: Iterable[str]) -> None:
        """Follow these namespaces and no others."""
        wanted = set(namespaces)
        for namespace in self._parts.keys() - wanted:
            part = self._parts.pop(namespace)
            if self.running:
                part.stopService()
            self._altered()
        for namespace in wanted - self._parts.keys():
            store = Store(lambda _: self._altered())
            part = Reflector(self._client, evolve(self._query, namespace=namespace), store, self._clock)
            self._parts[namespace] = part
            if self.running:
                part.startService()

    def _altered(self) -> None:
        self._objects = None
        self._changed()

    @property
    def objects(self) -> Mapping[Key, Object]:
        """What is known of all of them, now: the same mapping for as long as nothing changes."""
        if self._objects is None:
            self._objects = {}
            for part in self._parts.values():
                self._objects |= part.store.now
        return self._objects

    @property
    def unseen(self) -> frozenset[str]:
        """The namespaces of which nothing is known yet."""
        return frozenset(name for name, part in self._parts.items() if not part.store.filled)

    def store(self, namespace: str) -> Store | None:
        """Where the objects of a namespace are kept, if it is followed."""
        part = self._parts.get(namespace) or self._parts.get("")
        return part.store if part else None

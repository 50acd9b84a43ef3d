"""Whose each name and each port is, among what is not at rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tproxy.model import ListenerKey, Reason, Refusal
from tproxy.operator import objects
from tproxy.operator.manifests import Name, Rejected, Resource
from tproxy.operator.memory import Memory, Rest
from tproxy.operator.objects import Objects, Port, Thing
from tproxy.operator.plan import Observed


class Claims:
    """Who wants what, and who gets it.

    `resources` are all that there are. `pending` are those to be thought about, `ports` those that no resource at
    rest has, `held` says whose they are.

    @param coexist: another product serves what no plug-in serves
    """

    def __init__(self, observed: Observed, there: Objects, coexist: bool, memory: Memory) -> None:
        self._observed, self._there, self._coexist = observed, there, coexist
        self.resources = {(each.namespace, each.name): each for each in observed.cluster.resources}
        self._memory = memory
        self.pending = self._pending()
        claimed, contested = self._claimed()
        while colliding := {memory.claims[name] for name in claimed.keys() & memory.claims.keys()}:
            for each in colliding:
                memory.wake(each)
            self.pending |= colliding
            claimed, contested = self._claimed()
        self.holders = claimed | {name: min(keys, key=self._seniority) for name, keys in contested.items()}

    def _pending(self) -> set[Name]:
        pending = self.resources.keys() & self._there.identities.keys() - self._memory.resources.keys()
        for name in [name for name in pending if self._foreign(self.resources[name])]:
            self._memory.rest(name, Rest())
            pending.remove(name)
        return pending

    def _foreign(self, resource: Resource | Rejected) -> bool:
        """Whether the destination is another product's to serve."""
        return (
            self._coexist
            and isinstance(resource, Resource)
            and any(
                isinstance(known := self._observed.described.get(binding.request), Refusal)
                and known.reason is Reason.TYPE_NOT_SUPPORTED
                for binding in resource.bindings
            )
        )

    def _claimed(self) -> tuple[dict[Name, ListenerKey], Mapping[Name, list[ListenerKey]]]:
        """Who claims each name, now that it is known who is at rest, and all of them where there are several."""
        there = self._there.ports
        self.ports = {number: there[number] for number in sorted(there.keys() - self._memory.ports.keys())}
        self.held = self._there.holding(self.ports.values())
        claimed: dict[Name, ListenerKey] = {}
        contested: dict[Name, list[ListenerKey]] = {}
        for name in self.pending:
            resource = self.resources[name]
            keys: Iterable[ListenerKey] = (
                (binding.key for binding in resource.bindings)
                if isinstance(resource, Resource)
                else (key for key in self.held if (key.namespace, key.name) == name and resource.keeps(key.tenant))
            )
            for key in keys:
                service = (key.namespace, key.service)
                first = claimed.setdefault(service, key)
                if first is not key:
                    contested.setdefault(service, [first]).append(key)
        return claimed, contested

    def _seniority(self, key: ListenerKey) -> tuple[bool, str, str]:
        """Who holds a name keeps it, then the older resource has it, then the lower uid."""
        identity = self._there.identities[key.namespace, key.name]
        held = self._there.names.get((key.namespace, key.service))
        return held is None or objects.owner(held) != identity.uid, identity.created, identity.uid

    def wants(self, key: ListenerKey) -> Resource | None:
        """The resource, among those to be thought about, that wants a listener whose name is its to have."""
        name = (key.namespace, key.name)
        resource = self.resources[name] if name in self.pending else None
        if isinstance(resource, Resource) and self.holders.get((key.namespace, key.service)) == key:
            return resource
        return None

    def keeps(self, key: ListenerKey) -> bool:
        """Whether somebody wants the listener, or what was opened for it before is to stay."""
        name = (key.namespace, key.name)
        rejected = self.resources.get(name)
        return (
            self.wants(key) is not None
            or self._memory.claims.get((key.namespace, key.service)) == name
            or (isinstance(rejected, Rejected) and rejected.keeps(key.tenant))
        )

    def owns(self, key: ListenerKey, port: Port) -> bool:
        """Whether a port is its key's to keep."""
        if port.port in self._memory.ports:
            return True
        resting = (key.namespace, key.name) in self._memory.resources
        return not resting and self.held.get(key) is port and self.keeps(key)

    def holds(self, name: Name, there: Thing) -> bool:
        """Whether a name is that of who is to have it."""
        key = self.holders.get(name)
        return key is not None and objects.owner(there) == self._there.identities[key.namespace, key.name].uid

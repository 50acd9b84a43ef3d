"""What plans leave out: what needed nothing, for as long as nothing has changed that it depends on.

A plan comes out the same without a memory, only later. What exists costs a comparison of two references, and only
what changed is thought about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from attrs import evolve, frozen

from tproxy.model import DestinationRequest
from tproxy.operator import objects
from tproxy.operator.manifests import Name, Resource
from tproxy.operator.objects import Objects, Port, Thing
from tproxy.operator.plan import Listening, Observed
from tproxy.operator.steps import Steps

K = TypeVar("K")


@frozen
class Rest:
    """What a resource has that needs nothing: its ports with the service ports that lead there, all of one scope,
    the names that it claims, and those of them that are there, its own, and lead to these ports.
    """

    scope: str = ""
    ports: Mapping[int, int] = {}
    claims: tuple[Name, ...] = ()
    names: frozenset[Name] = frozenset()


class Memory:
    """What is at rest: `resources`, ports that are `served` here, `policies`, and what the `slices` of ports need.

    `ports`, `claims`, `names` and `scopes` are those of the resources at rest, together. `open` are the ports that are
    open here.
    """

    def __init__(self) -> None:
        self._before: Observed | None = None
        self._opened: dict[str, tuple[Thing, frozenset[int]]] = {}
        self.open: dict[int, Listening] = {}
        self._forget()

    def _forget(self) -> None:
        self.policies: dict[str, Thing] = {}
        self.served: set[int] = set()
        self.resources: dict[Name, Rest] = {}
        self.ports: dict[int, int] = {}
        self.claims: dict[Name, Name] = {}
        self.names: set[Name] = set()
        self.scopes: dict[Name, set[int]] = {}
        self.slices: dict[int, Sequence[Steps]] = {}

    def opened(self, name: str, policy: Thing) -> frozenset[int]:
        """The ports that a policy opens."""
        known = self._opened.get(name)
        if known is None or known[0] is not policy:
            known = self._opened[name] = policy, frozenset(objects.policy_ports(policy))
        return known[1]

    def rest(self, resource: Name, rest: Rest) -> None:
        """A resource needs nothing."""
        self.resources[resource] = rest
        self.ports.update(rest.ports)
        self.claims.update(dict.fromkeys(rest.claims, resource))
        self.names |= rest.names
        if rest.ports:
            self.scopes.setdefault((resource[0], rest.scope), set()).update(rest.ports)

    def wake(self, resource: Name) -> None:
        """Something that a resource depends on has changed."""
        rest = self.resources.pop(resource, None)
        if rest is None:
            return
        for port in rest.ports:
            del self.ports[port]
        for claim in rest.claims:
            del self.claims[claim]
        self.names -= rest.names
        if rest.ports:
            scope = (resource[0], rest.scope)
            self.scopes[scope].difference_update(rest.ports)
            if not self.scopes[scope]:
                del self.scopes[scope]

    def see(self, observed: Observed) -> None:
        """Another plan begins: what depends on something that has changed is no longer at rest."""
        before, self._before = self._before, observed
        then, now = before.cluster.objects if before else None, observed.cluster.objects
        if before is None or before.listening is not observed.listening:
            self.open = {there.port: there for there in observed.listening.values()}
        if before is None or then is None or now is None or then.unseen != now.unseen:
            self._forget()
            return
        if faces(then) != faces(now):
            self.slices.clear()
        opened = set(self._reopened(then, now))
        ports = opened | {*differing(then.ports, now.ports), *_numbers(differing(then.slices, now.slices))}
        for port in ports.union(_remarked(then, now)):
            self.slices.pop(port, None)
        resources = {name for port in ports for each in (then, now) for name in _holder(each.ports.get(port))}
        resources.update(differing(then.identities, now.identities))
        named = set(differing(then.names, now.names))
        resources.update(self.claims[name] for name in named & self.claims.keys())
        described = set(differing(before.described, observed.described))
        resources.update(_asking(observed, described) if described else ())
        for key in differing(before.listening, observed.listening):
            resources.add((key.namespace, key.name))
            ports.update(each.listening[key].port for each in (before, observed) if key in each.listening)
        for resource in resources:
            self.wake(resource)
        self.served -= ports
        names = {name for _, name in resources}
        self.served.difference_update(
            number
            for number, port in now.ports.items()
            if (whose := port.key) and (whose.name in names or (named and (whose.namespace, whose.service) in named))
        )

    def _reopened(self, then: Objects, now: Objects) -> Iterator[int]:
        """The ports that a policy has opened or closed."""
        for name in differing(then.policies, now.policies):
            before, after = (
                self.opened(name, each.policies[name]) if name in each.policies else frozenset() for each in (then, now)
            )
            yield from before ^ after
            if name not in now.policies:
                del self._opened[name]
            self.policies.pop(name, None)


def differing(before: Mapping[K, object], now: Mapping[K, object]) -> Iterable[K]:
    """The keys that came, went, or mean another object; an equal one is another."""
    if before is now:
        return ()
    changed = [key for key, thing in now.items() if before.get(key) is not thing]
    if changed or len(before) != len(now):
        changed += before.keys() - now.keys()
    return changed


def faces(there: Objects) -> tuple[object, ...]:
    """The replicas, whatever ports they listen on."""
    return tuple((replica.ports is None, evolve(replica, ports=None)) for replica in there.replicas)


def _remarked(then: Objects, now: Objects) -> Iterator[int]:
    """The ports of which a replica says something else than before."""
    for before, after in zip(then.replicas, now.replicas, strict=False):
        if before.ports is not after.ports and before.ports is not None and after.ports is not None:
            yield from (port for port, _ in before.ports.items() ^ after.ports.items())


def _numbers(slices: Iterable[str]) -> Iterator[int]:
    for name in slices:
        found = objects.PORT_SERVICE.match(name)
        if found:
            yield int(found[1])


def _holder(port: Port | None) -> tuple[Name, ...]:
    return ((port.key.namespace, port.key.name),) if port and port.key else ()


def _asking(observed: Observed, requests: set[DestinationRequest]) -> Iterator[Name]:
    """The resources that ask for one of these destinations."""
    for resource in observed.cluster.resources:
        if isinstance(resource, Resource) and not requests.isdisjoint(each.request for each in resource.bindings):
            yield resource.namespace, resource.name

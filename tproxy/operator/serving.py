"""What a replica serves: the records of a cluster become the ports that are missing here, or here too long.

Each replica decides for itself, whoever leads. Where the API server is away, nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from attrs import evolve

from tproxy.model import Binding, GreetingMode, ListenerKey, Refusal, spare
from tproxy.operator.fates import GONE, bound
from tproxy.operator.manifests import Name, Rejected, Resource
from tproxy.operator.memory import Memory
from tproxy.operator.objects import CLUSTER_WIDE, REMEMBERED, Objects, Port, mark, policy_name, policy_ports
from tproxy.operator.plan import Close, Known, Listening, Observed, Open, Rebind
from tproxy.operator.steps import Narrow, Released, Step, Steps, Take, Unwanted


def serve(observed: Observed, memory: Memory) -> tuple[Steps, ...]:
    """The steps that are missing, for each port; none where all is as it should be.

    @param memory: has seen what is observed
    """
    objects = observed.cluster.objects
    if objects is None:
        return ()
    there = memory.open
    steps = {port: _unrecorded(there[port]) for port in there.keys() - objects.ports.keys()}
    unsure = [objects.ports[number] for number in objects.ports.keys() - memory.served]
    if unsure:
        serving = _Serving(observed, objects, {port.key.name for port in unsure if port.key})
        steps |= {port.port: serving.port(port, there.get(port.port)) for port in unsure}
    memory.served.update(port for port, each in steps.items() if not each)
    return tuple(Steps((port,), tuple(each)) for port, each in sorted(steps.items()) if each)


class _Serving:
    """What ports need that are those of resources with one of these names, or nobody's."""

    def __init__(self, observed: Observed, objects: Objects, names: set[str]) -> None:
        self._observed, self._objects = observed, objects
        self._held = objects.holding(port for port in objects.ports.values() if port.key and port.key.name in names)
        self._resources = {(each.namespace, each.name): each for each in observed.cluster.resources}
        self._bindings: dict[Name, Mapping[ListenerKey, Binding]] = {}

    def _binding(self, resource: Resource, key: ListenerKey) -> Binding | None:
        name = (resource.namespace, resource.name)
        if name not in self._bindings:
            self._bindings[name] = {binding.key: binding for binding in resource.bindings}
        return self._bindings[name].get(key)

    def port(self, port: Port, there: Listening | None) -> list[Step]:
        """What one port needs."""
        if port.released is not None:
            return _closed(there, "the port was released")
        if there is not None and there.binding.claimed and _mark(there) != port.mark:
            return _closed(there, "the port is no longer its own")
        if port.key is None:
            return [] if there else [Open(spare(port.port), self._observed.cluster.address, port.port)]
        return self._claimed(port, port.key, there)

    def _claimed(self, port: Port, key: ListenerKey, there: Listening | None) -> list[Step]:
        served = there is not None and there.binding.claimed
        held, resource = self._held.get(key), self._resources.get((key.namespace, key.name))
        binding = self._binding(resource, key) if isinstance(resource, Resource) else None
        if held is None or binding is None or not isinstance(resource, Resource):
            kept = held is not None and isinstance(resource, Rejected) and resource.keeps(key.tenant)
            if not served or kept or key.namespace in self._objects.unseen:
                return []
            return [Unwanted(key, port.uid), *_closed(there, "the resource no longer wants it")]
        if held.port != port.port:
            return _closed(there, "it has another port") if served else []
        known = self._observed.described.get(binding.request)
        elsewhere = self._observed.listening.get(key)
        if known is None or (elsewhere is not None and elsewhere.port != port.port):
            return []
        if isinstance(known, Refusal) and known.reason in GONE:
            return _closed(there, GONE[known.reason])
        protocol, asks = binding.protocol, False
        if isinstance(known, Known):
            protocol, asks = known.protocol, known.asks
        elif there is not None and served:
            protocol, asks = there.binding.protocol, there.binding.greeting is GreetingMode.LOGIN
        binding = _served(binding, port.uid, resource.scope, protocol, asks)
        if there is None:
            return [Open(binding, self._observed.cluster.address, port.port)]
        if not served:
            return [Take(binding, port.port)]
        return self._bound(there, binding)

    def _bound(self, there: Listening, binding: Binding) -> list[Step]:
        if there.binding.scope == CLUSTER_WIDE and binding.scope != CLUSTER_WIDE:
            policy = self._objects.policies.get(policy_name(binding.key.namespace, CLUSTER_WIDE))
            if policy is None or there.port not in policy_ports(policy):
                return [Narrow(binding)]
            binding = evolve(binding, scope=CLUSTER_WIDE)
        return [] if binding == there.binding else [Rebind(binding)]


@lru_cache(maxsize=REMEMBERED)
def _served(binding: Binding, owner: str, scope: str, protocol: str, asks: bool) -> Binding:
    return bound(evolve(binding, owner=owner, scope=scope), protocol, asks)


def _unrecorded(there: Listening) -> list[Step]:
    whose = _mark(there) if there.binding.claimed else ""
    return [Released(there.port, whose), *_closed(there, "its record is gone")]


def _closed(there: Listening | None, reason: str) -> list[Step]:
    return [Close(there.binding.key, reason)] if there else []


def _mark(there: Listening) -> str:
    return mark(there.binding.key, there.binding.owner)

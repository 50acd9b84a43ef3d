"""What is kept of what is there: policies, slices, and what nobody wants any more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from operator import itemgetter

from tproxy.model import ListenerKey
from tproxy.operator import desired, objects
from tproxy.operator.claims import Claims
from tproxy.operator.manifests import Name, Rejected, Resource
from tproxy.operator.memory import Memory
from tproxy.operator.objects import Objects, Port, Sort, Thing, says
from tproxy.operator.plan import Observed
from tproxy.operator.ports import Ports
from tproxy.operator.steps import (
    Change,
    Create,
    Departed,
    Released,
    Remove,
    Step,
    Steps,
    Unwanted,
    Vacant,
    record,
    reference,
)

ENOUGH = 100
"""So many steps of a kind are planned at once, which is more than are taken until there is another plan; those that
cannot be taken now don't count."""

REST_SECONDS = 600.0
"""How long a released port rests before somebody else may get it."""


class Upkeep:
    """The steps that concern what is there, whoever it was made for."""

    def __init__(self, observed: Observed, there: Objects, claims: Claims, ports: Ports, memory: Memory) -> None:
        self._observed, self._there, self._claims = observed, there, claims
        self._ports, self._memory = ports, memory
        self._home = there.installation

    def policies(self) -> Iterator[Steps]:
        """The policies that have to change, and those of no port."""
        wanted = {objects.policy_name(*whose): whose for whose in self._ports.scopes}
        for name in sorted(wanted.keys() | self._there.policies.keys()):
            there, whose = self._there.policies.get(name), wanted.get(name)
            opened = self._memory.opened(name, there) if there else frozenset()
            ports = self._ports.scopes[whose] if whose else set()
            step: Step | None = None
            if there is None:
                step = Create(Sort.POLICY, desired.policy(self._home, *wanted[name], ports))
            elif whose is None:
                step = Remove(Sort.POLICY, there)
            elif opened != ports or self._memory.policies.get(name) is not there:
                manifest = desired.policy(self._home, *whose, ports)
                if opened != ports or not says(there, manifest):
                    step = changed(Sort.POLICY, there, manifest)
                else:
                    self._memory.policies[name] = there
            if step is not None:
                kept = self._ports.scopes.get(_whose(there), ()) if there else ()
                lost = set(opened).difference(kept, self._there.ports)
                looks = (Released(port, "") for port in sorted(lost))
                yield Steps((reference(Sort.POLICY, self._home.namespace, name),), (*looks, step))

    def slices(self) -> Iterator[Steps]:
        """The slices that have to change, in order of use: those that lead nowhere, then where a connection came last.

        @return: enough of them for now
        """
        right = self._memory.slices
        unsure = [port for number, port in self._there.ports.items() if right.get(number) != ()]
        steps = chain.from_iterable(map(self._slices_of, sorted(unsure, key=self._use)))
        return islice((each for each in steps if self._observed.free(each.subjects)), ENOUGH)

    def _use(self, port: Port) -> tuple[bool, bool, float, int]:
        slices = self._there.slices
        leads = any(name in slices and objects.endpoints(slices[name]) for name in _slice_names(port))
        return port.holder is None, leads, -self._observed.used.get(port.port, 0.0), port.port

    def _slices_of(self, port: Port) -> Sequence[Steps]:
        """What the slices of a port need, thought about once."""
        known = self._memory.slices.get(port.port)
        if known is None:
            known = self._memory.slices[port.port] = tuple(self._outdated(port))
        return known

    def _outdated(self, port: Port) -> Iterator[Steps]:
        before = slices_of(self._there, port)
        named = desired.reached(port, self._there.replicas, before)
        for manifest in desired.endpoint_slices(self._home, port, named, self._there.slices):
            name = manifest["metadata"]["name"]
            there = self._there.slices.get(name)
            where = reference(Sort.SLICE, self._home.namespace, name)
            if there is None:
                yield Steps((where,), (Create(Sort.SLICE, manifest),))
            elif _belongs(there, port.thing["metadata"]["uid"]) and not says(there, manifest):
                step = Change(Sort.SLICE, there, {"endpoints": manifest["endpoints"]})
                if not says({**there, **step.change}, manifest):
                    step = changed(Sort.SLICE, there, manifest)
                yield Steps((where,), (*self._departed(there), step))

    def _departed(self, there: Thing) -> Iterator[Departed]:
        """Looks at the pods in a slice that are not known any more."""
        known = {replica.uid for replica in self._there.replicas}
        for pod in (each.get("targetRef") or {} for each in objects.endpoints(there)):
            if pod and pod["uid"] not in known:
                yield Departed(pod["name"], pod["uid"])

    def released(self) -> Iterator[Steps]:
        """Ports that nobody wants any more."""
        unwanted = [
            (port.port, port, key)
            for port in self._claims.ports.values()
            if (key := port.holder) is not None and not self._claims.owns(key, port)
        ]
        for _, port, key in sorted(unwanted, key=itemgetter(0)):
            if key.namespace in self._there.unseen:
                continue
            name = (key.namespace, key.name)
            resource, identity = self._claims.resources.get(name), self._there.identities.get(name)
            steps: list[Step] = []
            if identity is None or identity.uid != port.uid or not _names(resource, key):
                steps.append(Unwanted(key, port.uid))
            subjects = [record(self._home.namespace, port)]
            note = {objects.RELEASED: objects.moment(self._there.now)}
            steps.append(Change(Sort.SERVICE, port.thing, {"metadata": {"annotations": note}}))
            named = self._there.names.get((key.namespace, key.service))
            ours = named is not None and objects.owner(named) == port.uid
            if named is not None and ours and objects.target(named) == self._home.host(port.port):
                steps.append(Remove(Sort.SERVICE, named))
                subjects.append(reference(Sort.SERVICE, key.namespace, key.service))
            yield Steps(tuple(subjects), tuple(steps))

    def orphans(self) -> Iterator[Steps]:
        """Names that a resource no longer wants and that no record remembers; those of no resource are collected."""
        if len(self._there.names) == len(self._memory.names):  # which are all among them
            return
        unsure = ((name, self._there.names[name]) for name in self._there.names.keys() - self._memory.names)
        names = [item for item in unsure if not self._claims.holds(*item)]
        hosts = {self._home.host(port.port) for port in self._there.ports.values() if port.holder} if names else set()
        for (namespace, service), there in sorted(names, key=itemgetter(0)):
            key = objects.named_key(there)
            identity = self._there.identities.get((key.namespace, key.name)) if key else None
            if key is None or identity is None or objects.owner(there) != identity.uid:
                continue
            if not (self._claims.keeps(key) or objects.target(there) in hosts):
                where = reference(Sort.SERVICE, namespace, service)
                yield Steps((where,), (Unwanted(key, identity.uid), Remove(Sort.SERVICE, there)))

    def rested(self) -> Iterator[Steps]:
        """Released ports that somebody else may get by now: nothing leads there any more."""
        rested = [
            (port.port, port)
            for port in self._claims.ports.values()
            if port.released is not None and self._there.now - port.released >= REST_SECONDS
        ]
        if not rested:
            return
        targets = {objects.target(each) for each in self._there.names.values()}
        opened = set(chain.from_iterable(self._memory.opened(*item) for item in self._there.policies.items()))
        for _, port in sorted(rested, key=itemgetter(0)):
            host = self._home.host(port.port)
            used = any(objects.endpoints(each) for each in slices_of(self._there, port))
            if host in targets or port.port in opened or used:
                continue
            look = (Vacant(port.key, host),) if port.key else ()
            step: Step = Remove(Sort.SERVICE, port.thing)
            if self._ports.wants_spare(port):
                step = Change(Sort.SERVICE, port.thing, {"metadata": {"annotations": desired.UNCLAIMED}})
            yield Steps((record(self._home.namespace, port),), (*look, step))

    def misdated(self) -> Iterator[Steps]:
        """Released ports whose time cannot have come: a clock was wrong. They rest from now on."""
        note = {objects.RELEASED: objects.moment(self._there.now)}
        for port in self._claims.ports.values():
            if port.released is not None and port.released - self._there.now > REST_SECONDS:
                step = Change(Sort.SERVICE, port.thing, {"metadata": {"annotations": note}})
                yield Steps((record(self._home.namespace, port),), (step,))


def scopes(there: Objects, claims: Claims, memory: Memory) -> Mapping[Name, set[int]]:
    """The ports of each namespace and scope, as they should be."""
    found = defaultdict(set, {whose: set(ports) for whose, ports in memory.scopes.items()})
    for port in claims.ports.values():
        key = port.holder
        if key is None:
            continue
        wanted = claims.wants(key) if claims.held.get(key) is port else None
        if wanted is not None:
            found[key.namespace, wanted.scope].add(port.port)
            continue
        for name, policy in there.policies.items():  # as it is, until it is released
            notes = objects.noted(policy)
            if notes.get(objects.KEY_NAMESPACE) == key.namespace and port.port in memory.opened(name, policy):
                found[key.namespace, notes.get(objects.SCOPE, "")].add(port.port)
    return found


def slices_of(there: Objects, port: Port) -> list[Thing]:
    """The slices of a record, of either family."""
    uid = port.thing["metadata"]["uid"]
    found = [there.slices[name] for name in _slice_names(port) if name in there.slices]
    return [each for each in found if _belongs(each, uid)]


def changed(sort: Sort, there: Thing, manifest: Mapping[str, object]) -> Change:
    """All of an object as it should be; who it is cannot change."""
    change = {name: value for name, value in manifest.items() if name != "metadata"}
    metadata = manifest["metadata"]
    assert isinstance(metadata, dict)  # noqa: S101
    kept = {name: value for name, value in metadata.items() if name not in ("name", "namespace")}
    return Change(sort, there, {**change, "metadata": kept})


def _names(resource: Resource | Rejected | None, key: ListenerKey) -> bool:
    """Whether a resource, as it was seen, includes a listener: what it loses then is ours to decide."""
    if isinstance(resource, Rejected):
        return resource.keeps(key.tenant)
    return resource is not None and any(binding.key == key for binding in resource.bindings)


def _slice_names(port: Port) -> tuple[str, str]:
    return objects.slice_name(port.port, "IPv4"), objects.slice_name(port.port, "IPv6")


def _belongs(there: Thing, uid: str) -> bool:
    """Whether a slice is that of this very record, not of one that had its name."""
    return any(each.get("uid") == uid for each in there["metadata"].get("ownerReferences") or ())


def _whose(policy: Thing) -> Name:
    notes = objects.noted(policy)
    return notes.get(objects.KEY_NAMESPACE, ""), notes.get(objects.SCOPE, "")

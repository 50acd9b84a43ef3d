"""What the leader writes: a picture of a cluster becomes the objects that are missing, wrong, or there for too long.

Each step depends on what was seen, not on a step before it: a name is written once its port is recorded, opened by
a policy and served by a replica, and so nothing is announced before it is there. What takes something away begins
with a look at what the API server says at that moment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from operator import itemgetter

from attrs import evolve, frozen

from tproxy.model import Binding, ListenerKey, Reason, Refusal, Stage
from tproxy.operator import desired, objects
from tproxy.operator.fates import GONE, TRANSIENT, down, duplicate, summary
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
from tproxy.operator.objects import Agreed, Objects, Port, Replica, Sort, Thing, says
from tproxy.operator.plan import Known, Observed
from tproxy.operator.ports import USUAL_PORT, Bounds, Ports
from tproxy.operator.statuses import status_document
from tproxy.operator.steps import (
    Change,
    Create,
    Departed,
    Released,
    Remove,
    Step,
    Steps,
    Tell,
    Unwanted,
    Vacant,
    record,
    reference,
)

REST_SECONDS = 600.0
"""How long a released port rests before somebody else may get it."""

_SOMEBODY_ELSES = Refusal(
    Stage.ACCEPT,
    Reason.NAME_ALREADY_PRESENT,
    "there is a Service of that name already, which has tproxy's labels, but belongs to no Destination",
    "rename the Destination, or remove that Service",
)

PATIENCE_SECONDS = 10.0
"""How long nothing is told of a port that was claimed and is not served yet."""


def lead(observed: Observed, bounds: Bounds, agreed: Agreed) -> tuple[Steps, ...]:
    """The steps that are missing, the urgent ones first; none where all is as it should be.

    @param agreed: makes the next plan come sooner, where little has changed
    """
    there = observed.cluster.objects
    if there is None or not there.leading:
        return ()
    agreed.turn()
    return _Leading(observed, there, bounds, agreed).steps()


@frozen
class _Wanted:
    """A listener that a resource wants."""

    binding: Binding
    port: int
    scope: str


class _Leading:
    def __init__(self, observed: Observed, there: Objects, bounds: Bounds, agreed: Agreed) -> None:
        self._observed, self._there, self._bounds, self._agreed = observed, there, bounds, agreed
        self._home = there.installation
        self._held = there.held
        self._opened = {name: objects.policy_ports(policy) for name, policy in there.policies.items()}
        self._resources = {(each.namespace, each.name): each for each in observed.cluster.resources}
        self._left_alone = {name for name, each in self._resources.items() if self._foreign(each)}
        self._holders = self._named()
        self._wanted = {
            binding.key: _Wanted(binding, resource.port, resource.scope)
            for name, resource in self._resources.items()
            if isinstance(resource, Resource) and name not in self._left_alone
            for binding in resource.bindings
            if self._holders[binding.key.namespace, binding.key.service] == binding.key
        }
        self._ports = Ports(observed, there, bounds, self._scopes())
        self._faces = {replica.uid: evolve(replica, ports=None) for replica in there.replicas}
        self._claims: list[Steps] = []
        self._changes: list[Steps] = []
        self._told: list[Steps] = []

    def steps(self) -> tuple[Steps, ...]:
        for name in sorted(self._resources.keys() & self._there.identities.keys() - self._left_alone):
            self._resource(name, self._resources[name])
        urgent = [*self._claims, *self._policies(), *self._changes, *self._told]
        return (*urgent, *self._released(), *self._orphans(), *self._slices(), *self._rested(), *self._ports.spares())

    # whose each name is

    def _foreign(self, resource: Resource | Rejected) -> bool:
        """Whether the destination is another product's to serve."""
        return (
            self._bounds.coexist
            and isinstance(resource, Resource)
            and any(
                isinstance(known := self._observed.described.get(binding.request), Refusal)
                and known.reason is Reason.TYPE_NOT_SUPPORTED
                for binding in resource.bindings
            )
        )

    def _named(self) -> Mapping[Name, ListenerKey]:
        """Whose each name is: who holds it keeps it, then the older resource, then the lower uid."""
        claims: dict[Name, list[ListenerKey]] = defaultdict(list)
        for name, resource in self._resources.items():
            identity = self._there.identities.get(name)
            if identity is None or name in self._left_alone:
                continue
            keys: Iterable[ListenerKey] = (
                (binding.key for binding in resource.bindings)
                if isinstance(resource, Resource)
                else (key for key in self._held if (key.namespace, key.name) == name and resource.keeps(key.tenant))
            )
            for key in keys:
                claims[key.namespace, key.service].append(key)
        return {name: keys[0] if len(keys) == 1 else min(keys, key=self._seniority) for name, keys in claims.items()}

    def _seniority(self, key: ListenerKey) -> tuple[bool, str, str]:
        identity = self._there.identities[key.namespace, key.name]
        held = self._there.names.get((key.namespace, key.service))
        return held is None or objects.owner(held) != identity.uid, identity.created, identity.uid

    def _keeps(self, key: ListenerKey) -> bool:
        """Whether a key's port stays its own."""
        rejected = self._resources.get((key.namespace, key.name))
        return key in self._wanted or (isinstance(rejected, Rejected) and rejected.keeps(key.tenant))

    # resources

    def _resource(self, name: Name, resource: Resource | Rejected) -> None:
        if isinstance(resource, Rejected):
            self._tell(name, self._rejection(name, resource))
            return
        rows: list[ListenerStatus | None] = []
        for binding in resource.bindings:
            key = binding.key
            holder = self._holders[key.namespace, key.service]
            rows.append(self._row(self._wanted[key]) if holder == key else down(key, duplicate(holder)))
        rows += (down(ListenerKey(*name, tenant), refusal) for tenant, refusal in resource.refused)
        status = summary(rows)
        if status is not None:
            self._tell(name, status)

    def _row(self, wanted: _Wanted) -> ListenerStatus | None:
        """What a listener needs, and how it fares; None where that cannot be told yet."""
        key = wanted.binding.key
        known, port = self._observed.described.get(wanted.binding.request), self._held.get(key)
        if known is None:
            return None
        if isinstance(known, Refusal) and (known.reason in GONE or port is None):
            return self._down(key, known, port)
        if port is None:
            return self._claim(wanted, known.port if isinstance(known, Known) else USUAL_PORT)
        asked = wanted.port or (known.port if isinstance(known, Known) else port.service_port)
        if self._announced(wanted, port, asked):
            if isinstance(known, Refusal) and known.reason not in TRANSIENT:
                return self._down(key, known, port)
            return ListenerStatus(key, _address(key), port.service_port, True, SUCCESS)
        failure = self._failure(wanted, port)
        if failure is not None:
            return self._down(key, failure, port)
        if self._there.now - port.claimed < PATIENCE_SECONDS:
            return None
        left = self._there.names.get((key.namespace, key.service))
        other = left is not None and objects.owner(left) != port.uid
        return self._down(key, _LEFT_OVER if other else _NOBODY, port)

    def _claim(self, wanted: _Wanted, usual: int) -> ListenerStatus | None:
        key = wanted.binding.key
        identity = self._there.identities[key.namespace, key.name]
        if key in self._observed.failures:
            return down(key, self._observed.failures[key])
        looks: tuple[Step, ...] = ()
        lost = objects.leads_to(self._there.names.get((key.namespace, key.service)), self._home)
        if lost and lost not in self._there.ports:
            looks = (Released(lost, objects.mark(key, identity.uid)),)
        note = desired.claim(key, identity.uid, self._there.now)
        found = self._ports.take(wanted.port or usual, (key.namespace, wanted.scope))
        if isinstance(found, Refusal):
            return down(key, found)
        step: Step
        if isinstance(found, Port):
            step = Change(Sort.SERVICE, found.thing, {"metadata": {"annotations": note}})
        else:
            step = Create(Sort.SERVICE, desired.port_service(self._home, found, wanted.port or usual, note))
        self._claims.append(Steps((key, record(self._home.namespace, found)), (*looks, step)))
        return None

    def _announced(self, wanted: _Wanted, port: Port, asked: int) -> bool:
        """Whether the name is there and leads to a port that is open to who may come, and served."""
        key = wanted.binding.key
        if port.service_port != asked:
            change = {
                "metadata": {"annotations": {objects.OPAQUE_PORTS: str(asked)}},
                "spec": {"ports": desired.port_spec(port.port, asked)["ports"]},
            }
            where = record(self._home.namespace, port)
            self._changes.append(Steps((where,), (Change(Sort.SERVICE, port.thing, change),)))
            return False
        opened = self._opened.get(objects.policy_name(key.namespace, wanted.scope), ())
        served = any(objects.endpoints(each) for each in self._slices_of(port))
        if port.port not in opened or not served:
            return False
        uid = self._there.identities[key.namespace, key.name].uid
        there = self._there.names.get((key.namespace, key.service))

        def compare() -> bool:
            return there is not None and says(there, desired.named_service(self._home, key, uid, port))

        if there is not None and self._agreed.on(key, (there,), (uid, port.port, port.service_port), compare):
            return True
        if there is not None and objects.owner(there) != uid:
            return False
        manifest = desired.named_service(self._home, key, uid, port)
        step = Create(Sort.SERVICE, manifest) if there is None else _changed(Sort.SERVICE, there, manifest)
        self._changes.append(Steps((reference(Sort.SERVICE, key.namespace, key.service),), (step,)))
        return False

    def _failure(self, wanted: _Wanted, port: Port) -> Refusal | None:
        """Why a listener is not announced, where it was tried."""
        key, home = wanted.binding.key, self._home.namespace
        tried = (
            record(home, port),
            reference(Sort.POLICY, home, objects.policy_name(key.namespace, wanted.scope)),
            reference(Sort.SLICE, home, objects.slice_name(port.port, "IPv4")),
            reference(Sort.SERVICE, key.namespace, key.service),
        )
        there = self._there.names.get((key.namespace, key.service))
        if there is not None and not objects.owner(there):
            return _SOMEBODY_ELSES
        return next((self._observed.failures[each] for each in tried if each in self._observed.failures), None)

    def _down(self, key: ListenerKey, refusal: Refusal, port: Port | None) -> ListenerStatus:
        named = port is not None and (key.namespace, key.service) in self._there.names
        return down(key, refusal, _address(key), port.service_port) if port and named else down(key, refusal)

    def _rejection(self, name: Name, resource: Rejected) -> Status:
        """A resource that is wrong as a whole: what was there goes on."""
        reason, message = condition_reason(resource.refusal.reason), shortened(str(resource.refusal))
        rows = tuple(
            ListenerStatus(key, _address(key), port.service_port, True, reason, message)
            for key, port in sorted(self._held.items())
            if (key.namespace, key.name) == name and resource.keeps(key.tenant)
        )
        return Status(False, reason, message, rows or (down(ListenerKey(*name), resource.refusal),))

    def _tell(self, name: Name, status: Status) -> None:
        read = self._there.identities[name].thing

        def compare() -> bool:
            document = status_document(status, read, self._there.now)
            return says(_timeless(read.get("status") or {}), _timeless(document))

        if not self._agreed.on(name, (read,), status, compare):
            before = self._observed.cluster.statuses.get(name)
            subject = reference(Sort.DESTINATION, *name)
            self._told.append(Steps((subject,), (Tell(name, read, status, before),)))

    # what is ours

    def _scopes(self) -> Mapping[Name, set[int]]:
        """The ports of each namespace and scope, as they should be."""
        found: dict[Name, set[int]] = defaultdict(set)
        for port in self._there.ports.values():
            key = port.holder
            if key is None:
                continue
            wanted = self._wanted.get(key) if self._held.get(key) is port else None
            if wanted is not None:
                found[key.namespace, wanted.scope].add(port.port)
                continue
            for name, opened in self._opened.items():  # as it is, until it is released
                notes = objects.noted(self._there.policies[name])
                if port.port in opened and notes.get(objects.KEY_NAMESPACE) == key.namespace:
                    found[key.namespace, notes.get(objects.SCOPE, "")].add(port.port)
        return found

    def _policies(self) -> Iterator[Steps]:
        wanted = {objects.policy_name(*whose): whose for whose in self._ports.scopes}
        for name in sorted(wanted.keys() | self._there.policies.keys()):
            there, whose = self._there.policies.get(name), wanted.get(name)
            step: Step | None = None
            if whose is None:
                step = Remove(Sort.POLICY, there or {})
            else:
                ports = self._ports.scopes[whose]
                manifest = desired.policy(self._home, *whose, ports)
                if there is None:
                    step = Create(Sort.POLICY, manifest)
                elif not says(there, manifest) or self._opened[name] != ports:
                    step = _changed(Sort.POLICY, there, manifest)
            if step is not None:
                kept = self._ports.scopes.get(_whose(there), ()) if there else ()
                lost = set(self._opened.get(name, ())).difference(kept, self._there.ports)
                looks = (Released(port, "") for port in sorted(lost))
                yield Steps((reference(Sort.POLICY, self._home.namespace, name),), (*looks, step))

    def _slices_of(self, port: Port) -> list[Thing]:
        names = (objects.slice_name(port.port, family) for family in ("IPv4", "IPv6"))
        uid = port.thing["metadata"]["uid"]
        found = (self._there.slices[name] for name in names if name in self._there.slices)
        return [each for each in found if _belongs(each, uid)]

    def _slices(self) -> Iterator[Steps]:
        """The slices that have to change: those of somebody's ports first."""
        outdated = [(port, named) for port in self._there.ports.values() if (named := self._outdated(port)) is not None]
        for port, named in sorted(outdated, key=lambda each: (each[0].holder is None, each[0].port)):
            for manifest in desired.endpoint_slices(self._home, port, named, self._there.slices):
                name = manifest["metadata"]["name"]
                there = self._there.slices.get(name)
                where = reference(Sort.SLICE, self._home.namespace, name)
                if there is None:
                    yield Steps((where,), (Create(Sort.SLICE, manifest),))
                elif _belongs(there, port.thing["metadata"]["uid"]) and not says(there, manifest):
                    step = Change(Sort.SLICE, there, {"endpoints": manifest["endpoints"]})
                    yield Steps((where,), (*self._departed(there), step))

    def _outdated(self, port: Port) -> tuple[Replica, ...] | None:
        """The replicas that a port should lead to, where its slices say something else."""
        there = tuple(self._slices_of(port))
        named = desired.reached(port, self._there.replicas, there)

        def compare() -> bool:
            wanted = desired.endpoint_slices(self._home, port, named, self._there.slices)
            return len(there) == len(wanted) and all(map(says, there, wanted))

        faces = tuple(self._faces[replica.uid] for replica in named)
        return None if self._agreed.on(port.port, there, faces, compare) else named

    def _departed(self, there: Thing) -> Iterator[Departed]:
        """Looks at the pods in a slice that are not known any more."""
        known = {replica.uid for replica in self._there.replicas}
        for pod in (each.get("targetRef") or {} for each in objects.endpoints(there)):
            if pod and pod["uid"] not in known:
                yield Departed(pod["name"], pod["uid"])

    def _released(self) -> Iterator[Steps]:
        """Ports that nobody wants any more."""
        unwanted = [
            (port.port, port, key)
            for port in self._there.ports.values()
            if (key := port.holder) is not None and not (self._held.get(key) is port and self._keeps(key))
        ]
        for _, port, key in sorted(unwanted, key=itemgetter(0)):
            if key.namespace in self._there.unseen:
                continue
            name = (key.namespace, key.name)
            resource, identity = self._resources.get(name), self._there.identities.get(name)
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

    def _orphans(self) -> Iterator[Steps]:
        """Names that a resource no longer wants and that no record remembers; those of no resource are collected."""
        names = [item for item in self._there.names.items() if not self._holds(*item)]
        hosts = {self._home.host(port.port) for port in self._there.ports.values() if port.holder} if names else set()
        for (namespace, service), there in sorted(names, key=itemgetter(0)):
            key = objects.named_key(there)
            identity = self._there.identities.get((key.namespace, key.name)) if key else None
            if key is None or identity is None or objects.owner(there) != identity.uid:
                continue
            if not (self._keeps(key) or objects.target(there) in hosts):
                where = reference(Sort.SERVICE, namespace, service)
                yield Steps((where,), (Unwanted(key, identity.uid), Remove(Sort.SERVICE, there)))

    def _holds(self, name: Name, there: Thing) -> bool:
        """Whether a name is that of who is to have it."""
        key = self._holders.get(name)
        return key is not None and objects.owner(there) == self._there.identities[key.namespace, key.name].uid

    def _rested(self) -> Iterator[Steps]:
        """Released ports that somebody else may get by now: nothing leads there any more."""
        rested = [
            (port.port, port)
            for port in self._there.ports.values()
            if port.released is not None and self._there.now - port.released >= REST_SECONDS
        ]
        targets = {objects.target(each) for each in self._there.names.values()} if rested else set()
        opened = set(chain.from_iterable(self._opened.values()))
        for _, port in sorted(rested, key=itemgetter(0)):
            host = self._home.host(port.port)
            used = any(objects.endpoints(each) for each in self._slices_of(port))
            if host in targets or port.port in opened or used:
                continue
            look = (Vacant(port.key, host),) if port.key else ()
            step: Step = Remove(Sort.SERVICE, port.thing)
            if self._ports.wants_spare(port):
                step = Change(Sort.SERVICE, port.thing, {"metadata": {"annotations": desired.UNCLAIMED}})
            yield Steps((record(self._home.namespace, port),), (*look, step))


def _address(key: ListenerKey) -> str:
    return f"{key.service}.{key.namespace}"


def _names(resource: Resource | Rejected | None, key: ListenerKey) -> bool:
    """Whether a resource, as it was seen, includes a listener: what it loses then is ours to decide."""
    if isinstance(resource, Rejected):
        return resource.keeps(key.tenant)
    return resource is not None and any(binding.key == key for binding in resource.bindings)


def _belongs(there: Thing, uid: str) -> bool:
    """Whether a slice is that of this very record, not of one that had its name."""
    return any(each.get("uid") == uid for each in there["metadata"].get("ownerReferences") or ())


def _whose(policy: Thing) -> Name:
    notes = objects.noted(policy)
    return notes.get(objects.KEY_NAMESPACE, ""), notes.get(objects.SCOPE, "")


def _changed(sort: Sort, there: Thing, manifest: Mapping[str, object]) -> Change:
    """All of an object as it should be; who it is cannot change."""
    change = {name: value for name, value in manifest.items() if name != "metadata"}
    metadata = manifest["metadata"]
    assert isinstance(metadata, dict)  # noqa: S101
    kept = {name: value for name, value in metadata.items() if name not in ("name", "namespace")}
    return Change(sort, there, {**change, "metadata": kept})


def _timeless(status: Mapping[str, object]) -> Mapping[str, object]:
    """A status without the times at which it was told."""
    conditions = status.get("conditions")
    kept = [
        {name: value for name, value in each.items() if not name.endswith("Time")}
        for each in (conditions if isinstance(conditions, list) else ())
    ]
    return {**status, "conditions": kept}


_NOBODY = Refusal(
    Stage.ACCEPT,
    Reason.PORT_NOT_AVAILABLE,
    "no replica listens on its port yet",
    "see that the pods of tproxy are ready, and that they reach each other's health port",
)
_LEFT_OVER = Refusal(
    Stage.ACCEPT,
    Reason.SERVICE_REFUSED,
    "the Service belongs to a resource that is gone, and is not collected yet",
    "see that the cluster's garbage collector runs, or remove the Service",
)

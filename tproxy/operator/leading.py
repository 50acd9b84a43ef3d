"""What the leader writes: a picture of a cluster becomes the objects that are missing, wrong, or there for too long.

Each step depends on what was seen, not on a step before it: a name is written once its port is recorded, opened by
a policy and served by a replica, and so nothing is announced before it is there. What takes something away begins
with a look at what the API server says at that moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

from attrs import frozen

from tproxy.model import Binding, ListenerKey, Reason, Refusal, Stage
from tproxy.operator import desired, objects
from tproxy.operator.claims import Claims
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
from tproxy.operator.memory import Memory, Rest
from tproxy.operator.objects import Objects, Port, Sort, says
from tproxy.operator.plan import Known, Observed
from tproxy.operator.ports import USUAL_PORT, Bounds, Ports
from tproxy.operator.statuses import status_document
from tproxy.operator.steps import Change, Create, Released, Step, Steps, Tell, record, reference
from tproxy.operator.upkeep import ENOUGH, Upkeep, changed, scopes, slices_of

PATIENCE_SECONDS = 10.0
"""How long nothing is told of a port that was claimed and is not served yet."""


def lead(observed: Observed, bounds: Bounds, memory: Memory) -> tuple[Steps, ...]:
    """The steps that are missing; none where all is as it should be.

    What resources need and what keeps up the rest take turns, so that neither waits for thousands of the other.

    @param memory: has seen what is observed
    """
    there = observed.cluster.objects
    if there is None or not there.leading:
        return ()
    claims = Claims(observed, there, bounds.coexist, memory)
    ports = Ports(observed, there, bounds, claims.ports, memory, scopes(there, claims, memory))
    leading = _Leading(observed, there, claims, ports, memory)
    for name in sorted(claims.pending):
        if leading.planned < ENOUGH:
            leading.resource(name, claims.resources[name])
    upkeep = Upkeep(observed, there, claims, ports, memory)
    needed = [*upkeep.policies(), *leading.changes, *leading.claims, *leading.told]
    kept = [*upkeep.released(), *upkeep.orphans(), *upkeep.slices(), *upkeep.rested(), *upkeep.misdated()]
    kept += ports.spares()
    return tuple(steps for pair in zip_longest(needed, kept) for steps in pair if steps)


@frozen
class Wanted:
    """A listener that a resource wants."""

    binding: Binding
    port: int
    scope: str


class _Leading:
    """What each resource needs, and how it fares; `planned` are the steps that can be taken now."""

    def __init__(self, observed: Observed, there: Objects, claims: Claims, ports: Ports, memory: Memory) -> None:
        self._observed, self._there, self._claims = observed, there, claims
        self._ports, self._memory = ports, memory
        self._home = there.installation
        self._unsettled = False
        self.planned = 0
        self.claims: list[Steps] = []
        self.changes: list[Steps] = []
        self.told: list[Steps] = []

    def resource(self, name: Name, resource: Resource | Rejected) -> None:
        """Plan one resource; where it needs nothing, it is remembered to be at rest."""
        if isinstance(resource, Rejected):
            self._tell(name, self._rejection(name, resource))
            return
        self._unsettled = False
        rows: list[ListenerStatus | None] = []
        for binding in resource.bindings:
            key = binding.key
            holder = self._claims.holders[key.namespace, key.service]
            wanted = Wanted(binding, resource.port, resource.scope)
            rows.append(self._row(wanted) if holder == key else self._tried(key, duplicate(holder)))
        rows += (down(ListenerKey(*name, tenant), refusal) for tenant, refusal in resource.refused)
        status = summary(rows)
        if status is None or self._tell(name, status) or self._unsettled:
            return
        held = [port for binding in resource.bindings if (port := self._claims.held.get(binding.key))]
        names = [(name[0], binding.key.service) for binding in resource.bindings]
        uid = self._there.identities[name].uid
        ports = {port.port: port.service_port for port in held}
        there = ((each, self._there.names[each]) for each in names if each in self._there.names)
        own = (
            each
            for each, named in there
            if objects.owner(named) == uid and objects.leads_to(named, self._home) in ports
        )
        self._memory.rest(name, Rest(resource.scope, ports, tuple(names), frozenset(own)))

    def _plan(self, among: list[Steps], steps: Steps) -> None:
        among.append(steps)
        self.planned += self._observed.free(steps.subjects)

    def _tried(self, key: ListenerKey, refusal: Refusal, port: Port | None = None) -> ListenerStatus:
        """A listener that does not serve for a reason that may be gone any time."""
        self._unsettled = True
        return self._down(key, refusal, port)

    def _row(self, wanted: Wanted) -> ListenerStatus | None:
        """What a listener needs, and how it fares; None where that cannot be told yet."""
        key = wanted.binding.key
        known, port = self._observed.described.get(wanted.binding.request), self._claims.held.get(key)
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
            return self._tried(key, failure, port)
        if abs(self._there.now - port.claimed) < PATIENCE_SECONDS:  # clocks may be set, and other leaders have others
            return None
        left = self._there.names.get((key.namespace, key.service))
        other = left is not None and objects.owner(left) != port.uid
        return self._tried(key, _LEFT_OVER if other else _NOBODY, port)

    def _claim(self, wanted: Wanted, usual: int) -> ListenerStatus | None:
        key = wanted.binding.key
        identity = self._there.identities[key.namespace, key.name]
        if key in self._observed.failures:
            return self._tried(key, self._observed.failures[key])
        looks: tuple[Step, ...] = ()
        lost = objects.leads_to(self._there.names.get((key.namespace, key.service)), self._home)
        if lost and lost not in self._there.ports:
            looks = (Released(lost, objects.mark(key, identity.uid)),)
        note = desired.claim(key, identity.uid, self._there.now)
        found = self._ports.take(wanted.port or usual, (key.namespace, wanted.scope))
        if isinstance(found, Refusal):
            return self._tried(key, found)
        step: Step
        if isinstance(found, Port):
            step = Change(Sort.SERVICE, found.thing, {"metadata": {"annotations": note}})
        else:
            step = Create(Sort.SERVICE, desired.port_service(self._home, found, wanted.port or usual, note))
        self._plan(self.claims, Steps((key, record(self._home.namespace, found)), (*looks, step)))
        return None

    def _announced(self, wanted: Wanted, port: Port, asked: int) -> bool:
        """Whether the name is there and leads to a port that is open to who may come, and served."""
        key = wanted.binding.key
        if port.service_port != asked:
            change = {
                "metadata": {"annotations": {objects.OPAQUE_PORTS: str(asked)}},
                "spec": {"ports": desired.port_spec(port.port, asked)["ports"]},
            }
            where = record(self._home.namespace, port)
            self._plan(self.changes, Steps((where,), (Change(Sort.SERVICE, port.thing, change),)))
            return False
        policy = self._there.policies.get(name := objects.policy_name(key.namespace, wanted.scope))
        opened = policy is not None and port.port in self._memory.opened(name, policy)
        if not (opened and any(objects.endpoints(each) for each in slices_of(self._there, port))):
            return False
        uid = self._there.identities[key.namespace, key.name].uid
        there = self._there.names.get((key.namespace, key.service))
        manifest = desired.named_service(self._home, key, uid, port)
        if there is not None and says(there, manifest):
            return True
        if there is not None and objects.owner(there) != uid:
            return False
        step = Create(Sort.SERVICE, manifest) if there is None else changed(Sort.SERVICE, there, manifest)
        self._plan(self.changes, Steps((reference(Sort.SERVICE, key.namespace, key.service),), (step,)))
        return False

    def _failure(self, wanted: Wanted, port: Port) -> Refusal | None:
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
            for key, port in sorted(self._claims.held.items())
            if (key.namespace, key.name) == name and resource.keeps(key.tenant)
        )
        return Status(False, reason, message, rows or (down(ListenerKey(*name), resource.refusal),))

    def _tell(self, name: Name, status: Status) -> bool:
        """Tell a resource how it fares; says whether there is something new."""
        read = self._there.identities[name].thing
        document = status_document(status, read, self._there.now)
        if says(_timeless(read.get("status") or {}), _timeless(document)):
            return False
        before = self._observed.cluster.statuses.get(name)
        self._plan(self.told, Steps((reference(Sort.DESTINATION, *name),), (Tell(name, read, status, before),)))
        return True


def _address(key: ListenerKey) -> str:
    return f"{key.service}.{key.namespace}"


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
_SOMEBODY_ELSES = Refusal(
    Stage.ACCEPT,
    Reason.NAME_ALREADY_PRESENT,
    "there is a Service of that name already, which has tproxy's labels, but belongs to no Destination",
    "rename the Destination, or remove that Service",
)

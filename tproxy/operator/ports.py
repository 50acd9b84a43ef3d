"""The ports of an installation: which can still be given out, and how many wait for resources to come."""

from __future__ import annotations

from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice

from attrs import frozen

from tproxy.model import Reason, Refusal, Stage
from tproxy.operator.desired import port_service
from tproxy.operator.manifests import Name
from tproxy.operator.memory import Memory
from tproxy.operator.objects import PORT_SERVICE, Objects, Port, Sort, endpoints, slice_name, target
from tproxy.operator.plan import RANGE, Observed
from tproxy.operator.steps import Create, Remove, Steps, record

USUAL_PORT = 993
"""The port for which there are always spares."""


@frozen
class Bounds:
    """How many listeners there may be, and how many spares for each port in use.

    With `coexist`, resources are left alone whose destination is of a type that no plug-in serves.
    """

    listeners: int = 4000
    spares: int = 5
    coexist: bool = False


class Ports:
    """The ports that can still be given out; each is given once.

    @param ports: those of the records that may be spares
    @param scopes: the ports of each namespace and scope
    """

    def __init__(
        self,
        observed: Observed,
        there: Objects,
        bounds: Bounds,
        ports: Mapping[int, Port],
        memory: Memory,
        scopes: Mapping[Name, set[int]],
    ) -> None:
        self._there, self._bounds, self._memory, self.scopes = there, bounds, memory, scopes
        self._near: dict[Name, list[int]] = {}
        self._spares: dict[int, dict[int, Port]] = defaultdict(dict)
        for port in ports.values():
            if port.spare and port.port not in observed.blocked:
                self._spares[port.service_port][port.port] = port
        self._free = self._numbers(observed)
        self._count = len(memory.ports) + sum(port.holder is not None for port in ports.values())
        self._used = used(ports.values()).union(memory.ports.values())

    def _numbers(self, observed: Observed) -> Iterator[int]:
        """Those that no record has, and that nothing leads to, opens or serves still though its record may be gone."""
        there, led = self._there, set(_led(self._there, self._memory))
        opened = [self._memory.opened(*policy) for policy in there.policies.items()]
        served = [replica.ports for replica in there.replicas if replica.ports]
        for number in chain.from_iterable(RANGE):
            if (
                number not in there.ports
                and number not in observed.blocked
                and slice_name(number, "IPv4") not in there.slices
                and number not in led
                and not any(number in ports for ports in opened)
                and not any(marks.get(number) for marks in served)
            ):
                yield number

    def take(self, service_port: int, whose: Name) -> Port | int | Refusal:
        """A spare that leads to a replica, best one next to what belongs together; else the number of a new one."""
        if self._count >= self._bounds.listeners:
            return _too_many(self._bounds.listeners)
        spares = self._spares[service_port]
        served = [number for number in spares if self._served(number)]
        found: Port | int | Refusal
        if served:
            found = spares.pop(min(served, key=lambda number: (self._distance(number, whose), number)))
        else:
            found = next(self._free, _USED_UP)
        self._count += 1
        return found

    def _served(self, number: int) -> bool:
        slices = (self._there.slices.get(slice_name(number, family), {}) for family in ("IPv4", "IPv6"))
        return any(map(endpoints, slices))

    def _distance(self, number: int, whose: Name) -> int:
        """How far it is to the nearest port of those that it would belong to; 0 where there is none."""
        if whose not in self._near:
            self._near[whose] = sorted(self.scopes.get(whose, ()))
        near = self._near[whose]
        place = bisect(near, number)
        return min((abs(number - each) for each in near[max(0, place - 1) : place + 1]), default=0)

    def wants_spare(self, port: Port) -> bool:
        """Whether a port that comes back is wanted as a spare."""
        spares = self._spares[port.service_port]
        if port.service_port not in self._used or len(spares) >= self._bounds.spares:
            return False
        spares[port.port] = port
        return True

    def spares(self) -> Iterator[Steps]:
        """Spares that are missing, and those that are too many."""
        home = self._there.installation
        room = self._bounds.listeners + self._bounds.spares - len(self._there.ports)
        for service_port in sorted(self._used | self._spares.keys()):
            spares = self._spares[service_port]
            wanted = self._bounds.spares if service_port in self._used else 0
            for number in sorted(spares)[wanted:]:
                yield Steps((record(home.namespace, number),), (Remove(Sort.SERVICE, spares[number].thing),))
            missing = list(islice(self._free, max(0, min(room, wanted - len(spares)))))
            if missing:
                room -= len(missing)
                made = (port_service(home, number, service_port, {}) for number in missing)
                subjects = (("spares", service_port), *(record(home.namespace, number) for number in missing))
                yield Steps(subjects, tuple(Create(Sort.SERVICE, manifest) for manifest in made))


def used(ports: Iterable[Port]) -> set[int]:
    """The service ports that names lead from: there are to be spares for each."""
    return {USUAL_PORT} | {port.service_port for port in ports if port.holder}


def _led(there: Objects, memory: Memory) -> Iterator[int]:
    """The ports that names lead to which are not at rest."""
    for name in there.names.keys() - memory.names:
        found = PORT_SERVICE.fullmatch(target(there.names[name]).partition(".")[0])
        if found:
            yield int(found[1])


_USED_UP = Refusal(
    Stage.ACCEPT,
    Reason.PORT_NOT_AVAILABLE,
    "all ports are used up",
    "remove resources, or part them between several installations",
)


def _too_many(limit: int) -> Refusal:
    return Refusal(
        Stage.ACCEPT,
        Reason.LIMIT_REACHED,
        f"there are {limit} listeners, as many as there may be",
        "remove resources, raise config.limits.listeners, or part them between several installations",
    )

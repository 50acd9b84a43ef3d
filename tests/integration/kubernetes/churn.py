"""What churn is: Destinations, tenants and credentials that change at random, and what there is to be of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import product
from math import inf
from random import Random
from typing import Any

from attrs import evolve, frozen

from tests.integration.kubernetes.manifests import HOME
from tproxy.model import PROVIDER, ListenerKey, Tenant
from tproxy.operator import objects
from tproxy.operator.objects import Installation, Port, Role
from tproxy.operator.ports import USUAL_PORT

NAMESPACES = ("shop", "office", "lab")
NAMES = ("mail", "mail-a", "post")
TENANTS = tuple(map(Tenant, ("a", "b", "c", "a-b")))
"""Two may claim one name: `mail-a` is what a Destination is called, and a tenant of `mail`."""
CHOICES: dict[str, tuple[Any, ...]] = {
    "colour": ("red", "blue"),
    "port": (USUAL_PORT, 143, 1143),
    "scope": ("namespaced", "clusterWide"),
}
STEPS = {"create": 4, "delete": 2, "again": 1, "tenants": 8, "credential": 4, "colour": 2, "port": 2, "scope": 2}
SPARES = 5
INSTALLATION = Installation(HOME)

Meant = AbstractSet[tuple[str, int, str]]
"""Hosts, ports, and whose mailboxes are there; where two claim a name, those of both."""


@frozen
class Wish:
    """A Destination that is wanted. It leads to one of two destinations, the red or the blue one."""

    namespace: str
    name: str
    tenants: tuple[Tenant, ...]
    colour: str
    port: int
    scope: str

    @property
    def destination(self) -> str:
        return f"{self.namespace}-{self.name}-{self.colour}"

    @property
    def keys(self) -> list[ListenerKey]:
        return [ListenerKey(self.namespace, self.name, tenant) for tenant in self.tenants or (PROVIDER,)]


@frozen
class Delete:
    """A Destination is not wanted any more."""

    namespace: str
    name: str


@frozen
class Credential:
    """A destination has another user and password, for one tenant."""

    destination: str
    tenant: Tenant


def host(key: ListenerKey) -> str:
    return f"{key.service}.{key.namespace}"


class Script:
    """What is wanted, changed step by step: of one seed always the same steps."""

    def __init__(self, seed: int) -> None:
        self._chance = Random(seed)
        self.wishes: dict[tuple[str, str], Wish] = {}
        self.removed: Counter[ListenerKey] = Counter()
        self._versions: Counter[Credential] = Counter()

    def user(self, destination: str, tenant: Tenant) -> str:
        return f"{destination}.{tenant}.{self._versions[Credential(destination, tenant)]}"

    @property
    def claims(self) -> dict[ListenerKey, Wish]:
        return {key: wish for wish in self.wishes.values() for key in wish.keys}

    @property
    def contested(self) -> set[str]:
        """The names that two claim: one of them gets it, and its port is the only one that answers."""
        counted = Counter(host(key) for key in self.claims)
        return {name for name, number in counted.items() if number > 1}

    @property
    def meant(self) -> Meant:
        return {(host(key), wish.port, self.user(wish.destination, key.tenant)) for key, wish in self.claims.items()}

    def step(self) -> list[Wish | Delete | Credential]:
        """What is done next."""
        choice, sample = self._chance.choice, self._chance.sample
        (what,) = self._chance.choices(tuple(STEPS), tuple(STEPS.values()))
        absent = [each for each in product(NAMESPACES, NAMES) if each not in self.wishes]
        if not self.wishes or (what == "create" and absent):
            tenants = tuple(sample(TENANTS, choice((0, 1, 2, 3))))
            return [self._want(Wish(*choice(absent), tenants, *map(choice, CHOICES.values())))]
        wish = choice(list(self.wishes.values()))
        match what:
            case "tenants":  # one comes or goes, or two do: one may take the other's place
                changed = sample(TENANTS, choice((1, 2)))
                return [self._want(evolve(wish, tenants=tuple(sorted({*wish.tenants} ^ {*changed}))))]
            case "colour" | "port" | "scope":
                return [self._want(evolve(wish, **{what: choice(CHOICES[what])}))]
            case "credential":
                changes = Credential(wish.destination, choice(wish.keys).tenant)
                self._versions[changes] += 1
                return [changes]
            case "again":
                return [self.give_up(wish), self._want(evolve(wish, colour=choice(CHOICES["colour"])))]
        return [self.give_up(wish)]

    def _want(self, wish: Wish) -> Wish:
        before = self.wishes.get((wish.namespace, wish.name))
        self.removed.update({*(before.keys if before else ())}.difference(wish.keys))
        self.wishes[wish.namespace, wish.name] = wish
        return wish

    def give_up(self, wish: Wish) -> Delete:
        del self.wishes[wish.namespace, wish.name]
        self.removed.update(wish.keys)
        return Delete(wish.namespace, wish.name)


class Mailboxes:
    """Until when each mailbox was meant by a name, and when something was changed about a name."""

    def __init__(self) -> None:
        self._meant: Meant = set()
        self._until: dict[tuple[str, str], float] = {}
        self._changes: dict[str, list[float]] = defaultdict(list)

    def note(self, now: float, meant: Meant, touched: Iterable[str] = ()) -> None:
        """From now on names mean this; something else was changed about those that are touched."""
        self._until |= {(name, user): now for name, _, user in self._meant - meant}
        self._until |= {(name, user): inf for name, _, user in meant}
        for name in {*touched, *(name for name, *_ in self._meant ^ meant)}:
            self._changes[name].append(now)
        self._meant = meant

    def age(self, name: str, user: str, moment: float) -> float:
        """For how many seconds a mailbox was not meant by a name any more at a moment; infinite where it never was."""
        return max(0.0, moment - self._until.get((name, user), -inf))

    def steady(self, name: str, began: float, ended: float) -> bool:
        return not any(began <= each <= ended for each in self._changes[name])

    def changed(self, name: str, moment: float) -> float:
        """When something was changed about a name before a moment."""
        return max((each for each in self._changes[name] if each <= moment), default=-inf)


def records(things: Sequence[Any]) -> list[Port]:
    return [port for each in _ours(things, "Service", Role.PORT) if (port := objects.read_port(each))]


def faults(
    script: Script, things: Sequence[Any], replicas: Mapping[str, tuple[dict[int, str], set[int]]]
) -> dict[str, tuple[list[Any], list[Any]]]:
    """What there is too much of, and what is missing; nothing where all is as it should be.

    @param replicas: by their addresses: the ports that they tell, with their marks, and those where they do listen
    """
    destinations = {_name(each): each for each in things if each["kind"] == "Destination"}
    uids = {name: each["metadata"]["uid"] for name, each in destinations.items()}
    claims, ports = script.claims, records(things)
    wanted = {(key, uids.get((key.namespace, key.name)), wish.port) for key, wish in claims.items()}
    held = {port.key: port for port in ports if port.holder and (port.key, port.uid, port.service_port) in wanted}
    rested = Counter(port.key for port in ports if port.released is not None)
    marks = {(port.port, port.mark) for port in ports if port.released is None}
    compared: dict[str, tuple[set[Any], set[Any]]] = {
        "holders": ({port.port for port in ports if port.holder}, {port.port for port in held.values()}),
        "hosts": ({host(key) for key in held}, {host(key) for key in claims}),
        "names": (
            {
                (*_name(each), objects.target(each), each["spec"]["ports"][0]["port"], objects.owner(each))
                for each in things
                if each["kind"] == "Service" and each["metadata"]["namespace"] in NAMESPACES
            },
            {
                (key.namespace, key.service, INSTALLATION.host(port.port), port.service_port, port.uid)
                for key, port in held.items()
            },
        ),
        "policies": (
            {
                (objects.noted(each)[objects.KEY_NAMESPACE], objects.noted(each)[objects.SCOPE], port)
                for each in _ours(things, "NetworkPolicy", Role.POLICY)
                for port in objects.policy_ports(each) or (0,)
            },
            {(key.namespace, claims[key].scope, port.port) for key, port in held.items()},
        ),
        "spares": (
            {*Counter(port.service_port for port in ports if port.spare).items()},
            {(port, SPARES) for port in {USUAL_PORT}.union(port.service_port for port in held.values())},
        ),
        "resting": ({*(rested - script.removed).items()}, set()),
        "slices": (
            {(each["metadata"]["name"], *_addresses(each)) for each in _ours(things, "EndpointSlice", Role.PORT)},
            {(f"p{port.port}", *(sorted(replicas) if port.released is None else ())) for port in ports},
        ),
        "available": (
            {(*name, *row) for name, each in destinations.items() for row in _rows(each)},
            {(key.namespace, key.name, key.tenant, key in held) for key in claims},
        ),
    }
    for address, (told, listening) in replicas.items():
        compared[f"marks of {address}"] = {*told.items()}, marks
        compared[f"ports of {address}"] = listening, {port for port, _ in marks}
    return {
        what: (sorted(found - wanted, key=str), sorted(wanted - found, key=str))
        for what, (found, wanted) in compared.items()
        if found != wanted
    }


def _ours(things: Sequence[Any], kind: str, role: Role) -> list[Any]:
    return [each for each in things if each["kind"] == kind and objects.role(each, INSTALLATION) is role]


def _name(thing: Any) -> tuple[str, str]:
    return thing["metadata"]["namespace"], thing["metadata"]["name"]


def _addresses(thing: Any) -> list[str]:
    return sorted(address for each in objects.endpoints(thing) for address in each["addresses"])


def _rows(destination: Any) -> list[tuple[str, bool]]:
    """The tenants of a Destination, and whether they are served."""
    status = destination.get("status", {})
    served = any(each["type"] == "Available" and each["status"] == "True" for each in status.get("conditions", ()))
    return [(row["subdomain"], row["available"]) for row in status.get("tenants", ())] or [(PROVIDER, served)]

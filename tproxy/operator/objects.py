"""Objects of Kubernetes that are ours: what they are called, how they look, and what they say when read.

A Service `p<port>` without a selector is the record of a port; its EndpointSlice names the replicas that listen on
it; a Service of type ExternalName beside the resource leads there; a NetworkPolicy says who may come.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import Any

from attrs import field, frozen

from tproxy.model import PROVIDER, Binding, ListenerKey, Tenant
from tproxy.operator.manifests import API_VERSION, KIND, Name

Thing = Mapping[str, Any]
"""An object, as its JSON says it. It is shared, so nobody changes it."""

MANAGED_BY = "app.kubernetes.io/managed-by"
INSTALLATION = "tproxy/installation"
ROLE = "tproxy/role"
COMPONENT = "transparent-proxy.connectivity.api.sap/component"
"""The label of our pods; its value is `tproxy`."""
MANAGED_NAMESPACE = "transparent-proxy.connectivity.api.sap/namespace"
"""The label of namespaces that are served where not all are; its value is the installation's namespace."""
US = "tproxy"

KEY_NAMESPACE, KEY_NAME, KEY_UID, KEY_TENANT = "tproxy/namespace", "tproxy/name", "tproxy/uid", "tproxy/tenant"
CLAIMED, RELEASED = "tproxy/claimed-at", "tproxy/released-at"
SCOPE = "tproxy/scope"
OPAQUE_PORTS = "config.linkerd.io/opaque-ports"

PORT_NAME = "tcp-imap"
PORT_SERVICE = re.compile(r"p([1-9][0-9]{3,4})")
CLUSTER_WIDE = "clusterWide"

REMEMBERED = 16_384
"""So many names that are made of others are not made anew each time: plans need them all, again and again."""


class Role(StrEnum):
    """What an object of ours is for: the value of its label `tproxy/role`."""

    PORT = "port"
    NAME = "name"
    POLICY = "policy"


class Sort(StrEnum):
    """The kinds of objects that are written."""

    SERVICE = "Service"
    SLICE = "EndpointSlice"
    POLICY = "NetworkPolicy"
    DESTINATION = "Destination"


# What is there


@frozen
class Installation:
    """Where we are at home, and what names end with in this cluster."""

    namespace: str
    domain: str = "cluster.local"

    def host(self, port: int) -> str:
        """The name under which a port is reached."""
        return f"{service_name(port)}.{self.namespace}.svc.{self.domain}"


@frozen
class Port:
    """A record, read: whose port it is. Without a key it is a spare; `released` is since when it rests, in seconds
    of the epoch, and the key is then the one that had it.
    """

    port: int
    service_port: int
    thing: Thing = field(repr=False)
    key: ListenerKey | None = None
    uid: str = ""
    claimed: float = 0.0
    released: float | None = None

    @property
    def spare(self) -> bool:
        """Whether it waits for a resource."""
        return self.key is None and self.released is None

    @property
    def holder(self) -> ListenerKey | None:
        """Who has it now."""
        return self.key if self.released is None else None

    @property
    def mark(self) -> str:
        """What a replica that serves it says of it."""
        return mark(self.holder, self.uid) if self.holder else ""


@frozen
class Identity:
    """Which resource it is, among all that had or will have its name; `thing` is as it was read."""

    uid: str
    created: str
    thing: Thing = field(repr=False)


@frozen
class Replica:
    """A pod of ours. `ports` are those that it listens on, each with its mark; None where it did not say yet."""

    name: str
    uid: str
    addresses: tuple[str, ...]
    ready: bool
    leaving: bool = False
    node: str = ""
    ports: Mapping[int, str] | None = None

    def listens(self, port: Port, known: Collection[str] = ()) -> bool:
        """Whether it listens there, for nobody else than whose port it is.

        @param known: the addresses that were announced when it was last heard
        """
        if self.ports is None:
            return any(address in known for address in self.addresses)
        return self.ports.get(port.port) in ("", port.mark)


@frozen
class Objects:
    """What a cluster holds beside resources; `now` is in seconds of the epoch.

    `leading` says whether we may write. `names`, `slices` and `policies` are ours. `unseen` are namespaces of which
    nothing is known yet, though others are known.
    """

    installation: Installation
    identities: Mapping[Name, Identity] = field(factory=dict)
    ports: Mapping[int, Port] = field(factory=dict)
    names: Mapping[Name, Thing] = field(factory=dict)
    slices: Mapping[str, Thing] = field(factory=dict)
    policies: Mapping[str, Thing] = field(factory=dict)
    replicas: tuple[Replica, ...] = ()
    unseen: frozenset[str] = frozenset()
    leading: bool = False
    now: float = 0.0

    def holding(self, ports: Iterable[Port]) -> Mapping[ListenerKey, Port]:
        """The one port of each key among these, while its resource is the one that it was claimed for.

        Where two leaders claimed one each, it is the one that the name leads to, else the lower one.
        """
        held: dict[ListenerKey, Port] = {}
        for port in ports:
            key = port.holder
            identity = key and self.identities.get((key.namespace, key.name))
            if key and identity and identity.uid == port.uid:
                held[key] = min(held[key], port, key=self._rank) if key in held else port
        return held

    def _rank(self, port: Port) -> tuple[bool, int]:
        named = self.names.get((port.key.namespace, port.key.service)) if port.key else None
        return target(named) != self.installation.host(port.port), port.port


@lru_cache(maxsize=REMEMBERED)
def mark(key: ListenerKey, uid: str) -> str:
    """Whose a port is, as replicas tell each other: short, and other for everybody else."""
    return sha256("\0".join((key.namespace, key.name, key.tenant, uid)).encode()).hexdigest()[:16]


def told(listening: Iterable[tuple[int, Binding]]) -> dict[int, str]:
    """The open ports with their marks; a spare has an empty one."""
    return {port: mark(binding.key, binding.owner) if binding.claimed else "" for port, binding in listening}


# Reading


def labels(thing: Thing) -> Thing:
    """The labels of an object."""
    return thing["metadata"].get("labels") or {}


def noted(thing: Thing) -> Thing:
    """The annotations of an object."""
    return thing["metadata"].get("annotations") or {}


def role(thing: Thing, installation: Installation) -> Role | None:
    """What an object of this installation is for; None for one that is not ours."""
    given = labels(thing)
    if given.get(MANAGED_BY) != US or given.get(INSTALLATION) != installation.namespace:
        return None
    return next((each for each in Role if each == given.get(ROLE)), None)


def read_port(thing: Thing) -> Port | None:
    """The record that a Service of role `port` is; None for what is none."""
    found = PORT_SERVICE.fullmatch(thing["metadata"]["name"])
    ports = thing.get("spec", {}).get("ports") or [{}]
    service_port = ports[0].get("port")
    if found is None or not isinstance(service_port, int):
        return None
    notes, key = noted(thing), None
    if notes.get(KEY_NAME):
        key = ListenerKey(notes.get(KEY_NAMESPACE, ""), notes[KEY_NAME], Tenant(notes.get(KEY_TENANT, PROVIDER)))
    released = notes.get(RELEASED)
    return Port(
        int(found[1]),
        service_port,
        thing,
        key,
        notes.get(KEY_UID, ""),
        _seconds(notes.get(CLAIMED, ""), 0.0),
        None if released is None else _seconds(released, float("inf")),
    )


def owner(thing: Thing) -> str:
    """The uid of the Destination that owns an object, or empty."""
    for each in thing["metadata"].get("ownerReferences") or ():
        if each.get("kind") == KIND and each.get("apiVersion") == API_VERSION:
            return str(each.get("uid", ""))
    return ""


def named_key(named: Thing) -> ListenerKey | None:
    """Whose a Service of role `name` is; None where it does not say."""
    for each in named["metadata"].get("ownerReferences") or ():
        if each.get("kind") == KIND and each.get("apiVersion") == API_VERSION:
            tenant = Tenant(noted(named).get(KEY_TENANT, PROVIDER))
            return ListenerKey(named["metadata"].get("namespace", ""), str(each.get("name", "")), tenant)
    return None


def target(named: Thing | None) -> str:
    """Where an ExternalName leads, or empty."""
    return str((named or {}).get("spec", {}).get("externalName", ""))


def leads_to(named: Thing | None, installation: Installation) -> int:
    """The port of ours that an ExternalName leads to, or 0."""
    service, _, rest = target(named).partition(".")
    found = PORT_SERVICE.fullmatch(service)
    return int(found[1]) if found and installation.host(int(found[1])) == f"{service}.{rest}" else 0


def endpoints(thing: Thing) -> Sequence[Thing]:
    """The endpoints of a slice."""
    return thing.get("endpoints") or ()


def policy_ports(thing: Thing) -> set[int]:
    """The ports that a policy opens by their numbers: any other that is in it was not written by us."""
    parts = (part for rule in thing.get("spec", {}).get("ingress") or () for part in rule.get("ports") or ())
    return {
        port
        for part in parts
        if isinstance(first := part.get("port"), int)
        for port in range(first, part.get("endPort", first) + 1)
    }


# Names and times


def service_name(port: int) -> str:
    """The name of the record of a port."""
    return f"p{port}"


@lru_cache(maxsize=REMEMBERED)
def slice_name(port: int, family: str) -> str:
    """The name of the slice of a port; `family` is IPv4 or IPv6."""
    return service_name(port) if family == "IPv4" else f"{service_name(port)}-{family.lower()}"


@lru_cache(maxsize=REMEMBERED)
def policy_name(namespace: str, scope: str) -> str:
    """The name of the policy of a namespace and scope."""
    return f"tproxy-{scope.lower()}-{sha256(namespace.encode()).hexdigest()[:16]}"


def moment(now: float) -> str:
    """A time in RFC 3339, to the second."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(text: str, otherwise: float) -> float:
    """The time that a text says, in seconds of the epoch."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return otherwise


def says(there: Any, wanted: Any) -> bool:
    """Whether an object says all that is wanted of it; what the API server adds to it does not matter."""
    if there == wanted:
        return True
    match there, wanted:
        case dict(), dict():
            return all(says(there.get(name), value) for name, value in wanted.items())
        case list(), list():
            return len(there) == len(wanted) and all(map(says, there, wanted))
        case None, (list() | dict()):
            return not wanted
    return False

"""Objects of Kubernetes that are ours: what they are called, how they look, and what they say when read.

A Service `p<port>` without a selector is the record of a port; its EndpointSlice names the replicas that listen on
it; a Service of type ExternalName beside the resource leads there; a NetworkPolicy says who may come.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from ipaddress import ip_address
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
        return mark(self.key, self.uid) if self.holder else ""


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

    def held(self) -> dict[ListenerKey, Port]:
        """The one port of each key, while its resource is the one that it was claimed for.

        Where two leaders claimed one each, it is the one that the name leads to, else the lower one.
        """
        held: dict[ListenerKey, Port] = {}
        for port in sorted(self.ports.values(), key=self._rank):
            identity = port.holder and self.identities.get((port.holder.namespace, port.holder.name))
            if port.holder and identity and identity.uid == port.uid:
                held.setdefault(port.holder, port)
        return held

    def _rank(self, port: Port) -> tuple[bool, int]:
        named = self.names.get((port.key.namespace, port.key.service)) if port.key else None
        return target(named) != self.installation.host(port.port), port.port


def mark(key: ListenerKey | None, uid: str) -> str:
    """Whose a port is, as replicas tell each other: short, and other for everybody else."""
    if key is None:
        return ""
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
    """The ports that a policy opens."""
    return {
        port
        for rule in thing.get("spec", {}).get("ingress") or ()
        for part in rule.get("ports") or ()
        for port in range(part["port"], part.get("endPort", part["port"]) + 1)
    }


# Making


def service_name(port: int) -> str:
    """The name of the record of a port."""
    return f"p{port}"


def slice_name(port: int, family: str) -> str:
    """The name of the slice of a port; `family` is IPv4 or IPv6."""
    return service_name(port) if family == "IPv4" else f"{service_name(port)}-{family.lower()}"


def policy_name(namespace: str, scope: str) -> str:
    """The name of the policy of a namespace and scope."""
    return f"tproxy-{scope.lower()}-{sha256(namespace.encode()).hexdigest()[:16]}"


def claim(key: ListenerKey, uid: str, now: float) -> dict[str, str]:
    """What a record says of whose it is."""
    return {
        KEY_NAMESPACE: key.namespace,
        KEY_NAME: key.name,
        KEY_UID: uid,
        KEY_TENANT: key.tenant,
        CLAIMED: moment(now),
    }


UNCLAIMED = dict.fromkeys((KEY_NAMESPACE, KEY_NAME, KEY_UID, KEY_TENANT, CLAIMED, RELEASED))
"""What a patch says of a record that becomes a spare."""


def moment(now: float) -> str:
    """A time in RFC 3339, to the second."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(text: str, otherwise: float) -> float:
    """The time that a text says, in seconds of the epoch."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return otherwise


def port_spec(port: int, service_port: int) -> dict[str, Any]:
    """The spec of a record."""
    return {
        "type": "ClusterIP",
        "ipFamilyPolicy": "PreferDualStack",
        "ports": [
            {
                "name": PORT_NAME,
                "protocol": "TCP",
                "appProtocol": "tcp",
                "port": service_port,
                "targetPort": port,
            }
        ],
    }


def port_service(installation: Installation, port: int, service_port: int, notes: Mapping[str, str]) -> dict[str, Any]:
    """The record of a port; `notes` says whose it is."""
    return {
        "metadata": {
            "namespace": installation.namespace,
            "name": service_name(port),
            "labels": _labels(installation, Role.PORT),
            "annotations": {OPAQUE_PORTS: str(service_port), **notes},
        },
        "spec": port_spec(port, service_port),
    }


def named_service(installation: Installation, key: ListenerKey, uid: str, port: Port) -> dict[str, Any]:
    """The Service that a workload names; it goes with its resource."""
    return {
        "metadata": {
            "namespace": key.namespace,
            "name": key.service,
            "labels": _labels(installation, Role.NAME),
            "annotations": {KEY_TENANT: key.tenant, OPAQUE_PORTS: str(port.service_port)},
            "ownerReferences": [_owner(API_VERSION, KIND, key.name, uid)],
        },
        "spec": {
            "type": "ExternalName",
            "externalName": installation.host(port.port),
            "ports": [
                {"name": PORT_NAME, "protocol": "TCP", "appProtocol": "tcp", "port": port.service_port},
            ],
        },
    }


def endpoint_slices(
    installation: Installation, port: Port, replicas: Iterable[Replica], before: Mapping[str, Thing]
) -> list[dict[str, Any]]:
    """The slices of a port, one for each family of addresses: the first is there always.

    Where somebody is ready, nobody else is named: a connection never goes to who is leaving.

    @param before: the slices that are there, by name: who was not heard yet stays in them
    """
    names = {family: slice_name(port.port, family) for family in ("IPv4", "IPv6")}
    known = {
        address
        for name in names.values()
        for entry in endpoints(before.get(name, {}))
        for address in entry.get("addresses") or ()
    }
    there = [replica for replica in replicas if replica.listens(port, known)] if port.released is None else []
    ready = [replica for replica in there if replica.ready and not replica.leaving]
    families: dict[str, list[dict[str, Any]]] = {
        family: [] for family, name in names.items() if family == "IPv4" or name in before
    }
    for replica in sorted(ready or there, key=lambda replica: replica.name):
        for address in replica.addresses:
            entry = _endpoint(installation, replica, address)
            families.setdefault(f"IPv{ip_address(address).version}", []).append(entry)
    uid = port.thing["metadata"]["uid"]
    return [
        {
            "metadata": {
                "namespace": installation.namespace,
                "name": slice_name(port.port, family),
                "labels": {
                    **_labels(installation, Role.PORT),
                    "kubernetes.io/service-name": service_name(port.port),
                    "endpointslice.kubernetes.io/managed-by": US,
                },
                "ownerReferences": [_owner("v1", "Service", service_name(port.port), uid)],
            },
            "addressType": family,
            "endpoints": entries,
            "ports": [{"name": PORT_NAME, "protocol": "TCP", "appProtocol": "tcp", "port": port.port}],
        }
        for family, entries in families.items()
    ]


def policy(installation: Installation, namespace: str, scope: str, ports: Iterable[int]) -> dict[str, Any]:
    """Who may come to some ports: the namespace alone, or every pod of the cluster. There is at least one port."""
    where = {} if scope == CLUSTER_WIDE else {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    return {
        "metadata": {
            "namespace": installation.namespace,
            "name": policy_name(namespace, scope),
            "labels": _labels(installation, Role.POLICY),
            "annotations": {KEY_NAMESPACE: namespace, SCOPE: scope},
        },
        "spec": {
            "podSelector": {"matchLabels": {COMPONENT: US}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"namespaceSelector": where}], "ports": ranges(ports)}],
        },
    }


def ranges(ports: Iterable[int]) -> list[dict[str, Any]]:
    """Ports as a policy lists them: neighbours are one range."""
    joined: list[list[int]] = []
    for port in sorted(ports):
        if joined and port == joined[-1][1] + 1:
            joined[-1][1] = port
        else:
            joined.append([port, port])
    return [{"protocol": "TCP", "port": first, **({"endPort": last} if last > first else {})} for first, last in joined]


def says(there: Any, wanted: Any) -> bool:
    """Whether an object says all that is wanted of it; what the API server adds to it does not matter."""
    match there, wanted:
        case Mapping(), Mapping():
            return all(says(there.get(name), value) for name, value in wanted.items())
        case list(), list():
            return len(there) == len(wanted) and all(map(says, there, wanted))
        case None, (list() | Mapping()):
            return not wanted
    return bool(there == wanted)


def _labels(installation: Installation, what: Role) -> dict[str, str]:
    return {MANAGED_BY: US, INSTALLATION: installation.namespace, ROLE: what.value}


def _owner(api_version: str, kind: str, name: str, uid: str) -> dict[str, Any]:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _endpoint(installation: Installation, replica: Replica, address: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "addresses": [address],
        "conditions": {
            "ready": replica.ready and not replica.leaving,
            "serving": True,
            "terminating": replica.leaving,
        },
        "targetRef": {"kind": "Pod", "namespace": installation.namespace, "name": replica.name, "uid": replica.uid},
    }
    return entry | ({"nodeName": replica.node} if replica.node else {})

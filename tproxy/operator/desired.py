"""How objects of ours should look."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from tproxy.model import ListenerKey
from tproxy.operator.manifests import API_VERSION, KIND
from tproxy.operator.objects import (
    CLAIMED,
    CLUSTER_WIDE,
    COMPONENT,
    INSTALLATION,
    KEY_NAME,
    KEY_NAMESPACE,
    KEY_TENANT,
    KEY_UID,
    MANAGED_BY,
    OPAQUE_PORTS,
    PORT_NAME,
    RELEASED,
    ROLE,
    SCOPE,
    US,
    Installation,
    Port,
    Replica,
    Role,
    Thing,
    endpoints,
    moment,
    policy_name,
    service_name,
    slice_name,
)


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


def reached(port: Port, replicas: Collection[Replica], before: Iterable[Thing]) -> tuple[Replica, ...]:
    """The replicas that a port leads to.

    Where somebody is ready, nobody else is named: a connection never goes to who is leaving.

    @param before: the slices that are there: who was not heard yet stays in them
    """
    if port.released is not None:
        return ()
    known: set[str] = set()
    if any(replica.ports is None for replica in replicas):
        known = {address for each in before for entry in endpoints(each) for address in entry.get("addresses") or ()}
    there = tuple(replica for replica in replicas if replica.listens(port, known))
    return tuple(replica for replica in there if replica.ready and not replica.leaving) or there


def endpoint_slices(
    installation: Installation, port: Port, replicas: Iterable[Replica], before: Container[str]
) -> list[dict[str, Any]]:
    """The slices of a port that leads to these replicas, one for each family of addresses: the first is there always.

    @param before: the names of those that are there
    """
    families: dict[str, list[dict[str, Any]]] = {
        family: [] for family in ("IPv4", "IPv6") if family == "IPv4" or slice_name(port.port, family) in before
    }
    for replica in sorted(replicas, key=lambda replica: replica.name):
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

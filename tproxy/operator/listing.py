"""What a cluster says of its names, read by whoever asks: the status of each resource, and where its names lead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from attrs import evolve, frozen

from tproxy.model import PROVIDER, ListenerKey, Tenant
from tproxy.operator.manifests import ListenerStatus
from tproxy.operator.objects import MANAGED_BY, PORT_SERVICE, ROLE, US, Role, Thing, owner, target
from tproxy.operator.statuses import read_status

OURS = f"{MANAGED_BY}={US},{ROLE}={Role.NAME}"
"""The labels of the Services that are names, of every installation."""

UNSAID = "no tproxy has said anything of it yet: does one serve its namespace?"


@frozen
class Row:
    """How one name fares, as its resource's status says; the address is the name as workloads use it, empty where
    it is not there, and the port is the one that they connect to.

    `target` is the port that replicas listen on, 0 where it is not known.
    """

    status: ListenerStatus
    target: int = 0


@frozen
class _Name:
    port: int
    target: int


def listing(resources: Iterable[Thing], names: Iterable[Thing]) -> list[Row]:
    """The names of all resources, in the order namespace, name, tenant.

    @param names: Services with the labels `OURS`; ports are told as far as these or the status tell them
    """
    there = {(owner(each), each["metadata"]["name"]): _name(each) for each in names}
    rows = (_row(status, there.get((each["metadata"]["uid"], status.key.service))) for each, status in _said(resources))
    return sorted(rows, key=_place)


def _place(row: Row) -> tuple[str, str, str]:
    """As keys compare, in a fraction of the time."""
    key = row.status.key
    return key.namespace, key.name, key.tenant


def _said(resources: Iterable[Thing]) -> Iterator[tuple[Thing, ListenerStatus]]:
    for each in resources:
        namespace, name = each["metadata"].get("namespace", ""), each["metadata"]["name"]
        tenants = list(_tenants(each, namespace, name))
        for said in tenants or [_whole(each, ListenerKey(namespace, name, PROVIDER))]:
            yield each, said


def _tenants(thing: Thing, namespace: str, name: str) -> Iterator[ListenerStatus]:
    for row in (thing.get("status") or {}).get("tenants") or ():
        if isinstance(row, Mapping) and isinstance(row.get("subdomain"), str):
            key = ListenerKey(namespace, name, Tenant(row["subdomain"]))
            yield ListenerStatus(
                key,
                _address(key) if row.get("service") else "",
                _port(row.get("port")),
                row.get("available") is True,
                str(row.get("reason") or ""),
                str(row.get("message") or ""),
            )


def _whole(thing: Thing, key: ListenerKey) -> ListenerStatus:
    """What the condition says: of the one name, or of the resource where it has none."""
    said = read_status(thing)
    if said is None:
        return ListenerStatus(key, "", 0, False, "", UNSAID)
    asked = (thing.get("spec") or {}).get("service") or {}
    address, port = (_address(key), _port(asked.get("port"))) if said.available else ("", 0)
    return ListenerStatus(key, address, port, said.available, said.reason, said.message)


def _row(said: ListenerStatus, name: _Name | None) -> Row:
    return Row(evolve(said, address=_address(said.key), port=name.port), name.target) if name else Row(said)


def _name(thing: Thing) -> _Name:
    found = PORT_SERVICE.fullmatch(target(thing).partition(".")[0])
    ports = thing.get("spec", {}).get("ports") or [{}]
    return _Name(_port(ports[0].get("port")), int(found[1]) if found else 0)


def _port(value: object) -> int:
    return value if type(value) is int else 0


def _address(key: ListenerKey) -> str:
    return f"{key.service}.{key.namespace}"

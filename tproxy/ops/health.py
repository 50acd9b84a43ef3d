"""The health of this process, as pages: for a kubelet, for a monitor, and for the other replicas."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tproxy.operator.manifests import Rejected, Resource
from tproxy.operator.plan import Snapshot
from tproxy.ops.pages import Content, Fresh, Page

OK = Content(b"ok\n")
NOT_READY = "the first plan is not carried out yet, tproxy is going down, or it has no room for more connections"


def pages(
    ready: Callable[[], bool], observe: Callable[[], Snapshot | None], marks: Callable[[], Mapping[int, str]]
) -> Mapping[str, Page]:
    """The pages by their names.

    @param ready: whether all that is wanted is there, and stays
    @param observe: as of L{tproxy.interfaces.ICluster}
    @param marks: the ports of listeners that are open here, each with its mark
    """
    return {
        "healthz": OK,
        "readyz": Fresh(lambda: OK if ready() else Content(f"{NOT_READY}\n".encode(), code=503)),
        "status": Fresh(lambda: _json(status(ready(), observe(), marks()))),
        "destinationCRs": Fresh(lambda: _json(custom_resources(observe()))),
    }


def status(ready: bool, snapshot: Snapshot | None, marks: Mapping[int, str]) -> dict[str, Any]:
    """How the parts of this process fare, which ports it listens on, and, for the other replicas, for whom."""
    idle = snapshot is not None and not any(fate.available for fate in snapshot.statuses.values())
    parts = {
        "tproxy-manager": _component(ready, NOT_READY),
        "tproxy-tcp": {
            **_component(bool(marks) or (ready and idle), "no port is open"),
            "Ports": sorted(marks),
            "Marks": {str(port): mark for port, mark in sorted(marks.items())},
        },
    }
    return {"Status": overall(part["Status"] == "ok" for part in parts.values()), "Components": parts}


def custom_resources(snapshot: Snapshot | None) -> dict[str, Any]:
    """What became of each Destination resource; none before they are known."""
    rows = [] if snapshot is None else [_row(resource, snapshot) for resource in snapshot.resources]
    rows.sort(key=lambda row: str(row["Name"]))
    return {"Status": overall(row["Available"] == "True" for row in rows), "CustomResources": rows}


def overall(well: Iterable[bool]) -> str:
    """The state of a whole, from whether its parts are well."""
    known = set(well)
    if False not in known:
        return "ok"
    return "warning" if True in known else "critical"


def _component(well: bool, message: str) -> dict[str, Any]:
    return {"Status": "ok"} if well else {"Status": "critical", "Message": message}


def _row(resource: Resource | Rejected, snapshot: Snapshot) -> dict[str, Any]:
    fate = snapshot.statuses.get((resource.namespace, resource.name))
    bindings = resource.bindings if isinstance(resource, Resource) else ()
    return {
        "Name": resource.name,
        "DestinationRef": {"name": bindings[0].request.name if bindings else ""},
        "CreationTimestamp": resource.created or None,
        "Available": "True" if fate is not None and fate.available else "False",
        "Message": "" if fate is None else fate.message,
        "Reason": "" if fate is None else fate.reason,
    }


def _json(content: object) -> Content:
    return Content(json.dumps(content).encode("ascii") + b"\n", b"application/json")

"""The status of a resource as a cluster keeps it: written, and read again."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from tproxy.operator.manifests import TENANTS, Status, conditions
from tproxy.operator.objects import moment


def tenants_digest(manifest: Mapping[str, Any]) -> str:
    """What tells one list of tenants from another; empty where there is none."""
    tenants = (manifest["metadata"].get("annotations") or {}).get(TENANTS)
    return "" if tenants is None else sha256(str(tenants).encode()).hexdigest()[:16]


def status_document(status: Status, manifest: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The status of a resource as it is written.

    @param manifest: the resource that it came of, with the status that it has now
    @param now: seconds of the epoch
    """
    before = (manifest.get("status") or {}).get("conditions") or ()
    return {
        "conditions": conditions(status, moment(now), manifest["metadata"].get("generation", 0), before),
        "observedTenants": tenants_digest(manifest),
        "tenants": [
            {
                "subdomain": row.key.tenant,
                "service": row.address and row.key.service,
                "port": row.port,
                "available": row.available,
                "reason": row.reason,
                "message": row.message,
            }
            for row in status.listeners
            if row.key.tenant
        ],
    }


def read_status(manifest: Mapping[str, Any]) -> Status | None:
    """What a resource was told last; its listeners are left out."""
    for each in (manifest.get("status") or {}).get("conditions") or ():
        if isinstance(each, Mapping) and each.get("type") == "Available":
            return Status(each.get("status") == "True", str(each.get("reason", "")), str(each.get("message", "")))
    return None

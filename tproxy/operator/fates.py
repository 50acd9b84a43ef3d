"""How listeners and resources fare: what came of each destination becomes rows, and rows become a status."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve

from tproxy.model import Binding, GreetingMode, ListenerKey, Reason, Refusal, Stage
from tproxy.operator.manifests import FAILURE, SUCCESS, ListenerStatus, Status, condition_reason, shortened

TRANSIENT = frozenset(
    {
        Reason.STORE_UNAVAILABLE,
        Reason.TOKEN_UNAVAILABLE,
        Reason.NAME_NOT_RESOLVED,
        Reason.CONNECTION_FAILED,
        Reason.TLS_FAILED,
        Reason.UPSTREAM_ENDED,
        Reason.TIMED_OUT,
        Reason.LIMIT_REACHED,
        Reason.INTERNAL_ERROR,
    }
)
"""Why a destination may not be known for a while: no verdict on the destination itself."""

GONE = {
    Reason.DESTINATION_NOT_FOUND: "the destination is gone",
    Reason.TENANT_NOT_FOUND: "the tenant is gone",
    Reason.TENANT_NOT_SUBSCRIBED: "the tenant is no longer subscribed",
}
"""Why an open port is closed, and how that is said: offboarding, never a mistake of ours such as a bad key."""


def bound(binding: Binding, protocol: str, asks: bool) -> Binding:
    """A binding as its destination wants it."""
    return evolve(binding, protocol=protocol, greeting=GreetingMode.LOGIN if asks else binding.greeting)


def down(key: ListenerKey, refusal: Refusal, address: str = "", port: int = 0) -> ListenerStatus:
    """A listener that does not serve, though its port may be open."""
    return ListenerStatus(key, address, port, False, condition_reason(refusal.reason), shortened(str(refusal)))


def summary(rows: Sequence[ListenerStatus | None]) -> Status | None:
    """How a resource fares as a whole; None while that of one listener is not known."""
    known = tuple(row for row in rows if row is not None)
    if len(known) < len(rows):
        return None
    failed = [row for row in known if not row.available]
    if not failed:
        return Status(True, SUCCESS, "", known)
    if len(known) == 1:
        return Status(False, failed[0].reason, failed[0].message, known)
    reasons = {row.reason for row in failed}
    reason = reasons.pop() if len(failed) == len(known) and len(reasons) == 1 else FAILURE
    names = ", ".join(row.key.tenant or row.key.name for row in failed)
    return Status(False, reason, shortened(f"{len(failed)} of {len(known)} are not served: {names}"), known)


def duplicate(holder: ListenerKey) -> Refusal:
    """Why a name is not a resource's: somebody else has it."""
    whose = f"{holder.namespace}/{holder.name}" + (f" for the tenant {holder.tenant}" if holder.tenant else "")
    return Refusal(
        Stage.RESOLVE,
        Reason.DUPLICATE_RESOURCE,
        f"the Service {holder.service} belongs to the resource {whose}",
        "rename one of the two",
    )

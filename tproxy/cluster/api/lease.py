"""Who leads, decided by a Lease, after client-go's leader election: a pure machine; `election` carries it out.

All times are seconds of a monotonic clock of our own. A lease is judged by when *we* saw its record
change: what clocks of others say stands in it for people to read. A leader stops to be one 10 s after it
sent its last renewal that went through; the others wait until they have seen no renewal for 15 s. That keeps
two leaders apart as long as nobody's process stands still in between; it does not fence, so writes stay idempotent.
"""

from __future__ import annotations

from typing import Any

from attrs import evolve, frozen

from tproxy.cluster.api.objects import Kind, Object

LEASES = Kind("coordination.k8s.io", "v1", "Lease", "leases")

DURATION = 15
"""How long others wait for a sign of life, in seconds."""

RENEW_DEADLINE = 10.0
"""How long a leader leads after its last sign of life, in seconds."""

RETRY = 2.0
"""The pause between two looks at the lease, in seconds, before jitter."""

LEAVE_SECONDS = 5.0
"""How long it is tried to give the lease back, in seconds."""

LEAVE_RETRY = 0.5

RELEASED = {"holderIdentity": "", "leaseDurationSeconds": 1}
"""What stands in a lease that was given back: anybody may take it at once."""


@frozen
class Due:
    """The pause is over."""

    now: float


@frozen
class Read:
    """The lease as it is; None where there is none."""

    now: float
    lease: Object | None


@frozen
class Written:
    """What was asked to be written stands; it was sent at `sent`."""

    now: float
    sent: float


@frozen
class Failed:
    """The lease could not be read or written, or it cannot be known whether it was."""

    now: float


@frozen
class Expired:
    """The time that `Elected` named has come."""

    now: float


@frozen
class Leave:
    """We want to lead no more."""

    now: float


Event = Due | Read | Written | Failed | Expired | Leave


@frozen
class Look:
    """Read the lease."""


@frozen
class Write:
    """Write a spec: into `lease` as it was read, or a new one. `acquired` says that we are its holder from now on."""

    lease: Object | None
    spec: dict[str, Any]
    acquired: bool = False


@frozen
class Rest:
    """Come back after a pause, in seconds, before jitter."""

    seconds: float = RETRY


@frozen
class Elected:
    """We lead until `until`, unless this is said again."""

    until: float


@frozen
class Lost:
    """We lead no more."""


@frozen
class Left:
    """The lease is given back, as far as it could be."""


Effect = Look | Write | Rest | Elected | Lost | Left


@frozen
class Seen:
    """What stood in the lease, and since when we have seen that."""

    spec: Any
    since: float


@frozen
class Follower:
    """Somebody else leads, or nobody."""

    seen: Seen | None = None


@frozen
class Leader:
    """We lead; `renewed` is when the last renewal that went through was sent."""

    seen: Seen | None
    renewed: float


@frozen
class Leaving:
    """We give the lease back, and try that until `until`."""

    until: float


@frozen
class Away:
    """All is done."""


State = Follower | Leader | Leaving | Away
Step = tuple[State, tuple[Effect, ...]]


def step(state: State, event: Event, me: str) -> Step:
    """The next state, and what is to be done.

    One thing runs at a time: a `Look` or `Write` is answered by `Read`, `Written` or `Failed`, a `Rest` by `Due`.
    `Leave` breaks off what runs. A write that was broken off may yet make us the holder, so a follower looks, too.

    @param me: our identity, which no other process has or had
    """
    match state, event:
        case ((Follower() | Leader()), Due()):
            return state, (Look(),)
        case ((Follower() | Leader()), Read(now, lease)):
            return _read(state, now, lease, me)
        case ((Follower() | Leader()), Written(now, sent)):
            if now < sent + RENEW_DEADLINE:
                return Leader(state.seen, sent), (Elected(sent + RENEW_DEADLINE), Rest())
            return state, (Rest(),)
        case ((Follower() | Leader()), Failed()):
            return state, (Rest(),)
        case Leader(seen, renewed), Expired(now) if now >= renewed + RENEW_DEADLINE:
            return Follower(seen), (Lost(),)
        case Leader(), Leave(now):
            return Leaving(now + LEAVE_SECONDS), (Lost(), Look())
        case Follower(), Leave(now):
            return Leaving(now + LEAVE_SECONDS), (Look(),)
        case Leaving(), Due():
            return state, (Look(),)
        case Leaving(), Read(_, lease) if lease is not None and _holder(lease) == me:
            return state, (Write(lease, RELEASED),)
        case Leaving(until), Failed(now) if now < until:
            return state, (Rest(LEAVE_RETRY),)
        case Leaving(), (Read() | Written() | Failed()):
            return Away(), (Left(),)
        case _:
            return state, ()


def _read(state: Follower | Leader, now: float, lease: Object | None, me: str) -> Step:
    """Renew the lease, take it, or wait for its holder to be silent for long enough."""
    if lease is None:
        return state, (Write(None, _claim(me, {}), acquired=True),)
    spec, holder = _spec(lease), _holder(lease)
    seen = state.seen if state.seen is not None and state.seen.spec == spec else Seen(spec, now)
    if holder == me:
        renewal = {"holderIdentity": me, "leaseDurationSeconds": DURATION}
        return evolve(state, seen=seen), (Write(lease, renewal),)
    lost = (Lost(),) if isinstance(state, Leader) else ()
    if holder and now < seen.since + _seconds(spec):
        return Follower(seen), (*lost, Rest())
    return Follower(seen), (*lost, Write(lease, _claim(me, spec), acquired=True))


def _claim(me: str, spec: Object) -> dict[str, Any]:
    transitions = spec.get("leaseTransitions")
    return {
        "holderIdentity": me,
        "leaseDurationSeconds": DURATION,
        "leaseTransitions": transitions + 1 if isinstance(transitions, int) else 0,
    }


def _spec(lease: Object) -> Object:
    spec = lease.get("spec")
    return spec if isinstance(spec, dict) else {}


def _holder(lease: Object) -> str:
    holder = _spec(lease).get("holderIdentity")
    return holder if isinstance(holder, str) else ""


def _seconds(spec: Object) -> float:
    """How long the holder wants its signs of life to last."""
    seconds = spec.get("leaseDurationSeconds")
    return seconds if isinstance(seconds, int) and seconds > 0 else DURATION

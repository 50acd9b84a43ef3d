"""What goes on in a process, as somebody sees it who looks: the facts become an overview, of which a part is shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from attrs import evolve, field, frozen

from tproxy.model import ListenerKey
from tproxy.operator.listing import listing
from tproxy.operator.manifests import ListenerStatus, Name, Resource
from tproxy.operator.objects import Objects
from tproxy.operator.plan import Listening, Snapshot
from tproxy.relay.refusals import Refused
from tproxy.relay.tally import Tallies

ROWS = 100
"""So many listeners are shown at once."""
REFUSALS = 20
"""So many refusals are shown."""
WORDS = 100
"""The longest text that is looked for, in characters."""

STATES = ("unavailable", "available")
UNSAID = "nothing is known of it yet"

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


@frozen
class Facts:
    """What a process knows at one moment.

    `now` is in seconds of the epoch, `seconds` of the clock that sessions have; it has been running for `uptime`
    seconds. Its log is written from `level` on, and its configuration says `configured`.
    """

    version: str
    now: float
    seconds: float
    uptime: float
    ready: bool
    level: str
    configured: str
    snapshot: Snapshot | None
    listening: Mapping[ListenerKey, Listening]
    tallies: Tallies
    refusals: Sequence[Refused]


@frozen
class Query:
    """Which listeners somebody wants to see: from the `start`-th on of those in this state that `words` is found in.

    Looked at are the names of listener, Service and destination, and the reason.
    """

    words: str = ""
    state: str = ""
    start: int = 0


@frozen
class Row:
    """A listener: how it fares, where it leads, its port here (0: none), and its connections where it is counted
    on its own.
    """

    status: ListenerStatus
    destination: str
    here: int
    open: int | None
    total: int | None


@frozen
class Replicas:
    """The replicas of an installation: how many there are, how many are ready, and whether this one leads."""

    count: int
    ready: int
    leading: bool


@frozen
class Overview:
    """What is shown: of the `matching` listeners those from `query.start` on; the rest in numbers.

    `available` and `listeners` count all of them, `matching` those that the query asks for. `replicas` is None where
    there is no cluster. `known` says whether resources are known yet.
    """

    facts: Facts = field(repr=False)
    query: Query
    known: bool
    rows: tuple[Row, ...]
    matching: int
    listeners: int
    available: int
    spares: int
    refusals: tuple[Refused, ...]
    replicas: Replicas | None

    @property
    def before(self) -> Query | None:
        """What shows the rows before these, if there are any."""
        return evolve(self.query, start=max(0, self.query.start - ROWS)) if self.query.start else None

    @property
    def after(self) -> Query | None:
        """What shows the rows after these, if there are any."""
        end = self.query.start + len(self.rows)
        return evolve(self.query, start=end) if end < self.matching else None


def asked(arguments: Mapping[bytes, Sequence[bytes]]) -> Query:
    """What the query of a URL asks for; what it does not say, or not well, is left open."""
    words, state, start = (
        next(iter(arguments.get(name, ())), b"").decode("utf-8", "replace") for name in (b"q", b"state", b"from")
    )
    known = state if state in STATES else ""
    return Query(
        words.strip()[:WORDS], known, int(start) if start.isascii() and start.isdigit() and len(start) < 8 else 0
    )


def overview(facts: Facts, query: Query) -> Overview:
    """What the query asks for."""
    snapshot = facts.snapshot or Snapshot()
    destinations = dict(_destinations(snapshot))
    statuses = list(_statuses(snapshot))
    words = query.words.casefold()
    matching = [
        each
        for each in statuses
        if query.state in ("", STATES[each.available])
        and words in _text(each.key, destinations.get(each.key, ""), each.reason)
    ]
    start = min(query.start, max(0, len(matching) - 1))
    there = snapshot.objects
    found = (
        each
        for each in facts.refusals
        if words in _text(each.binding.key, each.binding.request.name, each.refusal.reason)
    )
    return Overview(
        facts,
        evolve(query, start=start),
        facts.snapshot is not None,
        tuple(_row(each, destinations, facts) for each in matching[start : start + ROWS]),
        len(matching),
        len(statuses),
        sum(each.available for each in statuses),
        sum(not each.binding.claimed for each in facts.listening.values()),
        tuple(found)[:REFUSALS],
        _replicas(there) if there else None,
    )


def _replicas(there: Objects) -> Replicas:
    return Replicas(len(there.replicas), sum(each.ready for each in there.replicas), there.leading)


def _destinations(snapshot: Snapshot) -> Iterator[tuple[ListenerKey, str]]:
    for resource in snapshot.resources:
        if isinstance(resource, Resource):
            for binding in resource.bindings:
                yield binding.key, binding.request.name


def _statuses(snapshot: Snapshot) -> Sequence[ListenerStatus]:
    """How each listener fares: first those that are not available, each in the order of names."""
    there = snapshot.objects
    if there is None:
        said: Iterable[ListenerStatus] = _told(snapshot)
    else:
        said = (row.status for row in listing((each.thing for each in there.identities.values()), there.names.values()))
    return sorted(said, key=_place)


def _place(status: ListenerStatus) -> tuple[bool, str, str, str]:
    key = status.key
    return status.available, key.namespace, key.name, key.tenant


def _told(snapshot: Snapshot) -> Iterator[ListenerStatus]:
    for resource in snapshot.resources:
        name: Name = (resource.namespace, resource.name)
        status = snapshot.statuses.get(name)
        if status is not None:
            yield from status.listeners
        else:
            keys = [each.key for each in resource.bindings] if isinstance(resource, Resource) else [ListenerKey(*name)]
            yield from (ListenerStatus(key, "", 0, False, "", UNSAID) for key in keys)


def _text(key: ListenerKey, destination: str, reason: str) -> str:
    return "\n".join((str(key), f"{key.service}.{key.namespace}", destination, reason)).casefold()


def _row(status: ListenerStatus, destinations: Mapping[ListenerKey, str], facts: Facts) -> Row:
    key = status.key
    there, tally = facts.listening.get(key), facts.tallies.own(key)
    return Row(
        status,
        destinations.get(key, ""),
        there.port if there else 0,
        len(tally.live) if tally else None,
        tally.accepted if tally else None,
    )


def spelled(seconds: float) -> str:
    """A duration in its largest unit and the next one."""
    whole = int(seconds)
    for (large, size), (small, part) in pairwise(_UNITS):
        if whole >= size:
            more = whole % size // part
            return f"{whole // size} {large}" + (f" {more} {small}" if more else "")
    return f"{whole} s"

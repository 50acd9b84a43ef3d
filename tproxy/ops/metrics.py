"""What this process counts and measures, as a page in OpenMetrics or in Prometheus' own text format.

Nothing is kept here: each scrape reads the numbers that sessions, listeners and the reconciler have anyway.
Labels come from Destination resources and from our own vocabulary, never from an application or a mail server.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Protocol

from attrs import frozen
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.registry import Collector
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from tproxy.config import Limits
from tproxy.model import DestinationRequest, ListenerKey
from tproxy.operator.plan import Listening, Snapshot
from tproxy.operator.ports import used
from tproxy.ops.usage import Usage
from tproxy.relay.tally import BUCKETS, Tallies, Tally

LABELS = ("listener", "destination", "tenant")
OTHERS = ("(others)",) * len(LABELS)
"""What listeners are called that are counted together; none can have that name."""

AT_ONCE = 200
"""After about so many samples it is the sessions' turn: some milliseconds."""

_BOUNDS = (*map(str, BUCKETS), "+Inf")
_HEADER = re.compile(rb"\A(?:#.*\n)+")

Family = Any
"""A metric family: each kind takes other values."""

Encoder = Callable[[Collector], bytes]


class Work(Protocol):
    """What a reconciler tells of itself."""

    passes: int
    failures: int
    seconds: float


@frozen
class Row:
    """A listener: its labels, what is counted of it, and its destination; none for the others."""

    labels: tuple[str, ...]
    tally: Tally
    request: DestinationRequest | None = None


Measure = tuple[Callable[[], Family], Callable[[Family, Row], None]]
"""What makes a family, and what adds a listener's samples to it."""


@frozen
class Measures:
    """All there is to tell, read anew each time.

    @param listening: the listeners that are open
    @param observe: as of L{tproxy.interfaces.ICluster}
    @param token_age: as of L{tproxy.destinations.store.Store}
    @param limits: those that hold: `connections` is not 0
    @param ready: whether this replica says that it is
    @param spares: how many there are to be for each port; 0 where there are none
    """

    _tallies: Tallies
    _listening: Callable[[], Mapping[ListenerKey, Listening]]
    _observe: Callable[[], Snapshot | None]
    _work: Work
    _token_age: Callable[[DestinationRequest], float | None]
    _usage: Usage
    _limits: Limits
    _ready: Callable[[], bool]
    _spares: int = 0

    def families(self) -> Iterator[Metric]:
        """All families; one with many samples comes in several parts, one after the other."""
        snapshot = self._observe()
        yield from self._known(snapshot)
        yield from self._process()
        yield from self._installation(snapshot)
        work = self._work
        name, words = "tproxy_reconcile_seconds", "Passes of the reconciler, and the time they took."
        yield SummaryMetricFamily(name, words, work.passes, work.seconds, unit="seconds")
        yield CounterMetricFamily("tproxy_reconcile_failures", "Actions that failed, to be tried again.", work.failures)
        rows = tuple(self._rows())
        for make, add in (*_COUNTED, (_token_ages, self._add_token_age)):
            yield from _parts(make, add, rows)

    def _known(self, snapshot: Snapshot | None) -> Iterator[Metric]:
        """What dashboards of existing installations show, by the names that they know."""
        yield GaugeMetricFamily("tp_open_tcp_connections", "Connections that are open.", self._tallies.open)
        yield CounterMetricFamily("tp_tcp_connections", "Connections since the start.", self._tallies.connections)
        if snapshot is not None:
            statuses, resources = snapshot.statuses, snapshot.resources
            fates = [statuses.get((resource.namespace, resource.name)) for resource in resources]
            available = sum(fate is not None and fate.available for fate in fates)
            family = GaugeMetricFamily("tp_destination_crs", "Destination resources.", labels=("Available",))
            family.add_metric(("False",), len(fates) - available)
            family.add_metric(("True",), available)
            yield family
        yield GaugeMetricFamily("tp_cpu_percent", "Use of one processor, in percent.", self._usage.percent)
        memory = self._usage.memory
        if memory is not None:
            yield GaugeMetricFamily("tp_memory_bytes", "Resident memory.", memory, unit="bytes")

    def _process(self) -> Iterator[Metric]:
        """What bounds this process, and how near it is; the names of the first two are everybody's."""
        open_files = self._usage.descriptors
        if open_files is not None:
            yield GaugeMetricFamily("process_open_fds", "Open files.", open_files)
        yield GaugeMetricFamily("process_max_fds", "Files that may be open.", self._usage.descriptor_limit)
        limit = self._usage.memory_limit
        if limit is not None:
            words = "Memory that the container may use."
            yield GaugeMetricFamily("tproxy_memory_limit_bytes", words, limit, unit="bytes")
        yield GaugeMetricFamily("tproxy_ready", "Whether this process serves.", self._ready())
        words = "Connections that this process may have."
        yield GaugeMetricFamily("tproxy_connections_limit", words, self._limits.connections)
        claimed = sum(there.binding.claimed for there in self._listening().values())
        yield GaugeMetricFamily("tproxy_listeners", "Listeners that are open, spares not counted.", claimed)
        words = "Connections that a listener may have."
        yield GaugeMetricFamily("tproxy_listener_connections_limit", words, self._limits.connections_per_listener)

    def _installation(self, snapshot: Snapshot | None) -> Iterator[Metric]:
        """What is so in a cluster alone."""
        there = snapshot.objects if snapshot else None
        if there is None:
            return
        yield GaugeMetricFamily("tproxy_leader", "Whether this replica leads.", there.leading)
        yield GaugeMetricFamily("tproxy_listeners_limit", "Listeners that there may be.", self._limits.listeners)
        if self._spares:
            family = GaugeMetricFamily("tproxy_spares", "Listeners for Destinations to come.", labels=("port",))
            spares = Counter(port.service_port for port in there.ports.values() if port.spare)
            for port in sorted(used(there.ports.values())):
                family.add_metric((str(port),), spares[port])
            yield family

    def _rows(self) -> Iterator[Row]:
        for key, there in self._listening().items():
            tally = self._tallies.own(key)
            if tally is not None:
                request = there.binding.request
                yield Row((str(key), request.name, key.tenant), tally, request)
        if self._tallies.others.accepted:
            yield Row(OTHERS, self._tallies.others)

    def _add_token_age(self, family: Family, row: Row) -> None:
        age = None if row.request is None else self._token_age(row.request)
        if age is not None:
            family.add_metric(row.labels, age)


def _open_connections() -> Family:
    return GaugeMetricFamily("tproxy_open_connections", "Connections that are open.", labels=LABELS)


def _add_open_connections(family: Family, row: Row) -> None:
    family.add_metric(row.labels, len(row.tally.live))


def _connections() -> Family:
    return CounterMetricFamily("tproxy_connections", "Connections of applications.", labels=LABELS)


def _add_connections(family: Family, row: Row) -> None:
    family.add_metric(row.labels, row.tally.accepted)


def _refusals() -> Family:
    labels = (*LABELS, "stage", "reason")
    return CounterMetricFamily("tproxy_refusals", "Refusals, as applications got them.", labels=labels)


def _add_refusals(family: Family, row: Row) -> None:
    for why, times in row.tally.refusals.items():
        family.add_metric((*row.labels, *why), times)


def _logins() -> Family:
    words = "From a connection to its session."
    return HistogramMetricFamily("tproxy_login_seconds", words, labels=LABELS, unit="seconds")


def _add_logins(family: Family, row: Row) -> None:
    buckets = list(zip(_BOUNDS, accumulate(row.tally.logins), strict=True))
    family.add_metric(row.labels, buckets, row.tally.seconds)


def _received() -> Family:
    return CounterMetricFamily("tproxy_received_bytes", "Bytes from applications.", labels=LABELS, unit="bytes")


def _add_received(family: Family, row: Row) -> None:
    family.add_metric(row.labels, row.tally.carried[0])


def _sent() -> Family:
    return CounterMetricFamily("tproxy_sent_bytes", "Bytes to applications.", labels=LABELS, unit="bytes")


def _add_sent(family: Family, row: Row) -> None:
    family.add_metric(row.labels, row.tally.carried[1])


def _resolutions() -> Family:
    words = "Destinations looked up for a login, with the credential."
    return CounterMetricFamily("tproxy_resolutions", words, labels=(*LABELS, "cached"))


def _add_resolutions(family: Family, row: Row) -> None:
    for cached, times in zip(("false", "true"), row.tally.resolved, strict=True):
        family.add_metric((*row.labels, cached), times)


def _token_ages() -> Family:
    return GaugeMetricFamily("tproxy_token_age_seconds", "Age of the token in use.", labels=LABELS, unit="seconds")


_COUNTED: tuple[Measure, ...] = (
    (_open_connections, _add_open_connections),
    (_connections, _add_connections),
    (_refusals, _add_refusals),
    (_logins, _add_logins),
    (_received, _add_received),
    (_sent, _add_sent),
    (_resolutions, _add_resolutions),
)


def _parts(make: Callable[[], Family], add: Callable[[Family, Row], None], rows: Iterable[Row]) -> Iterator[Metric]:
    family = make()
    for row in rows:
        add(family, row)
        if len(family.samples) >= AT_ONCE:
            yield family
            family = make()
    yield family


# The page


class _Some:
    """Some families, as prometheus-client takes them."""

    def __init__(self, *families: Metric) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def encoder(accept: str) -> tuple[Encoder, str]:
    """What writes the format that a scraper asks for with its header `Accept`, and the type of that."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no number
        return choose_encoder("")


def written(families: Iterable[Metric], encode: Encoder) -> Iterator[bytes]:
    """The page, in pieces; a family that comes in several parts is one again."""
    end = encode(_Some())
    before = ""
    for family in families:
        piece = encode(_Some(family)).removesuffix(end)
        yield _HEADER.sub(b"", piece) if family.name == before else piece
        before = family.name
    yield end


def zipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces as gzip has them, compressed each in its turn."""
    compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    for piece in pieces:
        yield compressor.compress(piece)
    yield compressor.flush()


@frozen
class MetricsPage:
    """All measures: as they may cost what some hundred sessions cost, sessions have their turn between the pieces."""

    _measures: Measures
    _clock: IReactorTime

    def render(self, request: Request) -> int:
        writing = Deferred.fromCoroutine(self._write(request))
        request.notifyFinish().addErrback(lambda _: writing.cancel())
        writing.addErrback(_failed, request)
        return NOT_DONE_YET

    async def _write(self, request: Request) -> None:
        encode, kind = encoder(_asked(request, b"Accept"))
        pieces = written(self._measures.families(), encode)
        request.setHeader(b"Content-Type", kind.encode("latin-1"))
        if gzip_accepted(_asked(request, b"Accept-Encoding")):
            request.setHeader(b"Content-Encoding", b"gzip")
            pieces = zipped(pieces)
        body = bytearray()
        for piece in pieces:
            body += piece
            await deferLater(self._clock, 0)
        request.setHeader(b"Content-Length", b"%d" % len(body))
        request.write(bytes(body))
        request.finish()


def _asked(request: Request, header: bytes) -> str:
    return (request.getHeader(header) or b"").decode("latin-1")


def _failed(failure: Failure, request: Request) -> None:
    if not failure.check(CancelledError):
        request.processingFailed(failure)

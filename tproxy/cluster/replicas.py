"""What the other replicas say of themselves: who leads asks each of them which ports it listens on, and for whom."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IAgent, IResponse

from tproxy.cluster.api.transport import Body

INTERVAL = 1.0
"""How often each replica is asked, in seconds."""

DEADLINE = 3.0
"""How long one may take to answer, in seconds."""

SILENCE = 10.0
"""How long a replica may be silent until it is taken out, in seconds."""

ANSWER_LIMIT = 4 * 1024 * 1024

Ports = Mapping[int, str]
log = Logger()


@frozen
class Peer:
    """A pod to ask."""

    uid: str
    address: str


@frozen
class _Heard:
    since: float
    ports: Ports | None = None


class Replicas(Service):
    """Asks, while it runs, the replicas that `peers` names, as long as `asking` says so.

    @param port: their health port
    @param changed: called when one of them says something new
    """

    def __init__(
        self,
        agent: IAgent,
        clock: IReactorTime,
        port: int,
        peers: Callable[[], Iterable[Peer]],
        asking: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        self._agent, self._clock, self._port = agent, clock, port
        self._peers, self._wanted, self._changed = peers, asking, changed
        self._heard: dict[str, _Heard] = {}
        self._asking: dict[str, Deferred[None]] = {}
        self._polling = LoopingCall(self.ask)
        self._polling.clock = clock

    def startService(self) -> None:
        Service.startService(self)
        self._polling.start(INTERVAL, now=False)

    def stopService(self) -> None:
        Service.stopService(self)
        self._polling.stop()
        for asked in list(self._asking.values()):
            asked.cancel()

    def ports(self, uid: str) -> Ports | None:
        """The ports that a replica listens on, with their marks; none where it is silent, None where it is new."""
        heard = self._heard.get(uid)
        if heard is None or self._clock.seconds() - heard.since < SILENCE:
            return heard.ports if heard else None
        return {}

    def ask(self) -> None:
        """Ask everybody who is not being asked."""
        peers = list(self._peers()) if self._wanted() else []
        uids = {peer.uid for peer in peers}
        for uid in [uid for uid in self._heard if uid not in uids]:
            del self._heard[uid]
        for peer in peers:
            self._heard.setdefault(peer.uid, _Heard(self._clock.seconds()))
            if peer.uid not in self._asking:
                asked = Deferred.fromCoroutine(self._ask(peer)).addTimeout(DEADLINE, self._clock)
                self._asking[peer.uid] = asked
                asked.addErrback(self._failed, peer)
                asked.addBoth(self._done, peer)

    def _done(self, result: object, peer: Peer) -> None:
        del self._asking[peer.uid]

    async def _ask(self, peer: Peer) -> None:
        host = f"[{peer.address}]" if ":" in peer.address else peer.address
        response: IResponse = await self._agent.request(b"GET", f"http://{host}:{self._port}/status".encode())
        chunks: list[bytes] = []
        room = ANSWER_LIMIT

        def collect(data: bytes) -> None:
            nonlocal room
            room -= len(data)
            if room < 0:
                raise ValueError("the answer is too long")
            chunks.append(data)

        body = Body(collect, self._clock, DEADLINE)
        response.deliverBody(body)
        await body.ended
        ports = read_ports(b"".join(chunks))
        before = self._heard.get(peer.uid)
        if before is not None:
            news = before.ports != ports
            self._heard[peer.uid] = _Heard(self._clock.seconds(), ports if news else before.ports)
            if news:
                self._changed()

    def _failed(self, failure: Failure, peer: Peer) -> None:
        if not failure.check(CancelledError):
            log.debug(
                "the replica at {address} does not say what it listens on ({reason})",
                event="replica.silent",
                address=peer.address,
                reason=failure.type.__name__ if failure.type else "",
            )


def read_ports(body: bytes) -> dict[int, str]:
    """The ports that the answer to `GET /status` tells, with their marks. Raises ValueError for anything else."""
    match json.loads(body):
        case {"Components": {"tproxy-tcp": {"Marks": dict() as marks}}}:
            return dict(map(_port, marks.items()))
    raise ValueError("no ports")


def _port(item: tuple[Any, Any]) -> tuple[int, str]:
    port, mark = item
    if not isinstance(mark, str):
        raise ValueError("no mark")
    return int(port), mark

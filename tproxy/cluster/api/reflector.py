"""Keeps a store like the API server's: lists, watches, and begins again where the server lost the thread."""

from __future__ import annotations

from collections.abc import Callable
from random import uniform

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from tproxy.cluster.api.client import Client
from tproxy.cluster.api.objects import APIError, Change, Mark, Query, Why, version
from tproxy.cluster.api.store import Store

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Pauses after failures, in seconds, before jitter: each twice the one before."""

SPREAD = (1.0, 1.5)
"""What a pause is multiplied by, so that clients that failed together do not come back together."""

WATCH_SECONDS = 300
"""How long a watch lasts, before jitter: another one may reach another, less busy API server."""

SHORTEST_WATCH = 5.0
"""A watch that ended sooner counts as a failure."""

KEEPS_PLACE = frozenset(
    {
        Why.UNREACHABLE,
        Why.TOO_SLOW,
        Why.UNAUTHORIZED,
        Why.FORBIDDEN,
        Why.TOO_MANY_REQUESTS,
        Why.SERVICE_UNAVAILABLE,
        Why.SERVER_TIMEOUT,
    }
)
"""After these a watch goes on where it was; after any other failure all is listed anew."""

Jitter = Callable[[float, float], float]
log = Logger()


def pause(failures: int, retry_after: float, jitter: Jitter) -> float:
    """How long to wait after so many failures in a row, in seconds; never less than the server asked for."""
    return max(min(FIRST_PAUSE * 2.0 ** min(failures - 1, 10), LONGEST_PAUSE), retry_after) * jitter(*SPREAD)


class Reflector(Service):
    """Fills a store from a query's list and follows its watch, from when it is started until it is stopped.

    `problem` is why the store may be behind, None while it is not. No failure takes anything out of the store.
    """

    def __init__(
        self, client: Client, query: Query, store: Store, clock: IReactorTime, jitter: Jitter = uniform
    ) -> None:
        self.query = query
        self.store = store
        self.problem: APIError | None = None
        self._client, self._clock, self._jitter = client, clock, jitter
        self._version: str | None = None
        self._failures = 0
        self._said: tuple[Why, str] | None = None
        self._running: Deferred[None] = succeed(None)

    def startService(self) -> None:
        Service.startService(self)
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(lambda failure: failure.trap(CancelledError) and None)

    def stopService(self) -> None:
        Service.stopService(self)
        self._running.cancel()

    async def _run(self) -> None:
        while True:
            self._since: float | None = None
            failed, retry_after = True, 0.0
            try:
                await self._follow()
                failed = False
            except CancelledError:
                raise
            except APIError as error:
                retry_after = error.retry_after
                self._failed(error)
            except Exception:
                log.failure("what watches {key} failed", event="kubernetes.failed", key=str(self.query))
                self._version = None
            lasted = self._since is not None and self._clock.seconds() - self._since >= SHORTEST_WATCH
            if lasted:
                self._failures = 0
            if failed or not lasted:
                self._failures += 1
                await deferLater(self._clock, pause(self._failures, retry_after, self._jitter))

    async def _follow(self) -> None:
        """List, if need be, and watch until that ends."""
        if self._version is None:
            known = self.store.now
            listing = await self._client.list(self.query)
            self.store.fill(listing, known)
            self._version = listing.version
        seconds = int(self._jitter(WATCH_SECONDS, 1.2 * WATCH_SECONDS))
        stream = await self._client.watch(self.query, self._version, seconds, self._take)
        self._since = self._clock.seconds()
        self._recovered()
        await stream.ended

    def _take(self, change: Change) -> None:
        self._version = change.version if isinstance(change, Mark) else version(change.object)
        self._failures = 0
        self.store.apply(change)

    def _failed(self, error: APIError) -> None:
        self.problem = error
        if error.reason not in KEEPS_PLACE:
            self._version = None
        said = (error.reason, error.message)
        if error.reason is Why.EXPIRED or said == self._said:
            return
        self._said = said
        log.error(
            "{key} cannot be followed: {message}; what was known of them stays in force",
            event="kubernetes.stale",
            key=str(self.query),
            reason=str(error.reason),
            message=error.message,
        )

    def _recovered(self) -> None:
        self.problem = None
        if self._said is not None:
            self._said = None
            log.info("{key} are followed again", event="kubernetes.fresh", key=str(self.query))

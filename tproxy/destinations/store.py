"""The store of destinations: the configured instances by name, and the credentials to use now."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from tproxy import document
from tproxy.config import Config
from tproxy.destinations.cache import Cache, Fetched
from tproxy.destinations.directory import Directory
from tproxy.destinations.oauth import TokenService, cacheable
from tproxy.interfaces import IDestinationStore
from tproxy.model import (
    Bearer,
    Credential,
    Destination,
    DestinationRequest,
    Grant,
    Offered,
    Reason,
    Refusal,
    RefusedError,
    Resolution,
    Secret,
    Stage,
)
from tproxy.names import quoted
from tproxy.net.http import Client, client

if TYPE_CHECKING:
    from tproxy.net.endpoints import Connector

POLL_SECONDS = 1.0
"""How often the folders are looked at."""

SECOND_LOOK_SECONDS = 0.25
"""How soon it is made sure that a file is gone."""

JUDGED = 4096
"""For how many requests the judged document is kept."""

log = Logger()


@implementer(IDestinationStore)
class Store(Service):
    """Destinations out of folders of documents; while it runs, changed files are noticed within a second.

    The folders are read once when it is made, so that it can be asked without being started.

    @param connector: carries the requests for tokens
    @param clock: monotonic
    @param now: the wall clock, seconds since the epoch
    """

    def __init__(
        self,
        config: Config,
        rules: document.Rules,
        connector: Connector,
        clock: IReactorTime,
        now: Callable[[], float],
    ) -> None:
        def client_for(grant: Grant) -> Client:
            return client(
                connector,
                clock,
                trust=grant.trust,
                connect_seconds=grant.connect_seconds,
                read_seconds=grant.read_seconds,
                plain_hosts=rules.http_token_hosts,
            )

        self._rules = rules
        self._default = config.default_instance
        self._instances = {each.name: Directory(each.name, each.directory) for each in config.instances}
        self._token_service = TokenService(client_for, now)
        self._tokens: Cache[Grant, Secret] = Cache(clock, now, what="token", outages={Reason.TOKEN_UNAVAILABLE})
        self._changed: list[Callable[[], None]] = []
        self._polling = LoopingCall(self._poll)
        self._polling.clock = clock
        self._clock = clock
        self._second_look: IDelayedCall | None = None
        self._warnings: dict[tuple[str, str, str], tuple[str, ...]] = {}
        self._destination = lru_cache(JUDGED)(self._judge)
        self.refresh()

    def startService(self) -> None:
        Service.startService(self)
        self._polling.start(POLL_SECONDS, now=False)

    def stopService(self) -> None:
        Service.stopService(self)
        if self._polling.running:
            self._polling.stop()
        if self._second_look is not None:
            self._second_look.cancel()
            self._second_look = None
        self._tokens.stop()

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed()` whenever documents changed."""
        self._changed.append(changed)

    def refresh(self) -> None:
        """Looks at the folders now."""
        news = [directory.refresh() for directory in self._instances.values()]
        if any(news):
            self._destination.cache_clear()
            for changed in self._changed:
                changed()

    def _poll(self) -> None:
        try:
            self.refresh()
            if self._second_look is None and any(directory.doubtful for directory in self._instances.values()):
                self._second_look = self._clock.callLater(SECOND_LOOK_SECONDS, self._look_again)
        except Exception as error:
            log.error(
                "looking for changed documents failed with {reason}",
                event="directory.failed",
                reason=type(error).__name__,
            )

    def _look_again(self) -> None:
        self._second_look = None
        self._poll()

    def describe(self, request: DestinationRequest) -> Deferred[Destination]:
        return execute(self._destination, request)

    def resolve(self, request: DestinationRequest, offered: Offered | None = None) -> Deferred[Resolution]:
        try:
            destination = self._destination(request)
        except RefusedError:
            return fail()
        match destination.login:
            case Grant() as grant:
                return self._tokens.get(grant, lambda: self._token(grant)).addCallback(
                    lambda token: Resolution(destination, Bearer(destination.user, token.value), token.cached)
                )
            case credential:
                return succeed(Resolution(destination, credential, cached=True))

    def renew(
        self, request: DestinationRequest, refused: Credential, offered: Offered | None = None
    ) -> Deferred[Resolution | None]:
        return Deferred.fromCoroutine(self._renew(request, refused))

    async def _renew(self, request: DestinationRequest, refused: Credential) -> Resolution | None:
        self.refresh()
        destination = self._destination(request)
        match destination.login, refused:
            case Grant() as grant, Bearer(user, token) if user == destination.user:
                fresh = await self._tokens.renew(grant, lambda: self._token(grant), lambda held: held == token)
                return None if fresh is None else Resolution(destination, Bearer(user, fresh))
        resolution = await self.resolve(request)
        return None if resolution.credential == refused else resolution

    def _token(self, grant: Grant) -> Deferred[Fetched[Secret]]:
        return self._token_service.fetch(grant).addCallback(cacheable)

    def _judge(self, request: DestinationRequest) -> Destination:
        _refuse_what_folders_lack(request)
        name = request.instance or self._default
        instance = self._instances.get(name)
        if instance is None:
            raise RefusedError(
                Refusal(
                    Stage.RESOLVE,
                    Reason.RESOURCE_INVALID,
                    f"there is no destination service instance {quoted(name)}"
                    if name
                    else "the Destination names no instance, and none is the default",
                    "correct spec.destinationServiceInstanceName, or the instances of the configuration",
                )
            )
        found = instance.find(request.name, request.tenant)
        try:
            destination = document.parse(
                found.values, request, self._rules, lambda location: instance.authority(location, found.folder)
            )
        except RefusedError as error:
            refusal = error.refusal
            raise RefusedError(evolve(refusal, message=f"{found.file}: {refusal.message}")) from None
        self._warn(name, found.folder, destination)
        return destination

    def _warn(self, instance: str, folder: str, destination: Destination) -> None:
        """Each warning of a document once, until it changes."""
        key = (instance, folder, destination.name)
        if destination.warnings != self._warnings.get(key, ()):
            self._warnings[key] = destination.warnings
            for warning in destination.warnings:
                log.warn(
                    "destination {destination}: {message}",
                    event="document.warning",
                    destination=destination.name,
                    tenant=folder,
                    message=warning,
                )


def _refuse_what_folders_lack(request: DestinationRequest) -> None:
    """Fragments, chains and levels are ideas of the Destination service; a folder of documents has none."""
    if request.fragment and not request.fragment_optional:
        raise RefusedError(
            Refusal(
                Stage.RESOLVE,
                Reason.FRAGMENT_NOT_FOUND,
                f"spec.fragmentRef.name is {quoted(request.fragment)}, and a folder of documents has no fragments",
                "merge the fragment into the document, or mark it as optional",
            )
        )
    for given, path in ((request.level, "spec.destinationRef.level"), (request.chain, "spec.chainRef.name")):
        if given:
            raise RefusedError(
                Refusal(
                    Stage.RESOLVE,
                    Reason.RESOURCE_INVALID,
                    f"{path} is {quoted(given)}, which a folder of documents does not know",
                    f"remove {path}, or use an instance of the Destination service",
                )
            )

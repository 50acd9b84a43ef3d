"""The store of destinations: the configured instances by name, and the credentials to use now."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Protocol

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from tproxy.destinations.cache import Cache, Cached, Fetched
from tproxy.interfaces import IDestinationStore
from tproxy.model import (
    Bearer,
    Credential,
    Destination,
    DestinationRequest,
    Grant,
    GrantKind,
    NoCredential,
    Offered,
    Password,
    Reason,
    Refusal,
    RefusedError,
    Resolution,
    Secret,
    Stage,
)
from tproxy.names import quoted
from tproxy.offers import user_of

POLL_SECONDS = 1.0
"""How often files and service keys are looked at."""

log = Logger()


class Source(Protocol):
    """One instance: a folder of documents, or a Destination service. All Deferreds fail with `RefusedError`."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed()` when destinations are others than before, or may be."""

    def poll(self) -> None:
        """Look whether files were changed."""

    def stop(self) -> None:
        """End what is under way."""

    def describe(self, request: DestinationRequest) -> Deferred[Destination]:
        """The destination alone."""

    def known(self, request: DestinationRequest) -> Destination | None:
        """The destination, if it is known without asking for it."""

    def look(self, request: DestinationRequest, asks: bool) -> Deferred[Cached[Destination]]:
        """The destination, for a login; `asks` says that the application brings what is exchanged for a token."""

    def look_again(self, request: DestinationRequest, before: Destination) -> Deferred[Destination | None]:
        """The destination as it is now; None where nothing changed."""

    def key(self, request: DestinationRequest, grant: Grant) -> Hashable:
        """What the token of a grant is kept under."""

    def token(self, request: DestinationRequest, grant: Grant) -> Deferred[Fetched[Secret]]:
        """A new token."""


@implementer(IDestinationStore)
class Store(Service):
    """Destinations of all instances; while it runs, changed files are noticed within a second.

    @param sources: the instances, by name
    @param tokens: keeps the tokens of all destinations
    @param default: the name of the default instance; empty if there is none
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        tokens: Cache[Hashable, Secret],
        default: str,
        clock: IReactorTime,
    ) -> None:
        self._sources = sources
        self._default = default
        self._tokens = tokens
        self._polling = LoopingCall(self.poll)
        self._polling.clock = clock

    def startService(self) -> None:
        Service.startService(self)
        self._polling.start(POLL_SECONDS, now=False)

    def stopService(self) -> None:
        Service.stopService(self)
        if self._polling.running:
            self._polling.stop()
        for source in self._sources.values():
            source.stop()
        self._tokens.stop()

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed()` whenever documents changed."""
        for source in self._sources.values():
            source.watch(changed)

    def poll(self) -> None:
        """Look for changes now."""
        for name, source in self._sources.items():
            try:
                source.poll()
            except Exception as error:
                log.error(
                    "looking for changes of the instance {key} failed with {reason}",
                    event="instance.failed",
                    key=name,
                    reason=type(error).__name__,
                )

    def token_age(self, request: DestinationRequest) -> float | None:
        """For how many seconds the token has been held that all sessions of a destination log in with.

        None where there is none: another kind of login, an application that brings it, or not fetched yet.
        """
        source = self._sources.get(request.instance or self._default)
        destination = None if source is None else source.known(request)
        if source is None or destination is None or destination.asks or not isinstance(destination.login, Grant):
            return None
        held = self._tokens.held(source.key(request, destination.login))
        return None if held is None else held[1]

    def describe(self, request: DestinationRequest) -> Deferred[Destination]:
        try:
            return self._source(request).describe(request)
        except RefusedError:
            return fail()

    def resolve(self, request: DestinationRequest, offered: Offered | None = None) -> Deferred[Resolution]:
        return Deferred.fromCoroutine(self._resolve(request, offered))

    async def _resolve(self, request: DestinationRequest, offered: Offered | None) -> Resolution:
        source = self._source(request)
        looked = await source.look(request, asks=offered is not None)
        return await self._with_credential(source, request, looked, offered)

    def renew(
        self, request: DestinationRequest, refused: Credential, offered: Offered | None = None
    ) -> Deferred[Resolution | None]:
        return Deferred.fromCoroutine(self._renew(request, refused, offered))

    async def _renew(
        self, request: DestinationRequest, refused: Credential, offered: Offered | None
    ) -> Resolution | None:
        source = self._source(request)
        before = (await source.look(request, asks=offered is not None)).value
        now = await source.look_again(request, before)
        destination = before if now is None else now
        match _login(destination, offered), refused:
            case Grant(kind=GrantKind.AUTHORIZATION_CODE), _:
                return None
            case Grant() as grant, Bearer(token=token):
                user = _user(destination, offered)
                key = source.key(request, grant)
                fresh = await self._tokens.renew(key, lambda: source.token(request, grant), token.__eq__)
                return None if fresh is None else Resolution(destination, Bearer(user, fresh))
        resolution = await self._with_credential(source, request, Cached(destination, cached=False), offered)
        return None if resolution.credential == refused else resolution

    async def _with_credential(
        self, source: Source, request: DestinationRequest, looked: Cached[Destination], offered: Offered | None
    ) -> Resolution:
        destination = looked.value
        match _login(destination, offered):
            case Grant() as grant:
                user = _user(destination, offered)
                issued = await self._tokens.get(
                    source.key(request, grant),
                    lambda: source.token(request, grant),
                    once=grant.kind is GrantKind.AUTHORIZATION_CODE,
                )
                return Resolution(destination, Bearer(user, issued.value), looked.cached or issued.cached)
            case credential:
                return Resolution(destination, credential, looked.cached)

    def _source(self, request: DestinationRequest) -> Source:
        name = request.instance or self._default
        source = self._sources.get(name)
        if source is None:
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
        return source


def _login(destination: Destination, offered: Offered | None) -> Password | NoCredential | Grant:
    """How to log in, with what the application offered where the destination asks for that, and only there."""
    if destination.asks != (offered is not None):
        raise RefusedError(
            Refusal(
                Stage.RESOLVE,
                Reason.DESTINATION_CHANGED,
                "the destination has another way to log in since the application was greeted",
                "connect again",
            )
        )
    login = destination.login
    return evolve(login, offered=offered.secret) if isinstance(login, Grant) and offered is not None else login


def _user(destination: Destination, offered: Offered | None) -> str:
    return destination.user if offered is None else user_of(destination, offered)

"""An instance of the Destination service as a source of destinations: asked once for all, kept, refreshed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import cast

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from tproxy import document
from tproxy.destinations.cache import Cache, Cached, Fetched
from tproxy.destinations.keys import ServiceKey
from tproxy.destinations.oauth import Token, TokenService, cacheable
from tproxy.destinations.service import AuthToken, DestinationService
from tproxy.destinations.warnings import Warnings
from tproxy.instances import ServiceInstance
from tproxy.model import (
    Code,
    Destination,
    DestinationRequest,
    Grant,
    GrantKind,
    Offered,
    Reason,
    Refusal,
    RefusedError,
    Secret,
    Stage,
)
from tproxy.names import quoted
from tproxy.net.http import Answer

OUTAGES = frozenset({Reason.STORE_UNAVAILABLE, Reason.TOKEN_UNAVAILABLE})
"""Why a destination may not be told for a while; anything else is an answer."""

log = Logger()


class KeyRing:
    """The service key of one instance, as it is kept now; a broken one leaves the last good one in force.

    @param name: the instance's
    @param read: reads the key as it is kept; raises RefusedError
    """

    def __init__(self, name: str, read: Callable[[], ServiceKey]) -> None:
        self._name = name
        self._read = read
        self._key: ServiceKey | None = None
        self._fault: Refusal | None = None
        self.refresh()

    @property
    def key(self) -> ServiceKey:
        """The key to use now. Raises `RefusedError`."""
        if self._key is not None:
            return self._key
        raise RefusedError(cast(Refusal, self._fault))

    def refresh(self) -> bool:
        """Look whether another key is kept now than the one that was in force."""
        try:
            key = self._read()
        except RefusedError as error:
            self._broken(error.refusal)
            return False
        changed = key != self._key
        if changed and self._key is not None:
            log.info("{message}", event="key.changed", message=f"the instance {self._name} has another service key now")
        self._key, self._fault = key, None
        return changed

    def _broken(self, refusal: Refusal) -> None:
        if refusal != self._fault:
            log.error(
                "instance {key}: {message}; the last good one stays in force"
                if self._key is not None
                else "instance {key}: {message}",
                event="key.broken",
                key=self._name,
                reason=refusal.reason,
                message=refusal.message,
                remedy=refusal.remedy,
            )
        self._fault = refusal


class Remote:
    """The destinations of one instance of the Destination service.

    @param issuer: runs grants at token endpoints
    @param ask: one request over HTTP, as L{DestinationService} wants it
    @param bring: keeps a token that came along with a destination, under the key of `key`
    @param clock: monotonic
    @param now: the wall clock, seconds since the epoch
    @param age_seconds: how long a destination is used without asking for it again
    @param stale_seconds: how long it is while the service does not answer
    """

    def __init__(
        self,
        instance: ServiceInstance,
        keys: KeyRing,
        rules: document.Rules,
        issuer: TokenService,
        ask: Callable[..., Deferred[Answer]],
        bring: Callable[[Hashable, Fetched[Secret]], None],
        clock: IReactorTime,
        now: Callable[[], float],
        age_seconds: float,
        stale_seconds: float,
    ) -> None:
        self._rules = evolve(rules, exchanges=True)
        self._issuer = issuer
        self._bring = bring
        self._keys = keys
        self._fresh, self._valid = age_seconds, max(age_seconds, stale_seconds)
        self._warnings = Warnings()
        self._changed: list[Callable[[], None]] = []
        self._service_tokens: Cache[Grant, Secret] = Cache(clock, now, what="service token", outages=OUTAGES)
        self._destinations: Cache[DestinationRequest, Destination] = Cache(
            clock, now, what="destination", outages=OUTAGES, changed=self._has_changed
        )
        self._service = DestinationService(
            instance.name,
            key=lambda: keys.key,
            token=self._service_token,
            forget=self._forget,
            ask=ask,
            now=now,
            connect_seconds=instance.connect_seconds,
            read_seconds=instance.read_seconds,
        )

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed()` when a destination is found to be another, or gone, unasked, or there is another key."""
        self._changed.append(changed)

    def poll(self) -> None:
        """Look whether the service key was changed; nothing is asked with the one before any more.

        What could not be told with that, or without any, may be told now.
        """
        if self._keys.refresh():
            self._service_tokens.forget()
            self._destinations.retry()
            for changed in self._changed:
                changed()

    def stop(self) -> None:
        """Forget everything."""
        self._destinations.stop()
        self._service_tokens.stop()

    def describe(self, request: DestinationRequest) -> Deferred[Destination]:
        """The destination alone: no token is fetched."""
        return self._get(request, tokens=False).addCallback(lambda cached: cached.value)

    def known(self, request: DestinationRequest) -> Destination | None:
        """The destination as it was told last, while that is valid."""
        held = self._destinations.held(request)
        return None if held is None else held[0]

    def look(self, request: DestinationRequest, asks: bool) -> Deferred[Cached[Destination]]:
        """The destination, for a login: where it is not known, a token may come along with it."""
        return self._get(request, tokens=not asks)

    def look_again(self, request: DestinationRequest, before: Destination) -> Deferred[Destination | None]:
        """The destination as it is now; None where nothing changed."""
        return self._destinations.renew(request, lambda: self._find(request, tokens=False), before.__eq__, keep=True)

    def key(self, request: DestinationRequest, grant: Grant) -> Hashable:
        """What a token is kept under: the service decides for each request which one it gives."""
        return request, grant

    def token(self, request: DestinationRequest, grant: Grant) -> Deferred[Fetched[Secret]]:
        """A token, from the service, or else from where the document says."""
        return Deferred.fromCoroutine(self._token(request, grant))

    def _has_changed(self, request: DestinationRequest) -> None:
        for changed in self._changed:
            changed()

    def _get(self, request: DestinationRequest, tokens: bool) -> Deferred[Cached[Destination]]:
        return self._destinations.get(request, lambda: self._find(request, tokens))

    def _find(self, request: DestinationRequest, tokens: bool) -> Deferred[Fetched[Destination]]:
        return Deferred.fromCoroutine(self._judged(request, tokens))

    async def _judged(self, request: DestinationRequest, tokens: bool) -> Fetched[Destination]:
        found = await self._service.find(request, tokens=tokens)
        try:
            destination = document.parse(found.values, request, self._rules, found.authority)
        except RefusedError as error:
            where = self._service.named(request.tenant)
            raise error.again(f"{where}: the destination {quoted(request.name)}: {error.refusal.message}") from None
        self._warnings.say(destination, request)
        token = usable(found.tokens)
        if token is not None and isinstance(destination.login, Grant) and not destination.asks:
            self._bring(self.key(request, destination.login), token)
        return Fetched(destination, self._fresh, self._valid)

    async def _token(self, request: DestinationRequest, grant: Grant) -> Fetched[Secret]:
        offer = None if grant.offered is None else (grant.kind, Offered("", grant.offered))
        try:
            found = await self._service.find(request, tokens=True, offer=offer, redirect_uri=grant.redirect_uri)
        except RefusedError as error:
            if grant.kind is not GrantKind.CLIENT_CREDENTIALS or error.refusal.reason not in OUTAGES:
                raise
            return cacheable(await self._issuer.fetch(grant))
        token = usable(found.tokens)
        if token is not None:
            return token
        said = "; ".join(each.error for each in found.tokens if each.error)
        if not grant.url or (said and grant.kind is not GrantKind.CLIENT_CREDENTIALS):
            raise RefusedError(_no_token(said))
        try:
            return cacheable(await self._issuer.fetch(grant))
        except RefusedError as error:
            if not said:
                raise
            raise error.again(f"{_no_token(said).message}; and {error.refusal.message}") from None

    def _service_token(self, grant: Grant) -> Deferred[Secret]:
        asked = self._service_tokens.get(grant, lambda: self._issuer.fetch(grant).addCallback(cacheable))
        return asked.addCallback(lambda cached: cached.value)

    def _forget(self, grant: Grant, token: Secret) -> None:
        if self._service_tokens.peek(grant) == token:
            self._service_tokens.drop(grant)


def usable(tokens: tuple[AuthToken, ...]) -> Fetched[Secret] | None:
    """The first token that can be used."""
    for each in tokens:
        if not each.error:
            return cacheable(Token(each.value, each.seconds))
    return None


def _no_token(said: str) -> Refusal:
    return Refusal(
        Stage.RESOLVE,
        Reason.TOKEN_REFUSED,
        "the Destination service sends no token" + (f": {said}" if said else ", and the document no tokenServiceURL"),
        "correct the destination, or what the application sends",
        Code.AUTHENTICATION_FAILED,
    )

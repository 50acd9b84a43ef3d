"""A folder of documents as a source of destinations: judged once, until something in the folder changes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache

from attrs import evolve
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tproxy import document
from tproxy.destinations.cache import Cached, Fetched
from tproxy.destinations.directory import Directory
from tproxy.destinations.oauth import TokenService, cacheable
from tproxy.destinations.warnings import Warnings
from tproxy.instances import DirectoryInstance
from tproxy.model import (
    Destination,
    DestinationRequest,
    Grant,
    Password,
    Reason,
    Refusal,
    RefusedError,
    Secret,
    Stage,
)
from tproxy.names import quoted

SECOND_LOOK_SECONDS = 0.25
"""How soon it is made sure that a file is gone."""

JUDGED = 4096
"""For how many requests the judged document is kept."""


class Files:
    """The documents of one folder.

    @param issuer: runs the grants of documents
    """

    def __init__(
        self,
        instance: DirectoryInstance,
        rules: document.Rules,
        issuer: TokenService,
        clock: IReactorTime,
    ) -> None:
        self._directory = Directory(instance.name, instance.directory)
        self._rules = rules
        self._issuer = issuer
        self._clock = clock
        self._changed: list[Callable[[], None]] = []
        self._warnings = Warnings()
        self._second_look: IDelayedCall | None = None
        self._destination = lru_cache(JUDGED)(self._judge)
        self._directory.refresh()

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed()` after each change."""
        self._changed.append(changed)

    def poll(self) -> None:
        """Look for changes; where a file is missing, once more shortly after."""
        self._refresh()
        if self._second_look is None and self._directory.doubtful:
            self._second_look = self._clock.callLater(SECOND_LOOK_SECONDS, self._look_again)

    def stop(self) -> None:
        """Nothing is looked at any more."""
        if self._second_look is not None:
            self._second_look.cancel()
            self._second_look = None

    def describe(self, request: DestinationRequest) -> Deferred[Destination]:
        """The destination alone."""
        return execute(self._destination, request)

    def known(self, request: DestinationRequest) -> Destination | None:
        """The destination, if the documents tell it."""
        try:
            return self._destination(request)
        except RefusedError:
            return None

    def look(self, request: DestinationRequest, asks: bool) -> Deferred[Cached[Destination]]:
        """The destination, for a login: a refused password is worth another look at the file, a new token is not."""
        looked = execute(self._destination, request)
        return looked.addCallback(lambda destination: Cached(destination, isinstance(destination.login, Password)))

    def look_again(self, request: DestinationRequest, before: Destination) -> Deferred[Destination | None]:
        """The destination as it is now, None where nothing changed."""
        self._refresh()
        return execute(self._destination, request).addCallback(lambda now: None if now == before else now)

    def key(self, request: DestinationRequest, grant: Grant) -> Hashable:
        """What a token is kept under: destinations with the same grant share it."""
        return grant

    def token(self, request: DestinationRequest, grant: Grant) -> Deferred[Fetched[Secret]]:
        """A token, from where the document says."""
        return self._issuer.fetch(grant).addCallback(cacheable)

    def _refresh(self) -> None:
        if self._directory.refresh():
            self._destination.cache_clear()
            for changed in self._changed:
                changed()

    def _look_again(self) -> None:
        self._second_look = None
        self.poll()

    def _judge(self, request: DestinationRequest) -> Destination:
        _refuse_what_folders_lack(request)
        found = self._directory.find(request.name, request.tenant)
        try:
            destination = document.parse(
                found.values, request, self._rules, lambda location: self._directory.authority(location, found.folder)
            )
        except RefusedError as error:
            raise error.again(f"{found.file}: {error.refusal.message}") from None
        self._warnings.say(destination, evolve(request, tenant=found.folder))
        return destination


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

"""Keys of service instances that are kept in Secrets: each Secret is followed by its name, and no other is read."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping

from attrs import field, frozen
from twisted.application.service import MultiService, Service
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tproxy.cluster.api.client import Client
from tproxy.cluster.api.objects import Key, Object, Query, key
from tproxy.cluster.api.reflector import Reflector
from tproxy.cluster.api.store import Store
from tproxy.cluster.kinds import SECRETS
from tproxy.instances import KeyInSecret
from tproxy.interfaces import IKeySource
from tproxy.model import Reason, Refusal, RefusedError, Stage


@implementer(IKeySource)
@frozen
class SecretSource:
    """What one Secret holds."""

    reflector: Reflector
    key: Key

    def read(self) -> Mapping[str, bytes]:
        """The entries of the Secret, as they were told last."""
        store, name = self.reflector.store, "/".join(self.key)
        if not store.filled:
            problem = self.reflector.problem
            if problem is None:
                raise RefusedError(_refusal(Reason.STORE_UNAVAILABLE, f"the Secret {name} is not read yet"))
            words = f"the Secret {name} cannot be read: {problem.message}"
            raise RefusedError(_refusal(Reason.STORE_UNAVAILABLE, words, "allow get, list and watch of it by its name"))
        thing = store.objects.get(self.key)
        if thing is None:
            words = f"there is no Secret {name}"
            raise RefusedError(_refusal(Reason.SERVICE_KEY_INVALID, words, "create it, or correct serviceCredentials"))
        return entries(thing)


@implementer(IKeySource)
@frozen
class SecretRead:
    """A Secret that was read once."""

    thing: Object = field(repr=False)

    def read(self) -> Mapping[str, bytes]:
        """The entries of the Secret."""
        return entries(self.thing)


def entries(thing: Object) -> Mapping[str, bytes]:
    """The entries of a Secret. Raises RefusedError."""
    try:
        return {entry: b64decode(text, validate=True) for entry, text in (thing.get("data") or {}).items()}
    except (TypeError, ValueError):
        words = f"the Secret {'/'.join(key(thing))} holds something that is no data"
        raise RefusedError(_refusal(Reason.SERVICE_KEY_INVALID, words, "create it anew")) from None


class Secrets(MultiService):
    """Follows, while it runs, the Secrets that were asked for.

    @param namespace: where those are that name no other
    """

    def __init__(self, client: Client, clock: IReactorTime, namespace: str) -> None:
        MultiService.__init__(self)
        self._client, self._clock, self._namespace = client, clock, namespace
        self._sources: dict[Key, SecretSource] = {}

    def source(self, place: KeyInSecret) -> SecretSource:
        """Where the key of an instance is read."""
        key = (place.namespace or self._namespace, place.name)
        if key not in self._sources:
            query = Query.single(SECRETS, key)
            reflector = Reflector(self._client, query, Store(lambda _: None), self._clock)
            Service.setServiceParent(reflector, self)
            self._sources[key] = SecretSource(reflector, key)
        return self._sources[key]


def _refusal(reason: Reason, message: str, remedy: str = "") -> Refusal:
    return Refusal(Stage.RESOLVE, reason, message, remedy)

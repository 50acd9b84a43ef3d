"""Makes the store that a configuration describes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from tproxy import document
from tproxy.config import Config, ConfigError
from tproxy.destinations.cache import Cache
from tproxy.destinations.circuits import Circuits
from tproxy.destinations.files import Files
from tproxy.destinations.keys import KeyFile, KeyFolder, ServiceKey, private_key, service_key
from tproxy.destinations.oauth import TokenService
from tproxy.destinations.remote import OUTAGES, KeyRing, Remote
from tproxy.destinations.store import Source, Store
from tproxy.instances import DirectoryInstance, Instance, KeyInFile, KeyInFolder, KeyInSecret, KeyPlace, ServiceInstance
from tproxy.interfaces import IKeySource
from tproxy.model import Secret, Trust
from tproxy.net.http import Answer, client

if TYPE_CHECKING:
    from tproxy.net.endpoints import Connector

Ask = Callable[..., Deferred[Answer]]
"""One request over HTTP, as of L{Client.ask}."""

Entries = tuple[tuple[str, bytes], ...]

Secrets = Callable[[KeyInSecret], IKeySource]
"""What reads Kubernetes Secrets."""


def build(
    config: Config,
    rules: document.Rules,
    connector: Connector,
    clock: IReactorTime,
    now: Callable[[], float],
    secrets: Secrets | None = None,
) -> Store:
    """The store of all instances.

    @param connector: carries the requests
    @param clock: monotonic
    @param now: the wall clock, seconds since the epoch
    @param secrets: reads Kubernetes Secrets; None where there is no cluster
    @raise ConfigError: an instance cannot be had here
    """
    circuits = Circuits(clock, now)

    def asker(trust: Trust, connect_seconds: float, read_seconds: float) -> Ask:
        made = client(
            connector,
            clock,
            trust=trust,
            connect_seconds=connect_seconds,
            read_seconds=read_seconds,
            plain_hosts=rules.http_token_hosts,
        )
        return partial(circuits.ask, made)

    issuer = TokenService(lambda grant: asker(grant.trust, grant.connect_seconds, grant.read_seconds), now)
    tokens: Cache[Hashable, Secret] = Cache(clock, now, what="token", outages=OUTAGES)

    def source(instance: Instance) -> Source:
        if isinstance(instance, DirectoryInstance):
            return Files(instance, rules, issuer, clock)

        ask = asker(Trust(), instance.connect_seconds, instance.read_seconds)
        keys = KeyRing(instance.name, _reader(instance, rules.http_token_hosts, secrets))
        age, stale = config.limits.age_seconds, config.limits.stale_seconds
        return Remote(instance, keys, rules, issuer, ask, tokens.put, clock, now, age, stale)

    return Store({each.name: source(each) for each in config.instances}, tokens, config.default_instance, clock)


def _reader(instance: ServiceInstance, http_hosts: frozenset[str], secrets: Secrets | None) -> Callable[[], ServiceKey]:
    """What reads the service key of an instance, with the private key that is kept elsewhere."""

    def source(place: KeyPlace, where: str) -> tuple[IKeySource, str]:
        match place:
            case KeyInFile(path):
                return KeyFile(path), ""
            case KeyInFolder(path, entry):
                return KeyFolder(path), entry
            case KeyInSecret(key=entry) if secrets is not None:
                return secrets(place), entry
            case KeyInSecret(name):
                raise ConfigError(
                    f"the instance {instance.name}: {where}.secretName: the Secret {name} can be read in a cluster "
                    f"only; mount it, and name its folder with {where}.folder"
                )

    key, entry = source(instance.service_key, "serviceCredentials")
    private, private_entry = None, ""
    if instance.private_key is not None:
        private, private_entry = source(instance.private_key, "serviceCredentials.privateKey")

    @lru_cache(maxsize=1)
    def judged(fields: Entries, private_fields: Entries | None) -> ServiceKey:
        apart = None if private_fields is None else private_key(dict(private_fields), private_entry)
        return service_key(dict(fields), entry, apart, http_hosts)

    return lambda: judged(_entries(key), None if private is None else _entries(private))


def _entries(source: IKeySource) -> Entries:
    return tuple(sorted(source.read().items()))

"""Makes the store that a configuration describes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from tproxy import document
from tproxy.config import Config, ConfigError
from tproxy.destinations.cache import Cache
from tproxy.destinations.circuits import Circuits
from tproxy.destinations.files import Files
from tproxy.destinations.keys import KeyFile, KeyFolder, ServiceKey, private_key, service_key
from tproxy.destinations.oauth import TokenService
from tproxy.destinations.remote import OUTAGES, Remote
from tproxy.destinations.store import Source, Store
from tproxy.instances import DirectoryInstance, Instance, KeyInFile, KeyInFolder, KeyInSecret, KeyPlace, ServiceInstance
from tproxy.interfaces import IKeySource
from tproxy.model import Secret, Trust
from tproxy.net.http import Answer, Client, client

if TYPE_CHECKING:
    from tproxy.net.endpoints import Connector

Secrets = Callable[[KeyInSecret], IKeySource]
"""What reads Kubernetes Secrets."""


@frozen
class _Patient:
    """A client that leaves hosts alone which fail."""

    circuits: Circuits
    client: Client

    def ask(self, method: str, url: str, **arguments: Any) -> Deferred[Answer]:
        return self.circuits.ask(self.client, method, url, **arguments)


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

    def client_for(trust: Trust, connect_seconds: float, read_seconds: float) -> _Patient:
        made = client(
            connector,
            clock,
            trust=trust,
            connect_seconds=connect_seconds,
            read_seconds=read_seconds,
            plain_hosts=rules.http_token_hosts,
        )
        return _Patient(circuits, made)

    issuer = TokenService(lambda grant: client_for(grant.trust, grant.connect_seconds, grant.read_seconds), now)
    tokens: Cache[Hashable, Secret] = Cache(clock, now, what="token", outages=OUTAGES)

    def source(instance: Instance) -> Source:
        if isinstance(instance, DirectoryInstance):
            return Files(instance, rules, issuer, clock)
        patient = client_for(Trust(), instance.connect_seconds, instance.read_seconds)
        keys = _key_ring(instance, rules.http_token_hosts, secrets)
        return Remote(instance, keys, rules, issuer, patient.ask, tokens.put, clock, now, config.limits.stale_seconds)

    return Store({each.name: source(each) for each in config.instances}, tokens, config.default_instance, clock)


def _reader(instance: ServiceInstance, http_hosts: frozenset[str], secrets: Secrets | None) -> Callable[[], ServiceKey]:
    """What reads the service key of an instance, with the private key that is kept elsewhere."""

    def source(place: KeyPlace) -> tuple[IKeySource, str]:
        match place:
            case KeyInFile(path):
                return KeyFile(path), ""
            case KeyInFolder(path, entry):
                return KeyFolder(path), entry
            case KeyInSecret(key=entry) if secrets is not None:
                return secrets(place), entry
            case KeyInSecret(name):
                raise ConfigError(
                    f"the instance {instance.name}: serviceCredentials.secretName: the Secret {name} can be read in a "
                    "cluster only; mount it, and name its folder with serviceCredentials.folder"
                )

    key, entry = source(instance.service_key)
    if instance.private_key is None:
        return lambda: service_key(key.read(), entry, http_hosts=http_hosts)
    private, private_entry = source(instance.private_key)
    return lambda: service_key(key.read(), entry, private_key(private.read(), private_entry), http_hosts)

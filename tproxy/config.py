"""The configuration: one YAML text becomes frozen values, or one error that names the line and the key.

`KEYS` is all that may be said; docs/configure.md explains it to users. Nothing here touches a
file: `paths` tells the composition root what has to be there.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, NamedTuple

from attrs import frozen

from tproxy import instances, names, places
from tproxy.instances import Instance, PathKind, paths_of
from tproxy.places import ConfigError, Found, Key, Network

__all__ = [
    "KEYS",
    "Config",
    "ConfigError",
    "ConfiguredPath",
    "Kubernetes",
    "Limits",
    "Local",
    "Network",
    "PathKind",
    "Security",
    "Window",
    "loosened",
    "parse",
    "paths",
]


@frozen
class Security:
    """What is allowed beyond the safe defaults; hosts are spelled as `names.host` does."""

    allowed_networks: tuple[Network, ...] = ()
    plaintext_hosts: frozenset[str] = frozenset()
    http_token_hosts: frozenset[str] = frozenset()
    allow_trust_all: bool = False
    default_scope: str = "namespaced"


@frozen
class Limits:
    """Bounds: connections at once per listener, each of them a session of one mail account; for how many seconds a
    destination is used without asking its store again, and for how many while the store does not answer; how
    many listeners a cluster may have; and how many connections and MiB of memory the process, 0 for what its
    surroundings allow.
    """

    connections_per_listener: int = 10
    age_seconds: int = 120
    stale_seconds: int = 3600
    listeners: int = 4000
    connections: int = 0
    memory: int = 0


@frozen
class Local:
    """A folder of Destination resources that stands in for a cluster."""

    directory: Path
    state: Path
    listen: str = "127.0.0.1"
    allow_remote: bool = False


@frozen
class Kubernetes:
    """A cluster; what is empty is found out where the program runs: in a pod, or by a kubeconfig.

    `spares` listeners are kept open for resources to come, for each port that is in use. Going down, sessions get
    `drain_seconds` to end by themselves.
    """

    namespace: str = ""
    pod: str = ""
    address: str = ""
    kubeconfig: Path | None = None
    context: str = ""
    domain: str = ""
    spares: int = 5
    drain_seconds: int = 270


@frozen
class Window:
    """Where the process can be looked at over HTTP; nowhere if the port is 0."""

    listen: str = "127.0.0.1"
    port: int = 0


@frozen
class Config:
    """All that the program is told; paths are absolute. Either `local` or `kubernetes` is there.

    `default_instance` and `provider_subdomain` are empty where none is configured; `log_level` is
    one of debug, info, warn, error, critical.
    """

    tenant_mode: str
    instances: tuple[Instance, ...]
    default_instance: str
    local: Local | None
    managed_namespaces_mode: str = "all"
    execution_interval_minutes: int = 3
    provider_subdomain: str = ""
    security: Security = Security()
    limits: Limits = Limits()
    log_level: str = "info"
    additional_cas: Path | None = None
    health: Window = Window()
    metrics: Window = Window()
    kubernetes: Kubernetes | None = None
    coexist: bool = False

    @property
    def folder(self) -> Local:
        """The folder that stands in for a cluster.

        @raise ConfigError: there is a cluster
        """
        if self.local is None:
            raise ConfigError(f"this needs {LOCAL_DIRECTORY.path}, and the configuration has {KUBERNETES} instead")
        return self.local


# What may be said


TENANT_MODE = Key("config.tenantMode", places.one_of("dedicated", "shared"), "dedicated")
NAMESPACES_MODE = Key("config.managedNamespacesMode", places.one_of("all", "labelSelector"), "all")
INTERVAL = Key("config.manager.executionIntervalMinutes", places.whole(1, 1440), 3)
PROVIDER_SUBDOMAIN = Key("config.providerSubdomain", places.subdomain, "")
INSTANCES = Key("config.integration.destinationService.instances", instances.read)
DEFAULT_INSTANCE = Key("config.integration.destinationService.defaultInstanceName", places.text, "")
SHORT_DEFAULT_INSTANCE = Key("config.destinationService.defaultInstanceName", places.text, "")
MAX_AGE = Key("config.destinations.maxAge", places.whole(1, 3600), Limits().age_seconds)
MAX_STALE = Key("config.destinations.maxStale", places.whole(0, 7 * 86_400), Limits().stale_seconds)
ALLOWED_NETWORKS = Key("config.security.allowedNetworks", places.several(places.network), ())
PLAINTEXT_HOSTS = Key("config.security.plaintextHosts", places.distinct(places.host), frozenset())
HTTP_TOKEN_HOSTS = Key("config.security.httpTokenHosts", places.distinct(places.host), frozenset())
ALLOW_TRUST_ALL = Key("config.security.allowTrustAll", places.truth, False)
DEFAULT_SCOPE = Key(
    "config.security.accessControl.destinations.defaultScope",
    places.one_of("namespaced", "clusterWide"),
    "namespaced",
)
COEXIST = Key("config.coexist", places.truth, False)
CLUSTER_DOMAIN = Key("config.clusterDomain", places.host, "")
CONNECTIONS = Key("config.limits.connectionsPerListener", places.whole(1, 100_000), Limits().connections_per_listener)
LISTENERS = Key("config.limits.listeners", places.whole(1, 20_000), Limits().listeners)
ALL_CONNECTIONS = Key("config.limits.connections", places.whole(0, 500_000), Limits().connections)
MEMORY = Key("config.limits.memory", places.whole(0, 1_000_000), Limits().memory)
LOG_LEVEL = Key(
    "config.logging.level",
    places.one_of("debug", "info", "warn", "warning", "error", "critical", folded=True),
    "info",
)
HEALTH_LISTEN = Key("config.health.listen", places.address, Window().listen)
HEALTH_PORT = Key("config.health.port", places.whole(0, 65535), Window().port)
METRICS_LISTEN = Key("config.metrics.listen", places.address, Window().listen)
METRICS_PORT = Key("config.metrics.port", places.whole(0, 65535), Window().port)
ADDITIONAL_CAS = Key("additionalCAs.file", places.path, None)
LOCAL = "cluster.local"
LOCAL_DIRECTORY = Key("cluster.local.directory", places.path)
LOCAL_STATE = Key("cluster.local.state", places.path)
LISTEN = Key("cluster.local.listen", places.address, "127.0.0.1")
ALLOW_REMOTE = Key("cluster.local.allowRemote", places.truth, False)
KUBERNETES = "cluster.kubernetes"
NAMESPACE = Key("cluster.kubernetes.namespace", places.subdomain, "")
POD_NAME = Key("cluster.kubernetes.podName", places.host, "")
POD_ADDRESS = Key("cluster.kubernetes.podAddress", places.address, "")
KUBECONFIG = Key("cluster.kubernetes.kubeconfig", places.path, None)
CONTEXT = Key("cluster.kubernetes.context", places.text, "")
SPARES = Key("cluster.kubernetes.spares", places.whole(0, 100), Kubernetes().spares)
DRAIN = Key("cluster.kubernetes.drainSeconds", places.whole(0, 86_400), Kubernetes().drain_seconds)

KEYS: tuple[Key[Any], ...] = (
    TENANT_MODE,
    NAMESPACES_MODE,
    INTERVAL,
    PROVIDER_SUBDOMAIN,
    INSTANCES,
    DEFAULT_INSTANCE,
    SHORT_DEFAULT_INSTANCE,
    MAX_AGE,
    MAX_STALE,
    ALLOWED_NETWORKS,
    PLAINTEXT_HOSTS,
    HTTP_TOKEN_HOSTS,
    ALLOW_TRUST_ALL,
    DEFAULT_SCOPE,
    COEXIST,
    CLUSTER_DOMAIN,
    CONNECTIONS,
    LISTENERS,
    ALL_CONNECTIONS,
    MEMORY,
    LOG_LEVEL,
    HEALTH_LISTEN,
    HEALTH_PORT,
    METRICS_LISTEN,
    METRICS_PORT,
    ADDITIONAL_CAS,
    LOCAL_DIRECTORY,
    LOCAL_STATE,
    LISTEN,
    ALLOW_REMOTE,
    NAMESPACE,
    POD_NAME,
    POD_ADDRESS,
    KUBECONFIG,
    CONTEXT,
    SPARES,
    DRAIN,
)


def parse(text: str, path: Path) -> Config:
    """The configuration that `text` says; relative paths in it start at the folder of `path`.

    Raises ConfigError with one line: FILE:LINE: key.path: what is wrong.
    """
    found = places.gather(places.compose(text, path), KEYS)
    stores = found[INSTANCES]
    local, kubernetes = _cluster(found)
    return Config(
        tenant_mode=found[TENANT_MODE],
        instances=stores,
        default_instance=_default_instance(found, stores),
        local=local,
        kubernetes=kubernetes,
        coexist=found[COEXIST],
        managed_namespaces_mode=found[NAMESPACES_MODE],
        execution_interval_minutes=found[INTERVAL],
        provider_subdomain=found[PROVIDER_SUBDOMAIN],
        security=Security(
            found[ALLOWED_NETWORKS],
            found[PLAINTEXT_HOSTS],
            found[HTTP_TOKEN_HOSTS],
            found[ALLOW_TRUST_ALL],
            found[DEFAULT_SCOPE],
        ),
        limits=Limits(
            found[CONNECTIONS],
            found[MAX_AGE],
            found[MAX_STALE],
            found[LISTENERS],
            found[ALL_CONNECTIONS],
            found[MEMORY],
        ),
        log_level="warn" if found[LOG_LEVEL] == "warning" else found[LOG_LEVEL],
        additional_cas=found[ADDITIONAL_CAS],
        health=Window(found[HEALTH_LISTEN], found[HEALTH_PORT]),
        metrics=Window(found[METRICS_LISTEN], _metrics_port(found)),
    )


def _default_instance(found: Found, stores: tuple[Instance, ...]) -> str:
    said = [key for key in (DEFAULT_INSTANCE, SHORT_DEFAULT_INSTANCE) if key in found]
    for key in said:
        name, place = found[key], found.place(key)
        if name != found[said[0]]:
            raise place.wrong(f"{place.shown} differs from {said[0].path}; keep one of the two")
        if name not in [store.name for store in stores]:
            listed = ", ".join(names.quoted(store.name) for store in stores)
            raise place.wrong(f"{place.shown} is not among the instances: {listed}")
    return found[said[0]] if said else ""


def _cluster(found: Found) -> tuple[Local | None, Kubernetes | None]:
    """Where resources come from: exactly one of a folder and a cluster."""
    if KUBERNETES not in found.places:
        return Local(found[LOCAL_DIRECTORY], found[LOCAL_STATE], _listen(found), found[ALLOW_REMOTE]), None
    if LOCAL in found.places:
        raise found.places[KUBERNETES].wrong(f"is there beside {LOCAL}; keep one of the two")
    if not found[HEALTH_PORT]:
        raise found.place(HEALTH_PORT).wrong("is needed in a cluster: replicas ask each other there what they serve")
    return None, Kubernetes(
        found[NAMESPACE],
        found[POD_NAME],
        found[POD_ADDRESS],
        found[KUBECONFIG],
        found[CONTEXT],
        found[CLUSTER_DOMAIN],
        found[SPARES],
        found[DRAIN],
    )


def _listen(found: Found) -> str:
    listen = found[LISTEN]
    address = ip_address(listen)
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if not address.is_loopback and not found[ALLOW_REMOTE]:
        raise found.place(LISTEN).wrong(
            f"{listen} is reached from elsewhere, and whoever reaches a listener owns its mailbox; "
            f"listen on 127.0.0.1, or say {ALLOW_REMOTE.path}: true"
        )
    return listen


def _metrics_port(found: Found) -> int:
    port = found[METRICS_PORT]
    if port and port == found[HEALTH_PORT]:
        raise found.place(METRICS_PORT).wrong(f"{port} is {HEALTH_PORT.path}, too; choose another")
    return port


# What the composition root has to look at and to say


class ConfiguredPath(NamedTuple):
    """A path and the key that names it."""

    key: str
    path: Path
    kind: PathKind


def paths(config: Config) -> tuple[ConfiguredPath, ...]:
    """Every path of the configuration, for whoever may look whether it is there."""
    stores = (
        ConfiguredPath(f"{INSTANCES.path}[{index}].{key.path}", path, kind)
        for index, instance in enumerate(config.instances)
        for key, path, kind in paths_of(instance)
    )
    local, kubernetes = config.local, config.kubernetes
    named: tuple[tuple[Key[Any], Path | None, PathKind], ...] = (
        (ADDITIONAL_CAS, config.additional_cas, PathKind.FILE),
        (LOCAL_DIRECTORY, local.directory if local else None, PathKind.FOLDER),
        (LOCAL_STATE, local.state if local else None, PathKind.WRITTEN_FILE),
        (KUBECONFIG, kubernetes.kubeconfig if kubernetes else None, PathKind.FILE),
    )
    return (*stores, *(ConfiguredPath(key.path, path, kind) for key, path, kind in named if path))


def loosened(config: Config) -> tuple[str, ...]:
    """One sentence for every key that loosens a rule, for the log at start."""
    local, security = config.local, config.security
    said: tuple[tuple[Key[Any], object, str], ...] = (
        (
            ALLOW_REMOTE,
            local is not None and local.allow_remote,
            f"listeners are on {local and local.listen}, and whoever reaches one owns its mailbox",
        ),
        (
            MAX_STALE,
            config.limits.stale_seconds > Limits().stale_seconds,
            f"destinations are served for {config.limits.stale_seconds} s without their store being asked",
        ),
        (
            ALLOWED_NETWORKS,
            security.allowed_networks,
            f"mail servers and token endpoints may be in {_listed(security.allowed_networks)}",
        ),
        (
            PLAINTEXT_HOSTS,
            security.plaintext_hosts,
            f"credentials may go unencrypted to {_listed(security.plaintext_hosts)}",
        ),
        (
            HTTP_TOKEN_HOSTS,
            security.http_token_hosts,
            f"client secrets and tokens may go unencrypted to {_listed(security.http_token_hosts)}",
        ),
        (
            ALLOW_TRUST_ALL,
            security.allow_trust_all,
            "destinations with TrustAll use mail servers whose certificates nobody checks",
        ),
    )
    return tuple(f"{key.path}: {sentence}" for key, given, sentence in said if given)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(sorted(str(value) for value in values))

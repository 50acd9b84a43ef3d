"""The parts, put together: what `twistd tproxy` and `tproxy check` both run on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.plugin import getPlugins
from zope.interface import implementer

import tproxy.protocols
from tproxy.config import Config, ConfigError, PathKind, parse, paths
from tproxy.destinations.build import Secrets, build
from tproxy.destinations.store import Store
from tproxy.document import Rules
from tproxy.interfaces import IProtocolPlugin
from tproxy.net.endpoints import Connector
from tproxy.net.guard import Guard
from tproxy.net.hub import Hub
from tproxy.net.resolver import Resolver
from tproxy.net.resumption import Resumption
from tproxy.net.trust import TrustStore


@implementer(IReactorTime)
@frozen
class Clock:
    """The reactor's timers with a clock that nobody sets: durations stay true when the time of day is corrected."""

    reactor: IReactorTime

    def seconds(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> IDelayedCall:
        """As the reactor does."""
        return self.reactor.callLater(delay, callable, *args, **kw)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """As the reactor does."""
        return self.reactor.getDelayedCalls()


def release() -> str:
    """The version that is installed."""
    try:
        return version("tproxy")
    except PackageNotFoundError:
        return "(sources)"


def configured(file: str, writes: bool = False) -> Config:
    """The configuration in `file`, and all that it names is there; `writes` says whether the state will be written.

    Raises ConfigError.
    """
    path = Path(file).absolute()
    try:
        config = parse(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({os.strerror(error.errno or 0)})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is not UTF-8 text") from None
    for key, place, kind in paths(config):
        if kind is PathKind.WRITTEN_FILE and not writes:
            continue
        problem = problem_with(place, kind)
        if problem:
            raise ConfigError(f"{file}: {key}: {place} {problem}")
    return config


def problem_with(path: Path, kind: PathKind) -> str:
    """What keeps a configured path from being used, and what to change; empty if nothing does."""
    if kind is PathKind.WRITTEN_FILE:
        if path.is_dir():
            return "is a folder; name a file"
        if not path.parent.is_dir():
            return "cannot be written; create its folder or correct the key"
        return "" if os.access(path.parent, os.W_OK | os.X_OK) else "cannot be written; make its folder writable"
    if not path.exists():
        return f"is not there; create the {kind} or correct the key"
    if path.is_dir() != (kind is PathKind.FOLDER):
        return f"is no {kind}"
    needed = os.R_OK | os.X_OK if kind is PathKind.FOLDER else os.R_OK
    return "" if os.access(path, needed) else "cannot be read; correct its permissions"


def by_name(plugins: Iterable[IProtocolPlugin]) -> dict[str, IProtocolPlugin]:
    """Mail protocols by their names.

    Raises ConfigError where two have the same: which of them serves is not left to chance.
    """
    found: dict[str, IProtocolPlugin] = {}
    for plugin in plugins:
        if found.setdefault(plugin.name, plugin) is not plugin:
            raise ConfigError(f"two protocol plug-ins are called {plugin.name}: uninstall one of them")
    return found


def installed() -> dict[str, IProtocolPlugin]:
    """The mail protocols that are installed, by their names. Raises ConfigError like `by_name`."""
    return by_name(getPlugins(IProtocolPlugin, tproxy.protocols))


@frozen
class Parts:
    """What a way to a mail server needs, once for the process."""

    config: Config
    clock: Clock
    plugins: Mapping[str, IProtocolPlugin]
    trust: TrustStore
    connector: Connector
    store: Store

    @property
    def default_ports(self) -> Mapping[str, int]:
        """The default port of each protocol, by its name."""
        return {name: plugin.default_port for name, plugin in self.plugins.items()}


def assemble(
    config: Config, reactor: Any, own_ports: Callable[[], Container[int]] = tuple, secrets: Secrets | None = None
) -> Parts:
    """Make the parts; `own_ports` are those that this process listens on. Raises ConfigError.

    @param secrets: reads Kubernetes Secrets; None where there is no cluster
    """
    clock = Clock(reactor)
    plugins = installed()
    guard = Guard(config.security.allowed_networks, own_ports)
    resolver = Resolver(reactor, guard, clock)
    resumption = Resumption(clock, lambda: datetime.now(UTC))
    trust = TrustStore(config.additional_cas, forgotten=resumption.forget_context)
    connector = Connector(Hub(reactor), resolver, trust, resumption)
    rules = Rules(
        protocols={name: plugin.default_port for name, plugin in plugins.items()},
        allow_trust_all=config.security.allow_trust_all,
        http_token_hosts=config.security.http_token_hosts,
        provider_subdomain=config.provider_subdomain,
        is_loopback=guard.loopback,
    )
    return Parts(config, clock, plugins, trust, connector, build(config, rules, connector, clock, time.time, secrets))

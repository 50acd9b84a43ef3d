"""The service: what `twistd tproxy` and `twist tproxy` run."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, TextIO, cast

from attrs import evolve
from twisted.application.internet import TimerService
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorFDSet, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python.components import Componentized
from twisted.python.logfile import LogFile
from twisted.python.usage import Options as TwistedOptions

from tproxy.assembly import assemble, configured, release
from tproxy.cluster.kubernetes import KubernetesCluster
from tproxy.cluster.local import LocalCluster
from tproxy.cluster.state import hold
from tproxy.config import Config, ConfigError, Limits, loosened
from tproxy.installation import join
from tproxy.listeners import Listeners
from tproxy.net.listening import Listening
from tproxy.net.sockets import LINGER_SECONDS
from tproxy.operator.operator import Operator
from tproxy.operator.reconciler import Reconciler
from tproxy.ops import health, metrics
from tproxy.ops.level import Level, change_on_signals
from tproxy.ops.logs import LineObserver
from tproxy.ops.overview import Facts
from tproxy.ops.pages import HTTPPort
from tproxy.ops.statuspage import StatusPage
from tproxy.ops.usage import Usage
from tproxy.relay.attempts import Attempts
from tproxy.relay.factory import SessionFactory
from tproxy.relay.pipe import DELIVERY_SECONDS
from tproxy.relay.room import Room
from tproxy.relay.tally import Tallies
from tproxy.relay.walk import Services

if TYPE_CHECKING:
    from types import FrameType

log = Logger()

SIGNALS = (signal.SIGTERM, signal.SIGINT)
POLL_SECONDS = 1.0
FAREWELL_SECONDS = DELIVERY_SECONDS + LINGER_SECONDS + 1.0
FAREWELL_LOOK_SECONDS = 0.02
DESCRIPTORS = 1_048_576
"""As many sockets and files as are asked of the system at most."""

DESCRIPTORS_KEPT = 200
"""So many are kept for all that is no session and no listener."""

MEMORY_SHARE = 0.9
"""The part of the container's memory that may be used before new connections are refused."""
MEBIBYTE = 1024 * 1024

GARBAGE = 10_000
"""So many more containers than at the last look make the collector look again; some hundred bytes each."""


class Options(TwistedOptions):
    """What stands behind `tproxy` on the command line."""

    synopsis = "--config FILE"
    longdesc = "Opens a plain TCP port for each Destination: whoever connects finds a mail session that is logged in."
    optParameters: ClassVar[Sequence[Sequence[object]]] = [["config", "c", None, "The configuration: one YAML file"]]


def stop_on_signals(stop: Callable[[], object], end: Callable[[int], object] = os._exit) -> None:
    """SIGTERM and SIGINT: the first calls `stop`, the second ends the process at once, with status 0.

    Twisted's own handlers would have the process die of the signal after a clean stop.
    """

    def first(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, second)
        stop()

    def second(number: int, frame: FrameType | None) -> None:
        end(0)

    for each in SIGNALS:
        signal.signal(each, first)


def raise_descriptor_limit() -> int:
    """Allow as many open sockets as the system lets us, and tell how many: each session takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def room(limits: Limits, descriptors: int, usage: Usage) -> Room:
    """What the process takes on: what the configuration says, and for the rest what is there."""
    connections = (descriptors - min(limits.listeners + DESCRIPTORS_KEPT, descriptors // 2)) // 2
    memory = limits.memory * MEBIBYTE or int(MEMORY_SHARE * (usage.memory_limit or 0))
    return Room(min(connections, limits.connections or connections), memory or None, lambda: usage.memory)


def spare_collector() -> None:
    """Let the garbage collector look seldom, and never at what is there already: modules, classes, configuration.

    A session that ends leaves no cycle behind, so there is next to nothing to find, and each look costs
    time that grows with all that lives.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, *gc.get_threshold()[1:])


def observer(options: TwistedOptions, level: Level) -> LineObserver | None:
    """Where the log goes: the observer for twistd's application; None where it is arranged for already.

    `options` are those that the runner was given. Under twist our observer takes the place of its own;
    under twistd `--logger` keeps its word.
    """
    if "fileLogObserverFactory" in options:
        text = options["logFormat"] == "text"
        options["fileLogObserverFactory"] = lambda stream: LineObserver(stream, level, text)
        options["logLevel"] = LogLevel.debug
        return None
    if options.get("logger"):
        return None
    if options.get("syslog"):
        sys.exit("tproxy: --syslog is not supported: leave it out, and the log goes to standard output")
    file = options.get("logfile") or ("-" if options.get("nodaemon", True) else "twistd.log")
    if file == "-":
        return LineObserver(sys.stdout, level, sys.stdout.isatty())
    return LineObserver(cast(TextIO, LogFile.fromFullPath(file)), level)


class Farewell(Service):
    """Stops when the sockets are gone that were told to end: what is under way arrives, and each end is logged.

    Who does not take it in time is left.
    """

    def __init__(self, sockets: IReactorFDSet, clock: IReactorTime) -> None:
        self._sockets = sockets
        self._clock = clock

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)
        return Deferred.fromCoroutine(self._wait(self._clock.seconds() + FAREWELL_SECONDS))

    async def _wait(self, deadline: float) -> None:
        await deferLater(self._clock, 0)
        while (self._sockets.getReaders() or self._sockets.getWriters()) and self._clock.seconds() < deadline:
            await deferLater(self._clock, FAREWELL_LOOK_SECONDS)


class Proxy(MultiService):
    """tproxy as a service: its parts start in order once the reactor runs, and stop in reverse, one after the other.

    `begin` is called before they start; where one cannot, the process ends with status 1.
    """

    def __init__(
        self,
        reactor: Any,
        observer: LineObserver | None,
        begin: Callable[[], object],
        end: Callable[[int], object] = os._exit,
    ) -> None:
        MultiService.__init__(self)
        self._reactor = reactor
        self._observer = observer
        self._begin = begin
        self._end = end

    def setServiceParent(self, parent: Any) -> None:
        """Joins an application, which twistd then asks for the observer of its log."""
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        MultiService.setServiceParent(self, parent)

    def startService(self) -> None:
        """Waits for the reactor: only then do our signal handlers outlive its own."""
        self._reactor.callWhenRunning(self._start)

    def _start(self) -> None:
        stop_on_signals(lambda: self._reactor.callFromThread(self._reactor.stop))
        try:
            self._begin()
            MultiService.startService(self)
        except Exception:
            log.failure("tproxy cannot start", event="start.failed")
            self._end(1)

    def stopService(self) -> Deferred[None]:
        """Closes the ports and ends the sessions."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        parts = list(self) if self.running else []
        self.running = 0
        for part in reversed(parts):
            try:
                await maybeDeferred(part.stopService)
            except Exception:
                log.failure("a part did not stop in good order", event="stop.failed")


def makeService(options: Options) -> Proxy:
    """Reads the configuration and puts the proxy together; what is wrong with it is one line and exit status 1."""
    from twisted.internet import reactor

    if not options["config"]:
        sys.exit("tproxy: --config FILE is missing")
    try:
        return service(configured(options["config"], writes=True), options.parent or TwistedOptions(), reactor)
    except ConfigError as error:
        sys.exit(f"tproxy: {error}")


def service(config: Config, runner: TwistedOptions, reactor: Any) -> Proxy:
    """The whole proxy; `runner` is what twistd or twist was told. Raises ConfigError."""
    descriptors = raise_descriptor_limit()
    installation = None
    if config.kubernetes is None:
        hold(config.folder.state)
    else:
        installation = join(config.kubernetes, reactor)
    secrets = installation.secrets if installation else None
    parts = assemble(config, reactor, lambda: listeners.ports, secrets.source if secrets else None)
    tallies, usage = Tallies(), Usage(parts.clock.seconds, time.process_time)
    space = room(config.limits, descriptors, usage)
    services = Services(
        clock=parts.clock,
        store=parts.store,
        connector=parts.connector,
        plugins=parts.plugins,
        attempts=Attempts(parts.clock),
        connections_per_listener=config.limits.connections_per_listener,
        plaintext_hosts=config.security.plaintext_hosts,
        room=space,
        tallies=tallies,
    )
    listeners = Listeners(
        lambda address, port: Listening(parts.connector.reactor, address, port),
        lambda binding: SessionFactory(binding, services),
        frozenset({config.health.port, config.metrics.port} - {0}),
    )
    cluster: LocalCluster | KubernetesCluster
    reconciler: Reconciler | Operator
    if installation is None:
        cluster = LocalCluster(config, parts.clock)
        interval = 60.0 * config.execution_interval_minutes
        reconciler = Reconciler(cluster, parts.store, listeners, parts.default_ports, parts.clock, interval)
    else:
        cluster, reconciler = installation.operate(parts, listeners, lambda: tallies.open)
    parts.store.watch(reconciler.refresh)
    level = Level(config.log_level)

    def begins() -> None:
        change_on_signals(level, reactor.callFromThread)
        begin(config)

    proxy = Proxy(reactor, observer(runner, level), begins)

    def ready() -> bool:
        return reconciler.ready and not space.scarce

    measures = metrics.Measures(
        tallies,
        lambda: listeners.listening,
        cluster.observe,
        reconciler,
        parts.store.token_age,
        usage,
        evolve(config.limits, connections=space.connections),
        ready,
        config.kubernetes.spares if config.kubernetes else 0,
    )
    started = parts.clock.seconds()

    def facts() -> Facts:
        now = parts.clock.seconds()
        return Facts(
            version=release(),
            now=time.time(),
            seconds=now,
            uptime=now - started,
            ready=ready(),
            level=level.now,
            configured=level.configured,
            snapshot=cluster.observe(),
            listening=listeners.listening,
            tallies=tallies,
            refusals=services.refusals.latest,
        )

    health_pages = {
        "": StatusPage(facts, parts.clock),
        **health.pages(ready, cluster.observe, lambda: listeners.marks),
    }
    windows = ((config.health, health_pages), (config.metrics, {"metrics": metrics.MetricsPage(measures, parts.clock)}))
    running: tuple[Service, ...] = (
        *(HTTPPort(reactor, window, pages) for window, pages in windows if window.port),
        Farewell(parts.connector.reactor, parts.clock),
        *((secrets,) if secrets else ()),
        parts.store,
        TimerService(POLL_SECONDS, parts.trust.refresh),
        TimerService(POLL_SECONDS, space.look),
        cluster,
        reconciler,
    )
    for part in running:
        part.setServiceParent(proxy)
    return proxy


def begin(config: Config) -> None:
    """What comes before all parts."""
    announce(config)
    spare_collector()


def announce(config: Config, log: Logger = log) -> None:
    """Says at start who starts, and which rules the configuration loosens."""
    log.info(f"tproxy {release()} starts", event="start")
    for sentence in loosened(config):
        log.warn("{message}", event="config.loosened", message=sentence)

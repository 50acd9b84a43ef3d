"""The service under its two runners."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import weakref
from io import StringIO
from pathlib import Path

import yaml
from twisted.application.internet import TimerService
from twisted.application.service import Application, IService, Service
from twisted.application.twist._options import TwistOptions
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel
from twisted.python.filepath import FilePath
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.test_cli import folder
from tproxy.assembly import configured
from tproxy.cluster.kubernetes import KubernetesCluster
from tproxy.cluster.local import LocalCluster
from tproxy.cluster.secrets import Secrets
from tproxy.config import ConfigError, Limits
from tproxy.destinations.store import Store
from tproxy.net.trust import TrustStore
from tproxy.operator.operator import Operator
from tproxy.operator.reconciler import Reconciler
from tproxy.ops import metrics
from tproxy.ops.level import Level
from tproxy.ops.logs import LineObserver
from tproxy.ops.metrics import Usage
from tproxy.ops.pages import HTTPPort
from tproxy.tap import (
    FAREWELL_SECONDS,
    GARBAGE,
    SIGNALS,
    Farewell,
    Options,
    Proxy,
    announce,
    begin,
    makeService,
    observer,
    raise_descriptor_limit,
    room,
    service,
    stop_on_signals,
)
from tproxy.testing.certificates import Authority


def twistd(*arguments: str) -> ServerOptions:
    """The options of `twistd`, as they are when a service is made."""
    options = ServerOptions()
    options.parseOptions([*arguments, "tproxy", "--config", "F"])
    return options


def twist(*arguments: str) -> TwistOptions:
    """The options of `twist`, as they are when a service is made."""
    options = TwistOptions()
    options.parseOptions([*arguments, "tproxy", "--config", "F"])
    return options


class CommandLine(SynchronousTestCase):
    """`tproxy` behind the runners' own options."""

    def test_config(self) -> None:
        """The configuration is named with --config, or -c."""
        for spelling in ("--config", "-c"):
            options = Options()
            options.parseOptions([spelling, "F"])
            self.assertEqual(options["config"], "F")

    def test_plug_in(self) -> None:
        """Both runners know the sub-command."""
        self.assertEqual(twistd().subCommand, "tproxy")
        self.assertEqual(twist().subCommand, "tproxy")


class WhereTheLogGoes(SynchronousTestCase):
    """Under either runner each event passes our observer, where only allow-listed fields pass."""

    def test_twistd(self) -> None:
        """In the foreground the log goes to standard output, as text only on a terminal."""
        made = observer(twistd("-n"), Level("warn"))
        assert made is not None
        self.assertEqual((made.level.now, made.text), ("warn", made.stream.isatty()))

    def test_twistd_file(self) -> None:
        """--logfile keeps its meaning, and its lines are ours."""
        path = self.mktemp()
        made = observer(twistd("-n", "--logfile", path), Level("info"))
        assert made is not None
        self.addCleanup(made.stream.close)
        Logger(namespace="tproxy", observer=made).info("Hello é", event="x", secret="canary")
        (line,) = FilePath(path).getContent().decode().splitlines()
        self.assertEqual(json.loads(line)["text"], "Hello é")
        self.assertNotIn("canary", line)

    def test_twistd_daemon(self) -> None:
        """In the background it goes to twistd.log, as with every twistd."""
        self.addCleanup(os.chdir, Path.cwd())
        path = FilePath(self.mktemp())
        path.makedirs()
        os.chdir(path.path)
        made = observer(twistd(), Level("info"))
        assert made is not None
        made.stream.close()
        self.assertEqual(path.listdir(), ["twistd.log"])

    def test_twistd_own_observer(self) -> None:
        """Who names an observer of his own has decided."""
        self.assertIsNone(observer(twistd("--logger", "twisted.logger.jsonFileLogObserver"), Level("info")))

    def test_twistd_syslog(self) -> None:
        """What we would not do is said, not left undone in silence."""
        self.assertIn("--syslog", str(self.assertRaises(SystemExit, observer, twistd("--syslog"), "info")))

    def test_twist(self) -> None:
        """The observer that twist is about to make is ours, in the format and at the level asked for."""
        for format, text in (("json", False), ("text", True)):
            options = twist("--log-format", format)
            self.assertIsNone(observer(options, Level("debug")))
            stream = StringIO()
            self.assertEqual(options["fileLogObserverFactory"](stream), LineObserver(stream, Level("debug"), text))
            self.assertEqual(options["logLevel"], LogLevel.debug)


class Life(SynchronousTestCase):
    """The service begins once the reactor runs, and ends in order."""

    def setUp(self) -> None:
        self.happened: list[str] = []
        self.reactor = MemoryReactorClock()
        for number in SIGNALS:
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def proxy(self, *parts: Service) -> Proxy:
        proxy = Proxy(self.reactor, LineObserver(StringIO()), lambda: self.happened.append("begin"))
        for part in parts:
            part.setServiceParent(proxy)
        return proxy

    def part(self, name: str, stopped: Deferred[None] | None = None) -> Service:
        part = Service()
        part.startService = lambda: self.happened.append(f"start {name}")
        part.stopService = lambda: self.happened.append(f"stop {name}") or stopped
        return part

    def test_observer_of_the_application(self) -> None:
        """twistd finds the observer in the application that it made for the service."""
        application = Application("tproxy")
        proxy = self.proxy()
        proxy.setServiceParent(application)
        self.assertEqual(application.getComponent(ILogObserver), LineObserver(proxy._observer.stream))
        self.assertIn(proxy, list(IService(application)))

    def test_starts_when_the_reactor_runs(self) -> None:
        """Nothing happens before, so that our signal handlers come after the reactor's own; then all in order."""
        proxy = self.proxy(self.part("a"), self.part("b"))
        proxy.startService()
        self.assertEqual(self.happened, [])
        self.reactor.run()
        self.assertEqual(self.happened, ["begin", "start a", "start b"])

    def test_stops_in_reverse(self) -> None:
        """A part is stopped when those that were started after it have stopped."""
        stopped: Deferred[None] = Deferred()
        proxy = self.proxy(self.part("a"), self.part("b", stopped))
        proxy.startService()
        self.reactor.run()
        done = proxy.stopService()
        self.assertEqual(self.happened[3:], ["stop b"])
        self.assertNoResult(done)
        stopped.callback(None)
        self.successResultOf(done)
        self.assertEqual(self.happened[3:], ["stop b", "stop a"])

    def test_cannot_start(self) -> None:
        """A part that fails to start ends the process, and the log says where."""
        part = self.part("a")
        part.startService = lambda: 1 / 0
        ended: list[int] = []
        proxy = Proxy(self.reactor, None, lambda: None, ended.append)
        part.setServiceParent(proxy)
        proxy.startService()
        self.reactor.run()
        self.assertEqual(ended, [1])
        (failure,) = self.flushLoggedErrors()
        self.assertIs(failure.type, ZeroDivisionError)

    def test_never_started(self) -> None:
        """A reactor that never ran leaves nothing to stop."""
        proxy = self.proxy(self.part("a"))
        proxy.startService()
        self.successResultOf(proxy.stopService())
        self.assertEqual(self.happened, [])


class Composition(SynchronousTestCase):
    """From a configuration to the whole."""

    def setUp(self) -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)

    def test_parts(self) -> None:
        """The cluster begins before the reconciler, which ends first."""
        config = configured(str(folder(self.mktemp()) / "config.yaml"))
        proxy = service(config, twistd("-n"), MemoryReactorClock())
        self.assertEqual(
            [type(part) for part in proxy], [Farewell, Store, TimerService, TimerService, LocalCluster, Reconciler]
        )

    def test_windows(self) -> None:
        """Health and metrics are there first and gone last, where they are configured."""
        root = folder(self.mktemp())
        said = yaml.safe_load((root / "config.yaml").read_text())
        said["config"] |= {"health": {"port": 8080}, "metrics": {"listen": "127.0.0.2", "port": 9494}}
        (root / "config.yaml").write_text(yaml.safe_dump(said))
        reactor = MemoryReactorClock()
        proxy = service(configured(str(root / "config.yaml")), twistd("-n"), reactor)
        health, metrics, *others = proxy
        self.assertEqual(([type(part) for part in (health, metrics)], len(others)), ([HTTPPort, HTTPPort], 6))
        health.startService()
        metrics.startService()
        self.assertEqual(
            [(each[0], each[3]) for each in reactor.tcpServers], [(8080, "127.0.0.1"), (9494, "127.0.0.2")]
        )

    def test_in_cluster(self) -> None:
        """In a cluster the operator comes last and ends first; Secrets come before the destinations that need them."""
        root = folder(self.mktemp())
        authority = Authority.create()
        (root / "ca.pem").write_text(authority.pem)
        user = {"name": "me", "user": {"token": "secret"}}
        cluster = {"server": "https://127.0.0.1:6443", "certificate-authority": "ca.pem"}
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [user],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "me"}}],
            "current-context": "x",
        }
        (root / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        said = yaml.safe_load((root / "config.yaml").read_text())
        said["config"] |= {"health": {"port": 8080}}
        instances = said["config"]["integration"]["destinationService"]["instances"]
        instances.append({"name": "btp", "serviceCredentials": {"secretName": "key"}})
        said["cluster"] = {"kubernetes": {"kubeconfig": "kubeconfig"}}
        (root / "config.yaml").write_text(yaml.safe_dump(said))
        proxy = service(configured(str(root / "config.yaml")), twistd("-n"), MemoryReactorClock())
        self.assertEqual(
            [HTTPPort, Farewell, Secrets, Store, TimerService, TimerService, KubernetesCluster, Operator],
            [type(part) for part in proxy],
        )

    def test_no_cluster(self) -> None:
        """Outside of a pod, and without a kubeconfig, it is said what is missing."""
        root = folder(self.mktemp())
        said = yaml.safe_load((root / "config.yaml").read_text())
        said["config"] |= {"health": {"port": 8080}}
        said["cluster"] = {"kubernetes": {}}
        (root / "config.yaml").write_text(yaml.safe_dump(said))
        config = configured(str(root / "config.yaml"))
        error = self.assertRaises(ConfigError, service, config, twistd("-n"), MemoryReactorClock())
        self.assertIn("run in a pod, or give a kubeconfig", str(error))

    def test_made_by_a_runner(self) -> None:
        """What twistd and twist call."""
        for runner in (twistd("-n"), twist()):
            runner.subOptions["config"] = str(folder(self.mktemp()) / "config.yaml")
            self.assertIsInstance(makeService(runner.subOptions), Proxy)

    def test_one_at_a_time(self) -> None:
        """A second one with the same state file does not start: each would undo what the other wrote."""
        config = configured(str(folder(self.mktemp()) / "config.yaml"))
        service(config, twistd("-n"), MemoryReactorClock())
        error = self.assertRaises(ConfigError, service, config, twistd("-n"), MemoryReactorClock())
        self.assertRegex(str(error), r"/state\.json: another tproxy keeps its ports in this file: stop it, ")

    def test_wrong_configuration(self) -> None:
        """One line, and the status 1 that comes with it."""
        for given, said in ((None, "--config FILE is missing"), ("nothing", "nothing: cannot be read")):
            options = Options()
            options["config"] = given
            end = self.assertRaises(SystemExit, makeService, options)
            self.assertTrue(str(end.code).startswith(f"tproxy: {said}"), end.code)

    def test_loosened_rules_are_said(self) -> None:
        """Whoever loosens a rule finds a warning with its key in the log, each time it starts."""
        events: list[LogEvent] = []
        local = {"directory": "resources", "state": "state.json", "listen": "0.0.0.0", "allowRemote": True}
        config = configured(str(folder(self.mktemp(), cluster={"local": local}) / "config.yaml"))
        announce(config, Logger(observer=events.append))
        start, loosened = events
        self.assertEqual((start["event"], loosened["log_level"]), ("start", LogLevel.warn))
        self.assertRegex(loosened["message"], r"cluster\.local\.allowRemote: listeners are on 0\.0\.0\.0")

    def test_authorities_are_read_again(self) -> None:
        """A changed file of authorities is noticed within seconds, for as long as the service runs."""
        root = folder(self.mktemp(), additionalCAs={"file": "ca.pem"})
        (root / "ca.pem").write_text(Authority.create().pem)
        proxy = service(configured(str(root / "config.yaml")), twistd("-n"), MemoryReactorClock())
        timers = [part for part in proxy if isinstance(part, TimerService)]
        (refresh,) = [timer for timer in timers if isinstance(timer.call[0].__self__, TrustStore)]
        refresh.clock = Clock()
        refresh.startService()
        (root / "ca.pem").write_text(Authority.create().pem)
        refresh.clock.advance(2)
        self.assertFalse(refresh.call[0](), "the change was not noticed")
        refresh.stopService()
        self.assertEqual(refresh.clock.getDelayedCalls(), [])


class Endings(SynchronousTestCase):
    """Connections that were told to end get the time that takes, and no more."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.farewell = Farewell(self.reactor, self.reactor)
        self.farewell.startService()

    def stopping(self) -> Deferred[None]:
        stopped = self.farewell.stopService()
        self.reactor.advance(0)
        return stopped

    def test_nothing_open(self) -> None:
        """Nobody waits for nothing, but for the turn in which the last is told."""
        stopped = self.farewell.stopService()
        self.assertNoResult(stopped)
        self.reactor.advance(0)
        self.successResultOf(stopped)

    def test_until_the_last_is_gone(self) -> None:
        """It stops once nothing is read and nothing is written any more."""
        reader, writer = object(), object()
        self.reactor.addReader(reader)
        self.reactor.addWriter(writer)
        stopped = self.stopping()
        for leave in (lambda: self.reactor.removeReader(reader), lambda: self.reactor.removeWriter(writer)):
            self.reactor.advance(1)
            self.assertNoResult(stopped)
            leave()
        self.reactor.advance(1)
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_not_for_ever(self) -> None:
        """Whoever never leaves is left."""
        self.reactor.addReader(object())
        stopped = self.stopping()
        self.reactor.advance(FAREWELL_SECONDS - 1)
        self.assertNoResult(stopped)
        self.reactor.advance(1)
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class Signals(TestCase):
    """SIGTERM and SIGINT end the process well."""

    def test_first_and_second(self) -> None:
        """The first of either stops; the second ends at once, and all is well."""
        for first in SIGNALS:
            for second in SIGNALS:
                happened: list[object] = []
                kept = [(number, signal.getsignal(number)) for number in SIGNALS]
                try:
                    stop_on_signals(lambda: happened.append("stop"), happened.append)  # noqa: B023
                    os.kill(os.getpid(), first)
                    self.assertEqual(happened, ["stop"])
                    os.kill(os.getpid(), second)
                    self.assertEqual(happened, ["stop", 0])
                finally:
                    for number, handler in kept:
                        signal.signal(number, handler)


class Collector(SynchronousTestCase):
    """The garbage collector, which finds next to nothing here."""

    def test_spared(self) -> None:
        """It leaves alone what is there at the start, and still finds what comes to lie about."""
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        self.addCleanup(gc.unfreeze)
        begin(configured(str(folder(self.mktemp()) / "config.yaml")))
        self.assertGreater(gc.get_freeze_count(), 10_000)
        self.assertTrue(gc.isenabled())
        gone = []
        while not gone and gc.get_count()[0] < 2 * GARBAGE:
            cycle = Options()
            cycle.itself = cycle
            weakref.finalize(cycle, gone.append, True).atexit = False
            del cycle
        self.assertTrue(gone)


class Descriptors(SynchronousTestCase):
    """Each session takes two sockets, and systems begin with few."""

    usage = Usage(lambda: 0.0, lambda: 0.0)

    def test_raised(self) -> None:
        """As many as the system lets us have, never fewer than before."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        raised = raise_descriptor_limit()
        self.assertGreater(raised, 256)
        self.assertEqual(raised, resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    def test_room(self) -> None:
        """As many connections as there are pairs of descriptors for, beside listeners; fewer where that is said."""
        for limits, descriptors, most in (
            (Limits(listeners=4000), 65_536, 30_668),
            (Limits(listeners=4000, connections=500), 65_536, 500),
            (Limits(listeners=4000, connections=500_000), 65_536, 30_668),
            (Limits(listeners=4000), 1024, 256),
        ):
            for opened in (most - 1, most):
                there = room(limits, descriptors, self.usage)
                there.opened = opened
                self.assertEqual(opened == most, there.refusal() is not None)

    def test_memory(self) -> None:
        """The most of what the container may have, or what the configuration says; without either there is no limit."""
        limit, used = Path(self.mktemp()), Path(self.mktemp())
        used.write_text("0 1000 0\n")
        self.patch(metrics, "MEMORY_LIMIT", limit)
        self.patch(metrics, "MEMORY", used)
        bytes_used = 1000 * os.sysconf("SC_PAGE_SIZE")
        for limits, container, full in (
            (Limits(), "max", False),
            (Limits(), f"{bytes_used * 2}", False),
            (Limits(), f"{bytes_used}", True),
            (Limits(memory=1), "max", True),
            (Limits(memory=1000), f"{bytes_used}", False),
        ):
            limit.write_text(container)
            there = room(limits, 65_536, self.usage)
            there.look()
            self.assertEqual(full, there.refusal() is not None)

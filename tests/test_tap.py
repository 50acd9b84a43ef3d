"""The service under its two runners."""

from __future__ import annotations

import json
import os
import resource
import signal
from io import StringIO
from pathlib import Path

import yaml
from twisted.application.internet import TimerService
from twisted.application.service import Application, IService, Service
from twisted.application.twist._options import TwistOptions
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel
from twisted.python.filepath import FilePath
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

from tests.configurations import folder
from tproxy.assembly import configured
from tproxy.cluster.kubernetes import KubernetesCluster
from tproxy.cluster.local import LocalCluster
from tproxy.cluster.secrets import Secrets
from tproxy.config import ConfigError
from tproxy.destinations.store import Store
from tproxy.net.trust import TrustStore
from tproxy.operator.operator import Operator
from tproxy.operator.reconciler import Reconciler
from tproxy.ops.level import Level
from tproxy.ops.logs import LineObserver
from tproxy.ops.pages import HTTPPort
from tproxy.tap import SIGNALS, Farewell, Options, Proxy, announce, makeService, observer, service
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

    def test_cannot_stop(self) -> None:
        """A part that fails to stop keeps none of the others from it, and the log says where."""
        failing = self.part("b", fail(ZeroDivisionError()))
        proxy = self.proxy(self.part("a"), failing, self.part("c"))
        proxy.startService()
        self.reactor.run()
        self.successResultOf(proxy.stopService())
        self.assertEqual(self.happened[4:], ["stop c", "stop b", "stop a"])
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

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

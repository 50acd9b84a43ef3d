"""The alerts and the dashboard of k8s/monitoring, as Prometheus itself takes them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.integration.children import run
from tests.integration.dovecot import free_port
from tests.integration.kubernetes import cluster
from tests.integration.kubernetes.manifests import K8S, built
from tests.integration.prometheus import MISSING, TOOL, Prometheus
from tests.ops.exposition import everything
from tests.ops.test_monitoring import ALERTS, DASHBOARD, GUIDE, alerts, dashboard, filled, queried
from tproxy.config import Window
from tproxy.ops.metrics import MetricsPage
from tproxy.ops.pages import HTTPPort

A = {"job": "tproxy-metrics", "namespace": "tproxy", "pod": "a", "instance": "10.0.0.1:9494"}
B = {**A, "pod": "b", "instance": "10.0.0.2:9494"}
BOX = {"listener": "shop/mail-acme", "destination": "box", "tenant": "acme"}
OTHER = {"listener": "shop/other", "destination": "other"}

HOUR = 60
EVER = f"x{HOUR}"
"""Samples of one value, or of steps of it: one a minute."""


def series(name: str, replica: dict[str, str] = A, **labels: str) -> str:
    """How a series is written."""
    written = (f'{key}="{value}"' for key, value in {**replica, **labels}.items())
    return f"{name}{{{','.join(written)}}}"


def refusals(stage: str, reason: str, listener: dict[str, str] = BOX, replica: dict[str, str] = A) -> str:
    return series("tproxy_refusals_total", replica, **listener, stage=stage, reason=reason)


def connections(listener: dict[str, str] = BOX, replica: dict[str, str] = A) -> str:
    return series("tproxy_connections_total", replica, **listener)


def crs(available: bool, replica: dict[str, str] = A) -> str:
    return series("tp_destination_crs", replica, Available=str(available))


WELL: dict[str, str] = {}
"""Two replicas that fare well and are used, for an hour."""
for each in (A, B):
    WELL |= {
        series("up", each): f"1{EVER}",
        series("tproxy_ready", each): f"1{EVER}",
        series("tproxy_leader", each): f"{int(each is A)}{EVER}",
        series("tproxy_reconcile_failures_total", each): f"3{EVER}",
        series("tproxy_listeners", each): f"3600{EVER}",
        series("tproxy_listeners_limit", each): f"4000{EVER}",
        series("tproxy_spares", each, port="993"): f"1{EVER}",
        series("tp_open_tcp_connections", each): f"800{EVER}",
        series("tproxy_connections_limit", each): f"1000{EVER}",
        series("process_open_fds", each): f"800{EVER}",
        series("process_max_fds", each): f"1000{EVER}",
        series("tp_memory_bytes", each): f"800{EVER}",
        series("tproxy_memory_limit_bytes", each): f"1000{EVER}",
        series("tp_cpu_percent", each): f"85{EVER}",
        crs(True, each): f"4{EVER}",
        crs(False, each): f"0{EVER}",
        connections(BOX, each): f"0+100{EVER}",
        connections(OTHER, each): f"0+100{EVER}",
    }
WELL[series("process_open_fds", {"job": "node", "instance": "10.0.0.9:9100"})] = f"999{EVER}"
WELL[series("process_max_fds", {"job": "node", "instance": "10.0.0.9:9100"})] = f"1000{EVER}"


class Rules(TestCase):
    """Which alerts fire when: all of them are looked at each time, and no other may fire."""

    skip = MISSING
    timeout = 60

    async def fire(self, changed: dict[str, str], *expected: tuple[int, dict[str, int]], gone: str = "(?!)") -> None:
        """With these series changed, or gone, exactly these alerts fire at these minutes, so many times each."""
        there = {each: values for each, values in {**WELL, **changed}.items() if not re.match(gone, each)}
        tests = [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{minute}m",
                "exp_samples": [
                    {"labels": f'{{alertname="Tproxy{name}"}}', "value": count}
                    for name, count in sorted(alerts.items())
                ],
            }
            for minute, alerts in expected
        ]
        await self.judge(there, {"promql_expr_test": tests})

    async def judge(self, there: dict[str, str], tests: dict[str, Any]) -> None:
        """What promtool says of the rules, with these series."""
        inputs = [{"series": each, "values": values} for each, values in there.items()]
        content = {"rule_files": [str(ALERTS)], "tests": [{"interval": "1m", "input_series": inputs, **tests}]}
        file = Path(self.mktemp()).absolute()
        file.write_text(yaml.safe_dump(content))
        await run(self, (TOOL, "test", "rules", file), file.parent)

    async def test_valid(self) -> None:
        """They are rules; and what the guide scrapes with, where there is no operator, is a configuration."""
        await run(self, (TOOL, "check", "rules", ALERTS), ALERTS.parent)
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        for number, told in enumerate(re.findall(r"```yaml\n(scrape_configs:.*?)```", GUIDE.read_text(), re.DOTALL)):
            content = yaml.safe_load(told)
            content["scrape_configs"][0].pop("kubernetes_sd_configs", None)  # Debian's Prometheus is built without it
            (folder / f"{number}.yml").write_text(yaml.safe_dump(content))
        files = sorted(folder.iterdir())
        self.assertEqual(2, len(files))
        await run(self, (TOOL, "check", "config", "--syntax-only", *files), folder)

    async def test_well(self) -> None:
        """Where all is well nothing fires, however near the limits it is; other programs are nobody's business here."""
        await self.fire({}, (5, {}), (30, {}), (HOUR, {}))

    async def test_absent(self) -> None:
        """There is none, or none answers."""
        await self.fire({}, (4, {}), (6, {"Absent": 1}), gone="")
        await self.fire(
            {series("up", each): f"0{EVER}" for each in (A, B)},
            (4, {}),
            (6, {"Absent": 1, "ReplicaDown": 2}),
            gone="[^u]",
        )

    async def test_replica_down(self) -> None:
        """One of two."""
        await self.fire({series("up", B): f"0{EVER}"}, (4, {}), (6, {"ReplicaDown": 1}))
        await self.fire({series("up", B): "0x3 1x57"}, (6, {}))

    async def test_ready(self) -> None:
        """One of two is a replica's trouble, both are everybody's; a rollout and a drain are none."""
        down = {series("tproxy_ready", each): f"0{EVER}" for each in (A, B)}
        await self.fire(down, (1, {}), (3, {"NotServing": 1}), (11, {"NotServing": 1, "ReplicaNotReady": 2}))
        await self.fire({series("tproxy_ready", B): f"0{EVER}"}, (9, {}), (11, {"ReplicaNotReady": 1}))
        await self.fire({series("tproxy_ready", B): "0x6 1x53"}, (11, {}))

    async def test_leader(self) -> None:
        """Nobody leads, but not for the moment that a handover takes, and not where there is no cluster."""
        await self.fire({series("tproxy_leader"): f"0{EVER}"}, (1, {}), (3, {"NoLeader": 1}))
        await self.fire(
            {series("tproxy_leader"): "1x10 0x48", series("tproxy_leader", B): "0x11 1x47"}, (12, {}), (20, {})
        )
        await self.fire({}, (HOUR, {}), gone="tproxy_leader")

    async def test_reconcile(self) -> None:
        """Steps go on failing; some that failed once are none."""
        failures = series("tproxy_reconcile_failures_total")
        await self.fire({failures: "0+0x5 1+1x54"}, (30, {}), (40, {"ReconcileFailing": 1}))
        await self.fire({failures: "0x5 9x54"}, (30, {}), (40, {}), (HOUR, {}))

    async def test_destinations(self) -> None:
        """One of five, and three of four; all replicas tell of the same."""
        one = {crs(False, each): f"1{EVER}" for each in (A, B)}
        await self.fire(one, (14, {}), (16, {"DestinationUnavailable": 1}))
        most = {crs(False, each): f"5{EVER}" for each in (A, B)}
        await self.fire(
            most, (4, {}), (6, {"DestinationsUnavailable": 1}),
            (16, {"DestinationsUnavailable": 1, "DestinationUnavailable": 1}),
        )  # fmt: skip

    async def test_mail_server(self) -> None:
        """More than a tenth of a destination's connections, for one reason, on all replicas together."""
        for stage, reason in (
            ("connect", "connection-failed"),
            ("tls", "certificate-expired"),
            ("greeting", "timed-out"),
            ("login", "login-unavailable"),
        ):
            await self.fire({refusals(stage, reason): f"0+30{EVER}"}, (9, {}), (13, {"MailServerFailing": 1}))
            await self.fire({refusals(stage, reason): f"0+19{EVER}"}, (13, {}), (HOUR, {}))
        await self.fire({refusals("connect", "connection-failed"): "0x5 100x54"}, (10, {}), (20, {}))
        stages = {
            refusals("connect", "connection-failed", OTHER): f"0+50{EVER}",
            refusals("tls", "tls-failed"): f"0+50{EVER}",
        }
        await self.fire(stages, (13, {"MailServerFailing": 2}))

    async def test_one_connection(self) -> None:
        """One that is refused, where there are no others, wakes nobody; one every few minutes does."""
        quiet = {connections(BOX, each): f"0{EVER}" for each in (A, B)}
        once = {connections(): "0x5 1x54", refusals("connect", "connection-failed"): "0x5 1x54"}
        await self.fire({**quiet, **once}, *((minute, {}) for minute in range(5, 30)))
        often = "0x4 1x4 2x4 3x4 4x4 5x4 6x30"
        await self.fire(
            {**quiet, connections(): often, refusals("connect", "connection-failed"): often},
            (20, {"MailServerFailing": 1}),
        )

    async def test_logins(self) -> None:
        """Most logins to a mailbox fail; those of some applications are theirs to see to."""
        for stage, reason in (
            ("login", "login-refused"),
            ("login", "credential-invalid"),
            ("resolve", "token-refused"),
            ("login", "timed-out"),
        ):
            await self.fire({refusals(stage, reason): f"0+110{EVER}"}, (9, {}), (13, {"LoginsRefused": 1}))
            await self.fire({refusals(stage, reason): f"0+90{EVER}"}, (13, {}), (HOUR, {}))

    async def test_credentials(self) -> None:
        """A tenth of all connections have no destination or token."""
        for reason in ("store-refused", "store-unavailable", "service-key-invalid", "token-unavailable"):
            await self.fire({refusals("resolve", reason): f"0+50{EVER}"}, (4, {}), (8, {"CredentialsUnavailable": 1}))
            await self.fire({refusals("resolve", reason): f"0+39{EVER}"}, (8, {}), (HOUR, {}))

    async def test_internal(self) -> None:
        """At once; it is over after a while."""
        why = refusals("login", "internal-error")
        first, another = "_x6 1x53", "1x30 2x29"
        await self.fire({why: first}, (4, {}), (7, {"InternalErrors": 1}), (30, {}))
        await self.fire({why: another}, (29, {}), (32, {"InternalErrors": 1}), (50, {}))

    async def test_applications(self) -> None:
        """What an application does wrong wakes nobody, but for a note that it wants more than it may have."""
        revoked = {refusals("resolve", each): f"0+90{EVER}" for each in ("revoked", "destination-changed")}
        await self.fire(revoked, (30, {}), (HOUR, {}))
        limit = refusals("accept", "limit-reached")
        await self.fire({limit: f"0+90{EVER}"}, (30, {}), (33, {"ConnectionsAtLimit": 1}))
        await self.fire({limit: "0x5 90x54"}, (20, {}), (HOUR, {}))

    async def test_spares(self) -> None:
        """None for a port, on a replica's word."""
        none = {series("tproxy_spares", each, port="993"): f"0{EVER}" for each in (A, B)}
        await self.fire(none, (14, {}), (16, {"SparesUsedUp": 1}))
        await self.fire(dict.fromkeys(none, "0x5 1x54"), (16, {}))
        await self.fire({}, (HOUR, {}), gone="tproxy_spares")

    async def test_limits(self) -> None:
        """A little more than in `WELL`."""
        for name, value, minutes, alert in (
            ("tproxy_listeners", 3601, 15, "ListenersNearLimit"),
            ("tp_open_tcp_connections", 801, 10, "ConnectionsNearLimit"),
            ("process_open_fds", 801, 5, "FilesNearLimit"),
            ("tp_memory_bytes", 801, 10, "MemoryNearLimit"),
            ("tp_cpu_percent", 86, 15, "ProcessorBusy"),
        ):
            changed = {series(name): f"{value}{EVER}"}
            await self.fire(changed, (minutes - 1, {}), (minutes + 1, {alert: 1}))
            await self.fire({series(name): f"{value}x3 1x56"}, (minutes + 1, {}))

    async def test_words(self) -> None:
        """Who reads an alert reads what it is about."""
        labels = {"severity": "warning", "job": A["job"], "namespace": A["namespace"], **BOX}
        del labels["listener"]
        (rule,) = (each for each in alerts() if each["alert"] == "TproxyMailServerFailing")
        words = '50% of the connections to box (tenant "acme") end in the stage connect with connection-failed.'
        expected = {
            "exp_labels": {**labels, "stage": "connect", "reason": "connection-failed"},
            "exp_annotations": {**rule["annotations"], "description": words},
        }
        test = {"alertname": rule["alert"], "eval_time": "20m", "exp_alerts": [expected]}
        changed = {refusals("connect", "connection-failed", replica=each): f"0+50{EVER}" for each in (A, B)}
        await self.judge({**WELL, **changed}, {"alert_rule_test": [test]})

    def test_all(self) -> None:
        """No alert is left out here."""
        named = set(re.findall(r'"(\w+)"', Path(__file__).read_text()))
        self.assertEqual(set(), {rule["alert"].removeprefix("Tproxy") for rule in alerts()} - named)


class Served(TestCase):
    """A Prometheus that scrapes the page has an answer to everything that the dashboard asks."""

    skip = MISSING
    timeout = 120

    async def test_dashboard(self) -> None:
        """Each panel has something to show, and each rule can be evaluated."""
        port = free_port()
        page = HTTPPort(reactor, Window("127.0.0.1", port), {"metrics": MetricsPage(everything(self), reactor)})
        page.startService()
        self.addCleanup(page.stopService)
        prometheus = Prometheus(self, port, ALERTS, namespace="tproxy", pod="tproxy-1")
        await prometheus.start()
        for query, _ in queried({**dashboard(), "annotations": {"list": []}}):
            while not (await prometheus.ask("query", query=query))["result"]:
                await deferLater(reactor, 0.2)
        for variable in dashboard()["templating"]["list"][1:]:
            query, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
            values = await prometheus.ask(f"label/{label}/values", **{"match[]": filled(query)})
            self.assertEqual({"namespace": "tproxy", "destination": "mailbox", "tenant": "acme"}[label], *values)
        (group,) = (await prometheus.ask("rules"))["groups"]
        self.assertEqual({"ok"}, {rule["health"] for rule in group["rules"]})


class Components(SynchronousTestCase):
    """What kustomize adds to an installation."""

    skip = cluster.MISSING

    def added(self, *components: str) -> dict[str, dict[str, Any]]:
        """What components add to an overlay, by kind; nothing else changes."""
        root = Path(self.mktemp())
        shutil.copytree(K8S, root / "k8s")
        mine = root / "mine"
        mine.mkdir()
        content = {"resources": ["../k8s/overlays/shared"], "components": list(components)}
        (mine / "kustomization.yaml").write_text(yaml.safe_dump(content))
        before, after = built(K8S / "overlays" / "shared"), built(mine)
        found = [each for each in after if each not in before]
        self.assertEqual(len(before) + len(found), len(after))
        self.assertEqual({("tproxy", "tproxy")}, {
            (each["metadata"]["namespace"], each["metadata"]["labels"]["app.kubernetes.io/name"]) for each in found
        })  # fmt: skip
        return {each["kind"]: each for each in found}

    def test_guide(self) -> None:
        """As the guide has it: the dashboard and the rules as they are, and a scrape of the Service for metrics."""
        (told,) = re.findall(r"```yaml\n(components:.*?)```", GUIDE.read_text(), re.DOTALL)
        found = self.added(*yaml.safe_load(told)["components"])
        self.assertEqual({"ConfigMap", "ServiceMonitor", "PrometheusRule"}, set(found))
        self.assertEqual({"tproxy.json": DASHBOARD.read_text()}, found["ConfigMap"]["data"])
        self.assertEqual("1", found["ConfigMap"]["metadata"]["labels"]["grafana_dashboard"])
        self.assertEqual(yaml.safe_load(ALERTS.read_text()), found["PrometheusRule"]["spec"])
        (scraped,) = (
            each for each in built(K8S / "overlays" / "shared") if each["metadata"]["name"] == "tproxy-metrics"
        )
        monitor = found["ServiceMonitor"]["spec"]
        self.assertLessEqual(monitor["selector"]["matchLabels"].items(), scraped["metadata"]["labels"].items())
        self.assertEqual(
            [each["port"] for each in monitor["endpoints"]], [each["name"] for each in scraped["spec"]["ports"]]
        )

    def test_without_operator(self) -> None:
        """The dashboard alone needs no definitions of others."""
        self.assertEqual({"ConfigMap"}, set(self.added("../k8s/monitoring/dashboard")))

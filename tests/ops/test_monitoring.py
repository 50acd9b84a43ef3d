"""The dashboard and the alerts of k8s/monitoring: they show and judge what there is, and the guide explains it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from twisted.trial.unittest import SynchronousTestCase

import tests
from tests.ops.promql import Queries, UnknownError, exposed
from tproxy.model import Reason

TREE = Path(tests.__file__).parent.parent
MONITORING = TREE / "k8s" / "monitoring"
ALERTS = MONITORING / "alerts.yaml"
DASHBOARD = MONITORING / "dashboard" / "tproxy.json"
GUIDE = TREE / "docs" / "operate.md"

OTHERS = {
    Reason.DESTINATION_NOT_FOUND,
    Reason.FRAGMENT_NOT_FOUND,
    Reason.TYPE_NOT_SUPPORTED,
    Reason.PROXY_TYPE_NOT_SUPPORTED,
    Reason.LOOPBACK_NOT_SUPPORTED,
    Reason.TENANT_ANNOTATION_INVALID,
    Reason.TENANT_MODE_MISMATCH,
    Reason.DUPLICATE_RESOURCE,
    Reason.NAME_ALREADY_PRESENT,
    Reason.SERVICE_REFUSED,
    Reason.RESOURCE_INVALID,
    Reason.DOCUMENT_INVALID,
    Reason.DESTINATION_CHANGED,
    Reason.TENANT_NOT_FOUND,
    Reason.TENANT_NOT_SUBSCRIBED,
    Reason.PORT_NOT_AVAILABLE,
    Reason.REVOKED,
}
"""A Destination is not served at all, which is another alert; or all is as it should be."""


def alerts() -> list[dict[str, Any]]:
    """The rules of the file."""
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return group["rules"]


def dashboard() -> dict[str, Any]:
    """The dashboard of the file."""
    return json.loads(DASHBOARD.read_text())


def queried(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Its queries, with what names each series."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield filled(target["expr"]), target["legendFormat"]
    for annotation in dashboard["annotations"]["list"]:
        if "expr" in annotation:
            yield filled(annotation["expr"]), ""


def filled(query: str) -> str:
    """A query as Grafana asks it."""
    return re.sub(r"\$(namespace|destination|tenant)\b", ".*", query.replace("$__rate_interval", "1m"))


def lost(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """Where something differs or is not there any more; what has come is a default."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from lost(value, after.get(key, "nothing"), f"{place}/{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from lost(one, other, f"{place}/{number}")
    elif before != after:
        yield place


class NamesTests(SynchronousTestCase):
    """Every query names metrics, labels and values that a replica exposes."""

    def setUp(self) -> None:
        self.queries = Queries(exposed(self))

    def test_alerts(self) -> None:
        """Those of the alerts, and the labels of which their texts speak."""
        for rule in alerts():
            labels = self.queries.labels(rule["expr"])
            spoken = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
            self.assertEqual(set(), spoken - labels, rule["alert"])

    def test_dashboard(self) -> None:
        """Those of the panels, and the labels that name their series."""
        found = list(queried(dashboard()))
        self.assertGreater(len(found), 30)
        for query, legend in found:
            self.assertEqual(set(), set(re.findall(r"{{(\w+)}}", legend)) - self.queries.labels(query), query)

    def test_variables(self) -> None:
        """Those by which one chooses; the others are in the queries."""
        variables = {each["name"]: each for each in dashboard()["templating"]["list"]}
        self.assertEqual({"datasource", "namespace", "destination", "tenant"}, set(variables))
        for name in ("namespace", "destination", "tenant"):
            (query, label) = re.fullmatch(r"label_values\((.+), (\w+)\)", variables[name]["query"]["query"]).groups()
            self.assertEqual(name, label)
            self.assertIn(label, self.queries.labels(filled(query)))
        used = set(re.findall(r"\$(\w+)", DASHBOARD.read_text()))
        self.assertEqual(set(), used - {"__rate_interval", "__all"} - set(variables))

    def test_all_shown(self) -> None:
        """No metric is left out, but those that say the same of a process as others say of its listeners."""
        shown = DASHBOARD.read_text()
        missing = {name for name in self.queries.metrics if not re.search(rf"\b{name}\b", shown)}
        same = {"tp_tcp_connections_total", "up"}
        self.assertEqual(same | {"tproxy_login_seconds_count", "tproxy_login_seconds_sum"}, missing)

    def test_noticed(self) -> None:
        """What is not there would be noticed."""
        for query in (
            "tproxy_nothing",
            'tproxy_ready{tenant="x"}',
            "sum by (tenant) (tproxy_ready)",
            "tproxy_ready / on (tenant) tproxy_connections_total",
            'rate(tproxy_refusals_total{reason=~"login-refused|nothing"}[5m])',
            'rate(tproxy_refusals_total{reason=~"nothing-.+"}[5m])',
            "histogram_quantile(0.5, sum by (job) (tproxy_login_seconds_bucket))",
            "sum by (pod) (tproxy_ready / on (job) tproxy_leader)",
            "sum without (pod) (tproxy_ready)",
            "sum by (le) (sum by (job) (tproxy_login_seconds_bucket))",
        ):
            self.assertRaises(UnknownError, self.queries.labels, query)
        self.assertEqual({"tenant"}, self.queries.labels("sum by (tenant) (rate(tproxy_connections_total[5m])) > 0"))
        self.assertRaises(ValueError, self.queries.labels, "sum by (")


class AlertTests(SynchronousTestCase):
    """What the alerts have in common; whether each fires when it should, promtool says."""

    def test_explained(self) -> None:
        """Each says how bad it is, what is wrong, and where the guide says what to do: there it is."""
        text = GUIDE.read_text()
        headings = {
            re.sub(r"[^a-z -]", "", each.lower()).replace(" ", "-") for each in re.findall("^#+ (.+)$", text, re.M)
        }
        names = [rule["alert"] for rule in alerts()]
        self.assertEqual(names, re.findall(r"^\| `(Tproxy\w+)` \|", text, re.MULTILINE))
        for rule in alerts():
            self.assertIn(rule["labels"]["severity"], {"critical", "warning", "info"})
            notes = rule["annotations"]
            self.assertEqual({"summary", "description", "runbook"}, set(notes))
            file, _, heading = notes["runbook"].partition("#")
            self.assertEqual("docs/operate.md", file)
            self.assertIn(heading, headings)

    def test_severities(self) -> None:
        """The guide says of each how bad it is."""
        told = dict(re.findall(r"^\| `(Tproxy\w+)` \| (\w+) \|", GUIDE.read_text(), re.MULTILINE))
        self.assertEqual({rule["alert"]: rule["labels"]["severity"] for rule in alerts()}, told)

    def test_reasons(self) -> None:
        """Every reason of a refusal belongs to an alert, or to those that need none."""
        found: list[Reason] = []
        for rule in alerts():
            words = re.findall(r'reason=~?"([^"]+)"', rule["expr"])
            found += [each for each in Reason if re.fullmatch("|".join(words), each)]
        self.assertEqual({Reason.TIMED_OUT}, {each for each in found if found.count(each) > 1}, "by its stage")
        self.assertEqual(set(Reason) - OTHERS, set(found))

    def test_operator(self) -> None:
        """What the Prometheus operator is given is the same, letter by letter."""
        text = (MONITORING / "prometheus-operator" / "rules.yaml").read_text()
        head, _, body = text.partition("spec:\n")
        self.assertEqual("PrometheusRule", yaml.safe_load(head)["kind"])
        said = "".join(f"  {line}" if line.strip() else line for line in ALERTS.read_text().splitlines(True)[1:])
        self.assertEqual(said, body, "make rules.yaml anew, as its head says")


class DashboardTests(SynchronousTestCase):
    """The dashboard can be read by Grafana: by its own schema, as generated for Python."""

    def setUp(self) -> None:
        self.dashboard = dashboard()
        register_default_plugins()

    def read(self, content: dict[str, Any]) -> Any:
        """What Grafana's model keeps of a dashboard."""
        return json.loads(JSONEncoder().encode(Dashboard.from_json(content)))

    def test_schema(self) -> None:
        """Nothing is in it that the schema does not know, at any depth."""
        self.assertEqual([], list(lost(self.dashboard, self.read(self.dashboard))))
        self.dashboard["panels"][1]["options"]["colourMode"] = "value"
        self.assertEqual(["/panels/1/options/colourMode"], list(lost(self.dashboard, self.read(self.dashboard))))

    def test_stable(self) -> None:
        """It is found by the same address after an upgrade, and belongs to no Grafana in particular."""
        self.assertEqual(("tproxy", 41), (self.dashboard["uid"], self.dashboard["schemaVersion"]))
        self.assertNotIn("id", self.dashboard)
        numbers = [panel["id"] for panel in self.dashboard["panels"]]
        self.assertEqual(len(numbers), len(set(numbers)))

    def test_any_source(self) -> None:
        """Whoever looks chooses where the data comes from."""
        sources = re.findall(r'"datasource": \{\s*"type": "(\w+)",\s*"uid": "([^"]+)"', DASHBOARD.read_text())
        self.assertEqual({("prometheus", "${datasource}"), ("grafana", "-- Grafana --")}, set(sources))
        for panel in self.dashboard["panels"]:
            self.assertEqual(panel["type"] == "row", "datasource" not in panel)

    def test_places(self) -> None:
        """Each panel has a title, says what it shows, and has its place for itself."""
        places: list[set[tuple[int, int]]] = []
        for panel in self.dashboard["panels"]:
            self.assertTrue(panel["title"] and (panel["type"] == "row" or panel["description"]))
            at = panel["gridPos"]
            self.assertLessEqual(at["x"] + at["w"], 24)
            places.append(
                {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            )
        for one, other in combinations(places, 2):
            self.assertEqual(set(), one & other)

    def test_size(self) -> None:
        """`kubectl apply` takes it: it notes all of a ConfigMap in an annotation, which is bounded."""
        self.assertLess(DASHBOARD.stat().st_size, 200_000)

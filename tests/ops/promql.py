"""Which labels the result of a query has, and whether all that it names is there."""

from __future__ import annotations

import re
from collections.abc import Mapping

import promql_parser as promql
from attrs import frozen
from prometheus_client import Metric
from twisted.trial.unittest import SynchronousTestCase

from tests.ops.exposition import everything, scraped
from tproxy.model import Reason, Stage

TARGET = frozenset({"job", "instance", "namespace", "pod"})
"""What Prometheus adds to what it scrapes; without Kubernetes, the first two."""

FIXED = {
    "reason": {str(reason) for reason in Reason},
    "stage": {str(stage) for stage in Stage},
    "cached": {"true", "false"},
    "Available": {"True", "False"},
}
"""The values that these labels can have."""


class UnknownError(Exception):
    """A query names what is not there."""


@frozen
class Queries:
    """Queries over these metrics, each with its labels."""

    metrics: Mapping[str, frozenset[str]]

    def labels(self, query: str) -> frozenset[str]:
        """The labels of what a query gives. Raises UnknownError."""
        return self._of(promql.parse(query))

    def _of(self, node: promql.Expr) -> frozenset[str]:
        match node:
            case promql.VectorSelector():
                return self._selected(node)
            case promql.MatrixSelector():
                return self._selected(node.vector_selector)
            case promql.ParenExpr() | promql.UnaryExpr():
                return self._of(node.expr)
            case promql.NumberLiteral():
                return frozenset()
            case promql.Call():
                found = frozenset().union(*map(self._of, node.args))
                return found - _there({"le"}, found) if node.func.name == "histogram_quantile" else found
            case promql.AggregateExpr() if node.param is not None:  # topk chooses, and leaves the labels alone
                return self._of(node.expr)
            case promql.AggregateExpr(modifier=None):
                self._of(node.expr)
                return frozenset()
            case promql.AggregateExpr() if node.modifier.type == promql.AggModifierType.By:
                return _there(node.modifier.labels, self._of(node.expr))
            case promql.BinaryExpr():
                return self._joined(node, self._of(node.lhs), self._of(node.rhs))
        raise UnknownError(f"no rule for {type(node).__name__}")

    def _joined(self, node: promql.BinaryExpr, left: frozenset[str], right: frozenset[str]) -> frozenset[str]:
        matching = node.modifier and node.modifier.matching
        if matching:
            _there(matching.labels, left)
            _there(matching.labels, right)
        match str(node.op):
            case "or":
                return left | right
            case "and" | "unless":
                return left
        if matching and node.modifier.card == promql.VectorMatchCardinality.OneToOne:
            return frozenset(matching.labels)
        return left or right

    def _selected(self, selector: promql.VectorSelector) -> frozenset[str]:
        if selector.name not in self.metrics:
            raise UnknownError(f"there is no metric {selector.name}")
        found = self.metrics[selector.name]
        for matcher in selector.matchers.matchers:
            _there({matcher.name}, found)
            for value in matcher.value.split("|") if matcher.name in FIXED else ():
                if not any(re.fullmatch(value, each) for each in FIXED[matcher.name]):
                    raise UnknownError(f"{matcher.name} is never {value}")
        return found


def _there(wanted: set[str] | list[str], found: frozenset[str]) -> frozenset[str]:
    if not found.issuperset(wanted):
        raise UnknownError(f"there is no label {', '.join(sorted(set(wanted) - found))}")
    return frozenset(wanted)


def exposed(case: SynchronousTestCase) -> dict[str, frozenset[str]]:
    """The samples of a replica, and what Prometheus itself adds, each with its labels."""
    families: list[Metric] = list(scraped(everything(case)))
    found = {sample.name: TARGET.union(sample.labels) for family in families for sample in family.samples}
    labels = frozenset().union(*found.values())
    return {**found, "up": TARGET, "ALERTS": labels | {"alertname", "alertstate", "severity"}}

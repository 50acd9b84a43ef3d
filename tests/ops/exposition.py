"""All that can be measured, as a scrape brings it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attrs import define
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.operator.worlds import ADDRESS, resource
from tproxy.config import Limits
from tproxy.model import Reason, Refusal, Stage
from tproxy.operator.objects import Installation, Objects
from tproxy.operator.plan import Listening, Snapshot
from tproxy.ops import usage
from tproxy.ops.metrics import Measures, encoder, written
from tproxy.ops.usage import Usage
from tproxy.relay.tally import Tallies

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@define
class Work:
    """A reconciler that did something."""

    passes: int = 3
    failures: int = 1
    seconds: float = 0.25


def scraped(measures: Measures) -> Iterator[Metric]:
    """The families of a page, as the official parser reads them."""
    encode, _ = encoder(OPENMETRICS)
    return text_string_to_metric_families(b"".join(written(measures.families(), encode)).decode())


def everything(case: SynchronousTestCase) -> Measures:
    """A replica in a cluster, in a container, with a listener to which everything has happened that is counted."""
    limit = Path(case.mktemp())
    limit.write_text("1073741824\n")
    case.patch(usage, "MEMORY_LIMIT", limit)
    mail = resource("mail", "acme")
    (binding,) = mail.bindings
    tallies = Tallies()
    tally = tallies.of(binding.key)
    tally.refused(Refusal(Stage.LOGIN, Reason.LOGIN_REFUSED, "no"))
    case.addCleanup(lambda kept: None, tally)
    return Measures(
        tallies,
        lambda: {binding.key: Listening(binding, 10000)},
        lambda: Snapshot((mail,), address=ADDRESS, objects=Objects(Installation("tproxy"), leading=True)),
        Work(),
        lambda request: 12.5,
        Usage(Clock().seconds, lambda: 0.0),
        Limits(connections=2000),
        lambda: True,
        spares=5,
    )

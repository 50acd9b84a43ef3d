"""Listeners, sessions and a cluster, of which everything can be measured."""

from __future__ import annotations

from attrs import evolve, frozen
from prometheus_client.samples import Sample
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.operator.worlds import World, resource
from tests.ops.exposition import Work, scraped
from tproxy.config import Limits
from tproxy.model import DestinationRequest
from tproxy.operator.objects import Objects
from tproxy.ops.metrics import Measures, MetricsPage
from tproxy.ops.usage import Usage
from tproxy.relay.tally import Tallies, Tally


@frozen(eq=False)
class Carried:
    """A session that carried some bytes."""

    carried: tuple[int, int] = (0, 0)


class MetricsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.known = True
        self.objects: Objects | None = None
        self.clock = Clock()
        self.cpu = 0.0
        self.ages: dict[DestinationRequest, float] = {}
        self.tallies = Tallies(3)
        self.kept: dict[str, Tally] = {}
        self.work = Work()
        self.ready = True
        self.measures = Measures(
            self.tallies,
            lambda: self.world.listening,
            lambda: evolve(self.world.observed().cluster, objects=self.objects) if self.known else None,
            self.work,
            self.ages.get,
            Usage(self.clock.seconds, lambda: self.cpu),
            Limits(connections_per_listener=7, listeners=40, connections=2000),
            lambda: self.ready,
            spares=2,
        )
        self.page = MetricsPage(self.measures, self.clock)

    def open(self, *names: str) -> None:
        """Listeners for these resources, and no others."""
        self.world.resources = [resource(name, destination=f"to-{name}") for name in names]
        self.world.settle()
        self.world.settle()
        self.kept = {key.name: self.kept.get(key.name) or self.tallies.of(key) for key in self.world.listening}

    def samples(self) -> dict[str, list[Sample]]:
        """What a scrape brings, by name."""
        found: dict[str, list[Sample]] = {}
        for family in scraped(self.measures):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample)
        return found

    def value(self, name: str, **labels: str) -> float | None:
        """The one value with these labels."""
        for sample in self.samples().get(name, []):
            if labels.items() <= sample.labels.items():
                return sample.value
        return None

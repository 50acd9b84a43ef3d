"""Tests of connections, once more behind a hub."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from tproxy.net.hub import Hub


def behind_a_hub(case: type[TestCase]) -> type[TestCase]:
    """The same tests with a hub between reactor and transports."""

    def __init__(self: TestCase, name: str = "runTest") -> None:
        case.__init__(self, name)
        self.reactor = Hub(reactor)
        self.addCleanup(self.reactor.close)

    return type(f"Hub{case.__name__}", (case,), {"__init__": __init__, "__module__": case.__module__})

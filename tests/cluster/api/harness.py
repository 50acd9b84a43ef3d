"""A client on the stand-in, without a network: time passes when a test says so."""

from __future__ import annotations

from typing import Any

from treq.testing import RequestTraversalAgent
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.apiserver.server import CONFIG_MAPS, APIServer, Asked
from tproxy.cluster.api.access import Access
from tproxy.cluster.api.client import Client
from tproxy.cluster.api.objects import APIError, Object, Why
from tproxy.model import Secret, Trust

NOW = 1_800_000_000.0


def middle(least: float, most: float) -> float:
    """A jitter that is none."""
    return least


class StandInTestCase(SynchronousTestCase):
    """A stand-in, a clock for it, another one for the client."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.server = APIServer(Clock())
        self.tokens = ["good"]
        self.refusals = 0
        self.agent = RequestTraversalAgent(self.server)
        self.client = self.connect()

    def connect(self, **options: Any) -> Client:
        return Client(self.agent, self.clock, Access("api.example.com", 443, Trust, self.token, "home"), **options)

    def token(self, refused: bool) -> Secret | None:
        self.refusals += refused
        if refused and len(self.tokens) > 1:
            del self.tokens[0]
        return Secret(self.tokens[0]) if self.tokens else None

    def flush(self) -> None:
        """Let both sides hear what the other said."""
        for _ in range(3):
            self.agent.flush()

    def pass_time(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass for both sides."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            self.server.clock.advance(step)
            self.flush()

    def verbs(self) -> list[str]:
        """What was asked so far, in Kubernetes' words."""
        return [asked.verb for asked in self.server.asked]

    def last(self) -> Asked:
        return self.server.asked[-1]

    def given(self, name: str = "one", **fields: Any) -> Object:
        """An object that is there, as the client reads it."""
        self.server.create(CONFIG_MAPS, "default", name, **fields)
        thing: Object = self.successResultOf(self.client.get(CONFIG_MAPS, ("default", name)))
        return thing

    def error(self, asked: Any, why: Why) -> APIError:
        error: APIError = self.failureResultOf(asked, APIError).value
        self.assertEqual(error.reason, why, error.message)
        return error

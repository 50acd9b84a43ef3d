"""The ages of tokens that came along with a destination of the Destination service."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.destinations.answers import KEY, REQUEST, answer
from tests.destinations.test_store import OAUTH, RULES
from tproxy.destinations.cache import Cache
from tproxy.destinations.oauth import Token
from tproxy.destinations.remote import OUTAGES, KeyRing, Remote
from tproxy.destinations.store import Store
from tproxy.instances import KeyInFile, ServiceInstance
from tproxy.model import Grant, Secret
from tproxy.net.http import Answer

FRESH_SECONDS = 120
STALE_SECONDS = 3600
DOCUMENT = {**OAUTH, "tokenServiceURL": "https://token.example"}


class Issuer:
    """A token endpoint for the tokens of service keys."""

    def fetch(self, grant: Grant) -> Deferred[Token]:
        return succeed(Token(Secret("service-token"), 7200.0))


class TokenAges(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[str] = []
        tokens: Any = Cache(self.clock, self.clock.seconds, what="token", outages=OUTAGES)
        instance = ServiceInstance("dest", KeyInFile(self.mktemp()))
        keys, issuer = KeyRing("dest", lambda: KEY), Issuer()
        now = self.clock.seconds
        limits = FRESH_SECONDS, STALE_SECONDS
        remote = Remote(instance, keys, RULES, issuer, self.ask, tokens.put, self.clock, now, *limits)
        self.store = Store({"dest": remote}, tokens, "dest", self.clock)
        self.addCleanup(self.store.stopService)

    def ask(self, method: str, url: str, **how: object) -> Deferred[Answer]:
        self.asked.append(url)
        token = {"type": "bearer", "value": "token", "expires_in": "7200"}
        return succeed(answer(200, {"destinationConfiguration": DOCUMENT, "authTokens": [token]}))

    def test_age(self) -> None:
        """From when it was asked for; to look asks nothing, also once the destination is to be asked for again."""
        self.assertIsNone(self.store.token_age(REQUEST))
        self.successResultOf(self.store.resolve(REQUEST))
        asked = len(self.asked)
        for seconds in (0.0, FRESH_SECONDS * 2, STALE_SECONDS - 1):
            self.clock.rightNow = seconds
            self.assertEqual(self.store.token_age(REQUEST), seconds)
        self.clock.rightNow = STALE_SECONDS
        self.assertIsNone(self.store.token_age(REQUEST))
        self.assertEqual(len(self.asked), asked)

"""An API server that takes its time: what it was asked for is not asked for again."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.iweb import IAgent
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.apiserver.server import SERVICES
from tests.cluster.installed import InstalledTestCase
from tproxy.cluster.kinds import DESTINATIONS
from tproxy.operator import operator
from tproxy.operator.manifests import TENANTS


@implementer(IAgent)
class Slow:
    """An agent whose requests of a method, for paths with some text, wait until `answer` lets the first one through.

    Those that are `late` were made before: their answers wait.
    """

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self.flush = agent.flush
        self.slow: tuple[bytes, bytes] | None = None
        self.late = False
        self.waiting: deque[Callable[[], None]] = deque()

    def request(self, method: bytes, url: bytes, *rest: Any, **more: Any) -> Deferred[Any]:
        def ask() -> Deferred[Any]:
            return self._agent.request(method, url, *rest, **more)

        if not (self.slow and method == self.slow[0] and self.slow[1] in url):
            return ask()
        asked: Deferred[Any] = Deferred()
        made = ask() if self.late else None
        self.waiting.append(lambda: (made or ask()).chainDeferred(asked))
        return asked

    def answer(self) -> None:
        self.waiting.popleft()()


class SlowTests(InstalledTestCase):
    def setUp(self):
        super().setUp()
        self.agent = Slow(self.agent)

    def test_interface(self):
        """The agent is one."""
        verifyObject(IAgent, self.agent)

    def test_many(self):
        """However many passes there are while ports are claimed, each listener gets one."""
        self.start()
        count = 2 * operator.WRITERS
        note = {TENANTS: json.dumps([f"t{number}" for number in range(count)])}
        self.agent.slow = (b"POST", b"")
        self.server.create(DESTINATIONS, "shop", "mail", annotations=note, spec={"destinationRef": {"name": "mail"}})
        self.flush()
        for _ in range(3):
            self.operator.poke()
            self.clock.advance(1)
        self.assertEqual(operator.WRITERS, len(self.agent.waiting))
        while self.agent.waiting:
            self.agent.answer()
            self.flush()
        self.agent.slow = None
        self.pass_time(6)
        records = [name for _, name in self.server.storage.objects["", SERVICES.plural] if name[1:].isdigit()]
        self.assertEqual(count, len(self.serving()))
        self.assertEqual(count + self.bounds.spares, len(records))

    def test_offboarded(self):
        """However many listeners go at once, there are only so many looks at a time, and all of them are closed."""
        self.start()
        count = 2 * operator.WRITERS
        note = {TENANTS: json.dumps([f"t{number}" for number in range(count)])}
        self.server.create(DESTINATIONS, "shop", "mail", annotations=note, spec={"destinationRef": {"name": "mail"}})
        self.pass_time(6)
        self.assertEqual(count, len(self.serving()))
        self.agent.slow = (b"GET", b"/destinations/mail")
        self.server.delete(DESTINATIONS, "shop", "mail")
        self.pass_time(1)
        self.assertEqual(operator.WRITERS, len(self.agent.waiting))
        while self.agent.waiting:
            self.agent.answer()
            self.flush()
            self.closed()
            self.pass_time(0.25)
        self.assertEqual({}, self.serving())

    def test_listed_late(self):
        """A list of records that was read before a port was claimed, and comes after that, closes no port."""
        self.start()
        self.agent.slow, self.agent.late = (b"GET", b"role%3Dport&"), True
        self.server.expire()
        self.pass_time(1)
        self.assertEqual(1, len(self.agent.waiting))
        self.apply("mail")
        self.assertEqual({"shop/mail": 10000}, self.serving())
        port = next(each for each in self.ports if each.port == 10000)
        self.agent.answer()
        self.pass_time(1)
        self.agent.answer()
        self.pass_time(1)
        self.assertIsNone(port.stopped)
        self.assertEqual({"shop/mail": 10000}, self.serving())

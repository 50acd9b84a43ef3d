"""What replicas say of themselves."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IAgent
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.logs import logged
from tproxy.cluster import replicas
from tproxy.cluster.replicas import Peer, Replicas, read_ports
from tproxy.ops.health import status


@implementer(IAgent)
class Agent:
    """Asks, and never hears anything."""

    def __init__(self):
        self.asked = []

    def request(self, method, uri, headers=None, bodyProducer=None):
        self.asked.append((uri, Deferred()))
        return self.asked[-1][1]


class ReplicasTests(SynchronousTestCase):
    """Replicas that are asked."""

    def setUp(self):
        self.agent, self.clock = Agent(), Clock()
        self.peers = [Peer("u1", "10.0.0.1"), Peer("u2", "fd00::2")]
        self.leading = True
        self.replicas = Replicas(self.agent, self.clock, 8080, lambda: self.peers, lambda: self.leading, lambda: None)
        self.replicas.startService()
        self.addCleanup(lambda: self.replicas.running and self.replicas.stopService())

    def pass_time(self, seconds):
        for _ in range(seconds):
            self.clock.advance(1)

    def test_silent(self):
        """Each is asked, again after three seconds; after ten it serves nothing."""
        verifyObject(IAgent, self.agent)
        self.assertIsNone(self.replicas.ports("u1"))
        with logged(replicas.log) as logs:
            self.pass_time(5)
        uris = [uri for uri, _ in self.agent.asked]
        self.assertEqual([b"http://10.0.0.1:8080/status", b"http://[fd00::2]:8080/status"] * 2, uris)
        self.assertEqual({"replica.silent"}, {each["event"] for each in logs})
        self.assertIsNone(self.replicas.ports("u1"))
        self.pass_time(7)
        self.assertEqual({}, self.replicas.ports("u1"))

    def test_leading(self):
        """Who does not lead asks nobody, and begins anew when it leads."""
        self.pass_time(12)
        self.leading = False
        self.pass_time(2)
        self.assertIsNone(self.replicas.ports("u1"))
        asked = len(self.agent.asked)
        self.pass_time(3)
        self.assertEqual(asked, len(self.agent.asked))

    def test_stop(self):
        """Who stops waits for no answer."""
        self.pass_time(1)
        with logged(replicas.log) as logs:
            self.replicas.stopService()
        self.assertEqual([], logs)
        self.assertEqual([], self.clock.getDelayedCalls())


class ReadTests(SynchronousTestCase):
    """The answer to `GET /status`."""

    def test_read(self):
        """What a replica says is what another one reads."""
        import json

        marks = {12345: "0123456789abcdef", 12346: ""}
        self.assertEqual(marks, read_ports(json.dumps(status(True, None, marks)).encode()))

    @settings(deadline=None)
    @given(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from(
                [
                    b"{}",
                    b"[]",
                    b'{"Components": {"tproxy-tcp": {"Marks": []}}}',
                    b'{"Components": {"tproxy-tcp": {"Marks": {"1": 2}}}}',
                    b'{"Components": {"tproxy-tcp": {"Marks": {"x": "y"}}}}',
                ]
            ),
        )
    )
    def test_anything(self, body):
        """Anything else is refused."""
        self.assertRaises(ValueError, read_ports, body)

from __future__ import annotations

import gc
import weakref
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

from OpenSSL import SSL
from twisted.internet import endpoints, reactor
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from tests.peers import Recorder, turn
from tproxy.model import Trust
from tproxy.net.endpoints import Connector
from tproxy.net.guard import Guard
from tproxy.net.resolver import Resolver
from tproxy.net.resumption import LIFE_SECONDS, REMEMBERED, Resumption
from tproxy.net.trust import CONTEXT_LIMIT, TrustStore
from tproxy.testing.certificates import Authority

AUTHORITY = Authority.create()
OURS = Trust(authorities=(AUTHORITY.pem,))


@implementer(IOpenSSLServerConnectionCreator)
class Server(Protocol):
    """A server that greets, in one version of TLS."""

    def __init__(self, version: int) -> None:
        self.context = AUTHORITY.issue("127.0.0.1").server_context()
        self.context.set_session_id(b"test")
        self.context.set_max_proto_version(version)

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self.context, None)


class Greeter(Recorder):
    def connectionMade(self) -> None:
        self.transport.write(b"* OK ready\r\n")


class ResumptionTests(TestCase):
    """Real handshakes: a resumed one verifies no chain, and that is how it is told from a full one."""

    timeout = 60

    def setUp(self) -> None:
        self.clock = Clock()
        self.day = datetime.now(UTC)
        self.resumption = Resumption(self.clock, lambda: self.day + timedelta(seconds=self.clock.seconds()))
        self.authorities = Path(self.mktemp())
        self.authorities.write_text(AUTHORITY.pem)
        self.trust = TrustStore(self.authorities, forgotten=self.resumption.forget_context)
        resolver = Resolver(reactor, Guard([ip_network("127.0.0.0/8")]))
        self.connector = Connector(reactor, resolver, self.trust, self.resumption)

    async def listen(self, version: int = SSL.TLS1_3_VERSION) -> int:
        server = endpoints.SSL4ServerEndpoint(reactor, 0, Server(version), interface="127.0.0.1")
        port = await server.listen(Factory.forProtocol(Greeter))
        self.addCleanup(port.stopListening)
        return port.getHost().port

    async def resumed(
        self, port: int, scope: object = "acme", trust: Trust = OURS, end: str = "loseConnection", keep: bool = True
    ) -> bool:
        """Connect, read, keep the session and end: whether the handshake was a resumed one."""
        recorder = await self.connected(port, scope, trust)
        tls = recorder.transport._connection.get_app_data()
        if keep:
            recorder.transport.keep_session()
        getattr(recorder.transport, end)()
        await recorder.ended
        return tls._chain_end is None

    async def connected(self, port: int, scope: object = "acme", trust: Trust = OURS) -> Recorder:
        recorder = Recorder()
        endpoint = self.connector.endpoint("127.0.0.1", port, trust, scope=scope)
        await endpoint.connect(Factory.forProtocol(lambda: recorder))
        await recorder.hears(12)
        return recorder

    async def test_both_versions(self) -> None:
        """The second connection resumes, and so do those after it, however the first ended."""
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            for end in ("loseConnection", "abortConnection"):
                port = await self.listen(version)
                resumed = [await self.resumed(port, end=end) for _ in range(4)]
                self.assertEqual(resumed, [False, True, True, True], (version, end))

    async def test_never_shared(self) -> None:
        """Another tenant, another port, another trust: a full handshake. Without a scope: always."""
        port, other = await self.listen(), await self.listen()
        self.assertFalse(await self.resumed(port))
        self.assertFalse(await self.resumed(port, "globex"))
        self.assertFalse(await self.resumed(other))
        self.assertFalse(await self.resumed(port, trust=Trust()))
        self.assertFalse(await self.resumed(port, None))
        self.assertFalse(await self.resumed(port, None))
        self.assertTrue(await self.resumed(port))

    async def test_only_after_a_login(self) -> None:
        port = await self.listen()
        self.assertFalse(await self.resumed(port, keep=False))
        self.assertFalse(await self.resumed(port))

    async def test_an_hour_at_most(self) -> None:
        """An hour after the full handshake the chain is verified again, however often it was resumed since."""
        port = await self.listen()
        self.assertFalse(await self.resumed(port))
        self.clock.advance(LIFE_SECONDS - 1)
        self.assertTrue(await self.resumed(port))
        self.clock.advance(1)
        self.assertFalse(await self.resumed(port))

    async def test_never_past_the_end_of_the_chain(self) -> None:
        port = await self.listen()
        self.day = AUTHORITY.certificate.not_valid_after_utc - timedelta(minutes=10)
        self.assertFalse(await self.resumed(port))
        self.clock.advance(300)
        self.assertTrue(await self.resumed(port))
        self.clock.advance(400)
        self.assertFalse(await self.resumed(port))

    async def test_changed_authorities(self) -> None:
        """Where the authorities changed, nothing of before is resumed."""
        port = await self.listen()
        self.assertFalse(await self.resumed(port))
        self.assertTrue(await self.resumed(port))
        self.authorities.write_text(AUTHORITY.pem + Authority.create().pem)
        self.assertTrue(self.trust.refresh())
        self.assertFalse(await self.resumed(port))

    async def test_changed_authorities_meanwhile(self) -> None:
        """A login that is done only after the authorities changed leaves what was kept since then alone."""
        port = await self.listen()
        self.assertFalse(await self.resumed(port))
        slow = await self.connected(port)
        self.authorities.write_text(AUTHORITY.pem + Authority.create().pem)
        self.assertTrue(self.trust.refresh())
        self.assertFalse(await self.resumed(port))
        slow.transport.keep_session()
        slow.transport.abortConnection()
        self.assertTrue(await self.resumed(port))

    async def test_contexts_are_not_kept(self) -> None:
        """A context, which is large, goes when the store has forgotten it, whatever was kept of its connections."""
        port = await self.listen()
        await self.resumed(port)
        slow = await self.connected(port)
        (context,) = map(weakref.ref, self.trust._contexts.values())
        for number in range(CONTEXT_LIMIT):
            self.trust.client(Trust((str(number),), verify=False), "127.0.0.1")
        slow.transport.keep_session()
        slow.transport.abortConnection()
        del slow
        await turn()
        gc.collect()
        self.assertIsNone(context())
        self.assertFalse(await self.resumed(port))
        self.assertTrue(await self.resumed(port))
        (context,) = (weakref.ref(kept.context) for kept in self.resumption._kept.values())
        self.authorities.write_text(AUTHORITY.pem + Authority.create().pem)
        self.assertTrue(self.trust.refresh())
        await turn()
        gc.collect()
        self.assertIsNone(context())

    async def test_refused_login(self) -> None:
        port = await self.listen()
        self.assertFalse(await self.resumed(port))
        self.connector.forget(OURS, "127.0.0.1", port, "acme")
        self.assertFalse(await self.resumed(port))

    async def test_declined(self) -> None:
        """A server that does not know the session any more gets a full handshake, and nobody notices."""
        port = await self.listen()
        await self.resumed(port)
        (kept,) = self.resumption._kept.values()
        other = await self.listen()
        self.resumption._kept[("acme", "127.0.0.1", other, OURS)] = kept
        self.assertFalse(await self.resumed(other))
        self.assertTrue(await self.resumed(other))

    async def test_unverified(self) -> None:
        """Where nothing is verified nothing is resumed."""
        port, blind = await self.listen(), Trust(verify=False)
        await self.resumed(port, trust=blind)
        self.assertEqual(len(self.resumption._kept), 0)

    async def test_bounded(self) -> None:
        port = await self.listen()
        await self.resumed(port)
        ((key, kept),) = self.resumption._kept.items()
        for number in range(REMEMBERED):
            self.resumption._kept[number] = kept
        await self.resumed(port, "another")
        self.assertLessEqual(len(self.resumption._kept), REMEMBERED + 1)
        self.assertNotIn(key, self.resumption._kept)

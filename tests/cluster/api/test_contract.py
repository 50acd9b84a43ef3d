"""The contract, kept by the stand-in: over TLS, on loopback, through the whole client."""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.trial.unittest import TestCase
from twisted.web.server import Site
from zope.interface import implementer

from tests.apiserver.server import APIServer
from tests.apiserver.storage import Served
from tests.cluster.api.contract import WIDGETS, Contract
from tproxy.cluster.api.access import Access
from tproxy.model import Secret, Trust
from tproxy.testing.certificates import Authority

AUTHORITY = Authority.create()
CONTEXT = AUTHORITY.issue("127.0.0.1").server_context()


@implementer(IOpenSSLServerConnectionCreator)
class Certified:
    def serverConnectionForTLS(self, tlsProtocol):
        return SSL.Connection(CONTEXT, None)


class StandInTests(Contract, TestCase):
    """A stand-in for each test."""

    async def access(self) -> Access:
        self.server = APIServer(reactor)
        self.server.tokens = {"good"}
        port = reactor.listenSSL(0, Site(self.server), Certified(), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        trust = Trust((AUTHORITY.pem,))
        return Access("127.0.0.1", port.getHost().port, lambda: trust, lambda _: Secret("good"))

    async def serve_widgets(self) -> None:
        self.server.storage.serve(Served(WIDGETS, status=True, generation=True, custom=True))

"""Real handshakes between a client of ours and a server, over a socket pair."""

from __future__ import annotations

from pathlib import Path
from socket import socket, socketpair

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tproxy.model import Reason, Refusal, RefusedError, Stage, Trust
from tproxy.net.trust import ClientTLS, Peer, TrustStore
from tproxy.testing.certificates import Authority, Certificate

HOST = "mail.example"
INSTALLATION = Trust()


def no_system(context: SSL.Context) -> None:
    """A system without authorities."""


class Conversation:
    """A client and a server with a socket pair between them."""

    def __init__(self, test: SynchronousTestCase, tls: ClientTLS, server: SSL.Context | None) -> None:
        self.tls = tls
        ours, self.theirs = socketpair()
        for each in (ours, self.theirs):
            each.setblocking(False)
            test.addCleanup(each.close)
        self.client = tls.connection(ours)
        self.server = SSL.Connection(server, self.theirs) if server is not None else None
        if self.server is not None:
            self.server.set_accept_state()

    def shake_hands(self) -> Peer | Refusal:
        """Until the client is through, or fails."""
        try:
            for _ in range(10):
                server_done = self._step(self.server)
                if self._step(self.client) and server_done:
                    break
            self.tls.verify(self.client)
        except (SSL.Error, RefusedError) as error:
            return self.tls.refusal(self.client, error)
        return self.tls.peer(self.client)

    def _step(self, connection: SSL.Connection | None) -> bool:
        if connection is None:
            return True
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error:
            if connection is self.client:
                raise
        return True

    def received(self) -> bytes:
        """What the server's application gets."""
        assert self.server is not None
        try:
            return self.server.recv(1000)
        except SSL.Error:
            return b""


class HandshakeTestCase(SynchronousTestCase):
    """Shakes hands with a server of a host, with the authorities that a test says."""

    authority = Authority.create("Example Root")

    def store(self, *authorities: Certificate) -> TrustStore:
        if not authorities:
            return TrustStore(None, no_system)
        path = Path(self.mktemp())
        path.write_text("".join(each.pem for each in authorities))
        return TrustStore(path, no_system)

    def shake(
        self,
        certificate: Certificate | SSL.Context,
        host: str = HOST,
        trust: Trust = INSTALLATION,
        store: TrustStore | None = None,
    ) -> Peer | Refusal:
        context = certificate if isinstance(certificate, SSL.Context) else certificate.server_context()
        store = self.store(self.authority) if store is None else store
        return Conversation(self, store.client(trust, host), context).shake_hands()

    def assert_refused(self, outcome: Peer | Refusal, reason: Reason, *words: str) -> None:
        assert isinstance(outcome, Refusal), f"{outcome} was accepted"
        self.assertEqual((outcome.stage, outcome.reason), (Stage.TLS, reason), outcome.message)
        for word in words:
            self.assertIn(word, outcome.message)
        self.assertTrue(outcome.remedy)
        self.assertTrue(str(outcome).isprintable())
        self.assertLess(len(str(outcome)), 512)

    def socket(self) -> socket:
        ours, theirs = socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        return ours

"""A mail server that says what a test wants it to say, in the test's own process, and keeps all it is told."""

from __future__ import annotations

from collections.abc import Mapping

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from tests.integration.transcript import Transcript
from tproxy.testing.certificates import Certificate

CAPABILITIES = b"IMAP4rev1 SASL-IR AUTH=PLAIN"
GREETING = b"* OK [CAPABILITY %s] ready\r\n" % CAPABILITIES

CONTINUED = b"+"
"""The command word under which `answers` has the reply to a line that was asked for with `+`."""
OTHERWISE = b""

ANSWERS = {
    b"CAPABILITY": b"* CAPABILITY %s\r\n%%s OK done\r\n" % CAPABILITIES,
    b"AUTHENTICATE": b"%s OK [CAPABILITY IMAP4rev1 IDLE] Logged in\r\n",
    b"LOGIN": b"%s OK [CAPABILITY IMAP4rev1 IDLE] Logged in\r\n",
    b"LOGOUT": b"* BYE bye\r\n%s OK done\r\n",
    OTHERWISE: b"%s OK done\r\n",
}
"""What is said to each command; `%s` is its tag."""


class Conversation(Protocol):
    """One connection: `received` is all that the client said."""

    def __init__(self, server: MailServer) -> None:
        self.server = server
        self.received = Transcript()
        self._unread = b""
        self._tag = b""
        self._continued = False

    def connectionMade(self) -> None:
        self.transport.write(self.server.greeting)

    def dataReceived(self, data: bytes) -> None:
        self.received.feed(data)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._answer(line.rstrip(b"\r"))

    def _answer(self, line: bytes) -> None:
        word = CONTINUED
        if not self._continued:
            self._tag, _, command = line.partition(b" ")
            word = command.partition(b" ")[0].upper()
        answer = self.server.answers.get(word, self.server.answers[OTHERWISE])
        if word in (b"AUTHENTICATE", b"LOGIN"):
            self.server.logins += 1
        self._continued = answer.startswith(b"+")
        self.transport.write(answer.replace(b"%s", self._tag))
        if word == b"LOGOUT":
            self.transport.loseConnection()

    def connectionLost(self, reason) -> None:
        self.received.close(reason.type.__name__)
        self.server.conversations.feed(b"-")


class MailServer(Factory):
    """Greets, then answers by the table; `connections` are all that there were, `logins` how many were tried.

    `conversations` is a transcript with a `+` for each connection made and a `-` for each that ended.
    """

    noisy = False

    def __init__(self, greeting: bytes = GREETING, answers: Mapping[bytes, bytes] | None = None) -> None:
        self.greeting = greeting
        self.answers = {**ANSWERS, **(answers or {})}
        self.connections: list[Conversation] = []
        self.conversations = Transcript()
        self.logins = 0

    def buildProtocol(self, address) -> Conversation:
        conversation = Conversation(self)
        self.connections.append(conversation)
        self.conversations.feed(b"+")
        return conversation

    @property
    def received(self) -> bytes:
        """All that was said on all connections."""
        return b"".join(bytes(each.received) for each in self.connections)

    async def connected(self, number: int = 1) -> Conversation:
        """The `number`th connection, once it is there."""
        await self.conversations.until(lambda seen: True if seen.count(b"+") >= number else None)
        return self.connections[number - 1]

    async def ended(self, number: int = 1) -> None:
        """Waits for the end of so many connections."""
        await self.conversations.until(lambda seen: True if seen.count(b"-") >= number else None)


@implementer(IOpenSSLServerConnectionCreator)
class Shows:
    """Has a server's connections use one TLS context."""

    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def serverConnectionForTLS(self, tlsProtocol) -> SSL.Connection:
        return SSL.Connection(self._context, None)


def old(context: SSL.Context) -> SSL.Context:
    """Nothing newer than TLS 1.1."""
    context.set_min_proto_version(SSL.TLS1_VERSION)
    context.set_max_proto_version(SSL.TLS1_1_VERSION)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    return context


async def listen(
    test, server: MailServer, tls: Certificate | SSL.Context | None = None, address: str = "127.0.0.1"
) -> int:
    """Let a server listen on a free port of an address until the test ends; returns the port."""
    context = tls.server_context() if isinstance(tls, Certificate) else tls
    if context is None:
        endpoint = TCP4ServerEndpoint(reactor, 0, interface=address)
    else:
        endpoint = SSL4ServerEndpoint(reactor, 0, Shows(context), interface=address)
    port = await endpoint.listen(server)

    async def end() -> None:
        await port.stopListening()
        for each in server.connections:
            if each.received.end is None:
                each.transport.abortConnection()
                await each.received.closed()

    test.addCleanup(end)
    return port.getHost().port

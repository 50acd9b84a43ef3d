"""Requests to pages, without a port."""

from __future__ import annotations

from attrs import frozen
from twisted.internet.error import ConnectionAborted
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from tproxy.config import Window
from tproxy.ops.pages import HTTPPort, Page

WINDOW = Window("127.0.0.1", 8080)


@frozen
class Answer:
    """A whole HTTP response."""

    code: int
    headers: dict[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        return self.headers.get("content-type", "")


class Visited:
    """An HTTP port in memory."""

    def __init__(self, **pages: Page) -> None:
        self.reactor = MemoryReactorClock()
        self.port = HTTPPort(self.reactor, WINDOW, pages)
        self.port.startService()

    def connect(self) -> StringTransport:
        """A connection; what is said on it goes to `protocol.dataReceived`."""
        (_, factory, _, _) = self.reactor.tcpServers[0]
        transport = Transport(self.reactor)
        protocol = factory.buildProtocol(None)
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return transport

    def ask(self, method: str = "GET", path: str = "/page", body: bytes = b"", **headers: str) -> Answer:
        transport = self.connect()
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        transport.protocol.dataReceived("\r\n".join([*lines, "", ""]).encode() + body)
        while not transport.disconnecting:
            self.reactor.advance(0)
        return answer(transport.value())


class Transport(StringTransport):
    """Remembers that it was aborted; as with TCP, the protocol hears of that in the next turn."""

    aborted = False

    def __init__(self, reactor: MemoryReactorClock) -> None:
        super().__init__()
        self._reactor = reactor

    def abortConnection(self) -> None:
        if not self.aborted:
            self.aborted = True
            self._reactor.callLater(0, self.protocol.connectionLost, Failure(ConnectionAborted()))


def answer(octets: bytes) -> Answer:
    head, _, body = octets.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Answer(int(status.split()[1]), headers, body)


def get(page: Page) -> Answer:
    """What a page says."""
    return Visited(page=page).ask()

"""Small HTTP ports on which a process can be looked at: a few pages, GET and HEAD, nothing to be sent or changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, Protocol

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorTime
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site

from tproxy.config import Window
from tproxy.model import RefusedError
from tproxy.operator.plan import unbindable

CONNECTIONS = 50
"""So many connections at once to one port; for one more, the oldest has to go."""

IDLE_SECONDS = 15
"""How long a connection may say nothing."""


class Page(Protocol):
    """What answers a GET; of the answer to a HEAD the body is left out."""

    def render(self, request: Request) -> bytes | int:
        """The body, or `NOT_DONE_YET` where it comes later."""


@frozen
class Content:
    """What a page says."""

    body: bytes
    kind: bytes = b"text/plain; charset=utf-8"
    code: int = 200

    def render(self, request: Request) -> bytes:
        request.setResponseCode(self.code)
        request.setHeader(b"Content-Type", self.kind)
        return self.body


@frozen
class Fresh:
    """A page that says something else each time."""

    content: Callable[[], Content]

    def render(self, request: Request) -> bytes:
        return self.content().render(request)


NOT_FOUND = Content(b"not found\n", code=404)
NOT_ALLOWED = Content(b"not allowed\n", code=405)


class _Root(Resource):
    """The pages by their paths, and in short words that there is nothing else."""

    isLeaf = True

    def __init__(self, pages: Mapping[str, Page]) -> None:
        Resource.__init__(self)
        self._pages = {f"/{name}".encode("ascii"): page for name, page in pages.items()}

    def render(self, request: Request) -> bytes | int:
        page = self._pages.get(request.path, NOT_FOUND)
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"Allow", b"GET, HEAD")
            page = NOT_ALLOWED
        return page.render(request)


class _Request(Request):
    """Takes no body: Twisted would write a long one to the disk."""

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Nobody wants it."""


class _Site(Site):
    """Keeps no log of requests: probes come every few seconds."""

    def __init__(self, root: IResource, clock: IReactorTime) -> None:
        Site.__init__(self, root, _Request, timeout=IDLE_SECONDS, reactor=clock)

    def startFactory(self) -> None:
        """No log is opened."""


class _Bounded(WrappingFactory[ProtocolWrapper]):
    """Has room for everybody who comes, so that nobody can keep a probe out; who was there first leaves."""

    def __init__(self, site: Site) -> None:
        WrappingFactory.__init__(self, site)  # type: ignore[arg-type]

    def buildProtocol(self, addr: IAddress | None) -> ProtocolWrapper:
        if len(self.protocols) >= CONNECTIONS:
            oldest = next(iter(self.protocols))
            self.unregisterProtocol(oldest)  # it is gone in the next turn only, and more may come in this one
            oldest.transport.abortConnection()
        return WrappingFactory.buildProtocol(self, addr)

    def unregisterProtocol(self, p: ProtocolWrapper) -> None:
        self.protocols.pop(p, None)


class HTTPPort(Service):
    """A port that shows pages while it runs.

    @param reactor: L{twisted.internet.interfaces.IReactorTCP} and its time
    @param pages: by the names of their paths
    """

    def __init__(self, reactor: Any, window: Window, pages: Mapping[str, Page]) -> None:
        self._reactor = reactor
        self._window = window
        self._factory = _Bounded(_Site(_Root(pages), reactor))
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """Listen.

        @raise RefusedError: the port cannot be bound
        """
        Service.startService(self)
        listen, port = self._window.listen, self._window.port
        try:
            self._port = self._reactor.listenTCP(port, self._factory, interface=listen)
        except CannotListenError as error:
            raise RefusedError(unbindable(listen, port, error.socketError.errno)) from None

    def stopService(self) -> Deferred[Any]:
        """Listen no more, and leave nobody connected."""
        Service.stopService(self)
        for protocol in list(self._factory.protocols):
            protocol.transport.abortConnection()
        return succeed(None) if self._port is None else maybeDeferred(self._port.stopListening)

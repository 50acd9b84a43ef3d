"""HTTP ports: what they answer, to how many, and what they take."""

from __future__ import annotations

import errno

from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tests.ops.requests import WINDOW, Visited
from tproxy.model import Reason, RefusedError
from tproxy.ops.pages import CONNECTIONS, IDLE_SECONDS, Content, Fresh, HTTPPort


class Pages(SynchronousTestCase):
    """What is there, and what is not."""

    def setUp(self) -> None:
        self.visited = Visited(page=Content(b"hello\n", b"text/x", 503))

    def test_get(self) -> None:
        """The content with its type, code and length; a query makes no difference."""
        for path in ("/page", "/page?a=b"):
            answer = self.visited.ask(path=path)
            self.assertEqual((answer.code, answer.kind, answer.body), (503, "text/x", b"hello\n"))
            self.assertEqual(answer.headers["content-length"], "6")

    def test_head(self) -> None:
        """The same without the body."""
        answer = self.visited.ask("HEAD")
        self.assertEqual((answer.code, answer.kind, answer.body), (503, "text/x", b""))
        self.assertEqual(answer.headers["content-length"], "6")

    def test_nothing_else(self) -> None:
        """There is nothing beside or below the pages."""
        for path in ("/", "/other", "/page/", "/page/x", "/page/../other", "//page", "http://localhost/page"):
            self.assertEqual(self.visited.ask(path=path).code, 404, path)

    def test_no_other_method(self) -> None:
        """Nothing can be sent or changed."""
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "BREW"):
            answer = self.visited.ask(method, body=b"x" * 200_000)
            self.assertEqual((answer.code, answer.headers["allow"]), (405, "GET, HEAD"), method)

    def test_error(self) -> None:
        """What goes wrong is told in the log, and to nobody who asks."""
        answer = Visited(page=Fresh(lambda: Content(str(1 / 0).encode()))).ask()
        self.assertEqual(answer.code, 500)
        self.assertNotIn(b"ZeroDivision", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class Connections(SynchronousTestCase):
    """Who may be connected."""

    def setUp(self) -> None:
        self.visited = Visited(page=Content(b"hello"))

    def test_many(self) -> None:
        """Where all places are taken the oldest gives way: nobody keeps a probe out."""
        idle = [self.visited.connect() for _ in range(CONNECTIONS)]
        self.assertEqual(self.visited.ask().code, 200)
        self.assertEqual([transport.aborted for transport in idle], [True, *[False] * (CONNECTIONS - 1)])

    def test_burst(self) -> None:
        """Also where many come in one turn, in which nobody is gone yet."""
        came = [self.visited.connect() for _ in range(3 * CONNECTIONS)]
        self.assertEqual([transport.aborted for transport in came], [True] * 2 * CONNECTIONS + [False] * CONNECTIONS)
        self.visited.reactor.advance(0)
        self.assertEqual(self.visited.ask().code, 200)
        self.assertEqual(sum(transport.aborted for transport in came), 2 * CONNECTIONS + 1)

    def test_silent(self) -> None:
        """Who says nothing is not waited for."""
        transport = self.visited.connect()
        self.visited.reactor.advance(IDLE_SECONDS)
        self.assertTrue(transport.disconnecting)

    def test_body(self) -> None:
        """What nobody wants is kept nowhere."""
        transport = self.visited.connect()
        transport.protocol.dataReceived(b"POST /page HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        (request,) = transport.protocol.wrappedProtocol._channel.requests
        transport.protocol.dataReceived(b"x" * 500_000)
        self.assertEqual(request.content.getvalue(), b"")

    def test_stopped(self) -> None:
        """The port closes, and who is connected is not any more; a second time there is nothing to do."""
        transport = self.visited.connect()
        self.successResultOf(self.visited.port.stopService())
        self.assertTrue(transport.aborted)
        self.visited.reactor.advance(0)
        self.assertEqual(self.visited.reactor.getDelayedCalls(), [])

    def test_never_started(self) -> None:
        """What was never open need not be closed."""
        self.successResultOf(HTTPPort(MemoryReactorClock(), WINDOW, {}).stopService())

    def test_taken(self) -> None:
        """A port that cannot be had is refused in our words."""

        class Full(MemoryReactorClock):
            def listenTCP(self, port, factory, backlog=50, interface=""):
                raise CannotListenError(interface, port, OSError(errno.EADDRINUSE, "x"))

        refusal = self.assertRaises(RefusedError, HTTPPort(Full(), WINDOW, {}).startService).refusal
        self.assertEqual(refusal.reason, Reason.PORT_NOT_AVAILABLE)
        self.assertIn("port 8080 of 127.0.0.1", refusal.message)

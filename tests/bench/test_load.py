from __future__ import annotations

import socket
from collections.abc import Callable
from threading import Thread

from twisted.trial.unittest import SynchronousTestCase

from bench import wire
from bench.load import Load, LoadError, literal


class LoadTests(SynchronousTestCase):
    """Scripts against a server that says what it is told to, cut where it is told to."""

    def run_against(self, script: str, *said: bytes, login: bytes = b"") -> Load:
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)

        def serve() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.sendall(said[0])
                for each in said[1:]:
                    if peer.recv(1024):
                        peer.sendall(each)

        server = Thread(target=serve)
        server.start()
        self.addCleanup(server.join)
        load = Load(listening.getsockname()[1], login)
        self.addCleanup(load.close)
        load.start(getattr(load, script))
        load.run(lambda: load.count > 0, 5.0)
        return load

    def test_greeted(self) -> None:
        """Where the proxy logs in, PREAUTH is a session."""
        self.assertEqual(1, self.run_against("nooping", b"* PREAUTH hi\r\n", wire.SELECTED, wire.NOOP_ANSWER).count)

    def test_logging_in(self) -> None:
        """Elsewhere the client logs in; untagged lines before the answer are passed over."""
        said = (b"* OK hi\r\n", b"* CAPABILITY IMAP4rev1\r\nl OK in\r\n", wire.SELECTED, wire.NOOP_ANSWER)
        self.assertEqual(1, self.run_against("nooping", *said, login=wire.login("ada")).count)

    def refused(self, script: Callable[[], object], words: str) -> None:
        self.assertIn(words, str(self.assertRaises(LoadError, script)))

    def test_greeting_missing(self) -> None:
        """A refusal is no session."""
        self.refused(lambda: self.run_against("nooping", b"* BYE [UNAVAILABLE] no\r\n"), "PREAUTH")

    def test_login_refused(self) -> None:
        """A NO is no login."""
        said = (b"* OK hi\r\n", b"l NO no\r\n")
        self.refused(lambda: self.run_against("nooping", *said, login=wire.login("ada")), "l OK")

    def test_wrong_answer(self) -> None:
        """An answer to another command is noticed."""
        self.refused(
            lambda: self.run_against("nooping", b"* PREAUTH hi\r\n", wire.SELECTED, b"x BAD what\r\n"), "x BAD"
        )

    def test_ended(self) -> None:
        """A session that ends is no answer."""
        self.refused(lambda: self.run_against("downloading", b"* PREAUTH hi\r\n", wire.SELECTED, b"* 1 FET"), "ended")

    def test_download(self) -> None:
        """A literal is counted to its last octet."""
        load = self.run_against("fetching_once", b"* PREAUTH hi\r\n", wire.SELECTED, wire.fetched(2, wire.MIB))
        self.assertEqual(1, load.count)

    def test_too_much(self) -> None:
        """An octet too many is noticed."""
        waiting = literal(10)
        next(waiting)
        waiting.send(memoryview(b"123456"))
        self.refused(lambda: waiting.send(memoryview(b"78901")), "1 octets too many")

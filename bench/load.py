"""The load: many plain connections of one thread, each of which follows a script.

A script is a generator: it yields when it waits for bytes and is sent what came. It says to its
`Connection` what to send. Fetched bytes are counted, not looked at.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable, Generator
from time import perf_counter

from bench import wire

Script = Generator[None, memoryview, None]

READ = 256 * 1024
RESET = struct.pack("ii", 1, 0)
PATIENCE_SECONDS = 20.0


class LoadError(Exception):
    """A proxy did not do what every proxy must."""


class Connection:
    """A connection to a proxy: sends at once what the proxy takes, and the rest when it takes more."""

    __slots__ = ("_load", "_pending", "fd", "script", "sock", "started")

    script: Script

    def __init__(self, load: Load, port: int) -> None:
        self._load = load
        self._pending = memoryview(b"")
        self.sock = sock = socket.socket()
        self.fd = sock.fileno()
        self.started = perf_counter()
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes) -> None:
        """Send a command or a literal; one at a time."""
        try:
            sent = os.write(self.fd, data)
        except BlockingIOError:
            sent = 0
        self._load.sent += sent
        if sent < len(data):
            self._pending = memoryview(data)[sent:]
            self._load.epoll.modify(self.fd, select.EPOLLIN | select.EPOLLOUT)

    def flush(self) -> None:
        """The proxy takes more."""
        if self._pending:
            try:
                sent = os.write(self.fd, self._pending)
            except BlockingIOError:
                return
            self._load.sent += sent
            self._pending = self._pending[sent:]
        if not self._pending:
            self._load.epoll.modify(self.fd, select.EPOLLIN)

    def answer(self, end: bytes) -> Generator[None, memoryview, bytes]:
        """Wait for an answer whose last line begins with `end`; returns all of it."""
        answer = b""
        while not (answer.endswith(b"\r\n") and answer[:-2].rpartition(b"\n")[2].startswith(end)):
            answer += _some((yield))
        return answer


class Load:
    """Runs the scripts of all connections to one proxy, as fast as the proxy answers."""

    def __init__(self, port: int, login: bytes) -> None:
        """@param login: the command that a client logs in with; empty where the proxy greets a session already."""
        self._port, self._login = port, login
        self.epoll = select.epoll()
        self.connections: dict[int, Connection] = {}
        self.received = self.sent = self.count = 0
        self.latencies: list[float] = []
        self._buffer = bytearray(READ)

    def start(self, script: Callable[[Connection], Script]) -> None:
        """One more connection, which follows `script`."""
        connection = Connection(self, self._port)
        connection.script = script(connection)
        next(connection.script)
        self.connections[connection.fd] = connection
        self.epoll.register(connection.fd, select.EPOLLIN)

    def run(self, until: Callable[[], bool], seconds: float) -> None:
        """Carry on until `until()` holds, which is asked after each batch of events, or the time is up."""
        end = perf_counter() + seconds
        buffers, view = [self._buffer], memoryview(self._buffer)
        connections, poll = self.connections, self.epoll.poll
        quiet = 0
        while not until():
            if perf_counter() > end:
                return
            events = poll(1.0)
            quiet = 0 if events else quiet + 1
            if quiet > PATIENCE_SECONDS:
                raise LoadError(f"nothing came for {PATIENCE_SECONDS:g} s")
            for fd, event in events:
                connection = connections[fd]
                if event & select.EPOLLOUT:
                    connection.flush()
                if event & ~select.EPOLLOUT:
                    try:
                        size = os.readv(fd, buffers)
                    except BlockingIOError:
                        continue
                    except ConnectionResetError:
                        raise LoadError("the proxy reset a connection") from None
                    self.received += size
                    try:
                        connection.script.send(view[:size])
                    except StopIteration:
                        self.drop(connection)

    def drop(self, connection: Connection) -> None:
        """Forget a connection and close it."""
        del self.connections[connection.fd]
        connection.sock.close()

    def close(self) -> None:
        """Reset all connections, so that no proxy waits for what is unanswered."""
        for connection in self.connections.values():
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.sock.close()
        self.connections.clear()
        self.epoll.close()

    # scripts

    def logging_in(self, connection: Connection) -> Script:
        """Be logged in, by the proxy or by oneself; the first part of every script."""
        greeting = yield from connection.answer(b"* ")
        if self._login:
            _expect(greeting, b"* OK")
            connection.send(self._login)
            answer = yield from connection.answer(b"l ")
            _expect(answer[answer.rfind(b"\nl ") + 1 :], b"l OK")
        else:
            _expect(greeting, b"* PREAUTH")

    def opening(self, connection: Connection) -> Script:
        """Be logged in and select, so that a proxy that knows IMAP is past its own part of the dialogue."""
        yield from self.logging_in(connection)
        connection.send(wire.SELECT)
        _expect((yield from connection.answer(b"s ")), wire.SELECTED)

    def coming_and_going(self, connection: Connection) -> Script:
        """A whole session: log in, select, log out. Another begins when it ends."""
        yield from self.logging_in(connection)
        self.latencies.append(perf_counter() - connection.started)
        connection.send(wire.SELECT + wire.LOGOUT)
        answer = b""
        while data := bytes((yield)):
            answer += data
        _expect(answer, wire.SELECTED)
        self.count += 1
        self.start(self.coming_and_going)

    def idling(self, connection: Connection) -> Script:
        """A session that does nothing more once it is selected."""
        yield from self.opening(connection)
        self.count += 1
        yield
        raise LoadError("an idle session ended")

    def fetching_once(self, connection: Connection) -> Script:
        """A session that fetches one message of 1 MiB, then does nothing more."""
        yield from self.opening(connection)
        connection.send(wire.FETCH_SMALL)
        yield from literal(len(wire.fetched(2, wire.MIB)))
        self.count += 1
        yield
        raise LoadError("an idle session ended")

    def nooping(self, connection: Connection) -> Script:
        """Command upon command."""
        yield from self.opening(connection)
        answer = wire.NOOP_ANSWER
        while True:
            sent = perf_counter()
            connection.send(wire.NOOP)
            data = yield
            if data != answer:
                whole = bytes(_some(data))
                while len(whole) < len(answer):
                    whole += _some((yield))
                _expect(whole, answer)
            self.latencies.append(perf_counter() - sent)
            self.count += 1

    def downloading(self, connection: Connection) -> Script:
        """Message upon message."""
        yield from self.opening(connection)
        size = len(wire.fetched(1, wire.LITERAL))
        while True:
            connection.send(wire.DOWNLOAD)
            yield from literal(size)
            self.count += 1

    def uploading(self, connection: Connection) -> Script:
        """Literal upon literal."""
        yield from self.opening(connection)
        message = wire.message(wire.LITERAL) + b"\r\n"
        while True:
            connection.send(wire.UPLOAD)
            _expect((yield from connection.answer(b"+ ")), b"+ ")
            connection.send(message)
            _expect((yield from connection.answer(b"u ")), wire.UPLOADED)
            self.count += 1


def literal(octets: int) -> Script:
    """Wait for so many octets and throw them away."""
    while octets > 0:
        octets -= len(_some((yield)))
    if octets < 0:
        raise LoadError(f"{-octets} octets too many came")


def _some(data: memoryview) -> memoryview:
    if not data:
        raise LoadError("the proxy ended a session")
    return data


def _expect(answer: bytes, start: bytes) -> None:
    if not answer.startswith(start):
        raise LoadError(f"{start!r} was expected, not {answer[:80]!r}")

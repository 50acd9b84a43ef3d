"""A mail server that does next to nothing, fast: IMAPS on two ports, one of which lets TLS sessions be resumed.

It answers with fixed bytes, a few frames of Python a command, from as many processes as it is told
to. What it is sent it throws away.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import ssl
from contextlib import suppress
from typing import NoReturn

from bench import wire
from bench.processes import end_with

BACKLOG = 4096
ACCEPTS = 16
RECORD = 16 * 1024

_DONE = b" OK done\r\n"
_MESSAGES = {b"1": wire.fetched(1, wire.LITERAL), b"2": wire.fetched(2, wire.MIB)}
_ANSWERS = {wire.NOOP: wire.NOOP_ANSWER, wire.SELECT: wire.SELECTED}
_waste = bytearray(RECORD)


class _Session:
    """One connection: a handshake, then commands."""

    __slots__ = ("_appending", "_epoll", "_line", "_literal", "_pending", "_shaken", "_sock")

    def __init__(self, sock: ssl.SSLSocket, epoll: select.epoll) -> None:
        self._sock, self._epoll = sock, epoll
        self._shaken = False
        self._line = self._pending = self._appending = b""
        self._literal = 0

    def ready(self) -> bool:
        """Go as far as the socket allows; false once the connection is over."""
        try:
            if self._pending:
                self._flush()
                return True
            if self._shaken:
                return self._read()
            self._sock.do_handshake()
            self._shaken = True
            self._send(wire.GREETING)
        except ssl.SSLWantReadError:
            pass
        except (OSError, ValueError):
            self._sock.close()
            return False
        return True

    def _read(self) -> bool:
        if self._literal >= RECORD:
            received = self._sock.recv_into(_waste)
            self._literal -= received
            if not received:
                raise ConnectionResetError
            return True
        data = self._sock.read(RECORD)
        if not data:
            raise ConnectionResetError
        if data in _ANSWERS and not (self._literal or self._line):
            self._send(_ANSWERS[data])
            return True
        data = self._line + data
        while data:
            if self._literal:
                swallowed = min(self._literal, len(data))
                self._literal -= swallowed
                data = data[swallowed:]
                continue
            line, found, rest = data.partition(b"\r\n")
            if not found:
                break
            data = rest
            if not self._command(line):
                with suppress(ssl.SSLError):
                    self._sock.unwrap()
                self._sock.close()
                return False
        self._line = data
        return True

    def _command(self, line: bytes) -> bool:
        tag, _, words = line.partition(b" ")
        name, _, rest = words.partition(b" ")
        match name.upper():
            case b"":  # what ends an APPEND, after its literal
                self._send(self._appending + _DONE)
            case b"FETCH":
                self._send(_MESSAGES[rest[:1]])
            case b"APPEND":
                size = rest[rest.rindex(b"{") + 1 : -1]
                self._literal = int(size.removesuffix(b"+"))
                self._appending = tag
                if not size.endswith(b"+"):
                    self._send(b"+ go\r\n")
            case b"LOGIN" | b"AUTHENTICATE":
                self._send(tag + wire.LOGGED_IN)
            case b"CAPABILITY":
                self._send(wire.CAPABILITY + tag + _DONE)
            case b"LOGOUT":
                self._send(b"* BYE bye\r\n" + tag + _DONE)
                return False
            case _:
                self._send(tag + _DONE)
        return True

    def _send(self, data: bytes) -> None:
        if self._pending:
            self._pending += data
            return
        try:
            self._sock.write(data)
        except ssl.SSLWantWriteError:
            # OpenSSL remembers how far it came, and wants the same bytes again.
            self._pending = data
            self._epoll.modify(self._sock.fileno(), select.EPOLLOUT)

    def _flush(self) -> None:
        with suppress(ssl.SSLWantWriteError):
            self._sock.write(self._pending)
            self._pending = b""
            self._epoll.modify(self._sock.fileno(), select.EPOLLIN)


def _context(certificate: str, key: str, tickets: int) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.num_tickets = tickets
    return context


def _listen(port: int) -> socket.socket:
    listening = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
    listening.setblocking(False)
    return listening


def _serve(listeners: dict[socket.socket, ssl.SSLContext]) -> NoReturn:
    epoll = select.epoll()
    doors = {listening.fileno(): (listening, context) for listening, context in listeners.items()}
    for door in doors:
        epoll.register(door, select.EPOLLIN | select.EPOLLEXCLUSIVE)
    sessions: dict[int, _Session] = {}
    while True:
        for number, _events in epoll.poll():
            session = sessions.get(number)
            if session is not None:
                if not session.ready():
                    del sessions[number]
                continue
            if number not in doors:
                continue
            listening, context = doors[number]
            with suppress(OSError):  # nobody there any more; or gone before the connection was looked at
                for _ in range(ACCEPTS):
                    plain, _address = listening.accept()
                    with plain:  # closes what is not taken over
                        plain.setblocking(False)
                        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        sock = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
                    sessions[sock.fileno()] = _Session(sock, epoll)
                    epoll.register(sock.fileno(), select.EPOLLIN)


def main() -> None:
    """Listen on the two ports that are given, and serve until killed."""
    parser = argparse.ArgumentParser(prog="python -m bench.upstream", description=__doc__)
    parser.add_argument("--certificate", required=True, help="PEM file of the certificate")
    parser.add_argument("--key", required=True, help="PEM file of its key")
    parser.add_argument("--full", type=int, required=True, help="port without TLS resumption")
    parser.add_argument("--resumed", type=int, required=True, help="port with TLS resumption")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    listeners = {
        _listen(options.full): _context(options.certificate, options.key, 0),
        _listen(options.resumed): _context(options.certificate, options.key, 1),
    }
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    parent = os.getpid()
    for _ in range(options.processes - 1):
        if os.fork() == 0:
            end_with(parent)
            break
    _serve(listeners)


if __name__ == "__main__":
    main()

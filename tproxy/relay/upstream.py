"""The connection to the mail server until its bytes are relayed: runs the client half of a protocol."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IProtocolFactory
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tproxy.interfaces import IProtocolPlugin
from tproxy.lines import Dialogue
from tproxy.model import Credential, RefusedError, Route
from tproxy.net.transport import Transport
from tproxy.session import (
    Effect,
    Ended,
    Expired,
    HandOver,
    LoggedIn,
    Login,
    Machine,
    Refuse,
    Send,
    StartTLS,
    TLSEstablished,
)

Outcome = LoggedIn | HandOver


@implementer(IProtocolFactory)
@frozen
class Only:
    """A factory for one connection; unlike Twisted's, its protocol does not know it, which would be a cycle."""

    protocol: Protocol

    def doStart(self) -> None:
        """Nothing to prepare."""

    def doStop(self) -> None:
        """Nothing to clear away."""

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return self.protocol


def login_by(plugin: IProtocolPlugin, route: Route, credential: Credential, plaintext_hosts: frozenset[str]) -> Login:
    """What a client half needs for one login; `plaintext_hosts` may be sent credentials without TLS."""
    return Login(
        credential=credential,
        host=route.host,
        port=route.port,
        encrypted=plugin.encrypted,
        plaintext_allowed=route.host in plaintext_hosts,
        tag=secrets.token_hex(4),
        nonce=secrets.token_urlsafe(18),
    )


class ClientHalf(Protocol):
    """Carries out what a client half asks for.

    `outcome` fires with `LoggedIn` or `HandOver`, or fails with `RefusedError`; the connection is
    closed where it fails. What the mail server says after that goes to `heard`, and its end to `gone`.
    """

    transport: Transport

    def __init__(self, machine: Machine, start_tls: Callable[[Transport], Deferred[None]]) -> None:
        self.dialogue = Dialogue(machine)
        self.outcome: Deferred[Outcome] = Deferred()
        self.heard: Callable[[bytes], None] = self._converse
        self.gone: Callable[[], None] = self._ended
        self._start_tls = start_tls

    def dataReceived(self, data: bytes) -> None:
        self.heard(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone()

    def expire(self) -> None:
        """The time for the login is up."""
        self._run(self.dialogue.tell(Expired()))

    def abandon(self) -> None:
        """Nobody wants the connection any more."""
        self.ignore()
        self.transport.abortConnection()

    def leave(self) -> None:
        """The session is over: what the mail server does not take now it is not given any more."""
        self.ignore()
        if self.transport.undelivered:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    def ignore(self) -> None:
        """Nothing that the mail server says or does matters any more."""
        self.heard = lambda data: None
        self.gone = lambda: None

    def _ended(self) -> None:
        self._run(self.dialogue.tell(Ended()))

    def _converse(self, data: bytes) -> None:
        self._run(self.dialogue.receive(data))

    def _run(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(octets):
                    self.transport.write(octets)
                case StartTLS():
                    self.gone = lambda: None  # the handshake itself tells why it failed
                    self._start_tls(self.transport).addCallbacks(self._secured, self._not_secured)
                case LoggedIn() | HandOver():
                    self.outcome.callback(effect)
                case Refuse(refusal):
                    self._fail(Failure(RefusedError(refusal)))

    def _secured(self, _: None) -> None:
        self.gone = self._ended
        self._run(self.dialogue.tell(TLSEstablished()))

    def _not_secured(self, failure: Failure) -> None:
        if not failure.check(CancelledError):  # it was closed from here
            self._fail(failure)

    def _fail(self, failure: Failure) -> None:
        self.abandon()
        if not self.outcome.called:
            self.outcome.errback(failure)

"""One proxied session: from an accepted connection to a logged-in one, its dialogue, and its relay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tproxy.lines import Dialogue
from tproxy.model import Binding, GreetingMode, Offered, Reason, Refusal, RefusedError, Stage
from tproxy.net.transport import Transport
from tproxy.relay.pipe import DELIVERY_SECONDS, Pipe
from tproxy.relay.tally import Tally
from tproxy.relay.upstream import ClientHalf
from tproxy.relay.walk import Services, Walk
from tproxy.session import (
    LINE_LIMIT,
    Accepted,
    Close,
    CredentialOffered,
    Effect,
    Ended,
    Expired,
    Forward,
    Greeting,
    HandOver,
    LoggedIn,
    Refuse,
    Send,
    Upstream,
)

log = Logger()

GREETING_SECONDS = 30.0
"""The time from accept to greeting, for all that happens in between.

Where the application brings the credential it is the time to do so, at first and after a refusal, and that of a login.
"""

TLS_HANDSHAKE = 0x16
"""The first byte of a TLS record that begins a handshake; no command of a mail protocol begins so."""

_LEFT = "the application left before it was logged in"


@implementer(IHalfCloseableProtocol)
class _ServerHalf(Protocol):
    """The connection to the application until it is relayed."""

    transport: Transport

    def __init__(self, session: Session) -> None:
        self._session = session

    def connectionMade(self) -> None:
        self._session.begin()

    def dataReceived(self, data: bytes) -> None:
        self._session.heard(data)

    def readConnectionLost(self) -> None:
        self._session.half_closed()

    def writeConnectionLost(self) -> None:
        """Never called: our transports close for reading and writing at once."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._session.lost()


@implementer(IPushProducer)
class Session:
    """A connection of an application on its way through resolve, connect, login, dialogue and relay.

    Where there is a `refusal` the application is told that, and no more; `ended` is called when the connection is
    gone. An application that brings the credential is greeted first, and its login may be tried several times.
    """

    __slots__ = (
        "__weakref__",
        "_binding",
        "_client",
        "_deadline",
        "_ended",
        "_fields",
        "_fin",
        "_pipe",
        "_refusal",
        "_server",
        "_services",
        "_since",
        "_tally",
        "_walk",
        "_walking",
        "downstream",
    )

    def __init__(
        self,
        services: Services,
        binding: Binding,
        tally: Tally,
        ended: Callable[[Session], None],
        refusal: Refusal | None = None,
    ) -> None:
        self._services = services
        self._binding = binding
        self._tally = tally
        self._ended = ended
        self._refusal = refusal
        self._fields: dict[str, Any] = {
            "listener": str(binding.key),
            "destination": binding.request.name,
            "tenant": binding.key.tenant,
            "connection": services.tallies.number(),
        }
        self._since = services.clock.seconds()
        self._walk = Walk(services, binding.request, tally)
        plugin = services.plugins[binding.protocol]
        self._server = Dialogue(plugin.greet(Greeting(binding.key.service, binding.greeting)))
        self._walking: Deferred[None] | None = None
        self._deadline: IDelayedCall | None = None
        self._client: ClientHalf | None = None
        self._pipe: Pipe | None = None
        self._fin = False
        self.downstream = _ServerHalf(self)

    # before the login

    def begin(self) -> None:
        """What comes out is a greeting or a refusal."""
        self._tally.began(self)
        self.downstream.transport.notice_reset()  # the mail server's counts once all that it said is delivered
        self.downstream.transport.registerProducer(self, True)
        if self._refusal is not None:
            self.refuse(self._refusal)
        elif self._asks:
            self._limit()
            self._serve(self._server.tell(Accepted()))
        else:
            self._set_out()

    @property
    def _asks(self) -> bool:
        return self._binding.greeting is GreetingMode.LOGIN

    def _set_out(self, offered: Offered | None = None) -> None:
        self._limit()
        self._walking = Deferred.fromCoroutine(self._come_in(offered))
        self._walking.addErrback(self._failed)

    async def _come_in(self, offered: Offered | None) -> None:
        client, outcome = await self._walk.logged_in(offered)
        self._walking = None
        self._unlimit()
        seconds = self._seconds()
        self._tally.logged_in(seconds)
        log.info(
            "{listener} #{connection}: logged in after {seconds:.3f} s",
            event="session.started",
            seconds=seconds,
            **self._fields,
        )
        self._client = client
        client.heard, client.gone = self._upstream_heard, self._upstream_gone
        match outcome:
            case HandOver(octets):
                self.downstream.transport.write(octets)
                self._relay(client, b"")
            case LoggedIn():
                said = client.dialogue.rest()
                self._serve(self._server.tell(outcome) + self._server.receive_upstream(said))

    def _limit(self) -> None:
        self._unlimit()
        self._deadline = self._services.clock.callLater(GREETING_SECONDS, self._expired)

    def _unlimit(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def _expired(self) -> None:
        if self._walk.client is not None:
            self._walk.client.expire()
        elif self._walking is not None:
            self._stop_walking()
            self.refuse(
                Refusal(
                    self._walk.stage,
                    Reason.TIMED_OUT,
                    f"no session within {GREETING_SECONDS:g} s",
                    "see which stage takes so long with `tproxy check`",
                )
            )
        else:
            words = f"the application did not log in within {GREETING_SECONDS:g} s"
            remedy = "let it bring what the destination exchanges for a token"
            self._note_refusal(Refusal(Stage.LOGIN, Reason.TIMED_OUT, words, remedy))
            self._serve(self._server.tell(Expired()))

    def _failed(self, failure: Failure) -> None:
        self._walking = None
        match failure.value:
            case CancelledError():
                failure.cleanFailure()  # its traceback holds this session, and itself
            case RefusedError(refusal=refusal):
                failure.cleanFailure()
                self.refuse(refusal)
            case error:
                log.failure("{event}", failure, event="session.failed", **self._fields)
                words = f"internal error ({type(error).__name__})"
                self.refuse(Refusal(self._walk.stage, Reason.INTERNAL_ERROR, words))

    def refuse(self, refusal: Refusal) -> None:
        """Tell the application, in the protocol's words, that there is no session."""
        self._note_refusal(refusal)
        if self._asks:
            self._limit()
        self._serve(self._server.tell(Refuse(refusal)))

    def _note_refusal(self, refusal: Refusal) -> None:
        self._tally.refused(refusal)
        self._services.refusals.note(self._binding, refusal, self._services.clock.seconds())
        log.warn(
            "{listener} #{connection}: refused at {stage}: {message}",
            event="session.refused",
            stage=refusal.stage,
            reason=refusal.reason,
            message=refusal.message,
            remedy=refusal.remedy,
            seconds=self._seconds(),
            **self._fields,
        )

    def _stop_walking(self) -> None:
        self._unlimit()
        walking, self._walking = self._walking, None
        if walking is not None:
            walking.cancel()

    # the application's side

    @property
    def carried(self) -> tuple[int, int]:
        """The bytes received from the application so far, and those sent to it."""
        return self.downstream.transport.received, self.downstream.transport.sent

    def heard(self, data: bytes) -> None:
        if self.downstream.transport.received == len(data) and data[0] == TLS_HANDSHAKE:
            self._give_up("the application began TLS, but this port is plain: turn TLS off in the application")
            return
        self._serve(self._server.receive(data))

    def half_closed(self) -> None:
        waits = self._walking is not None and self.downstream.transport.received > 0
        if self._deadline is not None and not waits:
            self._give_up(_LEFT)
            return
        self._fin = True
        self._serve(self._server.tell(Ended()))

    def lost(self) -> None:
        """The connection to the application is gone."""
        if self._deadline is not None and not self.downstream.transport.disconnecting:
            self._note("session.abandoned", _LEFT)
        self._over()

    def _give_up(self, words: str) -> None:
        self._note("session.abandoned", words)
        self._stop_walking()
        self.downstream.transport.loseConnection()

    def _note(self, event: str, words: str) -> None:
        log.info("{listener} #{connection}: {message}", event=event, message=words, **self._fields)

    # the mail server's side, during the dialogue

    def _upstream_heard(self, data: bytes) -> None:
        self._serve(self._server.receive_upstream(data))

    def _upstream_gone(self) -> None:
        self._serve(self._server.tell(Upstream(Ended())))

    # both

    def _serve(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(octets):
                    self.downstream.transport.write(octets)
                case Forward(octets):
                    self._upstream.transport.write(octets)
                case CredentialOffered(offered):
                    self._attend()
                    self._set_out(offered)
                    return
                case HandOver(octets):
                    self._relay(self._upstream, octets)
                    return
                case Close():
                    self._close()
                    return
        self._attend()

    def _attend(self) -> None:
        """Listen to the application, unless it said enough or does not take what it is told."""
        if self._server.held < LINE_LIMIT and not self.downstream.transport.undelivered:
            self.downstream.transport.resumeProducing()
        else:
            self.downstream.transport.pauseProducing()

    def pauseProducing(self) -> None:
        """The application does not take what it is told: nobody is listened to meanwhile."""
        self.downstream.transport.pauseProducing()
        if self._client is not None:
            self._client.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """It has taken all of it."""
        if self._client is not None:
            self._client.transport.resumeProducing()
        self._serve([])

    def stopProducing(self) -> None:
        """Never called: the session ends with its connections."""

    @property
    def _upstream(self) -> ClientHalf:
        assert self._client is not None  # noqa: S101
        return self._client

    def _relay(self, client: ClientHalf, octets: bytes) -> None:
        downstream, upstream = self.downstream.transport, client.transport
        downstream.write(self._server.rest_upstream() + client.dialogue.rest())
        upstream.write(octets + self._server.rest())
        client.ignore()
        self._client = None
        self._pipe = Pipe(self._services.clock, downstream, upstream, self._over)
        del self._server  # sessions idle for hours, and the dialogue is over
        if self._fin:
            self._pipe.half_closed()

    def _close(self) -> None:
        self._unlimit()
        if self._client is not None:
            self._client.leave()
        downstream = self.downstream.transport
        downstream.loseConnection()
        if downstream.undelivered:
            self._deadline = self._services.clock.callLater(DELIVERY_SECONDS, downstream.abortConnection)

    def revoke(self, reason: str) -> None:
        """End the session from here; `reason` is for the log."""
        self._note("session.revoked", reason)
        if self._pipe is not None:
            self._pipe.end()
        elif not self.downstream.transport.disconnecting:
            self._stop_walking()
            self._serve(self._server.tell(Refuse(Refusal(Stage.ACCEPT, Reason.REVOKED, reason))))

    def _over(self) -> None:
        greeted = self._client is not None or self._pipe is not None
        self._stop_walking()
        client, self._client = self._client, None
        if client is not None:
            client.leave()
        self._tally.ended(self)
        if greeted:
            received, sent = self.carried
            log.info(
                "{listener} #{connection}: ended after {seconds:.3f} s, {received} bytes received, {sent} sent",
                event="session.ended",
                seconds=self._seconds(),
                received=received,
                sent=sent,
                **self._fields,
            )
        self._ended(self)
        # the halves know each other: whoever is gone is let go, so that memory is free at once
        self._pipe = None
        del self.downstream

    def _seconds(self) -> float:
        return self._services.clock.seconds() - self._since

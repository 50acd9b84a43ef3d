"""The sessions of one listener: how they come to be, how many there may be, and how all of them end."""

from __future__ import annotations

from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IProtocolFactory
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tproxy.model import Binding, Code, Reason, Refusal, Stage
from tproxy.net.transport import Transport
from tproxy.relay.room import FAREWELLS
from tproxy.relay.session import Session
from tproxy.relay.tally import Tally
from tproxy.relay.walk import Services

log = Logger()

PATIENCE_SECONDS = 2.0
"""How long a connection waits until somebody has claimed the port."""


class _Waiting(Protocol):
    """A connection to a port that nobody has claimed yet; it is not read meanwhile."""

    transport: Transport

    def __init__(self, factory: SessionFactory) -> None:
        self._factory = factory
        self._deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self.transport.pauseProducing()
        self._deadline = self._factory.clock.callLater(PATIENCE_SECONDS, self._factory.refuse, self)

    def begin(self, session: IProtocol | None) -> None:
        """Go on as a session, if there is one."""
        if session is None:
            self.end()
        else:
            self._forget()
            self.transport.begin(session)

    def end(self) -> None:
        """Nobody will serve it."""
        self._forget()
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._forget()
        self._factory.left(self)

    def _forget(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()


@implementer(IProtocolFactory)
class SessionFactory:
    """Makes the sessions of one listener, all of one destination and tenant.

    A changed `binding` concerns the sessions to come. While it is that of a spare, connections wait. `used` is when
    the last one came, by the clock's seconds.
    """

    def __init__(self, binding: Binding, services: Services) -> None:
        self._binding = binding
        self.sessions: set[Session] = set()
        self.waiting: set[_Waiting] = set()
        self._services = services
        self._tally = self._tally_of(binding)
        self.clock = services.clock
        self.used = 0.0

    @property
    def binding(self) -> Binding:
        """What sessions to come are bound to."""
        return self._binding

    @binding.setter
    def binding(self, binding: Binding) -> None:
        self._binding = binding
        self._tally = self._tally_of(binding)
        if binding.claimed:
            for each in list(self.waiting):
                self.left(each)
                each.begin(self._session())

    def _tally_of(self, binding: Binding) -> Tally:
        """In which its connections are counted: a spare is no listener yet that would be counted on its own."""
        tallies = self._services.tallies
        return tallies.of(binding.key) if binding.claimed else tallies.others

    def doStart(self) -> None:
        """Nothing is prepared."""

    def doStop(self) -> None:
        """The sessions outlive the port."""

    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None:
        self.used = self.clock.seconds()
        room, limit = self._services.room, self._services.connections_per_listener
        if self._binding.claimed or len(self.waiting) >= limit or room.refusal() is not None:
            return self._session()
        waiting = _Waiting(self)
        self.waiting.add(waiting)
        room.opened += 1
        return waiting

    def left(self, waiting: _Waiting) -> None:
        """A connection waits no more."""
        if waiting in self.waiting:
            self.waiting.remove(waiting)
            self._services.room.opened -= 1

    def refuse(self, waiting: _Waiting) -> None:
        """Tell who waited for too long that the port is nobody's."""
        self.left(waiting)
        waiting.begin(self._refused(_NOBODY))

    def _session(self) -> IProtocol | None:
        limit = self._services.connections_per_listener
        full = max(len(self.sessions), len(self.waiting)) >= limit
        refusal = _full(limit) if full else self._services.room.refusal()
        if refusal is not None:
            return self._refused(refusal)
        session = Session(self._services, self._binding, self._tally, self._ended)
        self.sessions.add(session)
        self._services.room.opened += 1
        return session.downstream

    def _refused(self, refusal: Refusal) -> IProtocol | None:
        if self._services.room.farewells >= FAREWELLS:
            self._tally.refused(refusal)
            return None
        session = Session(self._services, self._binding, self._tally, self._told, refusal)
        self._services.room.farewells += 1
        return session.downstream

    def _told(self, session: Session) -> None:
        self._services.room.farewells -= 1

    def _ended(self, session: Session) -> None:
        self.sessions.discard(session)
        self._services.room.opened -= 1

    def revoke(self, reason: str) -> None:
        """End all sessions now; `reason` is for the log."""
        for session in list(self.sessions):
            try:
                session.revoke(reason)
            except Exception:  # a protocol's: its sessions end nevertheless, and all others
                log.failure("{event}", event="session.failed")
                session.downstream.transport.abortConnection()
        for waiting in list(self.waiting):
            waiting.end()


_NOBODY = Refusal(
    Stage.ACCEPT,
    Reason.REVOKED,
    "no resource has claimed the port",
    "connect by the name of a Destination resource",
)


def _full(limit: int) -> Refusal:
    return Refusal(
        Stage.ACCEPT,
        Reason.LIMIT_REACHED,
        f"{limit} connections are open already",
        "close idle connections, or raise config.limits.connectionsPerListener",
        Code.LIMIT,
    )

"""The sessions of one listener: how they come to be, how many there may be, and how all of them end."""

from __future__ import annotations

from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory
from zope.interface import implementer

from tproxy.model import Binding, Code, Reason, Refusal, Stage
from tproxy.relay.session import Session
from tproxy.relay.walk import Services


@implementer(IProtocolFactory)
class SessionFactory:
    """Makes the sessions of one listener, all of one destination and tenant.

    A changed `binding` concerns the sessions to come.
    """

    def __init__(self, binding: Binding, services: Services) -> None:
        self.binding = binding
        self.sessions: set[Session] = set()
        self._services = services
        self._tally = services.tallies.of(binding.key)

    def doStart(self) -> None:
        """Nothing is prepared."""

    def doStop(self) -> None:
        """The sessions outlive the port."""

    def buildProtocol(self, addr: IAddress | None) -> IProtocol:
        limit = self._services.connections_per_listener
        if len(self.sessions) >= limit:
            return Session(self._services, self.binding, self._tally, _ignore, _full(limit)).downstream
        session = Session(self._services, self.binding, self._tally, self.sessions.discard)
        self.sessions.add(session)
        return session.downstream

    def revoke(self, reason: str) -> None:
        """End all sessions now; `reason` is for the log."""
        for session in list(self.sessions):
            session.revoke(reason)


def _ignore(session: Session) -> None:
    """It was never counted."""


def _full(limit: int) -> Refusal:
    return Refusal(
        Stage.ACCEPT,
        Reason.LIMIT_REACHED,
        f"{limit} connections are open already",
        "close idle connections, or raise config.limits.connectionsPerListener",
        Code.LIMIT,
    )

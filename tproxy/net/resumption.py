"""TLS sessions that may be resumed, which spares the mail server and us most of a handshake."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from datetime import datetime
from weakref import WeakSet

from attrs import frozen
from OpenSSL import SSL
from twisted.internet.interfaces import IReactorTime

LIFE_SECONDS = 3600.0
"""How long after a full handshake a session may be resumed: no chain is verified in between."""

REMEMBERED = 4096


@frozen
class _Kept:
    session: SSL.Session
    context: SSL.Context
    until: float


class Resumption:
    """Keeps the latest session per key; a key is never shared among destinations or tenants.

    A session ends an hour after the full handshake that it descends from, and never later than a
    certificate of the chain that was verified then. It is of use only with the context that it was
    made in: where trust changed there is another one.

    @param clock: for the age of sessions
    @param now: the time of day, in UTC, for the end of a chain
    """

    def __init__(self, clock: IReactorTime, now: Callable[[], datetime]) -> None:
        self._clock = clock
        self._now = now
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._forgotten: WeakSet[SSL.Context] = WeakSet()

    def session(self, key: Hashable, context: SSL.Context) -> SSL.Session | None:
        """What may be resumed now."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.context is not context or self._clock.seconds() >= kept.until:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return kept.session

    def keep(self, key: Hashable, connection: SSL.Connection, chain_end: datetime | None) -> None:
        """Keep the session of a connection whose login was accepted.

        `chain_end` is when the first certificate of the verified chain ends; None where none was
        verified, since the connection resumed a session: then that one's end holds, unless trust changed meanwhile.
        """
        session, context = connection.get_session(), connection.get_context()
        if session is None or context in self._forgotten:
            return
        if chain_end is not None:
            left = (chain_end - self._now()).total_seconds()
            until = self._clock.seconds() + min(left, LIFE_SECONDS)
            self._kept[key] = _Kept(session, context, until)
            self._kept.move_to_end(key)
            if len(self._kept) > REMEMBERED:
                self._kept.popitem(last=False)
        elif (kept := self._kept.get(key)) is not None and kept.context is context:
            self._kept[key] = _Kept(session, context, kept.until)

    def forget_context(self, context: SSL.Context) -> None:
        """There are no more connections in this context: what is kept of them would keep it, which is large."""
        self._forgotten.add(context)
        for key in [key for key, kept in self._kept.items() if kept.context is context]:
            del self._kept[key]

    def forget(self, key: Hashable) -> None:
        """The next connection verifies the chain again."""
        self._kept.pop(key, None)

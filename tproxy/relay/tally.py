"""What is counted of sessions: plain numbers, added to when something happens, read when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from typing import Protocol
from weakref import WeakValueDictionary

from tproxy.model import ListenerKey, Reason, Refusal, Stage

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of how long a login may take, in seconds; what takes longer is counted behind the last."""

OWN_TALLIES = 1_000
"""So many listeners are counted each on its own."""


class Carrying(Protocol):
    """A session that is not over."""

    @property
    def carried(self) -> tuple[int, int]:
        """The bytes received from the application so far, and those sent to it."""


class Tally:
    """The sessions of a listener, in numbers.

    `accepted` are its connections so far, `live` those that are open. `logins` are counted by the index
    of their bucket, `seconds` is their sum. `resolved` says how often a destination and its credential
    were fetched for a session, and how often they were there already.
    """

    __slots__ = (
        "__weakref__",
        "_received",
        "_sent",
        "accepted",
        "live",
        "logins",
        "refusals",
        "resolved",
        "seconds",
    )

    def __init__(self) -> None:
        self.accepted = 0
        self.live: set[Carrying] = set()
        self.logins = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.refusals: dict[tuple[Stage, Reason], int] = {}
        self.resolved = [0, 0]
        self._received = self._sent = 0

    def began(self, session: Carrying) -> None:
        """An application has connected."""
        self.accepted += 1
        self.live.add(session)

    def logged_in(self, seconds: float) -> None:
        """It has a session, so long after it connected."""
        self.logins[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds

    def refused(self, refusal: Refusal) -> None:
        """It was told "no"."""
        why = refusal.stage, refusal.reason
        self.refusals[why] = self.refusals.get(why, 0) + 1

    def ended(self, session: Carrying) -> None:
        """It is gone."""
        self.live.discard(session)
        received, sent = session.carried
        self._received += received
        self._sent += sent

    @property
    def carried(self) -> tuple[int, int]:
        """The bytes received from applications and those sent to them, also in sessions that are not over."""
        received, sent = self._received, self._sent
        for session in self.live:
            more_received, more_sent = session.carried
            received += more_received
            sent += more_sent
        return received, sent


class Tallies:
    """The tallies of all listeners, and how many `connections` there were in all.

    A tally lives as long as its listener or one of its sessions. Listeners that come when there are `most`
    already are counted together, as `others`, to their end.
    """

    def __init__(self, most: int = OWN_TALLIES) -> None:
        self.connections = 0
        self.others = Tally()
        self._most = most
        self._own: WeakValueDictionary[ListenerKey, Tally] = WeakValueDictionary()

    def number(self) -> int:
        """The number of one more connection."""
        self.connections += 1
        return self.connections

    def of(self, key: ListenerKey) -> Tally:
        """The tally in which a listener is counted that is about to open."""
        own = self._own.get(key)
        if own is None:
            if len(self._own) >= self._most:
                return self.others
            own = self._own[key] = Tally()
        return own

    def own(self, key: ListenerKey) -> Tally | None:
        """A listener's own tally, if it has one."""
        return self._own.get(key)

    @property
    def open(self) -> int:
        """How many connections are open now."""
        return sum(len(tally.live) for tally in (*self._own.values(), self.others))

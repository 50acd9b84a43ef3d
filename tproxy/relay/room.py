"""How much this process takes on: before it would run out of something, it says so and refuses."""

from __future__ import annotations

from collections.abc import Callable

from tproxy.model import Code, Reason, Refusal, Stage

NEARLY = 0.95
"""From this part of a limit on, new connections had better go to another replica."""

LOOK_EACH = 50
"""After so many more connections it is looked again how much memory is used, however soon they came."""

FAREWELLS = 100
"""So many connections at once are told that there is no room: who does not close takes a descriptor for two seconds."""


class Room:
    """The room for connections, and for what they keep in memory.

    `opened` is how many connections there are, those included that wait for somebody to claim their port: who opens one
    counts it, and who ends it. `farewells` is how many there are beside them that are just told that there is no room.

    @param connections: as many as there may be at once
    @param memory: as many bytes as the process may have; None where nothing bounds it
    @param used: how many it has; None where the system does not tell
    """

    def __init__(
        self,
        connections: int,
        memory: int | None = None,
        used: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.connections, self._memory, self._used = connections, memory, used
        self.opened = self.farewells = self._seen = 0
        self._share = 0.0

    def look(self) -> None:
        """Look how much memory is used: it is not asked for with each connection."""
        used = self._used()
        if used is not None and self._memory:
            self._share = used / self._memory
        self._seen = self.opened

    @property
    def scarce(self) -> bool:
        """Whether new connections had better go elsewhere."""
        return self._share >= NEARLY or self.opened >= NEARLY * self.connections

    def refusal(self) -> Refusal | None:
        """Why there is none for another connection."""
        if self.opened >= self.connections:
            remedy = "add replicas, or raise config.limits.connections and the limit of open files"
            return _full(f"this replica has {self.connections} connections, as many as it can", remedy)
        if self.opened >= self._seen + LOOK_EACH:
            self.look()
        if self._share >= 1.0:
            remedy = "add replicas, or raise the memory limit and config.limits.memory"
            return _full("this replica has no memory for another connection", remedy)
        return None


def _full(message: str, remedy: str) -> Refusal:
    return Refusal(Stage.ACCEPT, Reason.LIMIT_REACHED, message, remedy, Code.LIMIT)

"""The last refusals, for somebody who looks; all there were are in the log, and counted."""

from __future__ import annotations

from attrs import frozen

from tproxy.model import Binding, ListenerKey, Reason, Refusal, Stage

MOST = 100
"""So many are kept."""


@frozen
class Refused:
    """What one listener's applications were told for one reason: the last refusal, and how many came before it.

    `at` is in seconds of the clock that sessions have.
    """

    binding: Binding
    refusal: Refusal
    at: float
    times: int = 1


class Refusals:
    """The last refusals, one for each listener, stage and reason: no single listener pushes all others out.

    Beyond `most` the one is forgotten that happened longest ago.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._last: dict[tuple[ListenerKey, Stage, Reason], Refused] = {}

    def note(self, binding: Binding, refusal: Refusal, at: float) -> None:
        """An application was told "no"."""
        what = binding.key, refusal.stage, refusal.reason
        before = self._last.pop(what, None)
        self._last[what] = Refused(binding, refusal, at, before.times + 1 if before else 1)
        if len(self._last) > self._most:
            del self._last[next(iter(self._last))]

    @property
    def latest(self) -> tuple[Refused, ...]:
        """Newest first."""
        return tuple(reversed(self._last.values()))

"""Paces logins, so that a wrong password is not tried for each new connection and no account gets locked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from tproxy.model import Reason, Refusal, RefusedError

FIRST_REST_SECONDS = 10.0
LONGEST_REST_SECONDS = 900.0
PACE_SECONDS = 1.0
REMEMBERED = 10_000


@frozen(eq=False)
class _Untried:
    """Whoever comes next finds out."""

    failures: int = 0


@frozen(eq=False)
class _Trying:
    """Somebody finds out; the others wait."""

    failures: int
    waiting: list[Deferred[None]] = field(factory=list)


@frozen(eq=False)
class _Proven:
    """The credential worked the last time: everybody may log in at once."""


@frozen(eq=False)
class _Resting:
    """It failed: until `until` everybody gets the same answer without a login."""

    until: float
    refusal: Refusal
    failures: int


_State = _Untried | _Trying | _Proven | _Resting


class Attempts:
    """Who may log in now, per key: a destination, a tenant and the configured credential.

    The first login with a credential goes alone, and whoever comes meanwhile gets its outcome. A
    refused credential rests for 10 s, doubled with each further refusal up to 15 min; a login that
    failed for another reason only paces the next by a second.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._states: OrderedDict[Hashable, _State] = OrderedDict()

    async def turn(self, key: Hashable) -> Attempt:
        """Wait for the permission to log in, which is answered with one of the methods of `Attempt`.

        Raises `RefusedError` with the refusal of an earlier login that still holds.
        """
        while True:
            match self._states.get(key, _Untried()):
                case _Proven() as state:
                    self._states.move_to_end(key)
                    return Attempt(self, key, state, 0)
                case _Trying(_, waiting):
                    turn: Deferred[None] = Deferred(waiting.remove)
                    waiting.append(turn)
                    await turn
                case _Resting(until, refusal, _) if self._clock.seconds() < until:
                    raise RefusedError(refusal)
                case _Untried(failures) | _Resting(_, _, failures):
                    trying = _Trying(failures)
                    self._set(key, trying)
                    return Attempt(self, key, trying, failures)

    def _set(self, key: Hashable, state: _State) -> None:
        changed = [self._states.pop(key, None)]
        self._states[key] = state
        if len(self._states) > REMEMBERED:
            changed.append(self._states.popitem(last=False)[1])
        for before in changed:
            if isinstance(before, _Trying):
                while before.waiting:
                    before.waiting.pop(0).callback(None)


@frozen
class Attempt:
    """One login that may happen now."""

    _attempts: Attempts
    _key: Hashable
    _state: _State
    _failures: int

    def accepted(self) -> None:
        """The credential is good."""
        if not isinstance(self._attempts._states.get(self._key), _Proven):
            self._attempts._set(self._key, _Proven())

    def refused(self, refusal: Refusal) -> None:
        """The login failed; `refusal` says whether the credential was the reason."""
        now = self._attempts._clock.seconds()
        if refusal.reason is Reason.LOGIN_REFUSED:
            rest = min(FIRST_REST_SECONDS * 2.0**self._failures, LONGEST_REST_SECONDS)
            self._attempts._set(self._key, _Resting(now + rest, refusal, self._failures + 1))
        elif self._stands:
            self._attempts._set(self._key, _Resting(now + PACE_SECONDS, refusal, self._failures))

    def abandoned(self) -> None:
        """The application left before the outcome: the next one may try."""
        if isinstance(self._state, _Trying) and self._stands:
            self._attempts._set(self._key, _Untried(self._failures))

    @property
    def _stands(self) -> bool:
        """Whether nothing else is known meanwhile."""
        return self._attempts._states.get(self._key, self._state) is self._state

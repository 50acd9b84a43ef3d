"""What the API server holds of some objects, as far as we were told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from tproxy.cluster.api.objects import Change, Gone, Key, Listing, Object, Put, key, uid, version

REMEMBERED = 1000
"""So many objects that are gone are remembered: an answer that was given before brings none of them back."""


class Store:
    """Objects by namespace and name. Only a whole list, or a change that was told, alters it.

    `filled` says whether there ever was a list: before that, an empty store means that nothing is known.
    `objects` is a view that changes with the store.

    @param changed: is told, after each alteration, which objects came, changed or went; with no keys
        where the first list is empty
    """

    def __init__(self, changed: Callable[[frozenset[Key]], None]) -> None:
        self._changed = changed
        self._objects: dict[Key, Object] = {}
        self._gone: dict[Key, int] = {}
        self.filled = False

    @property
    def objects(self) -> Mapping[Key, Object]:
        """All objects by their keys."""
        return MappingProxyType(self._objects)

    @property
    def now(self) -> dict[Key, Object]:
        """The same, as it is now."""
        return self._objects.copy()

    def fill(self, listing: Listing, known: Mapping[Key, Object] | None = None) -> None:
        """Take a whole list: what is not in it is gone.

        @param known: what was known when the list was asked for; what was learnt since stays where it is newer
        """
        before = dict(self._objects)
        learnt = {
            each: put
            for each, put in before.items()
            if known is not None and known.get(each) is not put and _number(version(put)) > _number(listing.version)
        }
        self._gone.clear()
        self._objects.clear()
        self._objects.update((key(thing), thing) for thing in listing.objects)
        self._objects |= learnt
        first, self.filled = not self.filled, True
        changed = frozenset(
            each for each in before.keys() | self._objects if _state(before, each) != _state(self._objects, each)
        )
        if changed or first:
            self._changed(changed)

    def apply(self, change: Change) -> None:
        """Take one change; a `Mark` is none, and neither is what was overtaken by something newer."""
        match change:
            case Put(thing) | Gone(thing) if self._overtaken(thing):
                pass
            case Put(thing):
                before = _state(self._objects, key(thing))
                self._objects[key(thing)] = thing
                if before != (uid(thing), version(thing)):
                    self._changed(frozenset({key(thing)}))
            case Gone(thing):
                self._remember(thing)
                if self._objects.pop(key(thing), None) is not None:
                    self._changed(frozenset({key(thing)}))

    def _remember(self, thing: Object) -> None:
        self._gone.pop(key(thing), None)
        self._gone[key(thing)] = _number(version(thing))
        if len(self._gone) > REMEMBERED:
            del self._gone[next(iter(self._gone))]

    def _overtaken(self, thing: Object) -> bool:
        """Whether something newer is known: an answer to us may come before what a watch tells, or after it."""
        there = self._objects.get(key(thing))
        known, gone = -1 if there is None else _number(version(there)), self._gone.get(key(thing), -1)
        return 0 <= _number(version(thing)) < max(known, gone + 1)


def _number(text: str) -> int:
    """A version as a number, -1 where it is none."""
    return int(text) if text.isascii() and text.isdigit() else -1


def _state(objects: Mapping[Key, Object], each: Key) -> tuple[str, str] | None:
    thing = objects.get(each)
    return None if thing is None else (uid(thing), version(thing))

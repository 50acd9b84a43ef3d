"""What the API server holds of some objects, as far as we were told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from tproxy.cluster.api.objects import Change, Gone, Key, Listing, Object, Put, key, uid, version


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
        self.filled = False

    @property
    def objects(self) -> Mapping[Key, Object]:
        """All objects by their keys."""
        return MappingProxyType(self._objects)

    @property
    def now(self) -> dict[Key, Object]:
        """The same, as it is now."""
        return self._objects.copy()

    def fill(self, listing: Listing) -> None:
        """Take a whole list: what is not in it is gone."""
        before = dict(self._objects)
        self._objects.clear()
        self._objects.update((key(thing), thing) for thing in listing.objects)
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
                if self._objects.pop(key(thing), None) is not None:
                    self._changed(frozenset({key(thing)}))

    def _overtaken(self, thing: Object) -> bool:
        """Whether a newer version is known: the answer to a write of ours may come before what a watch tells."""
        there = self._objects.get(key(thing))
        versions = [] if there is None else [version(there), version(thing)]
        return all(each.isascii() and each.isdigit() for each in versions) and [*map(int, versions)] != sorted(
            map(int, versions)
        )


def _state(objects: Mapping[Key, Object], each: Key) -> tuple[str, str] | None:
    thing = objects.get(each)
    return None if thing is None else (uid(thing), version(thing))

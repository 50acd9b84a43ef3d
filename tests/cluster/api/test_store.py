"""What is known of the API server's objects."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.apiserver.server import CONFIG_MAPS
from tests.apiserver.storage import Selection, Served, Status, Storage, told
from tproxy.cluster.api.objects import Gone, Key, Listing, Mark, Object, Put, key
from tproxy.cluster.api.store import REMEMBERED, Store

KIND = Served(CONFIG_MAPS)


def thing(name: str, version: str = "1", uid: str = "u", namespace: str = "shop") -> Object:
    return {"metadata": {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": version}}


class StoreTests(SynchronousTestCase):
    """One store, by hand."""

    def setUp(self) -> None:
        self.told: list[set[str]] = []
        self.store = Store(lambda keys: self.told.append({name for _, name in keys}))

    def test_fill(self) -> None:
        """Before the first list nothing is known; then what differs is told: version, identity, presence."""
        self.assertFalse(self.store.filled)
        view = self.store.objects
        self.store.fill(Listing((thing("a"), thing("b"), thing("c"), thing("d")), "9"))
        self.assertTrue(self.store.filled)
        again = (thing("a"), thing("b", version="2"), thing("c", uid="v"), thing("e"))
        self.store.fill(Listing(again, "10"))
        self.store.fill(Listing(again, "11"))
        self.assertEqual(self.told, [{"a", "b", "c", "d"}, {"b", "c", "d", "e"}])
        self.assertEqual(dict(view), {key(each): each for each in again})

    def test_empty(self) -> None:
        """That there is nothing is news once."""
        self.store.fill(Listing((), "9"))
        self.store.fill(Listing((), "10"))
        self.assertEqual(self.told, [set()])

    def test_overtaken(self) -> None:
        """What is older than what is known changes nothing; where versions are no numbers, what comes last counts."""
        self.store.fill(Listing((), "9"))
        self.store.apply(Put(thing("a", version="12", uid="v")))
        for change in (Put(thing("a", version="9", uid="u")), Gone(thing("a", version="11", uid="u"))):
            self.store.apply(change)
            self.assertEqual(dict(self.store.objects), {("shop", "a"): thing("a", version="12", uid="v")})
        self.store.apply(Gone(thing("a", version="12", uid="v")))
        self.assertEqual(dict(self.store.objects), {})
        for version in ("z", "b"):
            self.store.apply(Put(thing("b", version=version)))
        self.assertEqual(dict(self.store.objects), {("shop", "b"): thing("b", version="b")})

    def test_gone(self) -> None:
        """What is gone does not come back with an older answer; another of its name does, and any after a list."""
        self.store.apply(Put(thing("a", version="9")))
        self.store.apply(Gone(thing("a", version="12")))
        self.store.apply(Put(thing("a", version="11")))
        self.assertEqual(dict(self.store.objects), {})
        self.store.apply(Put(thing("a", version="13", uid="v")))
        self.assertEqual(dict(self.store.objects), {("shop", "a"): thing("a", version="13", uid="v")})
        self.store.apply(Gone(thing("a", version="14", uid="v")))
        self.store.fill(Listing((), "5"))
        self.store.apply(Put(thing("a", version="6", uid="w")))
        self.assertEqual(dict(self.store.objects), {("shop", "a"): thing("a", version="6", uid="w")})

    def test_gone_bounded(self) -> None:
        """Only so many are remembered that are gone."""
        for number in range(REMEMBERED + 1):
            self.store.apply(Put(thing(f"a{number}", version="9")))
            self.store.apply(Gone(thing(f"a{number}", version="12")))
        self.store.apply(Put(thing("a1", version="11")))
        self.assertEqual(dict(self.store.objects), {})
        self.store.apply(Put(thing("a0", version="11")))
        self.assertEqual(dict(self.store.objects), {("shop", "a0"): thing("a0", version="11")})

    def test_learnt(self) -> None:
        """A list does not take back what was learnt while it was read and is newer than it."""
        self.store.fill(Listing((thing("a", version="2"), thing("b", version="2"), thing("c", version="3")), "4"))
        known = self.store.now
        self.store.apply(Put(thing("a", version="7")))
        self.store.apply(Put(thing("d", version="8")))
        self.store.apply(Put(thing("e", version="5")))
        self.store.fill(Listing((thing("a", version="2"), thing("b", version="2")), "6"), known)
        learnt = (thing("a", version="7"), thing("b", version="2"), thing("d", version="8"))
        self.assertEqual(dict(self.store.objects), {key(each): each for each in learnt})
        self.store.fill(Listing((), "5"), self.store.now)
        self.assertEqual(dict(self.store.objects), {})

    def test_apply(self) -> None:
        """Changes are told; what is as it was, and what was not there, is not."""
        for change in (
            Put(thing("a")),
            Put(thing("a")),
            Put(thing("a", version="2")),
            Gone(thing("b")),
            Mark("7"),
            Gone(thing("a", version="3")),
        ):
            self.store.apply(change)
        self.assertEqual(self.told, [{"a"}, {"a"}, {"a"}])
        self.assertEqual(dict(self.store.objects), {})
        self.assertFalse(self.store.filled)

    def test_namespaces(self) -> None:
        """The same name in two namespaces is two objects."""
        self.store.fill(Listing((thing("a"), thing("a", namespace="other")), "9"))
        self.assertEqual(set(self.store.objects), {("shop", "a"), ("other", "a")})


names = st.sampled_from(["a", "b", "c"])
actions = st.one_of(
    st.tuples(st.just("create"), names, st.sampled_from([{}, {"x": "1"}])),
    st.tuples(st.just("change"), names, st.sampled_from([{"x": "1"}, {"x": "2"}, {"x": None}])),
    st.tuples(st.just("delete"), names, st.just({})),
    st.tuples(st.just("list"), st.just(""), st.just({})),
    st.tuples(st.just("lose"), st.just(""), st.just({})),
)


class HistoryTests(SynchronousTestCase):
    """A store against whatever happens to a server."""

    @given(st.lists(actions, max_size=30), st.sampled_from(["", "x=1", "x!=1"]))
    @settings(deadline=None)
    def test_converges(self, history: list[tuple[str, str, Any]], labels: str) -> None:
        """However often it lists anew, and whatever the watch did not tell before that: it ends up like the server.

        And each key whose object differs from what was known before is told.
        """
        storage = Storage(lambda: 0.0)
        storage.serve(KIND)
        selection = Selection.read("", labels, "")
        known: dict[Key, Object] = {}

        def changed(keys: frozenset[Key]) -> None:
            now = dict(store.objects)
            self.assertLessEqual({each for each in now.keys() | known if now.get(each) != known.get(each)}, keys)
            known.clear()
            known.update(now)

        def listed() -> None:
            page = storage.list(KIND, selection, 0, "")
            items = tuple(CONFIG_MAP | each for each in page["items"])
            store.fill(Listing(items, page["metadata"]["resourceVersion"]))

        def heard(happened: Any) -> None:
            event = told(happened, selection)
            if event is not None and listening:
                store.apply(Gone(event["object"]) if event["type"] == "DELETED" else Put(event["object"]))

        store, listening = Store(changed), True
        listed()
        storage.watchers.append(heard)
        for action, name, given_labels in history:
            try:
                if action == "create":
                    storage.create(KIND, "", {"metadata": {"name": name, "labels": given_labels}})
                elif action == "change":
                    storage.patch(KIND, ("", name), {"metadata": {"labels": given_labels}}, "")
                elif action == "delete":
                    storage.delete(KIND, ("", name), {})
                elif action == "list":
                    listed()
                    listening = True
                else:
                    listening = False
            except Status:
                pass
        if not listening:
            listed()
        there = {each: thing for each, thing in storage.objects["", "configmaps"].items() if selection.means(thing)}
        self.assertEqual(dict(store.objects), there)
        self.assertEqual(known, there)


CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap"}

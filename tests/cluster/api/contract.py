"""What an API server does, as far as we rely on it: true of the stand-in, and of a real kube-apiserver.

Mix `Contract` into a TestCase that provides `access`. A real server gets the kind `widgets` by a CRD;
the stand-in overrides `serve_widgets`. Everything happens in a namespace of the test's own.
"""

from __future__ import annotations

from secrets import token_hex
from time import time
from typing import Any

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.task import deferLater

from tests.apiserver.server import CONFIG_MAPS, NAMESPACES, SECRETS, SERVICES
from tproxy.assembly import Clock
from tproxy.cluster.api.access import Access
from tproxy.cluster.api.client import PAGE, Client, Stream, connect
from tproxy.cluster.api.lease import LEASES
from tproxy.cluster.api.objects import APIError, Change, Gone, Kind, Mark, Put, Query, Why, key, uid, version
from tproxy.cluster.api.recorder import EVENTS, Note, Recorder
from tproxy.cluster.api.store import Store
from tproxy.model import Secret
from tproxy.net.sockets import Lingering

WIDGETS = Kind("contract.test", "v1", "Widget", "widgets")
CRDS = Kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False)

ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
CRD = {
    "metadata": {"name": "widgets.contract.test"},
    "spec": {
        "group": "contract.test",
        "scope": "Namespaced",
        "names": {"kind": "Widget", "plural": "widgets", "singular": "widget", "listKind": "WidgetList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": ANYTHING, "status": ANYTHING}}},
                "subresources": {"status": {}},
            }
        ],
    },
}


def thing(namespace: str, name: str, **fields: Any) -> dict[str, Any]:
    metadata = {"namespace": namespace, "name": name} | fields.pop("metadata", {})
    return {"metadata": metadata, **fields}


async def until(condition: Any, seconds: float = 10.0) -> None:
    """Let the reactor run until a condition holds."""
    for _ in range(int(seconds * 100)):
        if condition():
            return
        await deferLater(reactor, 0.01)
    raise AssertionError("it did not come about in time")


class Contract:
    """The suite; `access` gives the credentials of an administrator."""

    async def setUp(self) -> None:
        self.clients: list[Client] = []
        self.streams: list[Stream] = []
        self.client = self.connect(await self.access())
        await self.serve_widgets()
        self.namespace = f"contract-{token_hex(4)}"
        await self.client.create(NAMESPACES, {"metadata": {"name": self.namespace}})

    async def tearDown(self) -> None:
        for stream in self.streams:
            stream.ended.cancel()
        await gatherResults([client.close() for client in self.clients])
        await until(lambda: not any(isinstance(each, Lingering) for each in reactor.getReaders()))

    async def access(self) -> Access:
        raise NotImplementedError

    async def serve_widgets(self) -> None:
        try:
            await self.client.create(CRDS, CRD)
        except APIError as error:
            if error.reason is not Why.ALREADY_EXISTS:
                raise
        for _ in range(100):
            try:
                await self.client.list(Query(WIDGETS))
                return
            except APIError as error:
                if error.reason is not Why.NOT_FOUND:
                    raise
            await deferLater(reactor, 0.1)
        raise AssertionError("the CRD is not served")

    def connect(self, access: Access) -> Client:
        self.the_access = access
        self.clients.append(connect(access, reactor, Clock(reactor)))
        return self.clients[-1]

    async def fails(self, why: Why, asked: Deferred[Any]) -> APIError:
        try:
            await asked
        except APIError as error:
            self.assertEqual(error.reason, why, error.message)
            return error
        raise AssertionError(f"no {why}")

    async def create(self, kind: Kind, name: str, **fields: Any) -> Any:
        return await self.client.create(kind, thing(self.namespace, name, **fields))

    async def watch(self, query: Query, since: str) -> list[Change]:
        """A list to which changes are added as they come."""
        changes: list[Change] = []
        stream = await self.client.watch(query, since, 60, changes.append)
        stream.ended.addErrback(lambda _: None)
        self.streams.append(stream)
        return changes

    async def test_create(self) -> None:
        """What is created is there, under one name once; it has a uid, a version, its kind, and no managed fields."""
        made = await self.create(CONFIG_MAPS, "one", data={"a": "b"})
        read = await self.client.get(CONFIG_MAPS, (self.namespace, "one"))
        self.assertEqual(read, made)
        self.assertEqual((read["kind"], read["apiVersion"], read["data"]), ("ConfigMap", "v1", {"a": "b"}))
        self.assertTrue(uid(read) and version(read) and read["metadata"]["creationTimestamp"])
        self.assertNotIn("managedFields", read["metadata"])
        taken = await self.fails(Why.ALREADY_EXISTS, self.client.create(CONFIG_MAPS, thing(self.namespace, "one")))
        self.assertEqual(taken.status, 409)

    async def test_not_found(self) -> None:
        """No object, no namespace, no such kind."""
        for asked in (
            self.client.get(CONFIG_MAPS, (self.namespace, "none")),
            self.client.create(CONFIG_MAPS, thing("no-such-namespace", "one")),
            self.client.list(Query(Kind("nothing.test", "v1", "Nothing", "nothings"))),
        ):
            error = await self.fails(Why.NOT_FOUND, asked)
            self.assertEqual(error.status, 404)

    async def test_names(self) -> None:
        """Names that the API server does not take."""
        for kind, name, fields in (
            (CONFIG_MAPS, "Capital", {}),
            (SERVICES, "with.dot", {"spec": {"type": "ExternalName", "externalName": "a.example"}}),
        ):
            error = await self.fails(Why.INVALID, self.client.create(kind, thing(self.namespace, name, **fields)))
            self.assertEqual(error.status, 422)

    async def test_patch(self) -> None:
        """A merge patch adds, changes and removes; each change makes a new version, no change makes none."""
        first = await self.create(CONFIG_MAPS, "one", data={"a": "1", "b": "2"}, metadata={"labels": {"x": "y"}})
        change = {"data": {"a": None, "c": "3"}, "metadata": {"annotations": {"k": "v"}}}
        second = await self.client.patch(CONFIG_MAPS, first, change)
        self.assertEqual(second["data"], {"b": "2", "c": "3"})
        self.assertEqual(
            (second["metadata"]["annotations"], second["metadata"]["labels"], uid(second)),
            ({"k": "v"}, {"x": "y"}, uid(first)),
        )
        self.assertNotEqual(version(second), version(first))
        third = await self.client.patch(CONFIG_MAPS, second, {"data": {"c": "3"}})
        self.assertEqual(version(third), version(second))

    async def test_patch_conflict(self) -> None:
        """An older version, and another object of the same name, are not changed."""
        first = await self.create(CONFIG_MAPS, "one", data={"a": "1"})
        second = await self.client.patch(CONFIG_MAPS, first, {"data": {"a": "2"}})
        error = await self.fails(Why.CONFLICT, self.client.patch(CONFIG_MAPS, first, {"data": {"a": "3"}}))
        self.assertEqual(error.status, 409)
        await self.client.delete(CONFIG_MAPS, second)
        await self.fails(Why.NOT_FOUND, self.client.patch(CONFIG_MAPS, second, {"data": {"a": "3"}}))
        await self.create(CONFIG_MAPS, "one", data={"a": "4"})
        await self.fails(Why.CONFLICT, self.client.patch(CONFIG_MAPS, second, {"data": {"a": "3"}}))
        read = await self.client.get(CONFIG_MAPS, (self.namespace, "one"))
        self.assertEqual(read["data"], {"a": "4"})

    async def test_other_uid(self) -> None:
        """The version of the object with the uid of another one is refused, too."""
        first = await self.create(CONFIG_MAPS, "one")
        other = {**first, "metadata": {**first["metadata"], "uid": "e2fc6ff4-5d4d-4b42-8a30-000000000000"}}
        await self.fails(Why.INVALID, self.client.patch(CONFIG_MAPS, other, {"data": {"a": "3"}}))
        await self.fails(Why.CONFLICT, self.client.delete(CONFIG_MAPS, other))

    async def test_delete(self) -> None:
        """Only what was read is deleted."""
        first = await self.create(CONFIG_MAPS, "one", data={"a": "1"})
        second = await self.client.patch(CONFIG_MAPS, first, {"data": {"a": "2"}})
        await self.fails(Why.CONFLICT, self.client.delete(CONFIG_MAPS, first))
        self.assertIsNone(await self.client.delete(CONFIG_MAPS, second))
        await self.fails(Why.NOT_FOUND, self.client.delete(CONFIG_MAPS, second))
        third = await self.create(CONFIG_MAPS, "one")
        self.assertNotEqual(uid(third), uid(first))
        await self.fails(Why.CONFLICT, self.client.delete(CONFIG_MAPS, second))

    async def test_finalizers(self) -> None:
        """A deleted object with a finalizer stays, marked, until that is taken away."""
        first = await self.create(CONFIG_MAPS, "one", metadata={"finalizers": ["contract.test/wait"]})
        await self.client.delete(CONFIG_MAPS, first)
        marked = await self.client.get(CONFIG_MAPS, (self.namespace, "one"))
        self.assertTrue(marked["metadata"]["deletionTimestamp"])
        await self.client.patch(CONFIG_MAPS, marked, {"metadata": {"finalizers": None}})
        await self.fails(Why.NOT_FOUND, self.client.get(CONFIG_MAPS, (self.namespace, "one")))

    async def test_status(self) -> None:
        """The status is changed by its own path alone; only the spec counts for the generation."""
        first = await self.create(WIDGETS, "one", spec={"size": 1}, status={"ready": True})
        self.assertEqual((first.get("status"), first["metadata"]["generation"]), (None, 1))
        second = await self.client.patch(WIDGETS, first, {"status": {"ready": True}})
        self.assertEqual((second.get("status"), version(second)), (None, version(first)))
        third = await self.client.patch_status(WIDGETS, second, {"ready": False, "count": 3})
        self.assertEqual((third["status"], third["metadata"]["generation"]), ({"ready": False, "count": 3}, 1))
        fourth = await self.client.patch(WIDGETS, third, {"metadata": {"annotations": {"a": "b"}}})
        self.assertEqual(fourth["metadata"]["generation"], 1)
        fifth = await self.client.patch(WIDGETS, fourth, {"spec": {"size": 2}})
        self.assertEqual((fifth["metadata"]["generation"], fifth["status"]["count"]), (2, 3))
        sixth = await self.client.patch(WIDGETS, fifth, {"spec": {"size": 3}}, "status")
        self.assertEqual((sixth["spec"], version(sixth)), ({"size": 2}, version(fifth)))
        await self.fails(Why.CONFLICT, self.client.patch_status(WIDGETS, third, {"count": 4}))

    async def test_pages(self) -> None:
        """A long list comes whole, with 16 who write at the same time; and what a page's list item lacks is there."""
        names = [f"n{number:03}" for number in range(2 * PAGE + 5)]
        writers = DeferredSemaphore(16)
        await gatherResults(
            [writers.run(self.client.create, CONFIG_MAPS, thing(self.namespace, name)) for name in names]
        )
        listing = await self.client.list(Query(CONFIG_MAPS, self.namespace))
        found = {key(each)[1] for each in listing.objects}
        self.assertTrue(found.issuperset(names))
        self.assertEqual({each["kind"] for each in listing.objects}, {"ConfigMap"})
        one = await self.client.get(CONFIG_MAPS, (self.namespace, names[0]))
        self.assertIn(one, listing.objects)

    async def test_selectors(self) -> None:
        """Labels and names narrow a list down, alone and together; a single object is a list of one."""
        await self.create(CONFIG_MAPS, "one", metadata={"labels": {"x": "1", "y": "a"}})
        await self.create(CONFIG_MAPS, "two", metadata={"labels": {"x": "2"}})
        await self.create(CONFIG_MAPS, "three")

        async def names(**selectors: str) -> set[str]:
            listing = await self.client.list(Query(CONFIG_MAPS, self.namespace, **selectors))
            return {key(each)[1] for each in listing.objects} - {"kube-root-ca.crt"}

        for labels, expected in (
            ("x=1", {"one"}),
            ("x", {"one", "two"}),
            ("!x", {"three"}),
            ("x!=1", {"two", "three"}),
            ("x in (1, 3)", {"one"}),
            ("x notin (1,3)", {"two", "three"}),
            ("x,y=a", {"one"}),
        ):
            self.assertEqual(await names(labels=labels), expected, labels)
        self.assertEqual(await names(fields="metadata.name=two"), {"two"})
        self.assertEqual(await names(labels="x=1", fields="metadata.name=two"), set())
        listing = await self.client.list(Query.single(CONFIG_MAPS, (self.namespace, "three")))
        self.assertEqual([key(each)[1] for each in listing.objects], ["three"])
        await self.fails(Why.BAD_REQUEST, self.client.list(Query(CONFIG_MAPS, labels="x in (")))

    async def test_watch(self) -> None:
        """A watch from a list's version tells all that came after it, in order, and nothing else."""
        await self.create(CONFIG_MAPS, "before")
        query = Query(CONFIG_MAPS, self.namespace)
        listing = await self.client.list(query)
        first = await self.create(CONFIG_MAPS, "one")
        changes = await self.watch(query, listing.version)
        second = await self.client.patch(CONFIG_MAPS, first, {"data": {"a": "b"}})
        await self.create(SECRETS, "another-kind")
        await self.client.delete(CONFIG_MAPS, second)

        def mine() -> list[Change]:
            return [each for each in changes if isinstance(each, Put | Gone) and key(each.object)[1] == "one"]

        await until(lambda: len(mine()) == 3)
        added, modified, deleted = mine()
        self.assertEqual((added, modified), (Put(first), Put(second)))
        self.assertIsInstance(deleted, Gone)
        self.assertEqual((uid(deleted.object), deleted.object["data"]), (uid(first), {"a": "b"}))
        self.assertNotEqual(version(deleted.object), version(second))
        store = Store(lambda _: None)
        store.fill(listing)
        for change in changes:
            store.apply(change)
        now = await self.client.list(query)
        self.assertEqual(dict(store.objects), {key(each): each for each in now.objects})

    async def test_watch_selected(self) -> None:
        """What is no longer selected is gone, and what is selected now has come."""
        query = Query(CONFIG_MAPS, self.namespace, labels="x=1")
        first = await self.create(CONFIG_MAPS, "one", metadata={"labels": {"x": "1"}})
        listing = await self.client.list(query)
        changes = await self.watch(query, listing.version)
        second = await self.client.patch(CONFIG_MAPS, first, {"metadata": {"labels": {"x": "2"}}})
        third = await self.client.patch(CONFIG_MAPS, second, {"metadata": {"labels": {"x": "1"}}})
        await until(lambda: len(changes) == 2)
        gone, back = changes
        self.assertIsInstance(gone, Gone)
        self.assertEqual((key(gone.object), version(gone.object)), (key(first), version(second)))
        self.assertEqual(back, Put(third))

    async def test_watch_single(self) -> None:
        """One Secret, watched by its name."""
        query = Query.single(SECRETS, (self.namespace, "one"))
        listing = await self.client.list(query)
        self.assertEqual(listing.objects, ())
        changes = await self.watch(query, listing.version)
        await self.create(SECRETS, "other", stringData={"k": "v"}, type="Opaque")
        made = await self.create(SECRETS, "one", data={"k": "dg=="}, type="Opaque")
        await until(lambda: changes)
        self.assertEqual(changes, [Put(made)])

    async def test_watch_ends(self) -> None:
        """A watch ends when its time is up, and another one goes on from there."""
        query = Query(CONFIG_MAPS, self.namespace)
        listing = await self.client.list(query)
        changes: list[Change] = []
        stream = await self.client.watch(query, listing.version, 1, changes.append)
        await stream.ended
        self.assertTrue(all(isinstance(change, Mark) for change in changes) or len(changes) == 1)

    async def test_watch_too_old(self) -> None:
        """A version that nobody remembers is answered by an event, or at once; to us it is the same."""
        try:
            stream = await self.client.watch(Query(WIDGETS), "1", 5, lambda _: None)
            await stream.ended
        except APIError as error:
            self.assertEqual(error.reason, Why.EXPIRED)
        else:
            raise AssertionError("not expired")

    async def test_lease(self) -> None:
        """Of two who renew the same version one succeeds."""
        spec = {"holderIdentity": "a", "leaseDurationSeconds": 15, "leaseTransitions": 0}
        first = await self.create(LEASES, "leader", spec={**spec, "renewTime": "2026-01-02T03:04:05.678901Z"})
        self.assertEqual(first["spec"]["holderIdentity"], "a")
        await self.client.patch(LEASES, first, {"spec": {"holderIdentity": "b"}})
        await self.fails(Why.CONFLICT, self.client.patch(LEASES, first, {"spec": {"holderIdentity": "c"}}))
        read = await self.client.get(LEASES, (self.namespace, "leader"))
        self.assertEqual(read["spec"]["holderIdentity"], "b")

    async def test_events(self) -> None:
        """Events as we write them are taken, with a note that was too long, too."""
        about = await self.create(CONFIG_MAPS, "one")
        recorder = Recorder(self.client, "contract.test/writer", "writer-0", Clock(reactor), time)
        for text in ("short", "ü" * 2000):
            self.assertTrue(await recorder.record(about, Note("Happened", "Acted", text)))
        listing = await self.client.list(Query(EVENTS, self.namespace))
        mine = [each for each in listing.objects if each["regarding"]["uid"] == uid(about)]
        self.assertEqual(sorted(len(each["note"].encode()) for each in mine), [5, 1023])
        one = mine[0]
        lacking = {name: value for name, value in one.items() if name not in ("metadata", "action")}
        await self.fails(Why.INVALID, self.client.create(EVENTS, thing(self.namespace, "x.1", **lacking)))

    async def test_unauthorized(self) -> None:
        """A token that nobody knows."""
        trust = evolve(self.the_access.trust(), identity=None)
        stranger = self.connect(evolve(self.the_access, token=lambda _: Secret("nobody"), trust=lambda: trust))
        error = await self.fails(Why.UNAUTHORIZED, stranger.get(CONFIG_MAPS, (self.namespace, "one")))
        self.assertEqual(error.status, 401)

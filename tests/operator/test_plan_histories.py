"""The planner keeps its promises, whatever happens in whatever order."""

from __future__ import annotations

import json
from pathlib import Path

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.operator.worlds import World, key, refusal, rejected, resource
from tproxy.config import Config, Local
from tproxy.instances import DirectoryInstance
from tproxy.model import ListenerKey, Reason
from tproxy.operator.manifests import API_VERSION, TENANTS, Rejected, parse
from tproxy.operator.plan import SetStatus, subject

names = st.sampled_from(["mail", "mail-acme", "mail-acme-globex", "box"])
tenants = st.lists(st.sampled_from(["acme", "globex", "acme-globex"]), unique=True, max_size=3)
ports = st.sampled_from([0, 0, 993, 1993, 10000, 10001])
reasons = st.sampled_from([Reason.DESTINATION_NOT_FOUND, Reason.DOCUMENT_INVALID, Reason.STORE_UNAVAILABLE])
puts = st.tuples(st.just("put"), names, tenants, ports, st.sampled_from(["one", "two"]))
steps = st.one_of(
    puts,
    puts,
    puts,
    st.tuples(st.just("break"), names, tenants),
    st.tuples(st.just("remove"), names),
    st.tuples(st.just("refuse"), st.sampled_from(["one", "two"]), reasons | st.none()),
    st.tuples(st.just("block"), st.sampled_from([993, 1993, 10000, 10002])),
    st.tuples(st.just("fail"), names),
    st.tuples(st.just("restart")),
)


def change(world: World, step: tuple) -> None:
    match step:
        case "put", name, named, port, destination:
            replace(world, resource(name, *named, port=port, destination=destination))
        case "break", name, named:
            replace(world, rejected(name, *named))
        case "remove", name:
            world.resources = [each for each in world.resources if each.name != name]
        case "refuse", destination, reason:
            for tenant in ("", "acme", "globex", "acme-globex"):
                request = evolve(resource("x", tenant, destination=destination).bindings[0].request)
                if reason is None:
                    world.described.pop(request, None)
                else:
                    world.described[request] = refusal(reason)
        case "block", port:
            if port not in world.ports.values():
                world.blocked.add(port)
        case "fail", name:
            world.failures[key(name)] = refusal(Reason.INTERNAL_ERROR)
        case _:
            world.restart()


def replace(world: World, resource) -> None:
    world.resources = [each for each in world.resources if each.name != resource.name] + [resource]


class AnyHistory(SynchronousTestCase):
    """Whatever happens, in whatever order."""

    @settings(deadline=None, max_examples=150)
    @given(st.lists(steps, min_size=4, max_size=20), st.data())
    def test_promises(self, history, data):
        """No two keys share a port, no recorded port moves to another key, and a plan that came true leaves nothing."""
        world = World()
        owners: dict[int, ListenerKey] = {}
        for step in history:
            change(world, step)
            actions = world.plan()
            self.assertEqual(shuffled(world, data.draw(st.randoms())).plan(), actions)
            if data.draw(st.booleans()):
                world.perform(action for action in actions if not isinstance(action, SetStatus))
            else:
                world.perform(actions)
                self.assertEqual(world.plan(), ())
            self.assertEqual(len(set(world.ports.values())), len(world.listening))
            for record in world.records.values():
                for port in record.ports:
                    self.assertEqual(owners.setdefault(port, record.key), record.key)
            for each, there in world.listening.items():
                self.assertEqual(owners[there.port], each)
            services = [record.key.service for record in world.records.values() if record.active]
            self.assertEqual(len(services), len(set(services)))

    @settings(deadline=None, max_examples=100)
    @given(st.lists(steps, min_size=3, max_size=12), st.booleans())
    def test_broken_neighbour(self, history, unknown):
        """What happens to the others is the same with and without a resource that is broken."""
        alone, together = World(), World()
        broken = resource("aaa", destination="nowhere") if unknown else rejected("aaa")
        request = resource("aaa", destination="nowhere").bindings[0].request
        together.described[request] = refusal(Reason.TYPE_NOT_SUPPORTED)
        for step in history:
            change(alone, step)
            change(together, step)
            replace(together, broken)
            expected = alone.settle()
            self.assertEqual(tuple(each for each in together.settle() if subject(each) != ("shop", "aaa")), expected)

    @settings(deadline=None, max_examples=50)
    @given(st.text(max_size=20), st.sampled_from(["[]", '["a", 5]', "[", '["a", "a"]', "5", '["' + "a" * 64 + '"]']))
    def test_broken_annotation(self, text, annotation):
        """A manifest with a broken annotation costs nobody else anything, through parser and planner."""
        config = Config("shared", (DirectoryInstance("local", Path("/d")),), "local", Local(Path("/r"), Path("/s")))
        for value in (annotation, text, json.dumps([text, text])):
            broken = parse(
                {
                    "apiVersion": API_VERSION,
                    "kind": "Destination",
                    "metadata": {"name": "aaa", "namespace": "shop", "annotations": {TENANTS: value}},
                    "spec": {"destinationRef": {"name": "x"}},
                },
                config,
            )
            self.assertIsInstance(broken, Rejected)
            world = World([broken, resource("mail")])
            world.settle()
            self.assertEqual(world.ports, {"mail": 993})


def shuffled(world: World, random) -> World:
    """The same world, with everything in another order."""
    resources = list(world.resources)
    random.shuffle(resources)
    records = list(world.records.items())
    random.shuffle(records)
    return evolve(world, resources=resources, records=dict(records))

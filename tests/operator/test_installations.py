"""Many situations at random: whatever happens, plans come to an end, and on the way there nothing is ever wrong."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.operator.installations import HOME, IMAPS, Process, World, manifest
from tproxy.model import Reason, Refusal, Stage
from tproxy.operator import objects
from tproxy.operator.objects import Sort
from tproxy.operator.plan import Known
from tproxy.operator.ports import Bounds

NAMESPACES = st.sampled_from(["a", "b"])
NAMES = st.sampled_from(["m", "m-x"])
TENANTS = st.sets(st.sampled_from(["x", "y", "x-x"]))
NOT_FOUND, UNAVAILABLE, NOT_SUPPORTED = (
    Refusal(Stage.RESOLVE, reason, "no")
    for reason in (Reason.DESTINATION_NOT_FOUND, Reason.STORE_UNAVAILABLE, Reason.TYPE_NOT_SUPPORTED)
)
ANSWERS = st.sampled_from([IMAPS, Known("imap4", 143), None, NOT_FOUND, UNAVAILABLE, NOT_SUPPORTED])

APPLY = st.tuples(
    st.just("apply"),
    NAMESPACES,
    NAMES,
    TENANTS,
    st.sampled_from([0, 143, 993]),
    st.sampled_from(["", "namespaced", "clusterWide", "wrong"]),
)
EVENTS = st.lists(
    st.one_of(
        APPLY,
        st.tuples(st.just("delete"), NAMESPACES, NAMES),
        st.tuples(st.just("describe"), NAMES, ANSWERS),
        st.tuples(st.just("pass"), st.sampled_from([1, 601])),
        st.tuples(st.just("foreign"), NAMESPACES, st.sampled_from(["m", "m-x", "m-x-x"])),
        st.tuples(st.just("vanish"), NAMESPACES, st.sampled_from(["m", "m-x", "m-x-x"])),
        st.tuples(st.just("lose"), st.integers(0, 3)),
        st.tuples(st.just("short"), NAMESPACES, NAMES),
        st.tuples(st.just("replica"), st.sampled_from(["come", "go", "leave", "mute"])),
        st.tuples(st.just("steps"), st.integers(1, 8), st.booleans()),
    ),
    max_size=12,
)


class Whatever(SynchronousTestCase):
    """Events in any order, and steps that are taken in between, some by a second leader that saw the same."""

    @settings(deadline=None, max_examples=250)
    @given(EVENTS)
    @example([("apply", "a", "m", {"x"}, 0, ""), ("steps", 9, False), ("lose", 0), ("describe", "m", NOT_FOUND)])
    def test_converges(self, events):
        """All settles, nothing is announced that is not there, and nothing of others is changed."""
        world = World(Bounds(listeners=6, spares=1))
        world.settle()
        self.foreign, self.names = {}, {}
        world.watch = lambda: self.check(world)
        for event in events:
            self.happen(world, event)
        world.short.clear()
        world.failures.clear()
        for process in world.replicas:
            process.mute = False
        self.settle(world)
        self.check(world)
        self.assertEqual([], [steps for steps in world.pending() if world.failures.keys().isdisjoint(steps.subjects)])
        self.served(world)

    def happen(self, world, event):
        match event:
            case ("apply", namespace, name, tenants, port, scope):
                world.apply(namespace, manifest(name, *sorted(tenants), port=port, scope=scope))
            case ("delete", namespace, name) if world.get(Sort.DESTINATION, namespace, name):
                world.delete(namespace, name)
            case ("describe", name, answer):
                world.describe(name, answer)
            case ("pass", seconds):
                world.now += seconds
            case ("foreign", namespace, name) if not world.get(Sort.SERVICE, namespace, name):
                thing = {"metadata": {"name": name}, "spec": {"type": "ExternalName", "externalName": "example.com"}}
                made = world.storage.create(world.storage.served["", "v1", "services"], namespace, thing)
                self.foreign[namespace, name] = made
            case ("vanish", namespace, name) if self.foreign.pop((namespace, name), None):
                world.storage.remove(world.storage.served["", "v1", "services"], (namespace, name))
                world.failures.clear()
            case ("lose", place):
                ports = sorted(world.ports)
                if place < len(ports):
                    name = (HOME.namespace, f"p{ports[place]}")
                    world.storage.remove(world.storage.served["", "v1", "services"], name)
            case ("short", namespace, name):
                world.short = {(namespace, name)}
            case ("replica", what):
                self.replica(world, what)
            case ("steps", count, twice):
                steps = world.lead()[:count]
                served = [(each, process) for process in world.replicas for each in world.serve(process)]
                for each in steps * 2 if twice else steps:
                    world.take(each)
                for each, process in served:
                    world.take(each, process)

    def replica(self, world, what):
        second = world.replicas[1:]
        if what == "come" and not second:
            world.replicas.append(Process("tproxy-2", "10.0.0.2"))
        for process in second:
            match what:
                case "go":
                    world.replicas.remove(process)
                case "leave":
                    process.leaving = True
                case "mute":
                    process.mute = not process.mute

    def settle(self, world):
        for _ in range(30):
            pending = [
                (each, process)
                for process in [None, *world.replicas]
                for each in (world.serve(process) if process else world.lead())
                if world.failures.keys().isdisjoint(each.subjects)
            ]
            failed = len(world.failures)
            done = [world.take(each, process) for each, process in pending]
            world.collect()
            if not any(done) and len(world.failures) == failed:
                return
        self.fail(f"it does not settle: {world.pending()}")

    def check(self, world):
        """What holds after each step."""
        ports = world.ports
        for place, thing in self.foreign.items():
            self.assertEqual(thing, world.get(Sort.SERVICE, *place))
        for name, port in ports.items():
            if port.spare:
                self.assertNotIn(name, {each for opened in world.policies.values() for each in opened})
                self.assertNotIn(f"p{name}", world.names.values())
        for each, target in world.names.items() - self.names.items():
            port = ports[int(target[1:])]
            self.assertEqual(each, str(port.holder))
            self.assertTrue(world.addresses(port.port))
            self.assertTrue(any(port.port in opened for opened in world.policies.values()))
        self.names = world.names
        for (namespace, _), opened in world.policies.items():
            self.assertTrue(opened)
            for each in opened & ports.keys():
                self.assertEqual(namespace, ports[each].key.namespace)
        for process in world.replicas:
            numbers = [each.port for each in process.listening.values()]
            self.assertEqual(len(set(numbers)), len(numbers))

    def served(self, world):
        """What holds in the end: each name leads to its own port, which is open to who may come."""
        held = {}
        for port in world.ports.values():
            if port.holder:
                self.assertNotIn(port.holder, held)
                held[port.holder] = port
        for each, target in world.names.items():
            thing = world.get(Sort.SERVICE, *each.split("/"))
            port = held.get(objects.named_key(thing))
            if (
                port is None
            ):  # the record was lost, and the destination is gone: the name leads nowhere until it is back
                self.assertNotIn(int(target[1:]), world.ports)
                continue
            self.assertEqual(f"p{port.port}", target)
            self.assertEqual(port.uid, objects.owner(thing))
            opened = [scope for (namespace, scope), ports in world.policies.items() if port.port in ports]
            self.assertEqual(1, len(opened))
        for process in world.replicas:
            for whose, there in process.listening.items():
                if there.binding.claimed:
                    self.assertEqual(held[whose].port, there.port)
                    self.assertEqual(held[whose].uid, there.binding.owner)

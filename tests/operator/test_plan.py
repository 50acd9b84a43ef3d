"""The planner is pure, so that every situation can be tried: one by one, and many at random."""

from __future__ import annotations

import errno
import json
from pathlib import Path

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.operator.worlds import ADDRESS, IMAPS, World, key, kinds, refusal, rejected, resource
from tproxy.config import Config, Local
from tproxy.instances import DirectoryInstance
from tproxy.model import Binding, GreetingMode, ListenerKey, Reason, Tenant
from tproxy.operator.manifests import API_VERSION, TENANTS, Rejected, parse
from tproxy.operator.plan import (
    RANGE,
    Claim,
    Close,
    Known,
    Listening,
    Observed,
    Open,
    Rebind,
    Record,
    SetStatus,
    Snapshot,
    plan,
    subject,
    unbindable,
)

SUCCESS = "ConfigurationSuccessful"
FAILURE = "FailedToApplyConfiguration"
NOT_FOUND = "ConfigurationError-ReferencedDestination-NotFound"
DUPLICATE = "ConfigurationError-DuplicateDestinationCustomResource"


class Births(SynchronousTestCase):
    """From a resource to an open port."""

    def test_nothing(self):
        """Where nothing is, nothing is to be done."""
        self.assertEqual(plan(Observed(Snapshot())), ())

    def test_first(self):
        """A new resource: the port is recorded, opened, and told, in this order; then all is as it should be."""
        world = World([resource("mail")])
        binding = resource("mail").bindings[0]
        *steps, told = world.settle()
        self.assertEqual(steps, [Claim(binding.key, 993, 0, 0), Open(binding, ADDRESS, 993)])
        self.assertEqual([(step.key, subject(step)) for step in steps], [(binding.key, ("shop", "mail"))] * 2)
        self.assertEqual(told.name, ("shop", "mail"))
        self.assertEqual((told.status.available, told.status.reason), (True, SUCCESS))
        (row,) = told.status.listeners
        self.assertEqual((row.key, row.address, row.port, row.available), (binding.key, ADDRESS, 993, True))
        self.assertEqual(world.plan(), ())

    def test_protocol(self):
        """The destination's protocol decides the port, where none is asked for, and how applications are greeted."""
        world = World([resource("mail")])
        world.described[world.resources[0].bindings[0].request] = Known("imap4", 143)
        world.settle()
        self.assertEqual(world.listening[key("mail")].binding.protocol, "imap4")
        self.assertEqual(world.ports, {"mail": 143})

    def test_asked(self):
        """The port that a resource asks for is what it gets, if nobody else has it."""
        world = World([resource("b", port=1993), resource("a", port=1993)])
        actions = world.settle()
        self.assertEqual(world.ports, {"a": 1993, "b": 10000})
        self.assertIn(Claim(key("b"), 10000, 1993, instead=1993), actions)

    def test_order(self):
        """New claims are made in the order namespace, name, tenant, whatever the order of the files."""
        resources = [
            resource("b"),
            resource("a", "t2", "t1"),
            resource("z", namespace="alpha"),
        ]
        for order in (resources, resources[::-1]):
            world = World(list(order))
            actions = world.settle()
            self.assertEqual(world.ports, {"z": 993, "a-t1": 10000, "a-t2": 10001, "b": 10002})
            self.assertEqual(
                [str(step.key) for step in actions if isinstance(step, Claim)],
                ["alpha/z", "shop/a-t1", "shop/a-t2", "shop/b"],
            )
            self.assertEqual([subject(step) for step in actions], sorted(subject(step) for step in actions))

    def test_not_answered_yet(self):
        """Nothing is opened or told before the store has answered; the rest of the world goes on."""
        world = World([resource("mail"), resource("other", destination="else")], silent=True)
        world.described[world.resources[1].bindings[0].request] = IMAPS
        self.assertEqual({subject(action) for action in world.settle()}, {("shop", "other")})
        self.assertEqual(world.ports, {"other": 993})

    def test_range(self):
        """Ports come from a range with a hole; once all are used up, the resource is told."""
        self.assertEqual([port for part in RANGE for port in part][4999:5001], [14999, 15100])
        free = 32767
        world = World([resource("a", port=1), resource("b", port=1), resource("c", port=1)])
        world.blocked = {1, *(port for part in RANGE for port in part if port != free)}
        world.settle()
        self.assertEqual(world.ports, {"a": free})
        self.assertEqual((world.told("b").available, world.told("b").reason), (False, FAILURE))
        self.assertIn("ports are used up", world.told("c").message)
        self.assertEqual(world.plan(), ())

    def test_blocked(self):
        """A port that cannot be bound is passed over, and the claim says which it was."""
        world = World([resource("mail", port=993)], blocked={993, 10000})
        self.assertIn(Claim(key("mail"), 10001, 993, instead=993), world.settle())

    def test_one_tenant_refused(self):
        """Tenants that cannot be served are told; the others are served."""
        broken = evolve(resource("mail", "acme"), refused=((Tenant("b" * 63), refusal(Reason.RESOURCE_INVALID)),))
        world = World([broken])
        world.settle()
        self.assertEqual(world.ports, {"mail-acme": 993})
        status = world.told("mail")
        self.assertEqual((status.available, status.reason), (False, FAILURE))
        self.assertEqual(status.message, f"1 of 2 are not served: {'b' * 63}")
        self.assertEqual([row.available for row in status.listeners], [True, False])


class Changes(SynchronousTestCase):
    """What changes about an open port."""

    def setUp(self):
        self.world = World([resource("mail", port=1993)])
        self.world.settle()

    def change(self, resource):
        self.world.resources = [resource]
        return self.world.settle()

    def test_other_destination(self):
        """Another destination or greeting concerns new connections: the port stays open."""
        binding = Binding(key("mail"), resource("mail", destination="other").bindings[0].request, GreetingMode.OPEN)
        actions = self.change(evolve(resource("mail", port=1993), bindings=(binding,)))
        self.assertEqual(actions, (Rebind(binding),))
        self.assertEqual(actions[0].key, key("mail"))

    def test_other_protocol(self):
        """A destination that changes its protocol keeps its port."""
        self.world.described[resource("mail").bindings[0].request] = Known("imap4", 143)
        self.assertEqual(kinds(self.world.settle()), ["Rebind"])
        self.assertEqual(self.world.ports, {"mail": 1993})

    def test_other_authentication(self):
        """Where applications bring the credential now, new ones are asked, whatever the annotation says, and back."""
        plain = resource("mail", port=1993).bindings[0]
        opened = evolve(plain, greeting=GreetingMode.OPEN)
        self.world.described[plain.request] = Known("imap4s", 993, asks=True)
        asking = evolve(plain, greeting=GreetingMode.LOGIN)
        self.assertEqual(self.world.settle(), (Rebind(asking),))
        self.assertEqual(self.change(evolve(resource("mail", port=1993), bindings=(opened,))), ())
        self.world.described[plain.request] = refusal(Reason.STORE_UNAVAILABLE)
        self.assertEqual(self.world.settle(), ())
        self.world.described[plain.request] = IMAPS
        self.assertEqual(self.world.settle(), (Rebind(opened),))
        self.world.described[plain.request] = refusal(Reason.STORE_UNAVAILABLE)
        self.assertEqual(self.change(resource("mail", port=1993)), (Rebind(plain),))

    def test_other_port(self):
        """Another `spec.service.port` moves the listener; its old port is kept for it, and for nobody else."""
        actions = self.change(resource("mail", port=2993))
        self.assertEqual(kinds(actions), ["Claim", "Open", "SetStatus"])
        self.assertEqual(self.world.ports, {"mail": 2993})
        self.world.resources.append(resource("another", port=1993))
        self.world.settle()
        self.assertEqual(self.world.ports, {"mail": 2993, "another": 10000})
        self.world.resources[0] = resource("mail", port=1993)
        self.world.settle()
        self.assertEqual(self.world.ports, {"mail": 1993, "another": 10000})

    def test_no_port_any_more(self):
        """A port that is no longer asked for stays: a recorded port does not move unasked."""
        self.assertEqual(self.change(resource("mail")), ())

    def test_swapped_ports(self):
        """Two resources that swap the ports that they ask for do not swap mailboxes."""
        self.world.resources.append(resource("other", port=2993))
        self.world.settle()
        self.world.resources = [resource("mail", port=2993), resource("other", port=1993)]
        self.world.settle()
        self.assertEqual(self.world.ports, {"mail": 10000, "other": 10001})
        self.assertEqual(self.world.plan(), ())

    def test_move_that_finds_no_port(self):
        """A listener that should move stays where it is when all ports are used up."""
        self.world.blocked = {2993, *(port for part in RANGE for port in part)}
        self.assertEqual(kinds(self.change(resource("mail", port=2993))), ["SetStatus"])
        self.assertEqual(self.world.ports, {"mail": 1993})
        self.assertEqual(self.world.told("mail").listeners[0].port, 1993)


class Restarts(SynchronousTestCase):
    def setUp(self):
        self.world = World([resource("a"), resource("b")])
        self.world.settle()
        self.world.restart()

    def test_same_ports(self):
        """After a restart each has the port that it had; nothing is claimed."""
        actions = self.world.settle()
        self.assertEqual(kinds(actions), ["Open", "SetStatus"] * 2)
        self.assertEqual(self.world.ports, {"a": 993, "b": 10000})

    def test_newcomers(self):
        """One that comes before in the order does not get the port of another."""
        self.world.resources = [resource("0a"), resource("b")]
        self.world.settle()
        self.assertEqual(self.world.ports, {"0a": 10001, "b": 10000})

    def test_busy(self):
        """A recorded port that somebody else has taken is replaced; it stays reserved, and the new one stays too."""
        self.world.blocked = {993}
        self.assertIn(Claim(key("a"), 10001, 0, instead=993), self.world.settle())
        self.assertEqual(self.world.records[key("a")].ports, (10001, 993))
        self.assertEqual(self.world.plan(), ())
        self.world.restart()
        self.world.resources.append(resource("c", port=993))
        self.world.settle()
        self.assertEqual(self.world.ports, {"a": 10001, "b": 10000, "c": 10002})

    def test_blocked_while_open(self):
        """A port that is open is not taken for blocked."""
        self.world.settle()
        self.world.blocked = {993}
        self.assertEqual(self.world.plan(), ())

    def test_store_away(self):
        """While the store does not answer, recorded ports are opened; what has none waits."""
        self.world.resources.append(resource("c", destination="c"))
        for each in self.world.resources:
            self.world.described[each.bindings[0].request] = refusal(Reason.STORE_UNAVAILABLE)
        self.world.settle()
        self.assertEqual(self.world.ports, {"a": 993, "b": 10000})
        self.assertEqual([self.world.told(name).available for name in "abc"], [False] * 3)
        self.assertEqual([self.world.told(name).listeners[0].port for name in "abc"], [993, 10000, 0])
        self.assertEqual(self.world.plan(), ())


class Ends(SynchronousTestCase):
    """Who is offboarded is cut off at once, and nobody else ever gets the port."""

    def setUp(self):
        self.world = World([resource("mail", "acme", "globex")])
        self.world.settle()

    def test_resource_gone(self):
        """Without its resource a port is closed and released."""
        self.world.resources = []
        actions = self.world.settle()
        self.assertEqual(kinds(actions), ["Close", "Release"] * 2)
        self.assertEqual(actions[0], Close(key("mail", "acme"), "the resource is gone"))
        self.assertEqual(self.world.plan(), ())

    def test_tenant_gone(self):
        """A tenant that is no longer named loses its port, the others keep theirs."""
        self.world.resources = [resource("mail", "globex")]
        actions = self.world.settle()
        self.assertEqual(actions[:1], (Close(key("mail", "acme"), "the resource no longer names this tenant"),))
        self.assertEqual(self.world.ports, {"mail-globex": 10000})

    def test_back_again(self):
        """Who comes back gets its port back, and nobody got it in between."""
        self.world.resources = [resource("another")]
        self.world.settle()
        self.assertEqual(self.world.ports, {"another": 10001})
        self.world.resources += [resource("mail", "acme", "globex")]
        actions = self.world.settle()
        self.assertIn(Claim(key("mail", "acme"), 993, 0, 0), actions)
        self.assertEqual(self.world.ports, {"another": 10001, "mail-acme": 993, "mail-globex": 10000})

    def test_destination_gone(self):
        """Without its destination a port is closed; the name and the port stay its own."""
        request = resource("mail", "acme").bindings[0].request
        self.world.described[request] = refusal(Reason.DESTINATION_NOT_FOUND, "there is no mailbox")
        actions = self.world.settle()
        self.assertEqual(actions[0], Close(key("mail", "acme"), "the destination is gone"))
        self.assertEqual(kinds(actions), ["Close", "SetStatus"])
        status = self.world.told("mail")
        self.assertEqual(
            (status.available, status.reason, status.message), (False, FAILURE, "1 of 2 are not served: acme")
        )
        self.assertEqual([row.reason for row in status.listeners], [NOT_FOUND, SUCCESS])
        self.assertEqual(self.world.plan(), ())
        del self.world.described[request]
        self.assertEqual(kinds(self.world.settle()), ["Open", "SetStatus"])

    def test_tenant_gone_from_the_store(self):
        """A tenant that the store does not know, or serve, any more is offboarded; it may come back."""
        for reason, why in (
            (Reason.TENANT_NOT_FOUND, "the tenant is gone"),
            (Reason.TENANT_NOT_SUBSCRIBED, "the tenant is no longer subscribed"),
        ):
            request = resource("mail", "acme").bindings[0].request
            self.world.described[request] = refusal(reason)
            actions = self.world.settle()
            self.assertEqual(actions[0], Close(key("mail", "acme"), why))
            self.assertEqual(kinds(actions), ["Close", "SetStatus"])
            self.assertEqual([row.available for row in self.world.told("mail").listeners], [False, True])
            self.assertEqual(self.world.plan(), ())
            del self.world.described[request]
            self.assertEqual(kinds(self.world.settle()), ["Open", "SetStatus"])

    def test_all_destinations_gone(self):
        """Where all tenants fail for one reason, that is the resource's reason."""
        for binding in self.world.resources[0].bindings:
            self.world.described[binding.request] = refusal(Reason.DESTINATION_NOT_FOUND)
        self.world.settle()
        self.assertEqual(self.world.told("mail").reason, NOT_FOUND)

    def test_different_reasons(self):
        """Where tenants fail for different reasons, the message lists them."""
        reasons = (Reason.DESTINATION_NOT_FOUND, Reason.TYPE_NOT_SUPPORTED)
        for binding, reason in zip(self.world.resources[0].bindings, reasons, strict=True):
            self.world.described[binding.request] = refusal(reason)
        self.world.settle()
        status = self.world.told("mail")
        self.assertEqual((status.reason, status.message), (FAILURE, "2 of 2 are not served: acme, globex"))

    def test_open_without_record(self):
        """A port that nobody wrote down and nobody wants is closed."""
        binding = resource("lost").bindings[0]
        self.world.listening[binding.key] = Listening(binding, 4711)
        self.assertEqual(kinds(self.world.settle()), ["Close"])


class BadDestinations(SynchronousTestCase):
    def setUp(self):
        self.world = World([resource("mail")])
        self.request = self.world.resources[0].bindings[0].request

    def test_never_opened(self):
        """What cannot be served is not opened, and the condition says why."""
        for reason, words in (
            (Reason.TENANT_NOT_FOUND, FAILURE),
            (Reason.DESTINATION_NOT_FOUND, NOT_FOUND),
            (Reason.TYPE_NOT_SUPPORTED, "ConfigurationError-ReferencedDestination-TypeNotSupported"),
            (Reason.LOOPBACK_NOT_SUPPORTED, "ConfigurationError-ReferencedDestination-LoopbackUrlNotSupported"),
            (Reason.STORE_UNAVAILABLE, FAILURE),
        ):
            self.world.described[self.request] = evolve(refusal(reason, "no"), remedy="say yes")
            self.assertEqual(kinds(self.world.settle()), ["SetStatus"])
            status = self.world.told("mail")
            self.assertEqual((status.available, status.reason, status.message), (False, words, "no: say yes"))
            self.assertEqual(self.world.plan(), ())

    def test_invalid_later(self):
        """A document that becomes wrong concerns new connections: the port stays open, the condition tells."""
        self.world.settle()
        self.world.described[self.request] = refusal(Reason.DOCUMENT_INVALID)
        self.assertEqual(kinds(self.world.settle()), ["SetStatus"])
        self.assertEqual((self.world.told("mail").available, self.world.told("mail").listeners[0].port), (False, 993))

    def test_bad_key_later(self):
        """Nothing is closed because of a key that is wrong, or a store that does not want us."""
        for reason in (Reason.SERVICE_KEY_INVALID, Reason.STORE_REFUSED):
            self.world.settle()
            self.world.described[self.request] = refusal(reason)
            self.assertEqual(kinds(self.world.settle()), ["SetStatus"])
            self.assertEqual((self.world.told("mail").available, self.world.ports), (False, {"mail": 993}))
            del self.world.described[self.request]

    def test_store_away(self):
        """A store that does not answer changes nothing about an open port."""
        self.world.settle()
        self.world.described[self.request] = refusal(Reason.STORE_UNAVAILABLE)
        self.assertEqual(self.world.plan(), ())

    def test_moves_while_store_away(self):
        """A resource that is changed meanwhile is followed, and is told that its destination is not known."""
        self.world.settle()
        self.world.described[self.request] = refusal(Reason.STORE_UNAVAILABLE)
        self.world.resources = [resource("mail", port=2993)]
        self.assertEqual(kinds(self.world.settle()), ["Claim", "Open", "SetStatus"])
        self.assertEqual((self.world.ports, self.world.told("mail").available), ({"mail": 2993}, False))

    def test_long_message(self):
        """Messages are cut where a condition ends."""
        self.world.described[self.request] = refusal(Reason.DOCUMENT_INVALID, "x" * 1000)
        self.world.settle()
        self.assertEqual(len(self.world.told("mail").message), 512)


class Failures(SynchronousTestCase):
    def test_resting(self):
        """A listener that rests after an error is left alone and told; the others go on."""
        world = World([resource("a"), resource("b")])
        world.failures[key("a")] = refusal(Reason.INTERNAL_ERROR, "the disk is full")
        world.settle()
        self.assertEqual(world.ports, {"b": 993})
        self.assertEqual((world.told("a").reason, world.told("a").message), (FAILURE, "the disk is full"))
        self.assertEqual(world.plan(), ())
        world.failures.clear()
        world.settle()
        self.assertEqual(world.ports, {"a": 10000, "b": 993})

    def test_resting_and_gone(self):
        """A listener that rests is closed nevertheless once its resource or destination is gone."""
        world = World([resource("a"), resource("b", destination="gone")])
        world.settle()
        world.failures = dict.fromkeys(world.listening, refusal(Reason.INTERNAL_ERROR))
        world.described[world.resources[1].bindings[0].request] = refusal(Reason.DESTINATION_NOT_FOUND)
        del world.resources[0]
        world.settle()
        self.assertEqual(world.ports, {})

    def test_errno(self):
        """Another port may do where this one is taken or not permitted, and only there."""
        for number, reason in (
            (errno.EADDRINUSE, Reason.PORT_NOT_AVAILABLE),
            (errno.EACCES, Reason.PORT_NOT_AVAILABLE),
            (errno.EPERM, Reason.PORT_NOT_AVAILABLE),
            (errno.EADDRNOTAVAIL, Reason.INTERNAL_ERROR),
            (None, Reason.INTERNAL_ERROR),
        ):
            told = unbindable(ADDRESS, 993, number)
            self.assertEqual(told.reason, reason)
            self.assertIn("port 993 of 127.0.0.1", told.message)


class Duplicates(SynchronousTestCase):
    """`mail` for the tenant acme and a resource `mail-acme` want the same Service."""

    def setUp(self):
        self.tenants = resource("mail", "acme", "globex")
        self.single = resource("mail-acme")

    def test_first_in_order(self):
        """Where both are new, the first in the order gets the name, and the other is told whose it is."""
        world = World([self.single, self.tenants])
        world.settle()
        self.assertEqual(set(world.listening), {key("mail", "acme"), key("mail", "globex")})
        status = world.told("mail-acme")
        self.assertEqual((status.available, status.reason), (False, DUPLICATE))
        self.assertIn("shop/mail for the tenant acme", status.message)
        self.assertEqual(world.plan(), ())

    def test_holder(self):
        """Who holds the name keeps it, also after a restart; once it is gone, the other gets it."""
        world = World([self.single])
        world.settle()
        world.resources.append(self.tenants)
        for _ in range(2):
            world.settle()
            self.assertEqual(set(world.listening), {key("mail-acme"), key("mail", "globex")})
            self.assertEqual(world.told("mail").message, "1 of 2 are not served: acme")
            self.assertIn("belongs to the resource shop/mail-acme", world.told("mail").listeners[0].message)
            world.restart()
        del world.resources[0]
        world.settle()
        self.assertEqual(set(world.listening), {key("mail", "acme"), key("mail", "globex")})
        self.assertNotIn(993, world.ports.values())

    def test_broken_holder(self):
        """A resource that became wrong, and still serves, keeps its name."""
        world = World([self.single])
        world.settle()
        world.resources = [rejected("mail-acme"), self.tenants]
        world.settle()
        self.assertEqual(set(world.listening), {key("mail-acme"), key("mail", "globex")})

    def test_two_holders(self):
        """Two records that both say that they hold the name: the first in order does."""
        world = World([self.single, self.tenants])
        for port, each in enumerate((key("mail-acme"), key("mail", "acme")), 4000):
            world.records[each] = Record(each, port)
        world.settle()
        self.assertEqual(set(world.listening), {key("mail", "acme"), key("mail", "globex")})
        self.assertFalse(world.records[key("mail-acme")].active)
        self.assertEqual(world.plan(), ())

    def test_other_namespace(self):
        """The same name in another namespace is another name."""
        world = World([self.single, resource("mail-acme", namespace="office")])
        world.settle()
        self.assertEqual(len(world.listening), 2)


class RejectedResources(SynchronousTestCase):
    """A resource that is wrong as a whole: told so, and what was open goes on."""

    def test_new(self):
        """Nothing is opened for it."""
        world = World([rejected("mail", reason=Reason.TENANT_ANNOTATION_INVALID), resource("other")])
        world.settle()
        status = world.told("mail")
        self.assertEqual(status.reason, "ConfigurationError-MultitenancyAnnotation-Invalid")
        self.assertEqual([(row.port, row.available) for row in status.listeners], [(0, False)])
        self.assertEqual(world.ports, {"other": 993})

    def test_was_good(self):
        """What it was before goes on, and its status says both."""
        world = World([resource("mail", "acme", "globex")])
        world.settle()
        world.resources = [rejected("mail")]
        self.assertEqual(kinds(world.settle()), ["SetStatus"])
        status = world.told("mail")
        self.assertEqual((status.available, status.message), (False, "spec is wrong"))
        self.assertEqual([(row.port, row.available) for row in status.listeners], [(993, True), (10000, True)])
        world.resources = [resource("mail", "acme", "globex")]
        self.assertEqual(kinds(world.settle()), ["SetStatus"])

    def test_still_named(self):
        """A tenant that it no longer names is gone nevertheless."""
        world = World([resource("mail", "acme", "globex")])
        world.settle()
        world.resources = [rejected("mail", "acme")]
        self.assertEqual(kinds(world.settle()), ["Close", "Release", "SetStatus"])
        self.assertEqual(world.ports, {"mail-acme": 993})

    def test_nobody_named(self):
        """A resource that names nobody any more has nothing open, and its status says so."""
        world = World([resource("mail")])
        world.settle()
        world.resources = [rejected("mail", "acme")]
        world.settle()
        self.assertEqual([(row.port, row.available) for row in world.told("mail").listeners], [(0, False)])
        self.assertEqual(world.plan(), ())

    def test_after_a_restart(self):
        """After a restart nothing is known of what it was: the port stays its own, closed."""
        world = World([resource("mail")])
        world.settle()
        world.restart()
        world.resources = [rejected("mail"), resource("other")]
        world.settle()
        self.assertEqual(world.ports, {"other": 10000})
        self.assertEqual([row.available for row in world.told("mail").listeners], [False])


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

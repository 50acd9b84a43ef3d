"""The planner is pure, so that every situation can be tried: listeners come, change, last and go."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.operator.worlds import ADDRESS, FAILURE, IMAPS, NOT_FOUND, SUCCESS, World, key, kinds, refusal, resource
from tproxy.model import Binding, GreetingMode, Reason, Tenant
from tproxy.operator.plan import RANGE, Claim, Close, Known, Listening, Observed, Open, Rebind, Snapshot, plan, subject


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

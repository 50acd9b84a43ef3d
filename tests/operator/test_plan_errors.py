"""The planner's answer to what is wrong: destinations, ports, resources, and two of one name."""

from __future__ import annotations

import errno

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.operator.worlds import ADDRESS, DUPLICATE, FAILURE, NOT_FOUND, World, key, kinds, refusal, rejected, resource
from tproxy.model import Reason
from tproxy.operator.plan import Record, unbindable


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

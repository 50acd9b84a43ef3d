"""What fails: actions and lookups are tried again, alone and after a pause."""

from __future__ import annotations

import errno

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.logs import logged
from tests.operator.reconciling import ReconcilerTestCase
from tests.operator.worlds import key, refusal, resource
from tproxy.model import Destination, NoCredential, Reason, RefusedError, Route
from tproxy.operator import reconciler
from tproxy.operator.plan import Release, SetStatus
from tproxy.operator.reconciler import Pauses


class Failures(ReconcilerTestCase):
    def test_alone(self):
        """What fails rests alone, each time longer, is told of, and its success is told too."""
        self.errors[993] = OSError(errno.EADDRNOTAVAIL, "x")
        with logged(reconciler.log) as events:
            self.start(resource("a"), resource("b"))
            self.assertEqual(self.open, {"b": 10000})
            self.assertIn("EADDRNOTAVAIL", self.told("a").message)
            for seconds in (1, 2, 4):
                self.clock.advance(seconds - 0.1)
                self.turn()
                before = len([event for event in events if event["event"] == "action.failed"])
                self.clock.advance(0.1)
                self.turn()
                self.assertEqual(len([event for event in events if event["event"] == "action.failed"]), before + 1)
        self.assertEqual(len([event for event in events if event["event"] == "listener.refused"]), 1)
        self.errors.clear()
        self.clock.advance(8)
        self.turn()
        self.assertEqual(self.open, {"a": 993, "b": 10000})
        self.assertTrue(self.told("a").available)

    def test_one_tenant(self):
        """A tenant that fails does not keep the others of its resource from being served."""
        self.errors[993] = OSError(errno.EADDRNOTAVAIL, "x")
        self.start(resource("a", "acme", "globex"))
        self.assertEqual(self.open, {"a-globex": 10000})
        self.assertEqual([row.available for row in self.told("a").listeners], [False, True])

    def test_status(self):
        """A status that cannot be written is tried again, and nothing else with it."""
        self.cluster.answers[SetStatus, "a"] = ValueError("secret")
        with logged(reconciler.log) as events:
            self.start(resource("a"))
        self.assertEqual(self.open, {"a": 993})
        self.assertEqual([(event["event"], event["key"]) for event in events], [("action.failed", "shop/a")])
        self.assertNotIn("secret", str(events))
        count = len(self.cluster.performed)
        self.turn()
        self.assertEqual(len(self.cluster.performed), count)
        self.cluster.answers.clear()
        self.clock.advance(1)
        self.turn()
        self.assertTrue(self.told("a").available)

    def test_release(self):
        """A release that fails is tried again at its time, not at once."""
        self.start(resource("a"))
        self.cluster.answers[Release, "a"] = RefusedError(refusal(Reason.INTERNAL_ERROR))
        self.change()
        self.closed()
        self.turn()
        self.assertEqual([type(each) for each in self.cluster.performed].count(Release), 1)
        self.cluster.answers.clear()
        self.clock.advance(1)
        self.assertFalse(self.cluster.world.records[key("a")].active)

    def test_gone(self):
        """What rests is forgotten with its resource, once that is let go."""
        self.errors[993] = OSError(errno.EADDRNOTAVAIL, "x")
        self.start(resource("a"))
        self.change()
        self.clock.advance(1)
        self.turn()
        self.assertFalse(self.cluster.world.records[key("a")].active)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1, "the next look at everything")


class Lookups(ReconcilerTestCase):
    def refuse(self, reason, name="mailbox"):
        self.store.answers[name] = RefusedError(refusal(reason, f"because of {name}"))

    def test_refused(self):
        """A destination that is not there is told, in the log too, once."""
        self.refuse(Reason.DESTINATION_NOT_FOUND)
        with logged(reconciler.log) as events:
            self.start(resource("a"), resource("b", destination="other"))
            self.clock.advance(180)
            self.turn()
        self.assertEqual(self.open, {"b": 993})
        self.assertEqual(self.told("a").reason, "ConfigurationError-ReferencedDestination-NotFound")
        self.assertEqual([(event["event"], event["listener"]) for event in events], [("listener.refused", "shop/a")])

    def test_refresh(self):
        """When documents change, all are looked up again: what is there now is opened, what is gone is closed."""
        self.refuse(Reason.DESTINATION_NOT_FOUND)
        self.start(resource("a"), resource("b", destination="other"))
        self.store.answers.clear()
        self.refuse(Reason.DESTINATION_NOT_FOUND, "other")
        self.reconciler.refresh()
        self.turn()
        self.assertEqual(self.open, {"a": 10000})
        self.assertEqual(self.ports[0].factory.revoked, ["the destination is gone"])

    def test_interval(self):
        """Everything is looked at again every few minutes."""
        self.start(resource("a"))
        self.store.protocol = "imap4"
        self.clock.advance(180)
        self.turn()
        self.assertEqual(self.ports[0].factory.binding.protocol, "imap4")

    def test_store_away(self):
        """A store that does not answer changes nothing, and is asked again at growing intervals."""
        self.start(resource("a"))
        self.refuse(Reason.STORE_UNAVAILABLE)
        with logged(reconciler.log) as events:
            self.reconciler.refresh()
            self.turn()
            asked = len(self.store.asked)
            for seconds in (1, 2, 4):
                self.clock.advance(seconds)
            self.assertEqual(len(self.store.asked), asked + 3)
        self.assertEqual({event["event"] for event in events}, {"destination.unanswered"})
        self.assertEqual(self.open, {"a": 993})
        self.assertTrue(self.told("a").available)

    def test_last_word(self):
        """A store that goes away after it said that a destination is gone has said so."""
        self.start(resource("a"))
        self.refuse(Reason.DESTINATION_NOT_FOUND)
        self.reconciler.refresh()
        self.turn()
        self.refuse(Reason.STORE_UNAVAILABLE)
        self.reconciler.refresh()
        self.turn()
        self.assertEqual(self.open, {})

    def test_back_again(self):
        """A store that was away from the start: what is recorded was open, and the rest follows when it is back."""
        self.refuse(Reason.STORE_UNAVAILABLE)
        self.start(resource("a"))
        self.assertEqual((self.open, self.told("a").message), ({}, "because of mailbox"))
        self.store.answers.clear()
        self.clock.advance(1)
        self.turn()
        self.assertEqual(self.open, {"a": 993})

    def test_slow(self):
        """A look-up that takes its time holds nobody up; one that takes too long counts as not answered."""
        answer = self.store.answers["mailbox"] = Deferred()
        self.start(resource("a"), resource("b", destination="other"))
        self.assertEqual(self.open, {"b": 993})
        self.clock.advance(reconciler.LOOK_UP_SECONDS)
        self.turn()
        self.assertTrue(answer.called)
        self.assertIn("TimeoutError", self.told("a").message)

    def test_overtaken(self):
        """Of two answers to one question the one to the later look-up counts."""
        early = self.store.answers["mailbox"] = Deferred()
        self.start(resource("a"))
        self.refuse(Reason.TYPE_NOT_SUPPORTED)
        self.reconciler.refresh()
        self.turn()
        early.callback(Destination("mailbox", Route("imap4s", "h", 993), "u", NoCredential()))
        self.turn()
        self.assertEqual(self.open, {})

    def test_broken_store(self):
        """A store that breaks, or names a protocol that nobody serves, concerns its own destinations."""
        self.store.answers["mailbox"] = ZeroDivisionError("secret")
        with logged(reconciler.log) as events:
            self.start(resource("a"), resource("b", destination="other"))
        self.assertIn("ZeroDivisionError", self.told("a").message)
        self.assertNotIn("secret", str(events) + self.told("a").message)
        self.assertEqual(self.open, {"b": 993})
        self.store.protocol = "gopher"
        self.change(resource("c", destination="third"), *self.cluster.world.resources)
        self.assertIn("KeyError", self.told("c").message)
        self.assertEqual(self.open, {"b": 993})


class PausesTests(SynchronousTestCase):
    def test_jitter(self):
        """What failed together is not tried again together: from half the time to the whole."""
        clock, awake = Clock(), []
        for chance, seconds in ((0.0, 0.5), (0.5, 0.75), (1.0, 1.0)):
            self.assertEqual(Pauses(clock, awake.append, lambda chance=chance: chance).rest("x"), seconds)

    def test_growth(self):
        """Pauses double up to the longest; after a success they begin anew."""
        clock, awake = Clock(), []
        pauses = Pauses(clock, awake.append, lambda: 1.0)
        for _ in range(5000):
            last = pauses.rest("x")
        self.assertEqual(last, reconciler.LONGEST_PAUSE)
        self.assertEqual(len(clock.getDelayedCalls()), 1)
        pauses.forget("x")
        self.assertNotIn("x", pauses)
        self.assertEqual((pauses.rest("x"), pauses.rest("x")), (1.0, 2.0))
        clock.advance(2)
        self.assertEqual(awake, ["x"])
        self.assertNotIn("x", pauses)

"""What the API server refuses or forgets, and what others do to objects: nothing is taken away by mistake."""

from __future__ import annotations

from tests.apiserver.server import SERVICES, Cut, Silence
from tests.apiserver.storage import Status
from tests.cluster.installed import HOME, InstalledTestCase
from tests.logs import logged
from tests.operator.installations import SUCCESS
from tproxy.cluster.kinds import DESTINATIONS
from tproxy.model import ListenerKey, Reason, RefusedError
from tproxy.operator import operator
from tproxy.operator.desired import named_service
from tproxy.operator.objects import Installation, Sort
from tproxy.operator.steps import Create


class FaultTests(InstalledTestCase):
    """One replica that leads."""

    def test_foreign(self):
        """A Service of somebody else is left alone."""
        self.start()
        self.server.create(SERVICES, "shop", "mail", spec={"ports": [{"port": 80}]})
        before = self.all(SERVICES)["mail"]
        with logged(operator.log) as logs:
            self.apply("mail")
        self.assertEqual(before, self.all(SERVICES)["mail"])
        self.assertEqual(("False", "ConfigurationError-K8sResourceWithNameAlreadyPresent"), self.condition("mail"))
        self.assertEqual(
            ["name-already-present"], [each["reason"] for each in logs if each["event"] == "action.failed"]
        )
        self.server.delete(SERVICES, "shop", "mail")
        self.pass_time(15)
        self.assertEqual({"mail": "p10000"}, self.named())
        self.assertEqual(SUCCESS, self.condition("mail"))

    def test_foreign_record(self):
        """A number that somebody else uses as a name is passed over."""
        self.server.create(SERVICES, HOME, "p10000", spec={"ports": [{"port": 80}]})
        self.start()
        self.apply("mail")
        self.pass_time(3)
        self.assertEqual({"mail": "p10001"}, self.named())
        self.operator.refresh()

    def test_named_like_a_record(self):
        """At home a resource may be called as a record is: who came first has the Service."""
        self.start()
        home, port = Installation(HOME), self.cluster.observe().objects.ports[10000]
        name = Create(Sort.SERVICE, named_service(home, ListenerKey(HOME, "p10000"), "uid", port))
        refusal = self.failureResultOf(self.performed(name), RefusedError).value.refusal
        self.assertEqual(Reason.NAME_ALREADY_PRESENT, refusal.reason)
        for each in ("p10000", "p10002"):
            self.server.create(DESTINATIONS, HOME, each, spec={"destinationRef": {"name": each}})
            self.pass_time(15)
            self.apply(f"mail-{each}")
            self.pass_time(15)
        self.assertEqual({"mail-p10000": "p10001", "mail-p10002": "p10003"}, self.named())

    def performed(self, step):
        done = self.cluster.perform(step)
        self.flush()
        return done

    def test_adopted(self):
        """What we made though the answer was lost is found."""
        self.start()
        self.server.faults["create", "services"].append(Cut(done=True))
        self.apply("mail")
        self.pass_time(5)
        self.assertEqual(SUCCESS, self.condition("mail"))

    def test_conflict(self):
        """What was changed meanwhile is looked at, and planned anew."""
        self.start()
        conflict = Status(409, "Conflict", "changed")
        self.server.faults["patch", "services"].append(conflict)
        self.server.faults["patch", "destinations/status"].append(conflict)
        self.apply("mail")
        self.pass_time(5)
        self.assertEqual(({"mail": "p10000"}, SUCCESS), (self.named(), self.condition("mail")))

    def test_too_many_requests(self):
        """Told to come back later, it asks for nothing more until then, for any listener."""
        self.start()
        busy = Status(429, "TooManyRequests", "too many requests, please try again later", 3)
        self.server.faults["create", "services"].extend([busy] * 100)
        asked = len(self.server.asked)
        self.apply("mail", *(f"t{number}" for number in range(3 * operator.WRITERS)))
        self.pass_time(1.5)
        created = [each for each in self.server.asked[asked:] if (each.verb, each.resource) == ("create", "services")]
        self.assertLessEqual(len(created), operator.WRITERS)
        self.server.faults["create", "services"].clear()
        self.pass_time(20)
        self.assertEqual(SUCCESS, self.condition("mail"))

    def test_forbidden(self):
        """A right that is missing is said, once a pause, and told the resource where that is possible."""
        for verb, resource in (
            ("create", "networkpolicies"),
            ("patch", "services"),
            ("create", "endpointslices"),
            ("patch", "destinations/status"),
        ):
            with self.subTest(verb=verb, resource=resource):
                self.server.forbidden.add((verb, resource))
                if not hasattr(self, "cluster"):
                    self.start()
                name = f"{verb}-{resource[:4]}"
                with logged(operator.log) as logs:
                    self.apply(name)
                    self.pass_time(3)
                messages = [each["message"] for each in logs if each["event"] == "action.failed"]
                self.assertTrue(messages, (verb, resource))
                self.assertIn("forbidden", messages[0])
                if resource != "endpointslices":  # a spare has its slice already
                    self.assertNotEqual(SUCCESS, self.condition(name))
                self.server.forbidden.clear()
                self.pass_time(30)
                self.assertEqual(SUCCESS, self.condition(name))

    def test_away(self):
        """While the API server does not answer nothing changes; nothing is taken away by an error."""
        self.start()
        self.apply("mail")
        self.server.cut()
        for verb in ("list", "watch", "get"):
            for resource in ("destinations", "services", "leases"):
                self.server.faults[verb, resource].extend([Status(503, "ServiceUnavailable", "away")] * 4)
        self.pass_time(20)
        self.assertEqual({"shop/mail": 10000}, self.serving())

    def test_short_list(self):
        """A list that comes back short takes nothing away."""
        self.start()
        self.apply("mail")
        stored = self.server.storage.objects[DESTINATIONS.group, DESTINATIONS.plural]
        kept = dict(stored)
        self.server.expire()
        stored.clear()
        self.server.forbidden.add(("get", "destinations"))
        self.pass_time(3)
        stored.update(kept)
        self.server.forbidden.clear()
        self.pass_time(5)
        self.assertEqual(({"shop/mail": 10000}, {"mail": "p10000"}), (self.serving(), self.named()))
        self.server.expire()
        self.pass_time(5)
        self.assertEqual(SUCCESS, self.condition("mail"))

    def test_kind_gone(self):
        """An API server that does not know Destinations any more says nothing about a single one."""
        self.start()
        self.apply("mail")
        served = self.server.served(DESTINATIONS)
        kept = dict(self.server.storage.objects[DESTINATIONS.group, DESTINATIONS.plural])
        self.server.storage.withdraw(served)
        self.pass_time(5)
        self.assertEqual({"shop/mail": 10000}, self.serving())
        self.server.storage.serve(served)
        self.server.storage.objects[DESTINATIONS.group, DESTINATIONS.plural].update(kept)
        self.server.expire()
        self.pass_time(60)
        self.assertEqual(({"shop/mail": 10000}, SUCCESS), (self.serving(), self.condition("mail")))

    def test_record_gone(self):
        """A record that somebody deleted is made anew, with another port or the same; a list alone removes none."""
        self.start()
        self.apply("mail")
        self.server.delete(SERVICES, HOME, "p10000")
        self.pass_time(3)
        self.assertEqual(1, len(self.serving()))
        self.assertEqual(SUCCESS, self.condition("mail"))
        stored = self.server.storage.objects["", SERVICES.plural]
        record = stored.pop((HOME, self.named()["mail"]))
        self.server.forbidden.add(("get", "services"))
        self.server.forbidden.add(("create", "services"))
        self.server.expire()
        self.pass_time(3)
        self.assertEqual(1, len(self.serving()))
        stored[HOME, record["metadata"]["name"]] = record
        self.server.forbidden.clear()
        self.pass_time(3)

    def test_unreachable(self):
        """Before everything was listed once nothing is known."""
        self.server.faults["list", "pods"].append(Silence())
        self.start()
        self.assertIsNone(self.cluster.observe())
        self.assertEqual([], self.ports)

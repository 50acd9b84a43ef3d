"""What is odd about documents, and how often that is said."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.logs import logged
from tproxy.destinations import warnings
from tproxy.destinations.warnings import REMEMBERED, Warnings
from tproxy.model import Destination, DestinationRequest, NoCredential, Route, Tenant

REQUEST = DestinationRequest("local", "mail", Tenant("acme"))
GOOD = Destination("mail", Route("imap4s", "imap.example.com", 993), "", NoCredential())
ODD = evolve(GOOD, warnings=("one", "two"))


class WarningsTests(SynchronousTestCase):
    def said(self, *seen: tuple[Destination, DestinationRequest]) -> list[tuple[str, str, str]]:
        known = Warnings()
        with logged(warnings.log) as events:
            for destination, request in seen:
                known.say(destination, request)
        return [(event["destination"], event["tenant"], event["message"]) for event in events]

    def test_until_it_changes(self) -> None:
        """Each warning is said, and again only after it was another one, or gone."""
        one, two = ("mail", "acme", "one"), ("mail", "acme", "two")
        self.assertEqual(self.said((ODD, REQUEST), (ODD, REQUEST)), [one, two])
        less = evolve(GOOD, warnings=("one",))
        self.assertEqual(self.said((ODD, REQUEST), (less, REQUEST), (less, REQUEST)), [one, two, one])
        self.assertEqual(self.said((GOOD, REQUEST), (less, REQUEST), (GOOD, REQUEST), (less, REQUEST)), [one, one])

    def test_apart(self) -> None:
        """What another request finds, of another tenant or with a fragment, is another thing."""
        less = evolve(GOOD, warnings=("one",))
        fragment, other = evolve(REQUEST, fragment="f"), evolve(REQUEST, tenant=Tenant("globex"))
        seen = ((less, REQUEST), (GOOD, fragment), (less, other))
        self.assertEqual(self.said(*seen, *seen), [("mail", "acme", "one"), ("mail", "globex", "one")])

    def test_bounded(self) -> None:
        """The first of too many is forgotten."""
        less = evolve(GOOD, warnings=("one",))
        seen = [(less, evolve(REQUEST, name=str(number))) for number in range(REMEMBERED + 1)]
        self.assertEqual(len(self.said(*seen, seen[1])), REMEMBERED + 1)
        self.assertEqual(len(self.said(*seen, seen[0])), REMEMBERED + 2)

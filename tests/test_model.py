"""The vocabulary's promises: secrets stay secret, names are built one way, refusals say what to do."""

import copy
import pickle

from attrs import evolve
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tproxy.model import (
    PROVIDER,
    Bearer,
    Code,
    Destination,
    DestinationRequest,
    Grant,
    ListenerKey,
    NoCredential,
    Password,
    Reason,
    Refusal,
    RefusedError,
    Resolution,
    Route,
    Secret,
    Stage,
    Tenant,
)

CANARY = "canary-5e1f"


class SecretTests(SynchronousTestCase):
    """A secret can be compared and handed on, and in no way be printed."""

    def test_reveals_what_it_was_given(self):
        """Whoever needs the value for the wire gets it unchanged."""
        self.assertEqual(Secret("pä'\ud800").reveal(), "pä'\ud800")

    def test_never_printed(self):
        """No way of turning it into text shows the value."""
        secret = Secret(CANARY)
        for shown in (repr(secret), str(secret), f"{secret}", f"{secret:>40}", f"{secret!r}", f"{[secret]}"):
            self.assertNotIn(CANARY, shown)
            self.assertIn("***", shown)

    def test_not_in_what_holds_it(self):
        """Values that carry secrets don't show them, however deep."""
        secret = Secret(CANARY)
        pairs = (("name", secret),)
        grant = Grant(
            "https://t", "id", secret, password=secret, headers=pairs, queries=pairs, body=pairs, offered=secret
        )
        for holder in (Password("u", secret), Bearer("u", secret), grant):
            resolution = Resolution(Destination("d", Route("imap4s", "h", 993), "u", grant), holder)
            self.assertNotIn(CANARY, repr(holder) + repr(resolution))

    def test_not_serialised(self):
        """Neither pickle nor copy takes the value out of it."""
        for take in (pickle.dumps, copy.copy, copy.deepcopy):
            self.assertRaises(TypeError, take, Secret(CANARY))

    def test_no_attributes(self):
        """Nothing can be hung on it, and it has no `__dict__` that a formatter would walk."""
        self.assertFalse(hasattr(Secret(CANARY), "__dict__"))

    def test_other_types(self):
        """It equals no text, not even its own value."""
        self.assertFalse(Secret(CANARY) == CANARY)
        self.assertTrue(Secret(CANARY) != CANARY)

    @given(st.text(), st.text())
    @settings(deadline=None)
    def test_compared_by_value(self, one, other):
        """Equal values are equal secrets with equal hashes, whatever characters they hold."""
        self.assertEqual(Secret(one), Secret(one))
        self.assertEqual(hash(Secret(one)), hash(Secret(one)))
        assume(one != other)
        self.assertNotEqual(Secret(one), Secret(other))

    def test_lone_surrogates(self):
        """Half a character, as JSON may hold, does not break the comparison."""
        self.assertEqual(Secret("\ud800"), Secret("\ud800"))
        self.assertNotEqual(Secret("\ud800"), Secret("\ud801"))


class RefusalTests(SynchronousTestCase):
    """A refusal reads as one line."""

    def test_with_remedy(self):
        """What is wrong, then what to do about it."""
        refusal = Refusal(Stage.RESOLVE, Reason.DOCUMENT_INVALID, "Name is missing", "add it")
        self.assertEqual(str(refusal), "Name is missing: add it")

    def test_without_remedy(self):
        """Where nothing can be advised, the message stands alone; the application is told UNAVAILABLE."""
        refusal = Refusal(Stage.CONNECT, Reason.CONNECTION_FAILED, "the server is silent")
        self.assertEqual(str(refusal), "the server is silent")
        self.assertIs(refusal.code, Code.UNAVAILABLE)

    def test_error(self):
        """The exception carries the refusal and reads like it."""
        refusal = Refusal(Stage.CONNECT, Reason.CONNECTION_FAILED, "the server is silent")
        error = RefusedError(refusal)
        self.assertIs(error.refusal, refusal)
        self.assertEqual(str(error), "the server is silent")

    def test_error_again(self):
        """Another one of the same kind says all that the first one does, the message in other words if need be."""

        class Slow(RefusedError):
            def __init__(self, refusal: Refusal, seconds: float) -> None:
                super().__init__(refusal)
                self.seconds = seconds

        refusal = Refusal(Stage.CONNECT, Reason.CONNECTION_FAILED, "the server is silent", "wait")
        first = Slow(refusal, 7.0)
        for words, expected in (("", refusal), ("it is", evolve(refusal, message="it is"))):
            again = first.again(words)
            self.assertEqual(
                (type(again), again.refusal, again.seconds, str(again)), (Slow, expected, 7.0, str(expected))
            )
            self.assertIsNot(again, first)
        self.assertIs(first.refusal, refusal)


class ListenerKeyTests(SynchronousTestCase):
    """A listener's key names its Service."""

    def test_provider(self):
        """Without a tenant the Service is called like the resource."""
        key = ListenerKey("shop", "mail")
        self.assertEqual((key.service, str(key)), ("mail", "shop/mail"))

    def test_tenant(self):
        """A tenant's Service carries its subdomain."""
        key = ListenerKey("shop", "mail", Tenant("acme"))
        self.assertEqual((key.service, str(key)), ("mail-acme", "shop/mail-acme"))

    def test_order(self):
        """Keys are ordered by namespace, name, tenant, the provider's own first."""
        keys = [
            ListenerKey("a", "b", PROVIDER),
            ListenerKey("a", "b", Tenant("x")),
            ListenerKey("a", "c", Tenant("a")),
            ListenerKey("b", "a", PROVIDER),
        ]
        backwards = list(reversed(keys))
        self.assertEqual(sorted(backwards), keys)


class DestinationTests(SynchronousTestCase):
    """Destinations are compared by what they do."""

    def test_warnings(self):
        """Other warnings make no other destination, so that nothing is done anew for them."""
        route = Route("imap4s", "imap.example", 993)
        self.assertEqual(
            Destination("d", route, "", NoCredential(), ("one",)), Destination("d", route, "", NoCredential())
        )

    def test_request_defaults(self):
        """A request is the provider's own unless it names a tenant."""
        self.assertEqual(DestinationRequest("i", "d").tenant, PROVIDER)

"""The store, over real folders, and over a real token endpoint on loopback."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from tproxy.config import Config, Local
from tproxy.destinations.build import build
from tproxy.destinations.store import Store
from tproxy.document import Rules
from tproxy.instances import DirectoryInstance
from tproxy.interfaces import IDestinationStore
from tproxy.model import (
    Bearer,
    DestinationRequest,
    NoCredential,
    Offered,
    Password,
    Reason,
    RefusedError,
    Secret,
    Tenant,
)
from tproxy.net.endpoints import Connector
from tproxy.net.guard import Guard
from tproxy.net.resolver import Resolver
from tproxy.net.trust import TrustStore
from tproxy.testing.certificates import Authority
from tproxy.testing.tokens import LOGIN_PAGE, TokenEndpoint, oauth_error, serve

RULES = Rules({"imap4": 143, "imap4s": 993}, http_token_hosts=frozenset({"127.0.0.1"}))
BASIC = {
    "Name": "mail",
    "Type": "MAIL",
    "ProxyType": "Internet",
    "Authentication": "BasicAuthentication",
    "mail.user": "anna",
    "mail.password": "first-password",
    "mail.transport.protocol": "imap4s",
    "mail.imap4s.host": "imap.example.com",
}
OAUTH = {name: value for name, value in BASIC.items() if name != "mail.password"} | {
    "Authentication": "OAuth2ClientCredentials",
    "clientId": "client",
    "clientSecret": "secret",
}
MAIL = DestinationRequest("", "mail")


def write(path: Path, document: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def config(directory: Path, default: str = "local") -> Config:
    return Config(
        "shared", (DirectoryInstance("local", directory),), default, Local(directory, directory / "state.json")
    )


class StoreTests(SynchronousTestCase):
    """What needs no network."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        write(self.directory / "mail.json", BASIC)
        self.clock = Clock()

    def store(self, default: str = "local") -> Store:
        connector: Any = None
        return build(config(self.directory, default), RULES, connector, self.clock, self.clock.seconds)

    def refusal(self, deferred: Deferred[Any]) -> Any:
        return self.failureResultOf(deferred, RefusedError).value.refusal

    def test_interface(self) -> None:
        """It is a destination store."""
        verifyObject(IDestinationStore, self.store())

    def test_resolves_a_password(self) -> None:
        """The document's user and password, usable at once."""
        resolution = self.successResultOf(self.store().resolve(MAIL))
        self.assertEqual(resolution.credential, Password("anna", Secret("first-password")))
        self.assertTrue(resolution.cached)
        self.assertEqual(resolution.destination, self.successResultOf(self.store().describe(MAIL)))

    def test_nobody_logs_in(self) -> None:
        """NoAuthentication is a credential of its own, and there is never another."""
        write(self.directory / "mail.json", BASIC | {"Authentication": "NoAuthentication"})
        store = self.store()
        self.assertEqual(self.successResultOf(store.resolve(MAIL)).credential, NoCredential())
        self.assertIsNone(self.successResultOf(store.renew(MAIL, NoCredential())))

    def test_tenant_first(self) -> None:
        """A tenant gets its own document where there is one, else the common one."""
        write(self.directory / "acme" / "mail.json", BASIC | {"mail.user": "acme-anna"})
        store = self.store()
        for tenant, user in (("acme", "acme-anna"), ("globex", "anna"), ("", "anna")):
            request = DestinationRequest("local", "mail", Tenant(tenant))
            self.assertEqual(self.successResultOf(store.describe(request)).user, user)

    def test_change_is_noticed(self) -> None:
        """A changed file is served, and told of, within a second or two, and no longer once stopped."""
        store, told = self.store(), []
        store.watch(lambda: told.append(self.successResultOf(store.resolve(MAIL)).credential))
        store.startService()
        self.clock.advance(1)
        self.assertEqual(told, [])
        write(self.directory / "mail.json", BASIC | {"mail.password": "next"})
        self.clock.advance(1)
        self.assertEqual(told, [Password("anna", Secret("next"))])
        store.stopService()
        write(self.directory / "mail.json", BASIC | {"mail.password": "last"})
        self.clock.advance(5)
        self.assertEqual(len(told), 1)

    def test_no_older_answer(self) -> None:
        """Once a folder was looked at, nothing is answered from what was there before, nor from another request."""
        authorities = [Authority.create().pem for _ in range(2)]
        pem, file, own = self.directory / "own.pem", self.directory / "mail.json", self.directory / "acme" / "mail.json"
        pem.write_text(authorities[0])
        write(file, BASIC | {"TrustStoreLocation": "own.pem", "mail.imap4s.auth": True})
        store = self.store()
        acme = DestinationRequest("", "mail", Tenant("acme"))

        def answers() -> list[Any]:
            store.poll()
            found = [self.successResultOf(store.describe(request)) for request in (MAIL, acme)]
            return [(each.user, *map(str.strip, each.route.trust.authorities)) for each in found]

        self.assertEqual(answers(), [("anna", authorities[0].strip())] * 2)
        pem.write_text(authorities[1])
        self.assertEqual(answers(), [("anna", authorities[1].strip())] * 2)
        write(own, BASIC | {"mail.user": "acme-anna"})
        self.assertEqual(answers(), [("anna", authorities[1].strip()), ("acme-anna",)])
        own.unlink()
        answers()  # gone when it is missing twice
        self.assertEqual(answers(), [("anna", authorities[1].strip())] * 2)
        write(file, BASIC | {"TrustStoreLocation": "own.pem", "mail.imap4s.auth": 1})
        store.poll()
        self.assertIn("mail.imap4s.auth", self.refusal(store.resolve(MAIL)).message)

    def test_gone(self) -> None:
        """A file that is taken away is gone within two seconds."""
        store, told = self.store(), []
        store.watch(lambda: told.append(self.clock.seconds()))
        store.startService()
        (self.directory / "mail.json").unlink()
        self.clock.pump([1, 0.25, 0.75])
        self.assertEqual(told, [1.25])
        self.assertEqual(self.refusal(store.resolve(MAIL)).reason, Reason.DESTINATION_NOT_FOUND)
        write(self.directory / "mail.json", BASIC)
        self.clock.advance(1)
        (self.directory / "mail.json").unlink()
        self.clock.advance(1)
        store.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_polling_survives(self) -> None:
        """One listener's error does not end the watch."""
        store, told = self.store(), []

        def fails() -> None:
            told.append(1)
            raise ZeroDivisionError

        store.watch(fails)
        store.startService()
        self.addCleanup(store.stopService)
        for user in ("one", "other"):
            write(self.directory / "mail.json", BASIC | {"mail.user": user})
            self.clock.advance(1)
        self.assertEqual(told, [1, 1])

    def test_renewed_password(self) -> None:
        """After a refusal the document is read anew: another password is tried, the same one is not."""
        store = self.store()
        refused = self.successResultOf(store.resolve(MAIL)).credential
        self.assertIsNone(self.successResultOf(store.renew(MAIL, refused)))
        write(self.directory / "mail.json", BASIC | {"mail.password": "second-password"})
        renewed = self.successResultOf(store.renew(MAIL, refused))
        self.assertEqual(renewed.credential, Password("anna", Secret("second-password")))

    def test_refusals(self) -> None:
        """What a folder of documents cannot give is refused by name."""
        store = self.store()
        for request, reason, words in (
            (DestinationRequest("", "other"), Reason.DESTINATION_NOT_FOUND, "'other'"),
            (DestinationRequest("nope", "mail"), Reason.RESOURCE_INVALID, "instance 'nope'"),
            (DestinationRequest("", "mail", level="instance"), Reason.RESOURCE_INVALID, "spec.destinationRef.level"),
            (DestinationRequest("", "mail", chain="c"), Reason.RESOURCE_INVALID, "spec.chainRef.name"),
            (DestinationRequest("", "mail", fragment="f"), Reason.FRAGMENT_NOT_FOUND, "spec.fragmentRef.name"),
        ):
            for answer in (store.describe(request), store.resolve(request), store.renew(request, NoCredential())):
                refusal = self.refusal(answer)
                self.assertEqual(refusal.reason, reason)
                self.assertIn(words, refusal.message)
        optional = DestinationRequest("", "mail", fragment="f", fragment_optional=True)
        self.assertEqual(self.successResultOf(store.describe(optional)).name, "mail")

    def test_invalid_document(self) -> None:
        """What a document lacks is told with its file and the property."""
        file = self.directory / "mail.json"
        write(file, {name: value for name, value in BASIC.items() if name != "mail.user"})
        refusal = self.refusal(self.store().describe(MAIL))
        self.assertEqual(refusal.reason, Reason.DOCUMENT_INVALID)
        self.assertIn(f"{file}: mail.user is missing", refusal.message)

    def test_no_default_instance(self) -> None:
        """Who names no instance, where none is the default, is told so."""
        self.assertIn("names no instance", self.refusal(self.store("").describe(MAIL)).message)

    def test_authority(self) -> None:
        """TrustStoreLocation is a file beside the document."""
        pem = Authority.create().pem
        (self.directory / "own.pem").write_text(pem)
        write(self.directory / "mail.json", BASIC | {"TrustStoreLocation": "own.pem"})
        (certificate,) = self.successResultOf(self.store().describe(MAIL)).route.trust.authorities
        self.assertEqual(certificate.strip(), pem.strip())

    def test_warns_once(self) -> None:
        """A document's warning is logged when it is first seen and when it changes."""
        write(self.directory / "mail.json", BASIC | {"mail.imap4s.auth": "false"})
        told: list[LogEvent] = []
        globalLogPublisher.addObserver(told.append)
        self.addCleanup(globalLogPublisher.removeObserver, told.append)
        store = self.store()
        for value in ("false", "false", "true", "false"):
            write(self.directory / "mail.json", BASIC | {"mail.imap4s.auth": value})
            store.poll()
            self.successResultOf(store.describe(MAIL))
        self.assertEqual([e["destination"] for e in told if e.get("event") == "document.warning"], ["mail", "mail"])


class TokenStoreTests(TestCase):
    """Tokens, over a real connection."""

    @inlineCallbacks
    def setUp(self) -> Any:
        self.directory = Path(self.mktemp())
        authority = Authority.create()
        self.endpoint = TokenEndpoint(reactor)
        port = yield serve(reactor, self.endpoint, context=authority.issue("127.0.0.1").server_context())
        self.addCleanup(port.stopListening)
        self.url = f"https://127.0.0.1:{port.getHost().port}/token"
        (self.directory).mkdir()
        (self.directory / "ca.pem").write_text(authority.pem)

    def store(self, **properties: str) -> Store:
        document = OAUTH | {"tokenServiceURL": self.url, "TrustStoreLocation": "ca.pem"} | properties
        write(self.directory / "mail.json", document)
        guard = Guard([ip_network("127.0.0.0/8")])
        connector = Connector(reactor, Resolver(reactor, guard), TrustStore(None))
        store = build(config(self.directory), RULES, connector, reactor, reactor.seconds)
        self.addCleanup(store.stopService)
        return store

    @inlineCallbacks
    def test_token(self) -> Any:
        """A token is fetched once, kept, and replaced when the mail server refused it."""
        store = self.store()
        first = yield store.resolve(MAIL)
        self.assertIsInstance(first.credential, Bearer)
        self.assertEqual(first.credential.user, "anna")
        self.assertFalse(first.cached)
        self.assertTrue(self.endpoint.valid(first.credential.token.reveal()))
        again = yield store.resolve(MAIL)
        self.assertEqual((again.credential, again.cached), (first.credential, True))
        renewed = yield store.renew(MAIL, first.credential)
        self.assertNotEqual(renewed.credential, first.credential)
        self.assertEqual(len(self.endpoint.asked), 2)

    @inlineCallbacks
    def test_token_age(self) -> Any:
        """How old the token is that is held, once there is one, for who shares it; looking fetches none."""
        store = self.store()
        self.assertIsNone(store.token_age(MAIL))
        yield store.resolve(MAIL)
        for request in (MAIL, DestinationRequest("local", "mail")):
            age = store.token_age(request)
            self.assertTrue(0 <= age < 60, age)
        for request in (DestinationRequest("nope", "mail"), DestinationRequest("", "other")):
            self.assertIsNone(store.token_age(request))
        self.assertEqual(len(self.endpoint.asked), 1)

    @inlineCallbacks
    def test_no_token_of_all(self) -> Any:
        """A password is no token, and one that applications bring is not everybody's."""
        store = self.store(Authentication="OAuth2RefreshToken")
        yield store.resolve(MAIL, Offered("anna", Secret(self.endpoint.refresh_token("anna"))))
        self.assertIsNone(store.token_age(MAIL))
        write(self.directory / "mail.json", BASIC)
        store.poll()
        self.assertIsNone(store.token_age(MAIL))

    @inlineCallbacks
    def test_renewed_after_other_credential(self) -> Any:
        """A refused password, and meanwhile the document wants a token: that is something new."""
        renewed = yield self.store().renew(MAIL, Password("anna", Secret("old")))
        self.assertIsInstance(renewed.credential, Bearer)

    @inlineCallbacks
    def test_refused(self) -> Any:
        """The endpoint's reason reaches the operator, the secret does not."""
        self.endpoint.answers.append(oauth_error(401, "invalid_client", "no such pair client:secret"))
        error = yield self.assertFailure(self.store().resolve(MAIL), RefusedError)
        self.assertEqual(error.refusal.reason, Reason.TOKEN_REFUSED)
        self.assertIn("invalid_client - no such pair client:***", error.refusal.message)

    @inlineCallbacks
    def test_login_page(self) -> Any:
        """HTML with 200 is no token."""
        self.endpoint.answers.append(LOGIN_PAGE)
        error = yield self.assertFailure(self.store().resolve(MAIL), RefusedError)
        self.assertEqual(error.refusal.reason, Reason.TOKEN_UNAVAILABLE)

    @inlineCallbacks
    def test_untrusted(self) -> Any:
        """No request is sent to an endpoint whose certificate is not trusted."""
        (self.directory / "ca.pem").write_text(Authority.create().pem)
        error = yield self.assertFailure(self.store().resolve(MAIL), RefusedError)
        self.assertEqual(error.refusal.reason, Reason.TOKEN_UNAVAILABLE)
        self.assertIn("is out of reach", error.refusal.message)
        self.assertEqual(self.endpoint.asked, [])

"""The walk of `tproxy check`: what it prints is what sessions would meet."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_network

from attrs import Factory as Fresh
from attrs import evolve, frozen
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tproxy.assembly import Clock
from tproxy.interfaces import IDestinationStore
from tproxy.model import (
    Bearer,
    Binding,
    Credential,
    Destination,
    DestinationRequest,
    Grant,
    GrantKind,
    ListenerKey,
    NoCredential,
    Offered,
    Password,
    Reason,
    Refusal,
    RefusedError,
    Resolution,
    Route,
    Secret,
    Stage,
    Tenant,
    Trust,
)
from tproxy.net.endpoints import Connector
from tproxy.net.guard import Guard
from tproxy.net.resolver import Resolver
from tproxy.net.trust import Peer, TrustStore
from tproxy.operator.manifests import Rejected, Resource
from tproxy.ops.check import Checker, Step, described, find, way_in
from tproxy.protocols.imap4 import imap4s
from tproxy.testing.certificates import Authority
from tproxy.testing.mailserver import MailServer

PASSWORD = "canary-77ab"
USER = "jane@example.com"
REQUEST = DestinationRequest("local", "mail")
REFUSAL = Refusal(Stage.RESOLVE, Reason.DOCUMENT_INVALID, "It is wrong", "Correct it")


@implementer(IDestinationStore)
@frozen
class OneDestination:
    """A store with one destination; a token is what `token` says."""

    destination: Destination | Refusal
    token: str | Refusal = ""
    offers: list[Offered | None] = Fresh(list)

    def describe(self, request: DestinationRequest) -> Deferred[Destination]:
        if isinstance(self.destination, Refusal):
            return fail(RefusedError(self.destination))
        return succeed(self.destination)

    def resolve(self, request: DestinationRequest, offered: Offered | None = None) -> Deferred[Resolution]:
        assert isinstance(self.destination, Destination)
        self.offers.append(offered)
        match self.destination.login:
            case Grant() if isinstance(self.token, Refusal):
                return fail(RefusedError(self.token))
            case Grant():
                return succeed(Resolution(self.destination, Bearer(USER, Secret(str(self.token)))))
            case login:
                return succeed(Resolution(self.destination, login))

    def renew(
        self, request: DestinationRequest, refused: Credential, offered: Offered | None = None
    ) -> Deferred[Resolution | None]:
        return succeed(None)


@implementer(IOpenSSLContextFactory)
@frozen
class Contexts:
    """The context of every connection."""

    context: SSL.Context

    def getContext(self) -> SSL.Context:
        return self.context


class Talker(Protocol):
    """Says one thing and listens."""

    def __init__(self, words: bytes) -> None:
        self.words = words

    def connectionMade(self) -> None:
        self.transport.write(self.words)


class Walks(TestCase):
    """Against real servers on loopback."""

    def setUp(self) -> None:
        self.authority = Authority.create()
        self.listening = []
        self.addCleanup(self.close)

    async def close(self) -> None:
        for port in self.listening:
            await port.stopListening()

    def serve(self, factory, *names: str) -> int:
        """Serve with a certificate for these names, or without TLS if there are none."""
        if names:
            contexts = Contexts(self.authority.issue(*names).server_context())
            self.listening.append(reactor.listenSSL(0, factory, contexts, interface="127.0.0.1"))
        else:
            self.listening.append(reactor.listenTCP(0, factory, interface="127.0.0.1"))
        return self.listening[-1].getHost().port

    async def check(
        self,
        destination: Destination | Refusal,
        token: str | Refusal = "",
        allowed: tuple[str, ...] = ("127.0.0.0/8",),
        offered: Offered | None = None,
    ) -> tuple[bool, Mapping[str, Step]]:
        """Whether the walk was good, and its steps by name, in order."""
        clock = Clock(reactor)
        resolver = Resolver(reactor, Guard([ip_network(each) for each in allowed]), clock)
        self.store = store = OneDestination(destination, token)
        checker = Checker(clock, store, Connector(reactor, resolver, TrustStore()), {imap4s.name: imap4s})
        steps: list[Step] = []
        good = await checker.check(REQUEST, steps.append, offered)
        self.assertNotIn(PASSWORD, repr(steps))
        return good, {step.name: step for step in steps}

    def destination(self, port: int, password: str = PASSWORD) -> Destination:
        route = Route("imap4s", "127.0.0.1", port, Trust((self.authority.pem,)))
        return Destination("mail", route, USER, Password(USER, Secret(password)))

    async def test_good(self) -> None:
        """Each step is there in order, with its time and what was found."""
        port = self.serve(MailServer({USER: PASSWORD}), "127.0.0.1", "mail.example.com")
        good, steps = await self.check(self.destination(port))
        self.assertTrue(good, steps)
        self.assertEqual(
            list(steps), ["resolve", "dns", "connect", "tls", "greeting", "login", "capabilities", "session"]
        )
        self.assertEqual(steps["resolve"].found, (f"imap4s 127.0.0.1 port {port}", f"as {USER} with a password"))
        self.assertEqual(steps["dns"].found, ("127.0.0.1",))
        self.assertEqual(steps["connect"].found, ("127.0.0.1",))
        self.assertRegex(steps["greeting"].found[0], "mechanisms PLAIN")
        self.assertEqual(steps["login"].found, ("AUTHENTICATE PLAIN",))
        self.assertEqual(steps["session"].found, ("NAMESPACE", "answered"))
        self.assertRegex(steps["tls"].found[0], r"^TLSv1\.[23], \S+$")
        self.assertIn("mail.example.com", steps["tls"].found[1])
        self.assertTrue(all(step.seconds >= 0 and step.refusal is None for step in steps.values()))

    async def test_wrong_password(self) -> None:
        """A refused login is the last step."""
        port = self.serve(MailServer({USER: "other"}), "127.0.0.1")
        good, steps = await self.check(self.destination(port))
        self.assertFalse(good)
        self.assertEqual(list(steps)[-2:], ["greeting", "login"])
        self.assertEqual(steps["login"].refusal.reason, Reason.LOGIN_REFUSED)

    async def test_wrong_name(self) -> None:
        """A certificate for others: its names are there."""
        port = self.serve(MailServer({USER: PASSWORD}), "mail.example.com")
        good, steps = await self.check(self.destination(port))
        self.assertFalse(good)
        self.assertEqual(list(steps)[-1], "tls")
        self.assertEqual(steps["tls"].refusal.reason, Reason.CERTIFICATE_NAME_MISMATCH)
        self.assertIn("mail.example.com", "".join(steps["tls"].found))

    async def test_unknown_authority(self) -> None:
        """A certificate that nobody vouches for fails at TLS."""
        port = self.serve(MailServer({USER: PASSWORD}), "127.0.0.1")
        destination = self.destination(port)
        route = evolve(destination.route, trust=Trust())
        good, steps = await self.check(evolve(destination, route=route))
        self.assertFalse(good)
        self.assertEqual(steps["tls"].refusal.reason, Reason.CERTIFICATE_UNTRUSTED)

    async def test_no_tls(self) -> None:
        """A server that does not speak TLS fails at TLS, not at the greeting."""
        port = self.serve(Factory.forProtocol(lambda: Talker(b"* OK plain\r\n")))
        good, steps = await self.check(self.destination(port))
        self.assertFalse(good)
        self.assertEqual(list(steps)[-2:], ["connect", "tls"])

    async def test_nobody_listens(self) -> None:
        """A refused connection fails at connect."""
        port = self.serve(Factory.forProtocol(Protocol))
        await self.listening.pop().stopListening()
        good, steps = await self.check(self.destination(port))
        self.assertFalse(good)
        self.assertEqual(list(steps), ["resolve", "dns", "connect"])
        self.assertEqual(steps["connect"].refusal.reason, Reason.CONNECTION_FAILED)

    async def test_refused_address(self) -> None:
        """An address that must not be dialled fails at DNS."""
        good, steps = await self.check(self.destination(1), allowed=())
        self.assertFalse(good)
        self.assertEqual(list(steps), ["resolve", "dns"])
        self.assertEqual(steps["dns"].refusal.reason, Reason.ADDRESS_REFUSED)

    async def test_hostile_greeting(self) -> None:
        """A greeting that is none fails there."""
        port = self.serve(Factory.forProtocol(lambda: Talker(b"HTTP/1.1 400 Bad Request\r\n")), "127.0.0.1")
        good, steps = await self.check(self.destination(port))
        self.assertFalse(good)
        self.assertEqual(list(steps)[-2:], ["tls", "greeting"])

    async def test_without_login(self) -> None:
        """Where nobody logs in, the walk ends after the greeting."""
        port = self.serve(MailServer({USER: PASSWORD}), "127.0.0.1")
        good, steps = await self.check(evolve(self.destination(port), login=NoCredential()))
        self.assertTrue(good)
        self.assertEqual(list(steps)[-2:], ["greeting", "login"])
        self.assertIn("nobody logs in", steps["login"].found[-1])

    async def test_unknown_destination(self) -> None:
        """What the store refuses ends the walk before it begins."""
        good, steps = await self.check(REFUSAL)
        self.assertFalse(good)
        self.assertEqual([step.refusal for step in steps.values()], [REFUSAL])

    async def test_token(self) -> None:
        """Fetching a token is a step of its own; without one nothing is dialled."""
        grant = Grant("https://login.example.com/token", "id", Secret(PASSWORD))
        good, steps = await self.check(evolve(self.destination(1), login=grant), REFUSAL)
        self.assertFalse(good)
        self.assertEqual(list(steps), ["resolve", "token"])
        self.assertEqual(steps["resolve"].found[-1], "with a token from https://login.example.com/token")

    async def test_offered(self) -> None:
        """What an application would bring is exchanged where the destination asks for it."""
        offered = Offered(USER, Secret(PASSWORD))
        for kind in (GrantKind.REFRESH_TOKEN, GrantKind.AUTHORIZATION_CODE):
            grant = Grant("https://login.example.com/token", "id", Secret(PASSWORD), kind=kind)
            good, steps = await self.check(evolve(self.destination(1), login=grant), "t", allowed=(), offered=offered)
            self.assertFalse(good)
            self.assertEqual((list(steps), self.store.offers), (["resolve", "token", "dns"], [offered]))

    async def test_not_offered(self) -> None:
        """Where that is missing, or too much, the walk ends before anything is asked for, and says what to do."""
        offered = Offered(USER, Secret(PASSWORD))
        asks = Grant("", "", Secret(""), kind=GrantKind.REFRESH_TOKEN)
        logs_in = Grant("https://login.example.com/token", "id", Secret(PASSWORD))
        for login, brought, words in (
            (asks, None, "--credential FILE"),
            (logs_in, offered, "leave --credential out"),
            (NoCredential(), offered, "leave --credential out"),
        ):
            good, steps = await self.check(evolve(self.destination(1), login=login), offered=brought)
            self.assertFalse(good)
            self.assertEqual((list(steps), self.store.offers), (["resolve"], []))
            refusal = steps["resolve"].refusal
            self.assertEqual((refusal.stage, refusal.reason), (Stage.RESOLVE, Reason.CREDENTIAL_INVALID))
            self.assertIn(words, refusal.remedy)

    async def test_warnings(self) -> None:
        """What the store warns of is said."""
        _, steps = await self.check(evolve(self.destination(1), warnings=("odd\n",)), allowed=())
        self.assertEqual(steps["resolve"].found[-1], "warning: odd\\n")


class Words(SynchronousTestCase):
    """What was found, in words."""

    def test_store(self) -> None:
        """The store of these tests is one."""
        self.assertTrue(verifyObject(IDestinationStore, OneDestination(REFUSAL)))

    def test_certificate(self) -> None:
        """Version, cipher, names and the last day; names cannot play with a terminal."""
        peer = Peer(("a.example", "b\x1b"), datetime(2030, 1, 31, tzinfo=UTC), "TLSv1.3", "AES")
        self.assertEqual(
            described(peer), ("TLSv1.3, AES", "certificate of a.example, b\\x1b", "valid until 2030-01-31")
        )
        self.assertIn("certificate of no name", described(evolve(peer, names=())))

    def test_logins(self) -> None:
        """Who logs in, and with what kind of secret."""
        self.assertEqual(way_in(Bearer("u\r", Secret(PASSWORD))), "as u\\r with a token")
        self.assertEqual(way_in(NoCredential()), "without a login")
        client_credentials = Grant("https://login.example.com:8443/token", "id", Secret(PASSWORD))
        for kind in (GrantKind.REFRESH_TOKEN, GrantKind.AUTHORIZATION_CODE):
            exchanged = "with a token exchanged for what the application sends, "
            grant = evolve(client_credentials, kind=kind)
            self.assertEqual(way_in(grant), exchanged + "at login.example.com:8443")
            self.assertEqual(way_in(evolve(grant, url="")), exchanged + "by the Destination service")


def resource(namespace: str, *tenants: str, refused: tuple[str, ...] = ()) -> Resource:
    """A Destination resource called `mail`."""
    bindings = (
        Binding(
            ListenerKey(namespace, "mail", Tenant(tenant)),
            DestinationRequest("local", f"of-{namespace}", Tenant(tenant)),
        )
        for tenant in tenants
    )
    return Resource(namespace, "mail", tuple(bindings), refused=tuple((Tenant(each), REFUSAL) for each in refused))


class Names(SynchronousTestCase):
    """What NAME on the command line stands for."""

    def refused(self, resources, *, name="mail", namespace=None, tenant="", instance="local") -> Refusal:
        error = self.assertRaises(RefusedError, find, resources, name, namespace, Tenant(tenant), instance)
        return error.refusal

    def test_resource(self) -> None:
        """A resource of that name, wherever it is."""
        self.assertEqual(find([resource("a", "")], "mail", None, Tenant(""), "local").name, "of-a")

    def test_namespace(self) -> None:
        """Of several, the one in the namespace that is said; without it the choices are named."""
        several = [resource("b", ""), resource("a", ""), resource("a", "x")]
        self.assertEqual(find(several, "mail", "b", Tenant(""), "local").name, "of-b")
        self.assertEqual(find(several, "mail", "a", Tenant(""), "local").name, "of-a")
        self.assertIn("a, b", self.refused(several).remedy)
        self.assertIn("namespace c", self.refused(several, namespace="c").message)

    def test_tenant(self) -> None:
        """The tenant's own; the tenants that there are are named."""
        tenants = [resource("a", "acme", "globex", refused=("odd",))]
        self.assertEqual(find(tenants, "mail", None, Tenant("acme"), "local").tenant, "acme")
        self.assertIn("acme, globex", self.refused(tenants).remedy)
        self.assertIn("the tenant other", self.refused(tenants, tenant="other").message)
        self.assertEqual(self.refused(tenants, tenant="odd"), REFUSAL)
        self.assertIn("leave --tenant out", self.refused([resource("a", "")], tenant="acme").remedy)

    def test_wrong_resource(self) -> None:
        """A resource that is wrong says why."""
        self.assertEqual(self.refused([Rejected("a", "mail", REFUSAL)]), REFUSAL)

    def test_destination(self) -> None:
        """Where there is no such resource, a destination of the default instance."""
        self.assertEqual(
            find([resource("a", "")], "other", None, Tenant("t"), "local"),
            DestinationRequest("local", "other", Tenant("t")),
        )
        self.assertIn("no Destination resource other", self.refused([], name="other", instance="").message)

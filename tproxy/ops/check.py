"""One walk to a destination's mail server, a step at a time, over the very parts that sessions use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from socket import socket
from typing import cast
from urllib.parse import urlsplit

from attrs import frozen
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from tproxy.interfaces import ICommentary, IDestinationStore, IProtocolPlugin
from tproxy.lines import Dialogue
from tproxy.model import (
    Bearer,
    Credential,
    DestinationRequest,
    Grant,
    GrantKind,
    NoCredential,
    Offered,
    Password,
    Reason,
    Refusal,
    RefusedError,
    Route,
    Stage,
    Tenant,
    Trust,
)
from tproxy.net.endpoints import Connector
from tproxy.net.trust import ClientTLS, Peer, TrustStore
from tproxy.operator.manifests import Rejected, Resource
from tproxy.ops.logs import escaped
from tproxy.relay.upstream import ClientHalf, Only, login_by
from tproxy.session import (
    Effect,
    Ended,
    Event,
    Expired,
    LoggedIn,
    Machine,
    Refuse,
    Send,
    State,
    Verified,
)

LOGIN_SECONDS = 30.0
PROBE_SECONDS = 10.0


@frozen
class Step:
    """A step of the walk: how long it took, what was found, and why it was the last one.

    `name` is one of resolve, token, dns, connect, tls, greeting, capabilities, login, session,
    or what the protocol calls it.
    """

    name: str
    seconds: float
    found: tuple[str, ...] = ()
    refusal: Refusal | None = None


class Progress:
    """Follows the walk: `reach` ends the step under way and begins the next.

    @param done: called with each step that is over
    """

    def __init__(self, clock: IReactorTime, done: Callable[[Step], None]) -> None:
        self._clock = clock
        self._done = done
        self._name = "resolve"
        self._since = clock.seconds()
        self._found: list[str] = []

    def find(self, *found: str) -> None:
        """Something is known now that belongs to the step under way."""
        self._found += found

    def reach(self, name: str) -> None:
        """The walk is at `name` now; nothing happens where it was there already, or where none is given."""
        if name not in ("", self._name):
            self._finish(None)
            self._name = str(name)

    def connected(self, address: str) -> None:
        """The step under way may have been to connect: that led to this address."""
        if self._name == "connect":
            self.find(address)

    def end(self, refusal: Refusal | None = None) -> None:
        """The walk is over."""
        self._finish(refusal)

    def _finish(self, refusal: Refusal | None) -> None:
        now = self._clock.seconds()
        self._done(Step(self._name, now - self._since, tuple(self._found), refusal))
        self._since, self._found = now, []


@frozen
class _WitnessedTLS:
    """TLS of one connection that tells the walk what the mail server showed."""

    tls: ClientTLS
    walk: Progress

    def connection(self, sock: socket) -> SSL.Connection:
        self.walk.connected(sock.getpeername()[0])
        self.walk.reach("tls")
        return self.tls.connection(sock)

    def verify(self, connection: SSL.Connection) -> None:
        self.walk.find(*described(self.tls.peer(connection)))
        self.tls.verify(connection)

    def refusal(self, connection: SSL.Connection, error: Exception) -> Refusal:
        return self.tls.refusal(connection, error)


@frozen
class _WitnessedTrust:
    """The installation's trust, with a witness for every connection."""

    trust: TrustStore
    walk: Progress

    def client(self, trust: Trust, host: str) -> _WitnessedTLS:
        return _WitnessedTLS(self.trust.client(trust, host), self.walk)


def described(peer: Peer) -> tuple[str, ...]:
    """What a mail server showed of itself, for a reader."""
    names = ", ".join(escaped(name) for name in peer.names) or "no name"
    return (f"{peer.version}, {peer.cipher}", f"certificate of {names}", f"valid until {peer.not_after:%Y-%m-%d}")


def way_in(login: Password | NoCredential | Grant | Bearer) -> str:
    """How the destination says to log in, for a reader."""
    match login:
        case Password(user):
            return f"as {escaped(user)} with a password"
        case Bearer(user):
            return f"as {escaped(user)} with a token"
        case NoCredential():
            return "without a login"
        case Grant(url, kind=GrantKind.CLIENT_CREDENTIALS):
            return f"with a token from {escaped(url)}"
        case Grant(url):
            where = f"at {escaped(urlsplit(url).netloc)}" if url else "by the Destination service"
            return f"with a token exchanged for what the application sends, {where}"


def find(
    resources: Iterable[Resource | Rejected], name: str, namespace: str | None, tenant: Tenant, instance: str
) -> DestinationRequest:
    """What `name` stands for: a Destination resource, or else a destination of the default instance.

    @param namespace: where to look for the resource; None for everywhere
    @param instance: the default instance, empty if there is none
    @raise RefusedError: it stands for nothing, for several things, or for something that is wrong
    """
    named: dict[str, Resource | Rejected] = {}
    for each in resources:
        if each.name == name and namespace in (None, each.namespace):
            named.setdefault(each.namespace, each)
    match list(named.values()):
        case [Resource(bindings=bindings, refused=refused)]:
            for binding in bindings:
                if binding.key.tenant == tenant:
                    return binding.request
            for refused_tenant, refusal in refused:
                if refused_tenant == tenant:
                    raise RefusedError(refusal)
            tenants = ", ".join(sorted(binding.key.tenant for binding in bindings if binding.key.tenant))
            said = f"the tenant {tenant}" if tenant else "the provider, only tenants"
            remedy = f"say --tenant with one of: {tenants}" if tenants else "leave --tenant out"
            raise _nothing(f"The resource {name} does not name {said}", remedy)
        case [Rejected(refusal=refusal)]:
            raise RefusedError(refusal)
        case []:
            if namespace is not None:
                raise _nothing(f"There is no Destination {name} in the namespace {namespace}", "correct one of the two")
            if not instance:
                raise _nothing(
                    f"There is no Destination resource {name}",
                    "correct the name, or configure a default instance to check a destination that has no resource",
                )
            return DestinationRequest(instance, name, tenant)
        case _:
            message = f"There is a Destination {name} in several namespaces"
            raise _nothing(message, f"say --namespace with one of: {', '.join(sorted(named))}")


def _nothing(message: str, remedy: str) -> RefusedError:
    return RefusedError(Refusal(Stage.RESOLVE, Reason.RESOURCE_INVALID, message, remedy))


@frozen
class Checker:
    """Walks to mail servers.

    `plaintext_hosts` may be sent credentials without TLS.
    """

    clock: IReactorTime
    store: IDestinationStore
    connector: Connector
    plugins: Mapping[str, IProtocolPlugin]
    plaintext_hosts: frozenset[str] = frozenset()

    async def check(
        self, request: DestinationRequest, done: Callable[[Step], None], offered: Offered | None = None
    ) -> bool:
        """Walk from the destination to a session that answers; `done` is told each step. Was it good?

        `offered` is what an application would bring, where the destination asks for that.
        """
        walk = Progress(self.clock, done)
        try:
            client = await self._walk(request, walk, offered)
        except RefusedError as error:
            if error.refusal.stage is Stage.TLS:
                walk.reach("tls")
            walk.end(error.refusal)
            return False
        walk.end()
        await close(client)
        return True

    async def _walk(self, request: DestinationRequest, walk: Progress, offered: Offered | None) -> ClientHalf:
        destination = await self.store.describe(request)
        route = destination.route
        walk.find(f"{route.protocol} {route.host} port {route.port}", way_in(destination.login))
        walk.find(*(escaped(f"warning: {warning}") for warning in destination.warnings))
        if destination.asks != (offered is not None):
            raise RefusedError(_OFFER_LACKS if destination.asks else _OFFER_TOO_MUCH)
        if isinstance(destination.login, Grant):
            walk.reach("token")
        credential: Credential = (await self.store.resolve(request, offered)).credential
        walk.reach("dns")
        walk.find(", ".join(await self.connector.resolver.resolve(route.host, route.port)))
        walk.reach("connect")
        return await self._converse(route, credential, walk)

    async def _converse(self, route: Route, credential: Credential, walk: Progress) -> ClientHalf:
        plugin = self.plugins[route.protocol]
        trust = cast(TrustStore, _WitnessedTrust(self.connector.trust, walk))
        connector = Connector(self.connector.reactor, self.connector.resolver, trust)
        login = login_by(plugin, route, credential, self.plaintext_hosts)
        watch = Watch(walk, ICommentary(plugin, None))
        client = ClientHalf(
            watched(plugin.log_in(login), watch),
            lambda transport: connector.start_tls(transport, route.trust, route.host, route.port),
        )
        endpoint = connector.endpoint(route.host, route.port, route.trust if plugin.encrypted else None)
        await endpoint.connect(Only(client))
        walk.connected(client.transport.getPeer().host)
        walk.reach(client.dialogue.state.stage)
        deadline = self.clock.callLater(LOGIN_SECONDS, client.expire)
        try:
            outcome = await client.outcome
            if isinstance(outcome, LoggedIn):
                walk.reach("session")
                machine = watched(plugin.probe(login, outcome.capabilities), watch)
                await probe(self.clock, client, machine, outcome)
                walk.find("answered")
            else:
                walk.find("nobody logs in: from here on all is relayed")
        except BaseException:
            client.transport.abortConnection()
            raise
        finally:
            if deadline.active():
                deadline.cancel()
        return client


_OFFER_LACKS = Refusal(
    Stage.RESOLVE,
    Reason.CREDENTIAL_INVALID,
    "applications log in to this destination with a refresh token or an authorization code of their own",
    "give one with --credential FILE, and the user that it is for with --user",
)
_OFFER_TOO_MUCH = Refusal(
    Stage.RESOLVE,
    Reason.CREDENTIAL_INVALID,
    "this destination logs in by itself, and takes no credential of an application",
    "leave --credential out",
)


async def close(client: ClientHalf) -> None:
    """Ends a connection that is well."""
    closed: Deferred[None] = Deferred()
    client.heard, client.gone = lambda data: None, lambda: closed.callback(None)
    client.transport.loseConnection()
    await closed


@frozen
class Watch:
    """Tells the walk what goes on in a dialogue, in the words of its protocol if it has some."""

    walk: Progress
    commentary: ICommentary | None

    def __call__(self, before: State, event: Event, after: State, effects: Iterable[Effect]) -> None:
        if self.commentary is not None:
            self.walk.find(*filter(None, [self.commentary.heard(event)]))
        stage = "" if after.stage is before.stage else after.stage
        sent = [effect.octets for effect in effects if isinstance(effect, Send)]
        for step, words in map(self.commentary.said, sent) if self.commentary is not None else ():
            self.walk.reach(step or stage)
            self.walk.find(*filter(None, [words]))
            stage = ""
        self.walk.reach(stage)


def watched(machine: Machine, watch: Callable[[State, Event, State, Iterable[Effect]], None]) -> Machine:
    """The same machine, whose every step is shown."""

    def step(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
        after, effects = machine.step(state, event)
        watch(state, event, after, effects)
        return after, effects

    return Machine(machine.state, step)


async def probe(clock: IReactorTime, client: ClientHalf, machine: Machine, outcome: LoggedIn) -> None:
    """Sends one command over a connection that is logged in; raises RefusedError."""
    dialogue = Dialogue(machine)
    answered: Deferred[None] = Deferred()

    def run(effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(octets):
                    client.transport.write(octets)
                case Verified() if not answered.called:
                    answered.callback(None)
                case Refuse(refusal) if not answered.called:
                    answered.errback(Failure(RefusedError(refusal)))

    client.heard = lambda data: run(dialogue.receive(data))
    client.gone = lambda: run(dialogue.tell(Ended()))
    deadline = clock.callLater(PROBE_SECONDS, lambda: run(dialogue.tell(Expired())))
    try:
        run(dialogue.tell(outcome))
        run(dialogue.receive(client.dialogue.rest()))
        await answered
    finally:
        if deadline.active():
            deadline.cancel()

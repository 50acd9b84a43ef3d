"""The way to a logged-in connection: resolve, wait for the turn, connect, log in."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping

from attrs import Factory, frozen
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime

from tproxy.interfaces import IDestinationStore, IProtocolPlugin
from tproxy.model import (
    Bearer,
    DestinationRequest,
    Offered,
    Reason,
    Refusal,
    RefusedError,
    Resolution,
    Stage,
)
from tproxy.net.endpoints import Connector
from tproxy.relay.attempts import Attempt, Attempts
from tproxy.relay.refusals import Refusals
from tproxy.relay.room import Room
from tproxy.relay.tally import Tallies, Tally
from tproxy.relay.upstream import ClientHalf, Only, Outcome, login_by
from tproxy.session import HandOver


@frozen
class Services:
    """What all sessions of a process share."""

    clock: IReactorTime
    store: IDestinationStore
    connector: Connector
    plugins: Mapping[str, IProtocolPlugin]
    attempts: Attempts
    connections_per_listener: int
    plaintext_hosts: frozenset[str]
    room: Room
    tallies: Tallies = Factory(Tallies)
    refusals: Refusals = Factory(Refusals)


class Walk:
    """One session's way to its mail server.

    `stage` says how far it has come; `client` is the connection of the login that is under way.
    """

    __slots__ = ("_request", "_services", "_tally", "client", "stage")

    def __init__(self, services: Services, request: DestinationRequest, tally: Tally) -> None:
        self._services = services
        self._request = request
        self._tally = tally
        self.stage = Stage.RESOLVE
        self.client: ClientHalf | None = None

    async def logged_in(self, offered: Offered | None = None) -> tuple[ClientHalf, Outcome]:
        """The connection once it is logged in, and how. Raises `RefusedError`.

        `offered` is what the application brought, None where it was greeted as one that need not bring
        anything: a destination that wants it the other way by now is refused.
        """
        resolution, attempt = await self._admitted(offered)
        try:
            try:
                logged_in = await self._log_in(resolution, offered)
            except RefusedError as error:
                if error.refusal.reason is not Reason.LOGIN_REFUSED or not resolution.cached:
                    raise
                self.stage = Stage.RESOLVE
                fresh = await self._services.store.renew(self._request, resolution.credential, offered)
                if fresh is None:
                    raise
                if fresh.destination.login != resolution.destination.login:  # as little proven as any new credential
                    attempt.refused(error.refusal)
                    attempt = await self._turn(fresh, offered)
                logged_in = await self._log_in(fresh, offered)
        except RefusedError as error:
            attempt.refused(error.refusal)
            raise
        except BaseException:
            attempt.abandoned()
            raise
        attempt.accepted()
        return logged_in

    async def _admitted(self, offered: Offered | None) -> tuple[Resolution, Attempt]:
        """What to log in with, and the turn to do so.

        Who waited for the login of somebody else, and hears that it was refused, may find another credential by then.
        """
        resolution = await self._resolved(offered)
        try:
            return resolution, await self._turn(resolution, offered)
        except RefusedError:
            now = await self._resolved(offered)
            if now.destination.login == resolution.destination.login:
                raise
            return now, await self._turn(now, offered)

    async def _resolved(self, offered: Offered | None) -> Resolution:
        self.stage = Stage.RESOLVE
        resolution = await self._services.store.resolve(self._request, offered)
        self._tally.resolved[resolution.cached] += 1
        return resolution

    async def _turn(self, resolution: Resolution, offered: Offered | None) -> Attempt:
        self.stage = Stage.LOGIN
        key = (self._request, resolution.destination.login, _digest(offered))
        return await self._services.attempts.turn(key)

    async def _log_in(self, resolution: Resolution, offered: Offered | None) -> tuple[ClientHalf, Outcome]:
        services, route = self._services, resolution.destination.route
        scope: Hashable = self._request
        match offered, resolution:
            case None, Resolution(destination) if not destination.asks:
                pass
            case Offered(), Resolution(destination, Bearer(user)) if destination.asks:
                scope = (self._request, user)  # what one user's connection verified says nothing to another
            case _:
                raise RefusedError(_changed(offered))
        plugin, connector = services.plugins[route.protocol], services.connector
        login = login_by(plugin, route, resolution.credential, services.plaintext_hosts)
        client = ClientHalf(
            plugin.log_in(login),
            lambda transport: connector.start_tls(transport, route.trust, route.host, route.port, scope=scope),
        )
        self.stage = Stage.CONNECT
        tls = route.trust if plugin.encrypted else None
        await connector.endpoint(route.host, route.port, tls, scope=scope).connect(Only(client))
        self.client = client
        try:
            outcome = await client.outcome
        except CancelledError:
            client.abandon()
            raise
        except RefusedError as error:
            if error.refusal.reason is Reason.LOGIN_REFUSED:
                connector.forget(route.trust, route.host, route.port, scope)
            raise
        finally:
            self.client = None
        if offered is not None and isinstance(outcome, HandOver):  # nobody logged in
            client.abandon()
            raise RefusedError(_changed(offered))
        client.transport.keep_session()
        return client, outcome


def _digest(offered: Offered | None) -> bytes | None:
    """What an offer is known by once it is made: the offer itself is not kept."""
    if offered is None:
        return None
    said = f"{offered.user}\0{offered.secret.reveal()}"
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()


def _changed(offered: Offered | None) -> Refusal:
    now, then = "wants a credential of the application", "as one that is logged in already"
    if offered is not None:
        now, then = "takes no credential of an application", "as one that brings it"
    return Refusal(
        Stage.RESOLVE,
        Reason.DESTINATION_CHANGED,
        f"the destination {now}, and this one was greeted {then}",
        "connect again once the port follows the changed document",
    )

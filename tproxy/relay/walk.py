"""The way to a logged-in connection: resolve, wait for the turn, connect, log in."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from attrs import frozen
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime

from tproxy.interfaces import IDestinationStore, IProtocolPlugin
from tproxy.model import DestinationRequest, Reason, RefusedError, Resolution, Stage
from tproxy.net.endpoints import Connector
from tproxy.relay.attempts import Attempts
from tproxy.relay.upstream import ClientHalf, Only, Outcome
from tproxy.session import Login


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


class Walk:
    """One session's way to its mail server.

    `stage` says how far it has come; `client` is the connection of the login that is under way.
    """

    __slots__ = ("_request", "_services", "client", "stage")

    def __init__(self, services: Services, request: DestinationRequest) -> None:
        self._services = services
        self._request = request
        self.stage = Stage.RESOLVE
        self.client: ClientHalf | None = None

    async def logged_in(self) -> tuple[ClientHalf, Outcome]:
        """The connection once it is logged in, and how. Raises `RefusedError`."""
        store = self._services.store
        resolution = await store.resolve(self._request)
        self.stage = Stage.LOGIN
        attempt = await self._services.attempts.turn((self._request, resolution.destination.login))
        try:
            try:
                logged_in = await self._log_in(resolution)
            except RefusedError as error:
                if error.refusal.reason is not Reason.LOGIN_REFUSED or not resolution.cached:
                    raise
                fresh = await store.renew(self._request, resolution.credential)
                if fresh is None:
                    raise
                logged_in = await self._log_in(fresh)
        except RefusedError as error:
            attempt.refused(error.refusal)
            raise
        except BaseException:
            attempt.abandoned()
            raise
        attempt.accepted()
        return logged_in

    async def _log_in(self, resolution: Resolution) -> tuple[ClientHalf, Outcome]:
        services, route, scope = self._services, resolution.destination.route, self._request
        plugin, connector = services.plugins[route.protocol], services.connector
        login = Login(
            credential=resolution.credential,
            host=route.host,
            port=route.port,
            encrypted=plugin.encrypted,
            plaintext_allowed=route.host in services.plaintext_hosts,
            tag=secrets.token_hex(4),
            nonce=secrets.token_urlsafe(18),
        )
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
        client.transport.keep_session()
        return client, outcome

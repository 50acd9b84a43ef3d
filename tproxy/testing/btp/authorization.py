"""The authorization server: tokens for an instance, on behalf of one tenant each."""

from __future__ import annotations

import json
from secrets import token_hex, token_urlsafe

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from tproxy.model import Tenant
from tproxy.testing.btp.setup import Setup
from tproxy.testing.tokens import JSON, Answer, Asked, last, oauth_error


@frozen
class _Issued:
    tenant: Tenant
    client_id: str
    until: float


class AuthorizationServer:
    """Issues tokens and knows whose they are.

    @param clock: ages tokens
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._tokens: dict[str, _Issued] = {}

    def answer(self, setup: Setup, tenant: Tenant, asked: Asked, certified: bool | None) -> Answer:
        """The answer to `POST /oauth/token` on a tenant's host.

        @param certified: whether the client showed the instance's certificate; None where none was asked for
        """
        account = setup.accounts.get(tenant)
        if account is None:
            return Answer(404, (("Content-Type", "text/plain"),), b"there is no such tenant")
        if last(asked.form, "grant_type") != "client_credentials":
            return oauth_error(400, "unsupported_grant_type")
        if certified is None:
            secret = last(asked.form, "client_secret")
            certified = setup.client_secret != "" and secret == setup.client_secret
        if not certified or last(asked.form, "client_id") != setup.client_id or not account.subscribed:
            return oauth_error(401, "invalid_client", "the client is not known here or did not prove who it is")
        token = token_urlsafe(32)
        self._tokens[token] = _Issued(tenant, setup.client_id, self._clock.seconds() + setup.token_seconds)
        fields = {
            "access_token": token,
            "token_type": "bearer",
            "expires_in": setup.token_seconds,
            "scope": "uaa.resource",
            "jti": token_hex(16),
        }
        return Answer(200, (("Content-Type", JSON), ("Cache-Control", "no-store")), json.dumps(fields).encode())

    def tenant(self, setup: Setup, authorization: str) -> Tenant | None:
        """Whose bearer token the value of an Authorization header holds, where it is good."""
        scheme, _, token = authorization.partition(" ")
        issued = self._tokens.get(token) if scheme.lower() == "bearer" else None
        if issued is None or issued.client_id != setup.client_id or issued.until <= self._clock.seconds():
            return None
        return issued.tenant

    def revoke(self, tenant: Tenant | None = None) -> None:
        """Makes the tokens issued so far worthless: one tenant's, or all."""
        self._tokens = {token: issued for token, issued in self._tokens.items() if tenant not in (None, issued.tenant)}

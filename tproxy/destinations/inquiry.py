"""What an instance of the Destination service is asked on behalf of a tenant, and the grant for the token to ask with.

All of it is pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import quote, urlsplit

from attrs import frozen

from tproxy import names
from tproxy.destinations.keys import ServiceKey
from tproxy.model import (
    PROVIDER,
    Code,
    DestinationRequest,
    Grant,
    GrantKind,
    Offered,
    Reason,
    Refusal,
    RefusedError,
    Secret,
    Stage,
    Tenant,
    Trust,
)

_OFFERS = {GrantKind.REFRESH_TOKEN: "x-refresh-token", GrantKind.AUTHORIZATION_CODE: "x-code"}
_SECRETS = ("x-refresh-token", "x-code", "x-code-verifier")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")


@frozen
class Inquiry:
    """What is sent to the Destination service; values are in the clear, so it is never printed."""

    url: str
    headers: Mapping[str, str]
    queries: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return "Inquiry('***')"

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """What must not come back in a message: the token first."""
        token = self.headers["authorization"].removeprefix("Bearer ")
        return tuple(map(Secret, [token, *(self.headers[name] for name in _SECRETS if name in self.headers)]))


def token_grant(key: ServiceKey, tenant: Tenant, connect_seconds: float, read_seconds: float) -> Grant:
    """The grant for a token that asks on behalf of a tenant: from the tenant's own host, with the instance's key.

    @param connect_seconds: for address, connection and TLS together
    @param read_seconds: how long the authorization server may be silent
    @raise RefusedError: the key's URL or the tenant does not allow that
    """
    return Grant(
        f"{_of_tenant(key.url, tenant)}/oauth/token",
        key.client_id,
        key.client_secret or Secret(""),
        connect_seconds=connect_seconds,
        read_seconds=read_seconds,
        trust=Trust(identity=key.identity),
    )


def _of_tenant(url: str, tenant: Tenant) -> str:
    """The URL with its first host label replaced by the tenant's subdomain."""
    if tenant == PROVIDER:
        return url
    try:
        names.subdomain(tenant)
    except ValueError as error:
        message = f"the tenant {names.quoted(tenant)} {error}"
        raise _refused(Reason.TENANT_ANNOTATION_INVALID, message, "correct the annotation") from None
    parts = urlsplit(url)
    label, dot, domain = (parts.hostname or "").partition(".")
    if not dot or domain.rpartition(".")[2].isdigit():
        raise _refused(
            Reason.SERVICE_KEY_INVALID,
            "the url of the service key has a host without a label that a tenant's subdomain could replace",
            "use the service key as the provider issued it",
        )
    return parts._replace(netloc=parts.netloc.replace(f"{label}.", f"{tenant}.", 1)).geturl()


def inquiry(
    key: ServiceKey,
    token: Secret,
    request: DestinationRequest,
    *,
    tokens: bool,
    offer: tuple[GrantKind, Offered] | None = None,
    redirect_uri: str = "",
    code_verifier: str = "",
) -> Inquiry:
    """What finds a destination: v2 where a level is named, else v1.

    Whose destinations are meant is told by the token alone, which is the tenant's own; `X-tenant` is not sent.

    @param tokens: whether the service is to fetch the tokens of the destination
    @param offer: what the application brought, where the service is to exchange it
    @param redirect_uri: the one that an authorization code was asked for with
    @param code_verifier: the one that belongs to an authorization code (RFC 7636)
    @raise RefusedError: a text of the resource cannot be sent
    """
    path = f"v1/destinations/{_segment(request.name)}"
    if request.level:
        path = f"v2/destinations/{_segment(_without_at(request.name, 'spec.destinationRef'))}@{request.level}"
    headers = {"accept": "application/json", "authorization": f"Bearer {token.reveal()}"}
    if request.fragment:
        headers["x-fragment-name"] = _fragment(request)
        if request.fragment_optional:
            headers["x-fragment-optional"] = "true"
    if request.chain:
        headers["x-chain-name"] = _value(request.chain, "spec.chainRef.name")
        headers |= _variables(request)
    if offer is not None:
        kind, offered = offer
        headers[_OFFERS[kind]] = _offered(offered.secret.reveal())
    for name, value, what in (
        ("x-redirect-uri", redirect_uri, "redirectUri"),
        ("x-code-verifier", code_verifier, "the code verifier"),
    ):
        if value:
            headers[name] = _value(value, what, Reason.DOCUMENT_INVALID)
    queries = () if tokens else (("$skipTokenRetrieval", "true"),)
    return Inquiry(f"{key.uri}/destination-configuration/{path}", headers, queries)


def _segment(name: str) -> str:
    """A name as one segment of a path (RFC 3986, section 3.3)."""
    with suppress(UnicodeEncodeError):
        if name not in ("", ".", ".."):
            return quote(name, safe="")
    raise _refused(Reason.RESOURCE_INVALID, "spec.destinationRef.name is no name", "correct it")


def _without_at(name: str, path: str) -> str:
    if "@" in name:
        message = f"{path}.name holds an '@', which parts a name from its level"
        raise _refused(Reason.RESOURCE_INVALID, message, f"rename it, or remove {path}.level")
    return name


def _fragment(request: DestinationRequest) -> str:
    path = "spec.fragmentRef"
    name = _value(request.fragment, f"{path}.name")
    if request.level:
        level = f"@{request.fragment_level}" if request.fragment_level else ""
        return _without_at(name, path) + level
    if request.fragment_level:
        message = f"{path}.level is given, and spec.destinationRef.level is not"
        raise _refused(Reason.RESOURCE_INVALID, message, "give both or neither")
    return name


def _variables(request: DestinationRequest) -> dict[str, str]:
    headers: dict[str, str] = {}
    for place, (name, value) in enumerate(request.chain_variables):
        path, header = f"spec.chainRef.variables[{place}]", f"x-chain-var-{name.lower()}"
        if not _HEADER_NAME.fullmatch(name) or header in headers:
            message = f"{path}.name cannot be part of a header's name, or is there already but for its case"
            raise _refused(Reason.RESOURCE_INVALID, message, "use ASCII letters, digits and hyphens, each name once")
        headers[header] = _value(value, f"{path}.value")
    return headers


def _value(text: str, what: str, reason: Reason = Reason.RESOURCE_INVALID) -> str:
    """A text as the value of a header; how others would be encoded is not documented."""
    if not _HEADER_VALUE.fullmatch(text):
        message = f"{what} cannot be sent in an HTTP header"
        raise _refused(reason, message, "use ASCII, without control characters and without spaces around it")
    return text


def _offered(text: str) -> str:
    if not _HEADER_VALUE.fullmatch(text):
        message = "what the application sent cannot be a refresh token or an authorization code"
        remedy = "have it send that alone, as the provider issued it"
        code = Code.AUTHENTICATION_FAILED
        raise RefusedError(Refusal(Stage.RESOLVE, Reason.CREDENTIAL_INVALID, message, remedy, code))
    return text


def _refused(reason: Reason, message: str, remedy: str) -> RefusedError:
    return RefusedError(Refusal(Stage.RESOLVE, reason, message, remedy, Code.CONTACT_ADMIN))

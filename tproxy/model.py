"""The words of the whole program as frozen values: what a destination is, who asks for it, what went wrong."""

from __future__ import annotations

import hmac
from enum import StrEnum
from typing import NewType, Self, final

from attrs import evolve, field, frozen

Tenant = NewType("Tenant", str)
"""A tenant's subdomain; `PROVIDER` is the provider's own."""

PROVIDER = Tenant("")


@final
class Secret:
    """A password, token or key: compared and handed on, never printed."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself: for the wire, never for a log, a status or an exception."""
        return self._value

    def __repr__(self) -> str:
        return "'***'"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(*(secret._value.encode("utf-8", "surrogatepass") for secret in (self, other)))

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not serialised")


class Stage(StrEnum):
    """How far a connection had come on its way to a session."""

    ACCEPT = "accept"
    RESOLVE = "resolve"
    CONNECT = "connect"
    TLS = "tls"
    GREETING = "greeting"
    LOGIN = "login"


class Code(StrEnum):
    """What the application is told: a response code of RFC 5530 (or RFC 9051, section 7.1)."""

    AUTHENTICATION_FAILED = "AUTHENTICATIONFAILED"
    AUTHORIZATION_FAILED = "AUTHORIZATIONFAILED"
    CONTACT_ADMIN = "CONTACTADMIN"
    EXPIRED = "EXPIRED"
    LIMIT = "LIMIT"
    PRIVACY_REQUIRED = "PRIVACYREQUIRED"
    UNAVAILABLE = "UNAVAILABLE"


class Reason(StrEnum):
    """Why something is refused: a bounded set, so that logs and metrics can be grouped by it."""

    # the destination, its store and its tokens
    DESTINATION_NOT_FOUND = "destination-not-found"
    FRAGMENT_NOT_FOUND = "fragment-not-found"
    TYPE_NOT_SUPPORTED = "type-not-supported"
    PROXY_TYPE_NOT_SUPPORTED = "proxy-type-not-supported"
    LOOPBACK_NOT_SUPPORTED = "loopback-not-supported"
    TENANT_ANNOTATION_INVALID = "tenant-annotation-invalid"
    TENANT_MODE_MISMATCH = "tenant-mode-mismatch"
    DUPLICATE_RESOURCE = "duplicate-resource"
    NAME_ALREADY_PRESENT = "name-already-present"
    SERVICE_REFUSED = "service-refused"
    RESOURCE_INVALID = "resource-invalid"
    DOCUMENT_INVALID = "document-invalid"
    DESTINATION_CHANGED = "destination-changed"
    TENANT_NOT_FOUND = "tenant-not-found"
    TENANT_NOT_SUBSCRIBED = "tenant-not-subscribed"
    SERVICE_KEY_INVALID = "service-key-invalid"
    STORE_REFUSED = "store-refused"
    STORE_UNAVAILABLE = "store-unavailable"
    TOKEN_REFUSED = "token-refused"
    TOKEN_UNAVAILABLE = "token-unavailable"
    # the way to the mail server
    ADDRESS_REFUSED = "address-refused"
    NAME_NOT_RESOLVED = "name-not-resolved"
    CONNECTION_FAILED = "connection-failed"
    CERTIFICATE_UNTRUSTED = "certificate-untrusted"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_NOT_YET_VALID = "certificate-not-yet-valid"
    CERTIFICATE_NAME_MISMATCH = "certificate-name-mismatch"
    CERTIFICATE_INVALID = "certificate-invalid"
    TLS_FAILED = "tls-failed"
    # the dialogue with the mail server
    GREETING_REFUSED = "greeting-refused"
    PROTOCOL_VIOLATION = "protocol-violation"
    ENCRYPTION_NOT_OFFERED = "encryption-not-offered"
    MECHANISM_NOT_OFFERED = "mechanism-not-offered"
    CREDENTIAL_INVALID = "credential-invalid"
    LOGIN_REFUSED = "login-refused"
    LOGIN_UNAVAILABLE = "login-unavailable"
    SESSION_UNUSABLE = "session-unusable"
    UPSTREAM_ENDED = "upstream-ended"
    TIMED_OUT = "timed-out"
    # this side
    LIMIT_REACHED = "limit-reached"
    PORT_NOT_AVAILABLE = "port-not-available"
    REVOKED = "revoked"
    INTERNAL_ERROR = "internal-error"


@frozen
class Refusal:
    """One "no", in our own words: where, why, and what to do about it.

    `message` and `remedy` are for the operator. They never hold a secret nor text
    of a mail server. The application sees `code` and words that belong to it.
    """

    stage: Stage
    reason: Reason
    message: str
    remedy: str = ""
    code: Code = Code.UNAVAILABLE

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}" if self.remedy else self.message


class RefusedError(Exception):
    """Carries a `Refusal` up the stack."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal

    def again(self, message: str = "") -> Self:
        """The same, in other words where some are given, for somebody else: an exception that is raised changes."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.refusal = evolve(self.refusal, message=message or self.refusal.message)
        other.args = (other.refusal,)
        return other


@frozen(order=True, cache_hash=True)
class ListenerKey:
    """Whose port it is: one Destination resource for one tenant."""

    namespace: str
    name: str
    tenant: Tenant = PROVIDER

    @property
    def service(self) -> str:
        """The name that a workload connects to, within the namespace."""
        return f"{self.name}-{self.tenant}" if self.tenant else self.name

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service}"


@frozen(cache_hash=True)
class DestinationRequest:
    """What to ask a store for: a destination, as seen by one tenant."""

    instance: str
    name: str
    tenant: Tenant = PROVIDER
    level: str = ""
    fragment: str = ""
    fragment_level: str = ""
    fragment_optional: bool = False
    chain: str = ""
    chain_variables: tuple[tuple[str, str], ...] = ()


class GreetingMode(StrEnum):
    """How an application is greeted: already logged in, open to any login, or asked for what it brings."""

    PREAUTH = "preauth"
    OPEN = "open"
    LOGIN = "login"


@frozen(cache_hash=True)
class Binding:
    """What a listener is bound to, from its opening to its end.

    In a cluster, `owner` is the uid of the resource, and `scope` says from where workloads may come.
    """

    key: ListenerKey
    request: DestinationRequest
    greeting: GreetingMode = GreetingMode.PREAUTH
    protocol: str = "imap4s"
    owner: str = ""
    scope: str = ""

    @property
    def claimed(self) -> bool:
        """Whether it is somebody's: the connections of a spare wait until it is."""
        return bool(self.key.namespace)


def spare(port: int) -> Binding:
    """What a port is bound to that nobody has claimed yet."""
    return Binding(ListenerKey("", f"p{port}"), DestinationRequest("", ""))


@frozen
class Identity:
    """A client's certificate, with its chain, and the key to it: PEM texts, for mutual TLS."""

    certificates: str
    key: Secret


@frozen
class Trust:
    """Whose certificates are believed for one destination, beside the installation's, and which one is shown.

    `authorities` are PEM texts of the destination's own; `verify` is false only where
    the destination says `TrustAll` and the operator allowed that.
    """

    authorities: tuple[str, ...] = ()
    verify: bool = True
    identity: Identity | None = None


@frozen
class Route:
    """Where a mail server is and how it is recognised."""

    protocol: str
    host: str
    port: int
    trust: Trust = Trust()


@frozen
class Password:
    """A user and a password."""

    user: str
    password: Secret


@frozen
class Bearer:
    """A user and an OAuth 2.0 access token."""

    user: str
    token: Secret


@frozen
class NoCredential:
    """The destination says that nobody logs in (`auth: false`)."""


Credential = Password | Bearer | NoCredential


class GrantKind(StrEnum):
    """What is exchanged for an access token: a `grant_type` of RFC 6749."""

    CLIENT_CREDENTIALS = "client_credentials"
    REFRESH_TOKEN = "refresh_token"
    AUTHORIZATION_CODE = "authorization_code"


@frozen
class Offered:
    """What an application brings to be exchanged for an access token; `user` is the one it names, or empty."""

    user: str
    secret: Secret


@frozen
class Grant:
    """An OAuth 2.0 grant, ready to be asked for (RFC 6749, sections 4.1.3, 4.4 and 6).

    `url` is where the tenant's token comes from, after `tokenServiceURLType` was applied; it is empty
    where only the Destination service knows. `headers`, `queries` and `body` are additional; durations
    are seconds. `offered` is the application's refresh token or authorization code, once it is there;
    `redirect_uri` is the one that the code was asked for with, or empty.
    """

    url: str
    client_id: str
    client_secret: Secret
    scope: str = ""
    user: str = ""
    password: Secret | None = None
    credentials_in_body: bool = True
    headers: tuple[tuple[str, Secret], ...] = ()
    queries: tuple[tuple[str, Secret], ...] = ()
    body: tuple[tuple[str, Secret], ...] = ()
    connect_seconds: float = 10.0
    read_seconds: float = 10.0
    trust: Trust = Trust()
    kind: GrantKind = GrantKind.CLIENT_CREDENTIALS
    offered: Secret | None = None
    redirect_uri: str = ""


@frozen
class Destination:
    """A destination document, read and judged: one mail server and one way to log in.

    `login` is a credential that can be used as it is, or the grant that fetches the
    token for `user`; `user` is empty where the application names it. `warnings` are for the log.
    """

    name: str
    route: Route
    user: str
    login: Password | NoCredential | Grant
    warnings: tuple[str, ...] = field(default=(), eq=False)

    @property
    def asks(self) -> bool:
        """Whether the application has to bring what is exchanged for a token."""
        return isinstance(self.login, Grant) and self.login.kind is not GrantKind.CLIENT_CREDENTIALS


@frozen
class Resolution:
    """A destination with the credential to use now; `cached` says that it was not fetched for this call."""

    destination: Destination
    credential: Credential
    cached: bool = False

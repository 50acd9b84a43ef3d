"""The Destination service of SAP BTP: one instance of it, and what it answers.

`tproxy.destinations.inquiry` says what is sent, `read` judges what came back; both are pure. `DestinationService`
carries one to the other and finds out whose fault a refusal is. It keeps nothing.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import NoReturn

from attrs import evolve, field, frozen
from twisted.internet.defer import Deferred

from tproxy import names
from tproxy.destinations import answers
from tproxy.destinations.inquiry import Inquiry, inquiry, token_grant
from tproxy.destinations.keys import ServiceKey
from tproxy.destinations.oauth import TokenRefusedError, TokenUnavailableError
from tproxy.destinations.pauses import retry_after
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
)
from tproxy.net.http import Answer

_SECRETS = tuple(
    f"{prefix}{name}" for prefix in ("", "mail.") for name in ("password", "clientSecret", "tokenServicePassword")
)
_TOKEN = re.compile(r"[!-~]+")
_LATER = (408, 429)
_WAIT = "wait; if it stays so, check uri in the service key and the provider's status page"


class ServiceUnavailableError(RefusedError):
    """No answer for now; `retry_after` is the pause that was asked for, in seconds."""

    def __init__(self, refusal: Refusal, retry_after: float = 0.0) -> None:
        super().__init__(refusal)
        self.retry_after = retry_after


class TokenNotAcceptedError(RefusedError):
    """The Destination service wants another token."""


@frozen
class AuthToken:
    """A token that the service fetched: usable with a value, else `error` says why not; `seconds` is its life."""

    value: Secret
    seconds: float
    error: str


@frozen
class Found:
    """One destination: its flat properties, the certificates that came along, the tokens fetched for it.

    `certificates` are PEM texts by name, empty for what is not PEM.
    """

    values: Mapping[str, object] = field(repr=False)
    certificates: Mapping[str, str] = field(repr=False)
    tokens: tuple[AuthToken, ...]

    def authority(self, location: str) -> str:
        """The PEM text that a document's `TrustStoreLocation` names.

        @raise RefusedError: if there is none
        """
        text = self.certificates.get(location)
        if text:
            return text
        what = f"TrustStoreLocation names {names.quoted(location)}, "
        if text is None:
            what, remedy = f"{what}and no such certificate came along", "upload it to the Destination service"
        else:
            what, remedy = f"{what}which is not PEM", "upload it as PEM; JKS and PKCS #12 are not read"
        raise _refused(Reason.DOCUMENT_INVALID, what, remedy)


# What came back


def read(answer: Answer, request: DestinationRequest, asked: Inquiry, now: float) -> Found:
    """The destination in an answer, or the reason why there is none.

    @param asked: what this is the answer to, for its secrets
    @param now: wall-clock time, seconds since the epoch
    @raise RefusedError: it is a "no"; L{TokenNotAcceptedError}: for the token alone
    @raise ServiceUnavailableError: it is not the service's answer, or not its last word
    """
    fields, status = answers.fields(answer), answer.status
    if status == 200:
        return _found(fields, request, asked)
    words = fields.get("ErrorMessage") if fields is not None else None
    http = f"HTTP {status}" + (f": {answers.shown(words, asked.secrets)}" if isinstance(words, str) and words else "")
    if 400 <= status < 500 and status not in _LATER and not answer.header("x-cf-routererror"):
        if status == 401:
            message = f"the Destination service does not accept the token of the service key ({http})"
            remedy = "create the service key or binding anew, of the instance that it belongs to"
            raise TokenNotAcceptedError(_refusal(Reason.STORE_REFUSED, message, remedy))
        if status == 403:
            message = f"the Destination service forbids to read the destination ({http})"
            raise _refused(Reason.STORE_REFUSED, message, "use a service key whose scopes allow it")
        if status == 404 and fields is not None:
            level = f" at the level {request.level}" if request.level else ""
            message = f"there is no destination {names.quoted(request.name)}{level} ({http})"
            raise _refused(Reason.DESTINATION_NOT_FOUND, message, "create it, or correct spec.destinationRef")
        if fields is not None:
            message = f"the Destination service refuses what it is asked ({http})"
            raise _refused(Reason.STORE_REFUSED, message, "correct the Destination resource or the destination")
    if 300 <= status < 400:
        _unavailable(f"redirects ({http}), which is not followed", "correct uri in the service key")
    pause = retry_after(answer.header("retry-after"), now)
    _unavailable(f"cannot answer now ({http})", _WAIT, pause)


def _found(fields: dict[str, object] | None, request: DestinationRequest, asked: Inquiry) -> Found:
    if fields is None:
        _unavailable("answers without a JSON object", "check uri in the service key")
    values = fields.get("destinationConfiguration")
    if not isinstance(values, dict):
        _unavailable("answers without destinationConfiguration", "check uri in the service key")
    if values.get("Name") != request.name:
        raise _refused(
            Reason.STORE_REFUSED,
            f"the Destination service answers with another destination than {names.quoted(request.name)}",
            "check uri in the service key, and that no fragment changes Name",
        )
    certificates: dict[str, str] = {}
    for entry in _listed(fields, "certificates"):
        if isinstance(name := entry.get("Name"), str):
            certificates.setdefault(name, _pem(entry.get("Content")))
    secrets = *asked.secrets, *(Secret(value) for key in _SECRETS if isinstance(value := values.get(key), str))
    return Found(values, certificates, tuple(_auth_token(entry, secrets) for entry in _listed(fields, "authTokens")))


def _listed(fields: dict[str, object], name: str) -> list[dict[str, object]]:
    listed = fields.get(name)
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def _pem(content: object) -> str:
    """The text of certificates in base64; empty where they are not PEM."""
    with suppress(ValueError):
        octets = b64decode(content) if isinstance(content, str) else b""
        if b"-----BEGIN CERTIFICATE-----" in octets:
            return octets.decode("ascii", "replace")
    return ""


def _auth_token(entry: dict[str, object], secrets: Iterable[Secret]) -> AuthToken:
    kind, value, error = entry.get("type"), entry.get("value"), entry.get("error")
    seconds = answers.life(entry.get("expires_in"))
    if isinstance(error, str) and error:
        words = answers.shown(error, secrets)
    elif not isinstance(value, str) or not _TOKEN.fullmatch(value):
        words = "it has no usable value"
    elif not isinstance(kind, str) or kind.lower() != "bearer":
        words = "it is no bearer token"
    elif seconds <= 0:
        words = "it has expired already"
    else:
        return AuthToken(Secret(value), seconds, "")
    return AuthToken(Secret(""), 0.0, words)


# One instance


class DestinationService:
    """One instance: asks it, with the token of the tenant. Everything fails with L{RefusedError} and nothing else.

    @param name: the instance's, for messages
    @param key: reads the service key, each time anew
    @param token: the token of a grant, fails with L{TokenRefusedError} or L{TokenUnavailableError}; it may be a cache
    @param forget: drops a token of a grant from that cache
    @param ask: `ask(method, url, headers=…, queries=…)` sends one request
    @param now: wall-clock time in seconds since the epoch, for `Retry-After` dates
    @param connect_seconds: of `token_grant`
    @param read_seconds: of `token_grant`
    """

    def __init__(
        self,
        name: str,
        key: Callable[[], ServiceKey],
        token: Callable[[Grant], Deferred[Secret]],
        forget: Callable[[Grant, Secret], None],
        ask: Callable[..., Deferred[Answer]],
        now: Callable[[], float],
        connect_seconds: float,
        read_seconds: float,
    ) -> None:
        self._name = name
        self._key = key
        self._token = token
        self._forget = forget
        self._ask = ask
        self._now = now
        self._grant = partial(token_grant, connect_seconds=connect_seconds, read_seconds=read_seconds)

    def find(
        self,
        request: DestinationRequest,
        *,
        tokens: bool,
        offer: tuple[GrantKind, Offered] | None = None,
        redirect_uri: str = "",
        code_verifier: str = "",
    ) -> Deferred[Found]:
        """The destination; the parameters are those of L{inquiry}."""
        wanted = partial(inquiry, tokens=tokens, offer=offer, redirect_uri=redirect_uri, code_verifier=code_verifier)
        return Deferred.fromCoroutine(self._find(request, wanted))

    async def _find(self, request: DestinationRequest, wanted: Callable[..., Inquiry]) -> Found:
        try:
            key = self._key()
            try:
                return await self._found(key, request, wanted)
            except RefusedError as error:
                if error.refusal.reason is not Reason.DESTINATION_NOT_FOUND or not request.fragment:
                    raise
            alone = evolve(request, fragment="", fragment_level="", fragment_optional=False)
            await self._found(key, alone, partial(inquiry, tokens=False))
            raise _refused(
                Reason.FRAGMENT_NOT_FOUND,
                f"there is no fragment {names.quoted(request.fragment)}",
                "create it, correct spec.fragmentRef, or mark it as optional",
            )
        except RefusedError as error:
            raise error.again(f"{self.named(request.tenant)}: {error.refusal.message}") from None

    async def _found(self, key: ServiceKey, request: DestinationRequest, wanted: Callable[..., Inquiry]) -> Found:
        """With the token that there is; where that is not accepted, with a new one."""
        try:
            return await self._once(key, request, wanted)
        except TokenNotAcceptedError:
            return await self._once(key, request, wanted)

    async def _once(self, key: ServiceKey, request: DestinationRequest, wanted: Callable[..., Inquiry]) -> Found:
        grant = self._grant(key, request.tenant)
        token = await self._token_of(key, grant, request.tenant)
        asked = wanted(key, token, request)
        try:
            answer = await self._ask("GET", asked.url, headers=asked.headers, queries=asked.queries)
        except RefusedError as error:
            pause = getattr(error, "retry_after", 0.0)
            _unavailable(f"is out of reach: {error.refusal.message}", error.refusal.remedy, pause)
        except Exception as error:
            _unavailable(answers.fault(error, "destination"), _WAIT)
        try:
            return read(answer, request, asked, self._now())
        except TokenNotAcceptedError:
            self._forget(grant, token)
            raise

    async def _token_of(self, key: ServiceKey, grant: Grant, tenant: Tenant) -> Secret:
        """The token, or whose fault it is that there is none: the key's, the tenant's, or nobody's."""
        try:
            return await self._token(grant)
        except TokenUnavailableError as error:
            remedy = error.refusal.remedy.replace("tokenServiceURL", "the url of the service key")
            refusal = evolve(error.refusal, reason=Reason.STORE_UNAVAILABLE, remedy=remedy)
            raise ServiceUnavailableError(refusal, error.retry_after) from None
        except TokenRefusedError as error:
            message, status = error.refusal.message, error.status
        if not tenant:
            remedy = "create the service key or binding anew"
            raise _refused(Reason.SERVICE_KEY_INVALID, f"the service key is not accepted: {message}", remedy)
        if status == 404:
            remedy = "correct the annotation, or onboard the tenant"
            raise _refused(Reason.TENANT_NOT_FOUND, f"there is no such tenant: {message}", remedy)
        if status != 401:
            raise _refused(Reason.STORE_REFUSED, message, "check the tenant's subscription and the service key")
        # A key that is not accepted is answered alike; a token kept from before would not tell.
        own = self._grant(key, PROVIDER)
        self._forget(own, await self._token_of(key, own, PROVIDER))
        await self._token_of(key, own, PROVIDER)
        remedy = "subscribe the tenant to the application, or correct the annotation"
        raise _refused(Reason.TENANT_NOT_SUBSCRIBED, f"the tenant is not subscribed: {message}", remedy)

    def named(self, tenant: Tenant) -> str:
        """Who is asked, and for whom, in a message."""
        return f"the instance {self._name}" + (f" for the tenant {names.quoted(tenant)}" if tenant else "")


def _refusal(reason: Reason, message: str, remedy: str) -> Refusal:
    return Refusal(Stage.RESOLVE, reason, message, remedy, Code.CONTACT_ADMIN)


def _refused(reason: Reason, message: str, remedy: str) -> RefusedError:
    return RefusedError(_refusal(reason, message, remedy))


def _unavailable(what: str, remedy: str, pause: float = 0.0) -> NoReturn:
    message = f"the Destination service {what}"
    raise ServiceUnavailableError(Refusal(Stage.RESOLVE, Reason.STORE_UNAVAILABLE, message, remedy), pause) from None

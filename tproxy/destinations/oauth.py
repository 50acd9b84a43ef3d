"""The grants of OAuth 2.0 (RFC 6749, sections 4.1.3, 4.4 and 6): from what is known to a token.

`request` says what is sent, `read` judges what came back; both are pure. `TokenService` carries one to the
other. Every way to fail is a `RefusedError`: `TOKEN_REFUSED` where the endpoint gave an answer,
`TOKEN_UNAVAILABLE` (with the pause that it asked for) where it did not.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from typing import NoReturn
from urllib.parse import quote_plus, urlsplit

from attrs import frozen
from twisted.internet.defer import Deferred

from tproxy.destinations import answers
from tproxy.destinations.cache import Fetched
from tproxy.destinations.pauses import retry_after
from tproxy.model import Code, Grant, GrantKind, Reason, Refusal, RefusedError, Secret, Stage
from tproxy.net.http import Answer

FRESH = 0.9
"""The part of a token's life in which it is handed out without asking."""

_OUTAGES = frozenset({"temporarily_unavailable", "server_error"})
_REMEDIES = {
    "invalid_client": "correct clientId and clientSecret, or try another tokenService.addClientCredentialsInBody",
    "invalid_scope": "correct scope; Microsoft 365 wants https://outlook.office365.com/.default",
    "unauthorized_client": "allow the {} grant for this client at the provider",
    "unsupported_grant_type": "use a tokenServiceURL that knows the {} grant",
}
_STALE = (
    "have the application send a new {}: "
    "what it sent has expired, was revoked or used already, or is for another clientId or redirectUri"
)
_WAIT = "wait, or look at the provider's status page"
_MEDIA = re.compile(r"application/(.+\+)?json")
_TOKEN = re.compile(r"[\x21-\x7e]+")


@frozen
class Token:
    """An access token and how long it lives, in seconds from when it was asked for."""

    value: Secret
    seconds: float = answers.DEFAULT_LIFE


def cacheable(token: Token) -> Fetched[Secret]:
    """A token as it is cached: fresh for most of its life, valid for all of it."""
    return Fetched(token.value, FRESH * token.seconds, token.seconds)


class TokenRefusedError(RefusedError):
    """The endpoint said no, with this HTTP status."""

    def __init__(self, refusal: Refusal, status: int) -> None:
        super().__init__(refusal)
        self.status = status


class TokenUnavailableError(RefusedError):
    """No answer for now; `retry_after` is the pause that the endpoint asked for, in seconds."""

    def __init__(self, refusal: Refusal, retry_after: float = 0.0) -> None:
        super().__init__(refusal)
        self.retry_after = retry_after


@frozen
class TokenRequest:
    """What is sent to a token endpoint; values are in the clear, so it is never printed."""

    url: str
    headers: dict[str, str]
    queries: tuple[tuple[str, str], ...]
    form: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return "TokenRequest('***')"


class TokenService:
    """Runs grants, each over a client of its own.

    @param asker: gives the C{ask} of a client for a grant: its trust and its time limits differ
    @param now: wall-clock time in seconds since the epoch, for `Retry-After` dates
    """

    def __init__(self, asker: Callable[[Grant], Callable[..., Deferred[Answer]]], now: Callable[[], float]) -> None:
        self._asker = asker
        self._now = now

    def fetch(self, grant: Grant) -> Deferred[Token]:
        """One request, one token; fails with L{RefusedError}, or with what `request` raises."""
        return Deferred.fromCoroutine(self._fetch(grant))

    async def _fetch(self, grant: Grant) -> Token:
        wanted = request(grant)
        host = _host(grant.url)
        try:
            answer = await self._asker(grant)(
                "POST", wanted.url, headers=wanted.headers, queries=wanted.queries, form=wanted.form
            )
        except RefusedError as error:
            _unavailable(
                f"{host} is out of reach: {error.refusal.message}",
                error.refusal.remedy,
                getattr(error, "retry_after", 0.0),
            )
        except Exception as error:
            _unavailable(f"{host} {answers.fault(error, 'token')}", _WAIT)
        return read(answer, grant, self._now())


def request(grant: Grant) -> TokenRequest:
    """What a grant says to its endpoint (RFC 6749, sections 2.3.1, 4.1.3, 4.4.2 and 6).

    The `Authorization` header is `tokenServiceUser`'s where there is one, else the client's when its
    credentials are not sent in the body. A client without a secret (a public one, or one that shows a
    certificate) only names itself, in the body. A header of the document's own replaces one of ours.

    @raise ValueError: the grant lacks its URL or what an application brings, and should not have been run
    """
    if not grant.url:
        raise ValueError("a grant without a URL")
    form = [("grant_type", grant.kind.value), *_brought(grant)]
    client_secret = grant.client_secret.reveal()
    if grant.credentials_in_body or not client_secret:
        form.append(("client_id", grant.client_id))
    if grant.credentials_in_body and client_secret:
        form.append(("client_secret", client_secret))
    if grant.scope:
        form.append(("scope", grant.scope))
    headers = {"accept": "application/json"}
    if grant.password is not None:
        headers["authorization"] = _basic(grant.user, grant.password.reveal())
    elif not grant.credentials_in_body and client_secret:
        encoded = quote_plus(grant.client_id), quote_plus(client_secret)
        headers["authorization"] = _basic(*encoded)
        if encoded != (grant.client_id, client_secret):
            # Cloud Foundry's UAA takes the form encoding of RFC 6749 only when it is told
            headers["x-cf-encoded-credentials"] = "true"
    return TokenRequest(
        grant.url,
        headers | {name.lower(): value.reveal() for name, value in grant.headers},
        tuple((name, value.reveal()) for name, value in grant.queries),
        (*form, *((name, value.reveal()) for name, value in grant.body)),
    )


def _brought(grant: Grant) -> list[tuple[str, str]]:
    """The fields that hold what an application brought, with what belongs to it."""
    match grant:
        case Grant(kind=GrantKind.CLIENT_CREDENTIALS):
            return []
        case Grant(kind=GrantKind.REFRESH_TOKEN, offered=Secret() as token):
            return [("refresh_token", token.reveal())]
        case Grant(kind=GrantKind.AUTHORIZATION_CODE, offered=Secret() as code):
            redirect_uri = [("redirect_uri", grant.redirect_uri)] if grant.redirect_uri else []
            return [("code", code.reveal()), *redirect_uri]
    raise ValueError("a grant without what the application brings")


def read(answer: Answer, grant: Grant, now: float) -> Token:
    """The token in an answer (RFC 6749, section 5.1), or the reason why there is none.

    A `refresh_token` in it is left alone: who brought the grant is the one who may keep such a token,
    and there is no way to hand it over.

    @param now: wall-clock time, seconds since the epoch
    @raise RefusedError: for everything else, whatever the endpoint sent
    """
    host = _host(grant.url)
    fields = answers.fields(answer, _MEDIA) or {}
    error = fields.get("error")
    if answer.status == 200 and error is None:
        return _token(host, fields)
    router = answer.header("x-cf-routererror")
    if router or answer.status == 429 or answer.status >= 500 or (isinstance(error, str) and error in _OUTAGES):
        _unavailable(
            f"{host} cannot answer now (HTTP {answer.status}{_quoted(fields, grant)})",
            _WAIT,
            retry_after(answer.header("retry-after"), now),
        )
    if 300 <= answer.status < 400:
        _unavailable(f"{host} redirects (HTTP {answer.status}), which is not followed", "set tokenServiceURL anew")
    if isinstance(error, str):
        _refused(f"{host} refused the grant{_quoted(fields, grant)}", _remedy(error, grant), answer.status)
    if answer.status in (401, 403, 404):
        _refused(
            f"{host} refused the grant (HTTP {answer.status})",
            "correct tokenServiceURL, tokenServiceURLType, clientId and clientSecret; is the tenant subscribed?",
            answer.status,
        )
    _unavailable(f"{host} answers HTTP {answer.status}, which is no OAuth 2.0 answer", "correct tokenServiceURL")


def _remedy(error: str, grant: Grant) -> str:
    remedies = _REMEDIES if grant.offered is None else {**_REMEDIES, "invalid_grant": _STALE}
    return remedies.get(error, "correct the destination").format(grant.kind.replace("_", " "))


def _token(host: str, fields: dict[str, object]) -> Token:
    if not fields:
        _unavailable(f"{host} answers without a JSON object", "correct tokenServiceURL")
    value, kind = fields.get("access_token"), fields.get("token_type", "Bearer")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        _unavailable(f"{host} answers without a usable access_token", "correct tokenServiceURL")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        _unavailable(f"{host} gives a token that is no bearer token", "have the provider issue bearer tokens")
    seconds = answers.life(fields.get("expires_in"))
    if seconds <= 0:
        _unavailable(f"{host} gives a token that has expired already", "have the provider's clock checked")
    return Token(Secret(value), seconds)


def _quoted(fields: dict[str, object], grant: Grant) -> str:
    """The endpoint's `error` and `error_description` for a message: without secrets, printable, short."""
    words = [word for key in ("error", "error_description") if isinstance(word := fields.get(key), str) and word]
    return ": " + " - ".join(shown(word, grant) for word in words) if words else ""


def shown(text: str, grant: Grant) -> str:
    """The endpoint's words for a log, without the grant's secrets."""
    secrets = [grant.client_secret, *(value for _, value in grant.headers + grant.queries + grant.body)]
    pairs = []
    if grant.client_secret != Secret(""):
        encoded = Secret(quote_plus(grant.client_secret.reveal()))
        pairs += [(grant.client_id, grant.client_secret), (quote_plus(grant.client_id), encoded)]
    if grant.password is not None:
        secrets.append(grant.password)
        pairs.append((grant.user, grant.password))
    if grant.offered is not None:
        secrets.append(grant.offered)
    return answers.shown(text, secrets, pairs)


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def _host(url: str) -> str:
    return f"the token endpoint at {answers.printable(urlsplit(url).hostname or '?')}"


def _refused(message: str, remedy: str, status: int) -> NoReturn:
    refusal = Refusal(Stage.RESOLVE, Reason.TOKEN_REFUSED, message, remedy, Code.AUTHENTICATION_FAILED)
    raise TokenRefusedError(refusal, status)


def _unavailable(message: str, remedy: str = "", pause: float = 0.0) -> NoReturn:
    raise TokenUnavailableError(Refusal(Stage.RESOLVE, Reason.TOKEN_UNAVAILABLE, message, remedy), pause)

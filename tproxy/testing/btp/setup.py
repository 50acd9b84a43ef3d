"""What the stand-in knows: tenants and their destinations, clients, and what is to go wrong.

A YAML file says it at the start (`parse`); in a program, a `Setup` may be changed at any time.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from attrs import Factory, define, field

from tproxy import names, places
from tproxy.model import Tenant
from tproxy.places import Key, Place, Read
from tproxy.testing.tokens import (
    BROKEN,
    HUGE,
    LOGIN_PAGE,
    SILENT,
    TRUNCATED,
    UNAVAILABLE,
    Answer,
    Client,
    busy,
    redirect,
)

T = TypeVar("T")

Properties = dict[str, str]
"""A destination or a fragment: flat, all values strings."""


class Endpoint(StrEnum):
    """What a request is for: a token of the authorization server's, a destination, or a token for mail."""

    TOKEN = "token"
    DESTINATION = "destination"
    MAIL = "mail"


@define
class Fault:
    """What an endpoint does wrong, for the next `requests` requests or, where that is None, until it is taken away.

    `answer` is said in place of the right answer; without it, the right one comes `seconds` late. `token_error`
    makes a destination come without its tokens, with these words as the reason. `tenant` None is every tenant.
    """

    endpoint: Endpoint
    answer: Answer | None = None
    seconds: float = 0.0
    token_error: str = ""
    tenant: str | None = None
    requests: int | None = None


def _levels() -> dict[str, dict[str, Properties]]:
    return {"instance": {}, "subaccount": {}}


@define
class Account:
    """A tenant: its destinations and fragments, by level (`instance` or `subaccount`) and name."""

    subscribed: bool = True
    destinations: dict[str, dict[str, Properties]] = field(factory=_levels, repr=False)
    fragments: dict[str, dict[str, Properties]] = field(factory=_levels, repr=False)


@define
class Setup:
    """All that the stand-in knows; what is changed counts from the next request on.

    Without a `client_secret` the instance has a certificate. `auth_tokens` is whether MAIL destinations come
    with tokens. `refresh_tokens` and `codes` are users by what they have; these and `mail_seconds` are
    handed to the mail provider by `BTP.change`.

    @param provider: the provider's own subdomain
    @param token_seconds: the life of the authorization server's tokens
    @param mail_seconds: the life of the mail provider's tokens
    """

    provider: Tenant
    client_id: str
    client_secret: str = field(default="", repr=False)
    accounts: dict[Tenant, Account] = Factory(lambda self: {self.provider: Account()}, takes_self=True)
    auth_tokens: bool = True
    token_seconds: int = 43200
    mail_seconds: int = 3600
    mail_clients: dict[str, Client] = field(factory=dict)
    refresh_tokens: dict[str, str] = field(factory=dict, repr=False)
    codes: dict[str, str] = field(factory=dict, repr=False)
    faults: list[Fault] = field(factory=list)


# The file


def _named(read: Read[T]) -> Read[dict[str, T]]:
    """A mapping of names to what `read` reads."""

    def named(place: Place) -> dict[str, T]:
        found: dict[str, T] = {}
        for name, inner in place.entries():
            if name in found:
                raise inner.wrong("is there twice")
            found[name] = read(inner)
        return found

    return named


def _string(place: Place) -> str:
    """Any string; a message does not repeat it, since it may be a secret."""
    if place.scalar is None or place.node.tag != "tag:yaml.org,2002:str":
        raise place.wrong("is not a text; put it in quotes")
    return place.scalar


def _secret(place: Place) -> str:
    if not _string(place):
        raise place.wrong("is empty")
    return _string(place)


def _destinations(place: Place) -> dict[str, Properties]:
    found = _named(_named(_string))(place)
    for name, properties in found.items():
        if properties.setdefault("Name", name) != name:
            raise place.wrong(f"{names.quoted(name)} has another Name among its properties; leave that out")
    return found


def _client(place: Place) -> Client:
    found = places.gather(place, (SECRET, USERNAME))
    return Client(found[SECRET], found[USERNAME])


def _account(place: Place) -> Account:
    found = places.gather(place, (SUBSCRIBED, *DESTINATIONS.values(), *FRAGMENTS.values()))
    return Account(
        found[SUBSCRIBED],
        {level: found[key].copy() for level, key in DESTINATIONS.items()},
        {level: found[key].copy() for level, key in FRAGMENTS.items()},
    )


def _accounts(place: Place) -> dict[Tenant, Account]:
    for name, inner in place.entries():
        try:
            names.subdomain(name)
        except ValueError as error:
            raise inner.wrong(str(error)) from None
    return {Tenant(name): account for name, account in _named(_account)(place).items()}


def _fault(place: Place) -> Fault:
    found = places.gather(place, (ENDPOINT, ANSWER, FAULTY_TENANT, REQUESTS, SECONDS, ERROR))
    endpoint, word = Endpoint(found[ENDPOINT]), found[ANSWER]
    if SECONDS in found and word not in ("busy", "slow"):
        raise found.place(SECONDS).wrong("belongs to busy and slow")
    if ERROR in found and word != "token-error":
        raise found.place(ERROR).wrong("belongs to token-error")
    if word == "token-error" and endpoint is not Endpoint.DESTINATION:
        raise found.place(ANSWER).wrong("token-error belongs to the endpoint destination")
    fault = Fault(endpoint, CANNED.get(word), tenant=found[FAULTY_TENANT], requests=found[REQUESTS])
    match word:
        case "busy":
            fault.answer = busy(str(found[SECONDS]))
        case "slow":
            fault.seconds = found[SECONDS]
        case "token-error":
            fault.token_error = found[ERROR]
    return fault


CANNED = {
    "broken": BROKEN,
    "huge": HUGE,
    "login-page": LOGIN_PAGE,
    "redirect": redirect("/elsewhere"),
    "silent": SILENT,
    "truncated": TRUNCATED,
    "unavailable": UNAVAILABLE,
}

SECRET = Key("secret", _secret)
USERNAME = Key("username", places.text, "")

SUBSCRIBED = Key("subscribed", places.truth, True)
DESTINATIONS = {level: Key(f"destinations.{level}", _destinations, {}) for level in _levels()}
FRAGMENTS = {level: Key(f"fragments.{level}", _named(_named(_string)), {}) for level in _levels()}

ENDPOINT = Key("endpoint", places.one_of(*Endpoint))
ANSWER = Key("answer", places.one_of(*sorted(("busy", "slow", "token-error", *CANNED))))
FAULTY_TENANT = Key("tenant", places.subdomain, None)
REQUESTS = Key("requests", places.whole(1, 1_000_000), None)
SECONDS = Key("seconds", places.whole(1, 3600), 1)
ERROR = Key("error", places.text, "the token service refused")

PROVIDER = Key("provider", places.subdomain)
CLIENT_ID = Key("clientId", places.text)
CLIENT_SECRET = Key("clientSecret", _secret, "")
TOKEN_SECONDS = Key("tokenSeconds", places.whole(1, 1_000_000), 43200)
AUTH_TOKENS = Key("authTokens", places.truth, True)
TENANTS = Key("tenants", _accounts, {})
MAIL_CLIENTS = Key("mailProvider.clients", _named(_client), {})
MAIL_SECONDS = Key("mailProvider.tokenSeconds", places.whole(1, 1_000_000), 3600)
REFRESH_TOKENS = Key("mailProvider.refreshTokens", _named(places.text), {})
CODES = Key("mailProvider.codes", _named(places.text), {})
FAULTS = Key("faults", places.several(_fault), ())

KEYS: tuple[Key[Any], ...] = (
    PROVIDER,
    CLIENT_ID,
    CLIENT_SECRET,
    TOKEN_SECONDS,
    AUTH_TOKENS,
    TENANTS,
    MAIL_CLIENTS,
    MAIL_SECONDS,
    REFRESH_TOKENS,
    CODES,
    FAULTS,
)


def parse(text: str, path: Path) -> Setup:
    """What a configuration file says. Raises ConfigError with one line: FILE:LINE: key.path: what is wrong."""
    found = places.gather(places.compose(text, path), KEYS)
    provider = Tenant(found[PROVIDER])
    return Setup(
        provider,
        found[CLIENT_ID],
        found[CLIENT_SECRET],
        {provider: Account()} | found[TENANTS].copy(),
        auth_tokens=found[AUTH_TOKENS],
        token_seconds=found[TOKEN_SECONDS],
        mail_seconds=found[MAIL_SECONDS],
        mail_clients=found[MAIL_CLIENTS].copy(),
        refresh_tokens=found[REFRESH_TOKENS],
        codes=found[CODES],
        faults=[*found[FAULTS]],
    )

"""The Destination service: finds a destination for a tenant, merges a fragment, brings tokens along."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit
from uuid import NAMESPACE_DNS, uuid5

from attrs import frozen

from tproxy.model import Tenant
from tproxy.operator.manifests import LEVELS
from tproxy.testing.btp.setup import Account, Properties, Setup
from tproxy.testing.tokens import JSON, Answer, Asked, last

PATH = re.compile("/destination-configuration/(v1|v2)/destinations/([^/]+)")

Fetch = Callable[[str, Mapping[str, str]], Answer]
"""Sends a form to a token URL."""

_QUERIES = {"v1": {"$skipTokenRetrieval"}, "v2": {"$skipTokenRetrieval", "includeMetadata"}}


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@frozen
class _Found:
    level: str
    tenant: Tenant
    properties: Properties


def error(status: int, message: str, *headers: tuple[str, str]) -> Answer:
    """An error as the service has it."""
    return Answer(status, (("Content-Type", JSON), *headers), json.dumps({"ErrorMessage": message}).encode())


def name(path: str) -> str:
    """The name in a path, with its level where it has one; empty where the path asks for no destination."""
    match = PATH.fullmatch(path)
    return unquote(match[2]) if match else ""


@frozen
class Search:
    """A GET of a tenant's, whose token is good.

    @param port: what `{port}` in a tokenServiceURL stands for
    @param fetch: runs the grants of destinations; raises ValueError for what is no URL
    @param token_error: why there are no tokens, if there are to be none
    """

    setup: Setup
    tenant: Tenant
    path: str
    asked: Asked
    port: int
    fetch: Fetch
    token_error: str = ""

    def answer(self) -> Answer:
        """A destination with what belongs to it, or an error; also for whatever the reference does not say."""
        try:
            return self._answer()
        except _RefusedError as refused:
            return error(refused.status, str(refused))

    def _answer(self) -> Answer:
        match = PATH.fullmatch(self.path)
        if match is None:
            raise _RefusedError(404, "this stand-in knows destinations by name alone, of v1 and v2")
        version = match[1]
        skip, with_owner = self._queries(version)
        for header in self.asked.headers:
            if header in ("x-tenant", "x-user-token"):
                raise _RefusedError(400, f"this stand-in does not know what {header} does")
            if header.startswith("x-chain-"):
                raise _RefusedError(400, "this stand-in has no chains")
        found = self._find(version, unquote(match[2]), "destinations")
        if found is None:
            raise _RefusedError(404, "there is no destination of this name")
        document = {
            key: value.replace("{port}", str(self.port)) if key.endswith("tokenServiceURL") else value
            for key, value in {**found.properties, **self._fragment(version)}.items()
        }
        fields: dict[str, object] = {"owner": _owner(self.setup, found)} if with_owner else {}
        fields |= {"destinationConfiguration": document, "certificates": []}
        after = 0.0
        if not skip and (self.setup.auth_tokens or document.get("Type") != "MAIL"):
            fields["authTokens"], after = self._tokens(document)
        return Answer(200, (("Content-Type", JSON),), json.dumps(fields).encode(), after)

    def _queries(self, version: str) -> tuple[bool, bool]:
        """Whether tokens are not wanted, and whether the owner is."""
        for query in self.asked.queries.keys() - _QUERIES[version]:
            raise _RefusedError(400, f"this stand-in does not know the query parameter {query} in {version}")
        skip = last(self.asked.queries, "$skipTokenRetrieval")
        metadata = last(self.asked.queries, "includeMetadata")
        if skip not in ("", "true", "false") or metadata not in ("", "owner"):
            raise _RefusedError(400, "this stand-in knows $skipTokenRetrieval=true and includeMetadata=owner")
        return skip == "true", version == "v1" or metadata == "owner"

    def _find(self, version: str, wanted: str, kind: str) -> _Found | None:
        """One of the `destinations` or `fragments`: in v1 the instance's, else the subaccount's; in v2 as it says."""
        tenant, levels = self.tenant, ["instance", "subaccount"]
        if version == "v2":
            wanted, _, level = wanted.rpartition("@")
            if level not in LEVELS or not wanted:
                raise _RefusedError(400, f"v2 names {kind} as NAME@LEVEL; the levels are {', '.join(LEVELS)}")
            tenant = self.setup.provider if level.startswith("provider_") else tenant
            levels = [level.removeprefix("provider_")]
        by_level = getattr(self.setup.accounts.get(tenant, Account()), kind)
        for level in levels:
            if wanted in by_level[level]:
                return _Found(level, tenant, by_level[level][wanted])
        return None

    def _fragment(self, version: str) -> Properties:
        wanted = self.asked.headers.get("x-fragment-name")
        if wanted is None:
            return {}
        found = self._find(version, wanted, "fragments")
        if found is not None:
            return found.properties
        if self.asked.headers.get("x-fragment-optional") == "true":
            return {}
        raise _RefusedError(404, "there is no fragment of this name")

    def _tokens(self, document: Properties) -> tuple[list[dict[str, object]], float]:
        """What the Authentication brings, and how many seconds later."""
        headers = self.asked.headers
        form: dict[str, str | None]
        match document.get("Authentication"):
            case "OAuth2ClientCredentials":
                form = {"grant_type": "client_credentials"}
            case "OAuth2RefreshToken":
                form = {"grant_type": "refresh_token", "refresh_token": headers.get("x-refresh-token")}
            case "OAuth2AuthorizationCode":
                form = {
                    "grant_type": "authorization_code",
                    "code": headers.get("x-code"),
                    "redirect_uri": headers.get("x-redirect-uri", ""),
                    "code_verifier": headers.get("x-code-verifier", ""),
                }
            case _:
                return [], 0.0
        missing = [field for field, value in form.items() if value is None]
        if self.token_error or missing:
            return [_failed(self.token_error or f"the request brings no {missing[0]}")], 0.0
        form |= {
            "client_id": _property(document, "clientId"),
            "client_secret": _property(document, "clientSecret"),
            "scope": _property(document, "scope"),
        }
        try:
            url = _token_url(document, self.tenant)
            answered = self.fetch(url, {key: value for key, value in form.items() if value})
        except ValueError:
            return [_failed("tokenServiceURL is no URL")], 0.0
        return [_entry(answered)], answered.after or 0.0


def _owner(setup: Setup, found: _Found) -> dict[str, str | None]:
    subaccount = uuid5(NAMESPACE_DNS, f"{found.tenant}.authentication.localhost")
    instance = str(uuid5(subaccount, setup.client_id)) if found.level == "instance" else None
    return {"SubaccountId": str(subaccount), "InstanceId": instance}


def _entry(answered: Answer) -> dict[str, object]:
    if answered.after is None:
        return _failed("the token service did not answer")
    fields: Any = None
    with suppress(ValueError):
        fields = json.loads(answered.body)
    fields = fields if isinstance(fields, dict) else {}
    if answered.status != 200 or "access_token" not in fields:
        said = ": ".join(str(fields[key]) for key in ("error", "error_description") if key in fields)
        return _failed(f"the token service answered HTTP {answered.status} {said}".strip())
    kind, value = fields.get("token_type", "Bearer"), fields["access_token"]
    entry = {"type": kind, "value": value, "http_header": {"key": "Authorization", "value": f"{kind} {value}"}}
    if "expires_in" in fields:
        entry["expires_in"] = str(fields["expires_in"])
    return entry | {key: fields[key] for key in ("scope", "refresh_token") if key in fields}


def _failed(why: str) -> dict[str, object]:
    return {"type": "", "value": "", "error": why}


def _property(document: Properties, key: str) -> str:
    return document.get(key) or document.get(f"mail.{key}", "")


def _token_url(document: Properties, tenant: Tenant) -> str:
    url = _property(document, "tokenServiceURL")
    if _property(document, "tokenServiceURLType") != "Common":
        return url
    if "{tenant}" in url:
        return url.replace("{tenant}", tenant)
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{tenant}.{parts.netloc}"))

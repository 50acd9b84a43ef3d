"""A destination document of type MAIL: flat properties become a `Destination`, or one refusal that names the property.

What a document may say is told to users in docs/configure.md. A message never repeats a value,
except of properties that choose among a few words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tproxy import names
from tproxy.model import (
    Destination,
    DestinationRequest,
    Grant,
    GrantKind,
    NoCredential,
    Password,
    Reason,
    Route,
    Secret,
    Trust,
)
from tproxy.properties import (
    BODY,
    CONNECT_TIMEOUT,
    HEADERS,
    IN_BODY,
    QUERIES,
    READ_TIMEOUT,
    Properties,
    invalid,
    not_supported,
    refused,
)

NO_AUTHENTICATION = "NoAuthentication"
BASIC = "BasicAuthentication"
GRANTS = {
    "OAuth2ClientCredentials": GrantKind.CLIENT_CREDENTIALS,
    "OAuth2RefreshToken": GrantKind.REFRESH_TOKEN,
    "OAuth2AuthorizationCode": GrantKind.AUTHORIZATION_CODE,
}
AUTHENTICATIONS = (NO_AUTHENTICATION, BASIC, *GRANTS)

DEFAULT_SECONDS = 10
LONGEST_NAME = 200
_TENANT = "{tenant}"
_URL_REST = re.compile(r"[A-Za-z0-9._~:/?@!$&'()*+,;=%-]*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_FRAMING = frozenset({"connection", "content-length", "content-type", "host", "te", "trailer", "transfer-encoding"})
_REDIRECT_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[][A-Za-z0-9._~:/?@!$&'()*+,;=%-]+")
_GRANT = frozenset({"grant_type", "client_id", "client_secret"})
_OFFERED = {GrantKind.REFRESH_TOKEN: "refresh_token", GrantKind.AUTHORIZATION_CODE: "code"}


@frozen
class Rules:
    """What the installation serves and allows.

    `protocols` are the names that plug-ins serve, with their default ports. `provider_subdomain`
    stands in for the tenant where a request has none; it may be empty. `is_loopback` says whether a
    mail server's host can only mean this machine, and that is not allowed. `exchanges` says that the
    store of the documents can exchange what an application brings without knowing a tokenServiceURL.
    """

    protocols: Mapping[str, int]
    allow_trust_all: bool = False
    http_token_hosts: frozenset[str] = frozenset()
    provider_subdomain: str = ""
    is_loopback: Callable[[str], bool] = lambda host: False
    exchanges: bool = False


def parse(
    document: Mapping[str, object],
    request: DestinationRequest,
    rules: Rules,
    authority: Callable[[str], str],
) -> Destination:
    """Judge a document as seen by the request's tenant.

    `authority` gives the PEM text that a `TrustStoreLocation` stands for, or raises RefusedError.
    Raises RefusedError, stage RESOLVE, whose message names the property.
    """
    properties = Properties(document)
    if properties.need("Type") != "MAIL":
        raise not_supported(f"Type {properties.shown('Type')} is not served", 'only "MAIL" is')
    name = properties.need("Name")
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise invalid("Name is no name", f"give it 1 to {LONGEST_NAME} printable characters")
    protocol = properties.need("mail.transport.protocol")
    if protocol not in rules.protocols:
        raise not_supported(
            f"mail.transport.protocol {properties.shown('mail.transport.protocol')} is not served",
            f"served here are {', '.join(sorted(rules.protocols))}",
        )
    if (properties.get("ProxyType") or "Internet") != "Internet":
        raise refused(
            Reason.PROXY_TYPE_NOT_SUPPORTED,
            f"ProxyType {properties.shown('ProxyType')} is not served",
            'only "Internet" is',
        )
    host = _host(properties, f"mail.{protocol}.host")
    if rules.is_loopback(host):
        raise refused(
            Reason.LOOPBACK_NOT_SUPPORTED,
            f"mail.{protocol}.host is this machine itself",
            "name the mail server's own address, or open the network with config.security.allowedNetworks",
        )
    trust = _trust(properties, rules, authority)
    route = Route(
        protocol,
        host,
        properties.number(f"mail.{protocol}.port", 1, 65535, rules.protocols[protocol]),
        trust,
    )
    user, login, warnings = _login(properties, protocol, request, rules, Trust(trust.authorities))
    if not trust.verify:
        warnings = (*warnings, "TrustAll: nobody checks the mail server's certificate")
    return Destination(name, route, user, login, (*warnings, *properties.misspelt(protocol)))


def _login(
    properties: Properties, protocol: str, request: DestinationRequest, rules: Rules, trust: Trust
) -> tuple[str, Password | NoCredential | Grant, tuple[str, ...]]:
    """Who logs in and how, with warnings."""
    kind = properties.need("Authentication")
    if kind not in AUTHENTICATIONS:
        raise invalid(
            f"Authentication {properties.shown('Authentication')} is not known",
            f"use one of {', '.join(AUTHENTICATIONS)}",
        )
    auth = f"mail.{protocol}.auth"
    wanted = properties.truth(auth, kind != NO_AUTHENTICATION)
    if kind == NO_AUTHENTICATION:
        contradiction = (f'{auth} is "true", but Authentication is {kind}: nobody logs in',) if wanted else ()
        return "", NoCredential(), contradiction
    if not wanted:
        return "", NoCredential(), (f'{auth} is "false": nobody logs in, although Authentication is {kind}',)
    if kind == BASIC:
        user = properties.need("mail.user")
        return user, Password(user, Secret(properties.need("mail.password"))), ()
    grant = GRANTS[kind]
    user = properties.need("mail.user") if grant is GrantKind.CLIENT_CREDENTIALS else properties.get("mail.user") or ""
    if "\x01" in user:
        raise invalid("mail.user holds a control character (U+0001)", "remove it")
    return user, _grant(grant, properties, request, rules, trust), ()


def _grant(kind: GrantKind, properties: Properties, request: DestinationRequest, rules: Rules, trust: Trust) -> Grant:
    asks = kind is not GrantKind.CLIENT_CREDENTIALS
    if asks and rules.exchanges and not properties.get("tokenServiceURL"):
        url, client_id = "", properties.get("clientId") or ""
    else:
        url, client_id = _token_url(properties, request, rules), properties.need("clientId")
    client_secret = properties.get("clientSecret") or "" if asks else properties.need("clientSecret")
    scope = properties.get("scope") or ""
    redirect_uri = _redirect_uri(properties) if kind is GrantKind.AUTHORIZATION_CODE else ""
    user = properties.get("tokenServiceUser") or ""
    password = properties.get("tokenServicePassword") or ""
    if bool(user) != bool(password):
        given, lacking = "tokenServiceUser", "tokenServicePassword"
        if password:
            given, lacking = lacking, given
        raise invalid(f"{lacking} is missing beside {given}", "give both or neither")
    headers = properties.group(HEADERS)
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise invalid(
                f"{names.quoted(HEADERS + name)} is no HTTP header",
                "its name may hold letters, digits and hyphens, its value printable ASCII",
            )
        if name.lower() in _FRAMING:
            raise invalid(f"{HEADERS}{name} is a header that the request sets itself", "remove it")
    body = properties.group(BODY)
    ours = {*_GRANT, _OFFERED.get(kind), "scope" if scope else None, "redirect_uri" if redirect_uri else None}
    for name, _ in body:
        if name in ours:
            raise invalid(f"{BODY}{name} is a field that the request sets itself", "remove it")
    return Grant(
        url=url,
        client_id=client_id,
        client_secret=Secret(client_secret),
        scope=scope,
        user=user,
        password=Secret(password) if password else None,
        credentials_in_body=properties.truth(IN_BODY, True),
        headers=_secret(headers),
        queries=_secret(properties.group(QUERIES)),
        body=_secret(body),
        connect_seconds=float(properties.number(CONNECT_TIMEOUT, 0, 60, DEFAULT_SECONDS) or DEFAULT_SECONDS),
        read_seconds=float(properties.number(READ_TIMEOUT, 0, 600, DEFAULT_SECONDS) or DEFAULT_SECONDS),
        trust=trust,
        kind=kind,
        redirect_uri=redirect_uri,
    )


def _redirect_uri(properties: Properties) -> str:
    uri = properties.get("redirectUri") or ""
    if uri and not _REDIRECT_URI.fullmatch(uri):
        raise invalid("redirectUri is no URL", "write the one that the code is asked for with, without a fragment")
    return uri


def _secret(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, Secret], ...]:
    return tuple((name, Secret(value)) for name, value in pairs)


def _host(properties: Properties, name: str) -> str:
    try:
        return names.host(properties.need(name))
    except ValueError as error:
        raise invalid(
            f"{name} {error}", f"write a host name or IP address alone, and the port as {name[: -len('host')]}port"
        ) from None


# Where a tenant's token comes from


def _token_url(properties: Properties, request: DestinationRequest, rules: Rules) -> str:
    name = "tokenServiceURL"
    raw = properties.need(name)
    label = ""
    kind = properties.get("tokenServiceURLType") or "Dedicated"
    if kind == "Common":
        label = _subdomain(request, rules)
        if _TENANT in raw:
            raw, label = raw.replace(_TENANT, label), ""
    elif kind != "Dedicated":
        raise invalid(
            f"tokenServiceURLType {properties.shown('tokenServiceURLType')} is not known", "use Dedicated or Common"
        )
    elif _TENANT in raw:
        raise invalid(f"{name} holds {_TENANT}, but is used as it is", "set tokenServiceURLType to Common")
    if any(character.isspace() or not character.isprintable() for character in raw):
        raise invalid(f"{name} holds a space or a control character", "remove it")
    try:
        parts = urlsplit(raw)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise invalid(f"{name} is no URL", "write https://HOST/PATH") from None
    if parts.scheme not in ("https", "http") or not host:
        raise invalid(f"{name} is no https URL", "write https://HOST/PATH")
    if "@" in parts.netloc:
        raise invalid(f"{name} holds a user or a password", "use tokenServiceUser and tokenServicePassword")
    if port == 0:
        raise invalid(f"{name} holds port 0", "write the token endpoint's port, or none")
    try:
        host = names.host(host)
        if label and not _is_address(host):
            host = names.host(f"{label}.{host}")
    except ValueError as error:
        raise invalid(f"the host of {name} {error}", "write https://HOST/PATH") from None
    if label and _is_address(host):
        raise invalid(
            f"{name} has an IP address, which takes no tenant as its first label",
            f"put {_TENANT} where the subdomain belongs",
        )
    rest = parts.path + (f"?{parts.query}" if parts.query else "")
    if parts.fragment or not _URL_REST.fullmatch(rest):
        raise invalid(f"{name} holds a character that a URL cannot", "write it percent-encoded, without a fragment")
    if parts.scheme == "http" and host not in rules.http_token_hosts:
        raise invalid(
            f"{name} is http, which would send secrets unencrypted",
            "use https, or have config.security.httpTokenHosts name the host",
        )
    netloc = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{netloc}{'' if port is None else f':{port}'}{rest}"


def _is_address(host: str) -> bool:
    return ":" in host or host.rpartition(".")[2].isdigit()


def _subdomain(request: DestinationRequest, rules: Rules) -> str:
    subdomain = request.tenant or rules.provider_subdomain
    if not subdomain:
        raise invalid(
            "tokenServiceURLType is Common, but there is no tenant to ask for",
            "set config.providerSubdomain, or name tenants in the Destination's annotation",
        )
    try:
        return names.subdomain(subdomain)
    except ValueError as error:
        raise refused(
            Reason.TENANT_ANNOTATION_INVALID, f"the tenant {names.quoted(subdomain)} {error}", "correct it"
        ) from None


# Whose certificates are believed


def _trust(properties: Properties, rules: Rules, authority: Callable[[str], str]) -> Trust:
    trust_all = properties.truth("TrustAll", False)
    if trust_all and not rules.allow_trust_all:
        raise invalid(
            "TrustAll is not allowed here",
            "name the server's CA with TrustStoreLocation, or have config.security.allowTrustAll set",
        )
    location = properties.get("TrustStoreLocation")
    return Trust((_certificates(authority(location)),) if location else (), verify=not trust_all)


def _certificates(text: str) -> str:
    """The certificates alone, in one spelling: equal trust shares a TLS context, and a key beside them is dropped."""
    try:
        certificates = x509.load_pem_x509_certificates(text.encode("ascii", "replace"))
    except ValueError:
        raise invalid(
            "TrustStoreLocation names no certificates in PEM",
            "convert the trust store to PEM; JKS and PKCS #12 are not read",
        ) from None
    return "".join(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in certificates)

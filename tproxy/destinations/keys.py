"""The key of a Destination service instance: the shapes that it is kept in, and the places.

A message names a field or a place and never repeats a value.
"""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from urllib.parse import urlsplit

from attrs import frozen
from OpenSSL import SSL
from zope.interface import implementer

from tproxy import names
from tproxy.interfaces import IKeySource
from tproxy.model import Code, Identity, Reason, Refusal, RefusedError, Secret, Stage
from tproxy.net.trust import show

SIZE_LIMIT = 1024 * 1024
"""The longest entry, in bytes."""

ENTRY_LIMIT = 100
"""How many entries a folder may have."""

LOOKS = 5
"""How often a folder is looked at until two looks see the same."""

_CLIENT = ("clientid", "client_id")
_TELLING = frozenset({*_CLIENT, "url", "uri", "certurl"})
_PATH = re.compile(r"[A-Za-z0-9._~:/@!$&'()*+,;=%-]*")


@frozen
class ServiceKey:
    """Who asks an instance of the Destination service, and where it is: a secret, or a certificate to be shown.

    `url` is the authorization server's (for certificates the key's `certurl`), `uri` the service's; neither ends
    with a slash.
    """

    client_id: str
    client_secret: Secret | None
    identity: Identity | None
    url: str
    uri: str


def service_key(
    fields: Mapping[str, bytes],
    secret_key: str = "",
    private_key: Secret | None = None,
    http_hosts: frozenset[str] = frozenset(),
) -> ServiceKey:
    """The service key that is kept in `fields`, which may hold other things beside.

    Each field is an entry of its own, or one entry holds them all, as JSON or as base64 of that.

    @param secret_key: the entry that holds them all; empty: the one that seems to
    @param private_key: PEM text, for a certificate whose key is kept elsewhere
    @param http_hosts: the hosts whose URLs may be http
    @raise RefusedError: stage resolve, SERVICE_KEY_INVALID
    """
    key = _Fields(_values(fields, secret_key))
    client_id, uri = key.line(*_CLIENT), _url(key, "uri", http_hosts)
    certificates = key.get("certificate")
    if not certificates:
        client_secret = Secret(key.line("clientsecret", "client_secret"))
        return ServiceKey(client_id, client_secret, None, _url(key, "url", http_hosts), uri)
    own = key.get("key")
    secret = Secret(own) if own or private_key is None else private_key
    identity = Identity(certificates, secret)
    if not secret.reveal():
        raise _invalid("key is missing beside certificate", "add it, or configure privateKey")
    show(SSL.Context(SSL.TLS_CLIENT_METHOD), identity)
    return ServiceKey(client_id, None, identity, _url(key, "certurl", http_hosts), uri)


def private_key(fields: Mapping[str, bytes], entry: str = "") -> Secret:
    """The private key that is kept apart from its certificate: PEM text.

    @param entry: which of the fields it is; empty: the only one, or `key`
    @raise RefusedError: stage resolve, SERVICE_KEY_INVALID
    """
    name = entry or (next(iter(fields)) if len(fields) == 1 else "key")
    text = _Fields(fields).get(name)
    if not text:
        raise _invalid(f"the private key {names.quoted(name)} is missing", "add it, or correct privateKey")
    return Secret(text)


def _values(fields: Mapping[str, bytes], secret_key: str) -> Mapping[str, object]:
    if secret_key:
        whole = _whole(fields.get(secret_key, b""))
        if whole is None:
            raise _invalid(
                f"the entry {names.quoted(secret_key)} is missing or is not JSON",
                "correct secretKey, or put the whole service key there",
            )
        return whole
    if any(name in fields for name in _CLIENT):
        return fields
    wholes = [whole for entry in fields.values() if (whole := _whole(entry)) is not None and whole.keys() & _TELLING]
    if len(wholes) > 1:
        raise _invalid("more than one entry holds it", "name the one that counts with secretKey")
    if not wholes:
        raise _invalid(
            "there is neither an entry clientid nor one that holds the whole key as JSON",
            "create the service key or binding anew, or correct where it is looked for",
        )
    return wholes[0]


def _whole(entry: bytes) -> dict[str, object] | None:
    """The JSON object that an entry is, as it stands or in base64."""
    texts = [entry]
    with suppress(ValueError):
        texts.append(b64decode(b"".join(entry.split()), validate=True))
    for text in texts:
        with suppress(ValueError, RecursionError):
            whole = json.loads(text)
            if isinstance(whole, dict):
                return whole
    return None


@frozen
class _Fields:
    """Texts by name; a refusal names the field."""

    values: Mapping[str, object]

    def get(self, *spellings: str) -> str:
        """The text of a field, whichever of its spellings is used; empty where it is not there."""
        texts = {self._text(name) for name in spellings if name in self.values} - {""}
        if len(texts) > 1:
            raise _invalid(f"{' and '.join(spellings)} differ", "keep one of them")
        return texts.pop() if texts else ""

    def line(self, *spellings: str) -> str:
        """The text of a field that must be there, on one line."""
        text = self.get(*spellings)
        if not text:
            raise _invalid(f"{spellings[0]} is missing", "create the service key or binding anew")
        if not text.isprintable():
            raise _invalid(f"{spellings[0]} holds a control character or a line break", "remove it")
        return text

    def _text(self, name: str) -> str:
        value = self.values[name]
        if isinstance(value, bytes):  # of a file, which ends with a line break more often than not
            try:
                return value.decode("utf-8-sig").rstrip("\r\n")
            except UnicodeDecodeError:
                raise _invalid(f"{name} is not UTF-8", "store it as plain text") from None
        if not isinstance(value, str):
            raise _invalid(f"{name} is not a text", "put it in quotes")
        return value


def _url(key: _Fields, name: str, http_hosts: frozenset[str]) -> str:
    text = key.line(name)
    try:
        parts = urlsplit(text)
        host, port = names.host(parts.hostname or ""), parts.port
    except ValueError:
        raise _invalid(f"{name} is no URL", "write https://HOST/PATH") from None
    if parts.scheme not in ("https", "http"):
        raise _invalid(f"{name} is no https URL", "write https://HOST/PATH")
    if "@" in parts.netloc or "?" in text or "#" in text:
        raise _invalid(f"{name} holds a user, a query or a fragment", "write https://HOST/PATH alone")
    if port == 0 or not _PATH.fullmatch(parts.path):
        raise _invalid(f"{name} holds port 0, or a character that a URL cannot", "write https://HOST/PATH")
    if parts.scheme == "http" and host not in http_hosts:
        raise _invalid(
            f"{name} is http, which would send secrets unencrypted",
            "use https, or have config.security.httpTokenHosts name the host",
        )
    netloc = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{netloc}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"


# Where a key is kept


@implementer(IKeySource)
@frozen
class KeyFile:
    """One file that holds a whole key."""

    path: Path

    def read(self) -> Mapping[str, bytes]:
        return {self.path.name: _content(self.path)}


@implementer(IKeySource)
@frozen
class KeyFolder:
    """A folder with a file for each entry, such as a mounted Secret; names that begin with a dot are left alone."""

    path: Path

    def read(self) -> Mapping[str, bytes]:
        return _settled(lambda: _contents(self.path), self.path)


def _settled(look: Callable[[], Mapping[str, bytes]], path: Path) -> Mapping[str, bytes]:
    """What two looks in a row agree on: a key that is being replaced is not seen half old and half new."""
    seen = look()
    for _ in range(LOOKS - 1):
        before, seen = seen, look()
        if before == seen:
            return seen
    raise _unreadable(path, "it changes all the time")


def _contents(folder: Path) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.is_file():
                    continue
                if len(contents) == ENTRY_LIMIT:
                    raise _invalid(f"{folder} holds more than {ENTRY_LIMIT} files", "name the folder of the key alone")
                contents[entry.name] = _content(Path(entry.path))
    except OSError as error:
        raise _unreadable(folder, _cause(error)) from None
    return contents


def _content(path: Path) -> bytes:
    try:
        if not S_ISREG(path.stat().st_mode):
            raise _unreadable(path, "it is no regular file")
        with path.open("rb") as file:
            content = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise _unreadable(path, _cause(error)) from None
    if len(content) > SIZE_LIMIT:
        raise _invalid(f"{path} is larger than {SIZE_LIMIT} bytes", "is it the right file?")
    return content


def _cause(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _unreadable(path: Path, cause: str) -> RefusedError:
    return RefusedError(
        Refusal(
            Stage.RESOLVE,
            Reason.STORE_UNAVAILABLE,
            f"the service key in {path} cannot be read ({cause})",
            "create it, or correct its permissions or the configuration",
        )
    )


def _invalid(what: str, remedy: str) -> RefusedError:
    message = f"the service key is not usable: {what}"
    return RefusedError(Refusal(Stage.RESOLVE, Reason.SERVICE_KEY_INVALID, message, remedy, Code.CONTACT_ADMIN))

"""The flat properties of a destination document, as texts: read by name, in any of their spellings.

Every refusal names the property and never repeats its value, except of properties that choose
among a few words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from attrs import frozen

from tproxy import names
from tproxy.model import Reason, Refusal, RefusedError, Stage

MAIL_PROTOCOLS = ("imap4", "imap4s", "pop3", "pop3s", "smtp", "smtps")
"""The protocols that a document may describe, whichever of them are served."""

HEADERS = "tokenServiceURL.headers."
QUERIES = "tokenServiceURL.queries."
BODY = "tokenService.body."
CONNECT_TIMEOUT = "tokenServiceURL.ConnectionTimeoutInSeconds"
READ_TIMEOUT = "tokenServiceURL.SocketReadTimeoutInSeconds"
IN_BODY = "tokenService.addClientCredentialsInBody"

GENERAL = (
    "Name",
    "Type",
    "ProxyType",
    "Authentication",
    "mail.transport.protocol",
    "mail.user",
    "mail.password",
)
ADDITIONAL = (
    "tokenServiceURL",
    "tokenServiceURLType",
    "clientId",
    "clientSecret",
    "scope",
    "redirectUri",
    "tokenServiceUser",
    "tokenServicePassword",
    IN_BODY,
    CONNECT_TIMEOUT,
    READ_TIMEOUT,
    "TrustStoreLocation",
    "TrustAll",
)
"""Properties that are known both bare and with the prefix "mail."."""

_LOOKED_AT = 20


def refused(reason: Reason, message: str, remedy: str) -> RefusedError:
    return RefusedError(Refusal(Stage.RESOLVE, reason, message, remedy))


def invalid(message: str, remedy: str) -> RefusedError:
    return refused(Reason.DOCUMENT_INVALID, message, remedy)


def not_supported(message: str, remedy: str) -> RefusedError:
    return refused(Reason.TYPE_NOT_SUPPORTED, message, remedy)


@frozen
class Properties:
    """The document's values as texts; a refusal names the property."""

    values: Mapping[str, object]

    def get(self, name: str) -> str | None:
        """The text of a property, whichever of its spellings is used; None where it is not there."""
        given = [spelling for spelling in _spellings(name) if spelling in self.values]
        texts = [self._text(spelling) for spelling in given]
        if len(set(texts)) > 1:
            raise invalid(f"{' and '.join(given)} differ", "keep one of them")
        return texts[0] if texts else None

    def _text(self, name: str) -> str:
        value = self.values[name]
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int) and value.bit_length() <= 64:
            return str(value)
        shown = names.quoted(name)
        if not isinstance(value, str):
            raise invalid(f"{shown} is not a text", "put its value in quotes")
        if any(character in value for character in "\r\n\0"):
            raise invalid(f"{shown} holds a line break or a NUL", "remove it")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise invalid(f"{shown} holds half of a character (a lone surrogate)", "write the whole character")
        return value

    def need(self, name: str) -> str:
        """The text of a property that must be there and not be empty."""
        value = self.get(name)
        if value is None:
            near = self._near(name)
            remedy = f"rename {names.quoted(near)}, if that is what it should be" if near else "add it"
            raise invalid(f"{name} is missing", remedy)
        if not value:
            raise invalid(f"{name} is empty", "give it a value")
        return value

    def shown(self, name: str) -> str:
        """The value of a property that chooses among words, for a message."""
        return names.quoted(self.get(name) or "")

    def truth(self, name: str, default: bool) -> bool:
        value = (self.get(name) or str(default)).lower()
        if value not in ("true", "false"):
            raise invalid(f"{name} {self.shown(name)} is no truth value", 'write "true" or "false"')
        return value == "true"

    def number(self, name: str, least: int, most: int, default: int) -> int:
        value = self.get(name) or str(default)
        if not re.fullmatch("[0-9]{1,9}", value) or not least <= int(value) <= most:
            raise invalid(f"{name} {self.shown(name)} is not a number from {least} to {most}", "correct or remove it")
        return int(value)

    def group(self, prefix: str) -> tuple[tuple[str, str], ...]:
        """The properties that begin with `prefix`, by the rest of their names, in the document's order."""
        found: dict[str, str] = {}
        for spelling in self.values:
            name = spelling.removeprefix("mail.")
            if name.startswith(prefix):
                if name == prefix:
                    raise invalid(f"{names.quoted(spelling)} lacks a name after the last dot", "name the field")
                found[name.removeprefix(prefix)] = self.get(name) or ""
        return tuple(found.items())

    def misspelt(self, protocol: str) -> Iterator[str]:
        """A warning for each property that is not known but nearly is, while the one that it resembles is not there."""
        known = [*GENERAL, *ADDITIONAL, *(f"mail.{protocol}.{part}" for part in ("host", "port", "auth"))]
        for name in self._unknown():
            near = names.nearest(name, known) or names.nearest(name.removeprefix("mail."), known)
            if near and not any(spelling in self.values for spelling in _spellings(near)):
                yield f"{names.quoted(name)} is not known and not used; is it meant to be {near}?"

    def _near(self, missing: str) -> str:
        unknown = [*self._unknown(), *(name for name in self.values if name in _OF_PROTOCOLS)]
        return names.nearest(missing, unknown) or names.nearest(missing.removeprefix("mail."), unknown)

    def _unknown(self) -> list[str]:
        """The first properties that mean nothing here; a document of thousands is not searched for likenesses."""
        known = {*GENERAL, *ADDITIONAL, *_OF_PROTOCOLS}
        unknown = (
            name
            for name in self.values
            if name not in known
            and name.removeprefix("mail.") not in ADDITIONAL
            and not name.removeprefix("mail.").startswith((HEADERS, QUERIES, BODY))
        )
        return [name for name, _ in zip(unknown, range(_LOOKED_AT), strict=False)]


_OF_PROTOCOLS = frozenset(f"mail.{protocol}.{part}" for protocol in MAIL_PROTOCOLS for part in ("host", "port", "auth"))


def _spellings(name: str) -> tuple[str, ...]:
    additional = name in ADDITIONAL or name.startswith((HEADERS, QUERIES, BODY))
    return (name, f"mail.{name}") if additional else (name,)

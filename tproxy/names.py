"""Names of hosts and tenants: which are valid, and the one spelling in which they are compared."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from ipaddress import ip_address

import idna

from tproxy.model import Tenant

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LONGEST_NAME = 253


def host(text: str) -> str:
    """A host's one spelling: an IP address (RFC 5952), or a DNS name in lower case and A-labels (RFC 5891).

    A name that a system's resolver might read as a number ("127.1", "0x7f000001") is none.
    Raises ValueError with words such as "holds a port" that do not repeat the text.
    """
    if not text:
        raise ValueError("is empty")
    if any(character.isspace() or not character.isprintable() for character in text):
        raise ValueError("holds a space or a control character")
    if "/" in text or "\\" in text:
        raise ValueError("holds a URL or a path where the host alone belongs")
    if "@" in text:
        raise ValueError("holds an '@' where the host alone belongs")
    bracketed = text.startswith("[") and text.endswith("]")
    try:
        if "%" not in text:
            return str(ip_address(text[1:-1] if bracketed else text))
    except ValueError:
        pass
    if ":" in text:
        raise ValueError("holds a port, or is no IP address")
    name = text.removesuffix(".")
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"is longer than {_LONGEST_NAME} characters")
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError:
            raise ValueError("is no DNS name") from None
    name = name.lower()
    if not _DNS_NAME.fullmatch(name) or _NUMBER.fullmatch(name.rpartition(".")[2]):
        raise ValueError("is neither a DNS name nor an IP address")
    return name


def subdomain(text: str) -> Tenant:
    """A tenant's subdomain: one host label of lower-case ASCII letters, digits and inner hyphens (RFC 1123).

    Raises ValueError with words that do not repeat the text.
    """
    if not _SUBDOMAIN.fullmatch(text):
        raise ValueError("is no subdomain: 1 to 63 lower-case letters, digits and inner hyphens")
    return Tenant(text)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant, whatever its case; empty where none is near."""
    folded = {candidate.lower(): candidate for candidate in known}
    return next((folded[match] for match in get_close_matches(name.lower()[:200], folded, 1, 0.8)), "")


def quoted(text: str, longest: int = 60) -> str:
    """User-given text for a message: on one line, escaped, shortened."""
    return repr(text if len(text) <= longest else text[: longest - 1] + "…")

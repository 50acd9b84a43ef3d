"""Names of hosts, in the one spelling that resolvers, SNI and certificates share."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

import idna

_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.ASCII)


@lru_cache(maxsize=1024)
def ip_literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host is, where it is no name but an address in its usual form."""
    with suppress(ValueError):
        return ip_address(host)
    return None


def ascii_name(host: str) -> str:
    """A host name in lower-case A-labels (RFC 5890) without the dot of the root.

    @raise ValueError: it is no host name; the text repeats nothing of it
    """
    name = host.removesuffix(".")
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError:
            raise ValueError("not an internationalised host name") from None
    name = name.lower()
    if _NAME.fullmatch(name) is None:
        raise ValueError("not a host name")
    return name

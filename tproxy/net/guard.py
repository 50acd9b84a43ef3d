"""Which addresses may be dialled: the global ones, and what the operator allows.

The tables are explicit, after the special-purpose address registries of IANA (RFC 6890), because
the `ipaddress` module judges the same address differently from one Python version to the next.
It is used here for parsing and arithmetic alone.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from attrs import frozen

from tproxy.config import Network
from tproxy.model import Reason, Refusal, RefusedError, Stage

Address = IPv4Address | IPv6Address
Table = tuple[tuple[Network, str], ...]


def _table(networks: dict[str, str]) -> Table:
    return tuple((ip_network(network), words) for words, text in networks.items() for network in text.split())


METADATA = _table(
    {
        "a metadata address": (
            "169.254.169.254 169.254.170.2 169.254.170.23 169.254.42.42 169.254.0.23 168.63.129.16 "
            "100.100.100.200 192.0.0.192 "
            "fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:42::42 fe80::a9fe:a9fe"
        )
    }
)
"""Where clouds hand out credentials to whoever asks from inside."""

ALWAYS_REFUSED = METADATA + _table(
    {
        "the unspecified address": "0.0.0.0 ::",
        "the broadcast address": "255.255.255.255",
        "a multicast address": "224.0.0.0/4 ff00::/8",
    }
)
"""No allowed network opens these."""

LOOPBACK = _table({"a loopback address": "127.0.0.0/8 ::1"})

REFUSED = LOOPBACK + _table(
    {
        "a link-local address": "169.254.0.0/16 fe80::/10",
        "a private address": "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fec0::/10",
        "a shared address": "100.64.0.0/10",
        "an address of this network": "0.0.0.0/8",
        "a documentation address": "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20",
        "a benchmarking address": "198.18.0.0/15 2001:2::/48",
        "a local translation address": "64:ff9b:1::/48",
        "a reserved address": "192.0.0.0/24 192.88.99.0/24 240.0.0.0/4 2001::/23",
    }
)
"""Networks that an allowed network opens. Beside them, IPv6 is refused outside of 2000::/3."""

_GLOBAL_IPV6 = IPv6Network("2000::/3")

# Networks whose addresses stand for an IPv4 address, and how many bits follow that.
_DISGUISES = (
    (IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped, RFC 4291
    (IPv6Network("::ffff:0:0:0/96"), 0),  # IPv4-translated, RFC 2765
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64, RFC 6052
    (IPv6Network("2002::/16"), 80),  # 6to4, RFC 3056
    (IPv6Network("::/96"), 0),  # IPv4-compatible, RFC 4291
)
_TEREDO = IPv6Network("2001::/32")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
_LOCALHOST_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})


@frozen
class _Meaning:
    """An address that is meant, and what speaks against it: in any case, and unless an allowed network opens it."""

    address: Address
    never: str | None
    unless_opened: str | None


class Guard:
    """Judges addresses after resolution; the judged address is the one to connect to.

    @param allowed: networks that may be dialled although they are not global
    @param own: the ports that this process listens on: a connection to one of them would be a loop
    @param is_own_address: whether an address, as text, belongs to this host
    """

    def __init__(
        self,
        allowed: Sequence[Network],
        own: Callable[[], Container[int]] = lambda: (),
        is_own_address: Callable[[str], bool] | None = None,
    ) -> None:
        self._allowed = tuple(allowed)
        self._own = own
        self._is_own_address = belongs_to_this_host if is_own_address is None else is_own_address

    def check(self, address: str, port: int) -> None:
        """Refuse an address that must not be dialled.

        @param address: an IP address as text; whatever is no address is refused
        @raise RefusedError: stage connect, reason address-refused
        """
        shown = ascii(address[:64])[1:-1]
        try:
            parsed, meanings = _read(address)
        except ValueError:
            raise _refused(f"{shown} is no IP address", "give a host name or an IP address in its usual form") from None
        if isinstance(parsed, IPv6Address) and parsed.scope_id is not None:
            raise _refused(f"{shown} is an address of one network interface only", "give an address without a scope")
        for meaning in meanings:
            words = meaning.never or (None if self._opened(meaning.address) else meaning.unless_opened)
            if words is not None:
                meant = "" if meaning.address == parsed else f" (it stands for {meaning.address})"
                raise _refused(f"{shown}{meant} is {words}", _remedy(meaning))
        if port in self._own() and any(self._is_here(meaning.address) for meaning in meanings):
            raise _refused(f"{shown} port {port} is a port of tproxy itself", "name the mail server's own address")

    def loopback(self, host: str) -> bool:
        """Whether a host, as a document spells it, can only mean this machine, and that is not allowed."""
        name = host.strip().removesuffix(".").lower()
        if name in _LOCALHOST_NAMES or name.endswith(".localhost"):
            return not any(self._opened(ip_address(address)) for address in ("127.0.0.1", "::1"))
        literal = _literal(name.removeprefix("[").removesuffix("]"))
        return literal is not None and any(
            _match(LOOPBACK, each) is not None and not self._opened(each) for each in _unwrapped(literal)
        )

    def _opened(self, address: Address) -> bool:
        return any(address in network for network in self._allowed)

    def _is_here(self, address: Address) -> bool:
        return _match(LOOPBACK, address) is not None or self._is_own_address(str(address))


def belongs_to_this_host(address: str) -> bool:
    """Whether packets to an IP address stay on this host: then the kernel picks it as their source, too."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return ip_address(probe.getsockname()[0]) == ip_address(address)
    return False


@lru_cache(maxsize=1024)
def _read(address: str) -> tuple[Address, tuple[_Meaning, ...]]:
    """An address, and all that it may mean: nothing here depends on what is allowed."""
    parsed = ip_address(address)
    return parsed, tuple(map(_meaning, _unwrapped(parsed)))


def _meaning(address: Address) -> _Meaning:
    words = _match(REFUSED, address)
    if words is None and isinstance(address, IPv6Address) and address not in _GLOBAL_IPV6:
        words = "a reserved address"
    return _Meaning(address, _match(ALWAYS_REFUSED, address) or _hidden_metadata(address), words)


def _unwrapped(address: Address) -> tuple[Address, ...]:
    """The addresses that are meant: all of them have to be good."""
    if isinstance(address, IPv4Address) or int(address) <= 1:
        return (address,)
    if address in _TEREDO:  # RFC 4380: the server, and the client with its bits inverted
        return (_ipv4(int(address) >> 64), _ipv4(~int(address)))
    for network, following in _DISGUISES:
        if address in network:
            return (_ipv4(int(address) >> following),)
    return (address,)


def _hidden_metadata(address: Address) -> str | None:
    """Where a local translation prefix ends is the network's secret: look at each place of RFC 6052, section 2.2."""
    if isinstance(address, IPv6Address) and address in _LOCAL_NAT64:
        return next(filter(None, (_match(METADATA, each) for each in _translated(int(address)))), None)
    return None


def _translated(bits: int) -> Iterator[IPv4Address]:
    without_u = bits >> 64 << 56 | bits & (1 << 56) - 1  # bits 64 to 71 are no part of the IPv4 address
    yield from (_ipv4(without_u >> following) for following in (40, 32, 24))
    yield _ipv4(bits)


def _ipv4(bits: int) -> IPv4Address:
    return IPv4Address(bits & 0xFFFFFFFF)


def _match(table: Table, address: Address) -> str | None:
    return next((words for network, words in table if address in network), None)


def _literal(name: str) -> Address | None:
    """An address in any spelling that a resolver takes for one: `127.1`, `0x7f.1`, `2130706433`."""
    with suppress(ValueError):
        return ip_address(name)
    with suppress(OSError, ValueError):
        return IPv4Address(socket.inet_aton(name))
    return None


def _remedy(meaning: _Meaning) -> str:
    if meaning.never:
        return "name the mail server's own address"
    return "if this network is meant to be reached, list it in config.security.allowedNetworks"


def _refused(message: str, remedy: str) -> RefusedError:
    return RefusedError(Refusal(Stage.CONNECT, Reason.ADDRESS_REFUSED, message, remedy))

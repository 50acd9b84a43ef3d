"""Which addresses may be dialled: one table, the same on every Python version."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hypothesis import example, given, settings
from hypothesis.strategies import ip_addresses
from twisted.trial.unittest import SynchronousTestCase

from tproxy.model import Reason, RefusedError, Stage
from tproxy.net.guard import ALWAYS_REFUSED, REFUSED, Guard, belongs_to_this_host

GOOD = """
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
    168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255
    192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255
    2001:200::1 2001:4860:4860::8888 2606:4700:4700::1111 2a00:1450:4001:80b::200e 3ffe:ffff::1 3fff:1000::1
    2001:db7:ffff::1 2001:db9::1
    ::ffff:8.8.8.8 ::ffff:0:8.8.8.8 64:ff9b::8.8.8.8 64:ff9b::808:808 2002:808:808::1
    2001:0:808:808:0:ffff:f7f7:f7f7 ::8.8.8.8
"""

BAD = {
    "a loopback address": """
        127.0.0.0 127.0.0.1 127.255.255.255 ::1
        ::ffff:127.0.0.1 ::ffff:7f00:1 0:0:0:0:0:ffff:127.0.0.1 ::ffff:0:127.0.0.1
        64:ff9b::127.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: 2002:7f00:1:808:: ::127.0.0.1 ::7f00:1
        2001:0:808:808::80ff:fffe 2001:0:7f00:1::f7f7:f7f7
    """,
    "a private address": """
        10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255
        fc00:: fd12:3456:789a::1 fdff:ffff::1 fec0::1
        ::ffff:10.0.0.1 64:ff9b::10.0.0.1 2002:a00:1::1 ::192.168.1.1 2001:0:a00:1::f7f7:f7f7
    """,
    "a link-local address": "169.254.0.1 169.254.255.255 fe80::1 febf::1 ::ffff:169.254.1.1 64:ff9b::169.254.1.1",
    "a shared address": "100.64.0.0 100.127.255.255 ::ffff:100.64.0.1 64:ff9b::100.64.0.1",
    "a metadata address": """
        169.254.169.254 169.254.170.2 169.254.170.23 168.63.129.16 100.100.100.200 192.0.0.192 fd00:ec2::254
        fd00:ec2::23 fd20:ce::254 fe80::a9fe:a9fe
        ::ffff:169.254.169.254 ::ffff:a9fe:a9fe 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe:: ::169.254.169.254
        2001:0:a9fe:a9fe::f7f7:f7f7 2001:0:808:808::5601:5601 ::ffff:168.63.129.16 64:ff9b::168.63.129.16
    """,
    "the unspecified address": "0.0.0.0 :: ::ffff:0.0.0.0 64:ff9b::",
    "an address of this network": "0.0.0.1 0.255.255.255 ::ffff:0.1.2.3 ::2",
    "the broadcast address": "255.255.255.255 ::ffff:255.255.255.255",
    "a multicast address": "224.0.0.1 239.255.255.255 ff02::1 ff0e::1 ::ffff:224.0.0.1",
    "a documentation address": "192.0.2.1 198.51.100.1 203.0.113.255 2001:db8::1 3fff::1 3fff:fff::1",
    "a benchmarking address": "198.18.0.0 198.19.255.255 2001:2::1",
    "a reserved address": """
        192.0.0.1 192.0.0.255 192.88.99.1 240.0.0.1 255.255.255.254
        2001:1::1 2001:10::1 2001:20::1 100::1 100:0:0:1::1 5f00::1 4000::1 1fff::1 e000::1
        64:ff9b:2::1 ::1:0:0:0
    """,
    "a local translation address": "64:ff9b:1:: 64:ff9b:1::8.8.8.8 64:ff9b:1:808:8:800::",
    "an address of one network interface only": "fe80::1%eth0 fe80::1%2 ::1%lo ::ffff:8.8.8.8%1 2606:4700::1%x",
    "no IP address": """
        127.1 0x7f.1 0x7f000001 2130706433 017700000001 127.0.0.01 1.2.3 1.2.3.4.5 ::ffff:127.1 [::1] localhost
        256.1.1.1 １２７.0.0.1
    """,
}


def own_993() -> frozenset[int]:
    return frozenset({993})


class Checks(SynchronousTestCase):
    """What `check` lets pass."""

    def refusal(self, guard: Guard, address: str, port: int = 993):
        error = self.assertRaises(RefusedError, guard.check, address, port)
        self.assertEqual((error.refusal.stage, error.refusal.reason), (Stage.CONNECT, Reason.ADDRESS_REFUSED))
        return error.refusal

    def test_global_addresses_pass(self) -> None:
        """Addresses of the public internet may be dialled, also just beside each refused network."""
        for address in GOOD.split():
            with self.subTest(address):
                Guard([]).check(address, 993)

    def test_others_are_refused(self) -> None:
        """Everything else is refused, in each disguise, in words that say what it is."""
        for words, addresses in BAD.items():
            for address in addresses.split():
                with self.subTest(address):
                    refusal = self.refusal(Guard([]), address)
                    self.assertTrue(refusal.message.endswith(f" is {words}"), refusal.message)
                    self.assertTrue(refusal.remedy)

    @settings(deadline=None)
    @given(ip_addresses(v=4))
    @example(IPv4Address("169.254.169.254"))
    @example(IPv4Address("172.31.255.255"))
    @example(IPv4Address("172.32.0.0"))
    def test_disguises(self, address: IPv4Address) -> None:
        """No disguise makes an IPv4 address better or worse than it is, with allowed networks and without."""
        bits = int(address)
        disguises = {
            "mapped": 0xFFFF << 32 | bits,
            "translated": 0xFFFF << 48 | bits,
            "NAT64": 0x64_FF9B << 96 | bits,
            "6to4": 0x2002 << 112 | bits << 80 | 0x0808_0808,
            "Teredo, client": 0x2001 << 112 | 0x0808_0808 << 64 | bits ^ 0xFFFF_FFFF,
            "Teredo, server": 0x2001 << 112 | bits << 64 | 0x0808_0808 ^ 0xFFFF_FFFF,
            "compatible": bits,
        }
        for guard in (Guard([]), Guard([ip_network("10.0.0.0/8"), ip_network("127.0.0.0/8")])):
            for name, disguised in disguises.items():
                if disguised != 1:  # which is ::1
                    passes = self.passes(guard, str(IPv6Address(disguised)))
                    self.assertEqual(passes, self.passes(guard, str(address)), name)

    def passes(self, guard: Guard, address: str) -> bool:
        try:
            guard.check(address, 993)
        except RefusedError:
            return False
        return True

    def test_each_row(self) -> None:
        """First and last address of each network of the tables are refused."""
        for network, words in ALWAYS_REFUSED + REFUSED:
            for address in (network[0], network[-1]):
                with self.subTest(str(address)):
                    message = self.refusal(Guard([]), str(address)).message
                    if network.num_addresses == 1:
                        self.assertIn(words, message)

    def test_allowed_networks(self) -> None:
        """A network that the operator lists is open, whatever its addresses are wrapped in; others stay shut."""
        allowed = Guard([ip_network(each) for each in ("10.1.0.0/16", "127.0.0.0/8", "fd12::/16", "::1")])
        opened = "10.1.2.3 ::ffff:10.1.2.3 64:ff9b::10.1.2.3 127.0.0.1 ::ffff:127.0.0.1 fd12::1 ::1"
        shut = "10.2.0.1 ::ffff:10.2.0.1 192.168.0.1 fd13::1 2001:0:a01:203::f5ff:fffe"
        for address in opened.split():
            with self.subTest(address):
                allowed.check(address, 993)
        for address in shut.split():
            with self.subTest(address):
                self.refusal(allowed, address)

    def test_guards_are_apart(self) -> None:
        """What one guard lets pass another one refuses, whoever is asked first."""
        closed, opened = Guard([]), Guard([ip_network("10.0.0.0/8")])
        for address in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3"):
            for _ in range(2):
                self.refusal(closed, address)
                opened.check(address, 993)

    def test_never_allowed(self) -> None:
        """Allowing everything still leaves metadata and what is no single host refused, and says so."""
        everything = Guard([ip_network("0.0.0.0/0"), ip_network("::/0")])
        for words in (
            "a metadata address",
            "the unspecified address",
            "the broadcast address",
            "a multicast address",
            "an address of one network interface only",
        ):
            for address in BAD[words].split():
                with self.subTest(address):
                    refusal = self.refusal(everything, address)
                    self.assertIn(words, refusal.message)
                    self.assertNotIn("allowedNetworks", refusal.remedy)
        everything.check("10.0.0.1", 993)
        everything.check("fe80::1", 993)
        everything.check("240.0.0.1", 993)

    def test_local_translation(self) -> None:
        """An allowed local NAT64 prefix leads to no metadata address, wherever its prefix ends (RFC 6052, 2.2)."""
        guard = Guard([ip_network("64:ff9b:1::/48")])
        guard.check("64:ff9b:1::8.8.8.8", 993)
        metadata = int(ip_address("169.254.169.254"))
        prefix = int(ip_address("64:ff9b:1::"))
        for name, bits in {
            "/48": (metadata >> 16) << 64 | (metadata & 0xFFFF) << 40,
            "/56": (metadata >> 24) << 64 | (metadata & 0xFFFFFF) << 32,
            "/64": metadata << 24,
            "/96": metadata,
        }.items():
            with self.subTest(name):
                self.assertIn("metadata", self.refusal(guard, str(ip_address(prefix | bits))).message)

    def test_hostile_text(self) -> None:
        """What is no address is shown escaped and short."""
        message = self.refusal(Guard([]), "\r\n* OK \x1b[2J" + "x" * 1000).message
        self.assertTrue(message.isprintable())
        self.assertLess(len(message), 150)

    def test_loop(self) -> None:
        """A port of our own is refused on addresses of this host, also where those are allowed, and nowhere else."""
        here = "10.9.9.9"
        networks = [ip_network(each) for each in ("127.0.0.0/8", "::1", "10.0.0.0/8")]
        guard = Guard(networks, own_993, lambda address: address == here)
        for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", here, f"::ffff:{here}"):
            with self.subTest(address):
                self.assertIn("a port of tproxy itself", self.refusal(guard, address).message)
                guard.check(address, 994)
        guard.check("10.9.9.8", 993)
        guard.check("8.8.8.8", 993)

    def test_own_ports_are_asked_each_time(self) -> None:
        """A port that was opened after the guard was made counts."""
        ports: set[int] = set()
        guard = Guard([ip_network("127.0.0.0/8")], lambda: ports)
        guard.check("127.0.0.1", 1993)
        ports.add(1993)
        self.refusal(guard, "127.0.0.1", 1993)


class Loopback(SynchronousTestCase):
    """What `loopback` takes for this machine, without a look-up."""

    HERE = """
        localhost LOCALHOST localhost. mail.localhost localhost.localdomain ip6-localhost 127.0.0.1 127.9.9.9 127.1
        0x7f.1 0x7f000001 2130706433 017700000001 ::1 [::1] ::ffff:127.0.0.1 64:ff9b::127.0.0.1 2002:7f00:1::
    """

    def test_spellings(self) -> None:
        """Names of localhost and loopback addresses in any spelling."""
        for host in self.HERE.split():
            with self.subTest(host):
                self.assertTrue(Guard([]).loopback(host))

    def test_others(self) -> None:
        """Other hosts, however alike."""
        for host in (
            "mail.example",
            "localhost.example",
            "8.8.8.8",
            "10.0.0.1",
            "128.1",
            "",
            "::2",
            "127.0.0.1.nip.io",
        ):
            with self.subTest(host):
                self.assertFalse(Guard([]).loopback(host))

    def test_allowed(self) -> None:
        """Where loopback is allowed, it is not held against anybody."""
        guard = Guard([ip_network("127.0.0.0/8"), ip_network("::1")])
        for host in self.HERE.split():
            with self.subTest(host):
                self.assertFalse(guard.loopback(host))
        self.assertFalse(Guard([ip_network("::1")]).loopback("localhost"))
        self.assertTrue(Guard([ip_network("::1")]).loopback("127.0.0.1"))


class ThisHost(SynchronousTestCase):
    """`belongs_to_this_host` asks the kernel, not the network."""

    def test_addresses(self) -> None:
        """Loopback is here, a documentation address is not, and a broadcast address fails quietly."""
        self.assertTrue(belongs_to_this_host("127.0.0.1"))
        self.assertFalse(belongs_to_this_host("192.0.2.1"))
        self.assertFalse(belongs_to_this_host("2001:db8::1"))
        self.assertFalse(belongs_to_this_host("255.255.255.255"))

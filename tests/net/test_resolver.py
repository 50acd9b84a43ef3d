"""Names become addresses that passed the guard."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import socket
from ipaddress import ip_network

from attrs import define, field
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IReactorTime,
    IResolutionReceiver,
)
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.peers import turn
from tproxy.model import Reason, RefusedError, Stage
from tproxy.net.guard import Guard
from tproxy.net.resolver import (
    CACHE_LIMIT,
    LOST_SECONDS,
    NEGATIVE_SECONDS,
    POSITIVE_SECONDS,
    Resolver,
    _Reception,
    interleaved,
)

V4, OTHER_V4, V6, OTHER_V6 = "8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"


@implementer(IHostResolution)
@define
class Resolution:
    name: str

    def cancel(self) -> None:
        raise AssertionError("a look-up runs to its end")


@implementer(IHostnameResolver)
@define
class Names:
    """Look-ups that the test answers."""

    asked: list[str] = field(factory=list)
    open: dict[str, IResolutionReceiver] = field(factory=dict)
    at_once: dict[str, tuple[str, ...]] = field(factory=dict)

    def resolveHostName(self, resolutionReceiver, hostName, portNumber=0, addressTypes=None, transportSemantics="TCP"):
        verifyObject(IResolutionReceiver, resolutionReceiver)
        assert set(addressTypes) == {IPv4Address, IPv6Address} and transportSemantics == "TCP"
        self.asked.append(hostName)
        resolution = Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        self.open[hostName] = resolutionReceiver
        if hostName in self.at_once:
            self.answer(hostName, *self.at_once[hostName])
        return resolution

    def answer(self, name: str, *addresses: str) -> None:
        receiver = self.open.pop(name)
        for address in addresses:
            kind = IPv6Address if ":" in address else IPv4Address
            receiver.addressResolved(kind("TCP", address, 0))
        receiver.resolutionComplete()


@implementer(IReactorPluggableNameResolver)
class Reactor(Clock):
    """A clock that resolves names."""

    def __init__(self) -> None:
        super().__init__()
        self.nameResolver = Names()

    def installNameResolver(self, resolver):
        previous, self.nameResolver = self.nameResolver, resolver
        return previous


class ResolverTests(SynchronousTestCase):
    """`Resolver.resolve`."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.names = self.reactor.nameResolver
        self.resolver = Resolver(self.reactor, Guard([]))

    def refused(self, deferred: Deferred, reason: Reason):
        refusal = self.failureResultOf(deferred, RefusedError).value.refusal
        self.assertEqual((refusal.stage, refusal.reason), (Stage.CONNECT, reason))
        return refusal

    def test_fakes(self) -> None:
        """The stand-ins offer what the real ones do."""
        verifyObject(IReactorPluggableNameResolver, self.reactor)
        verifyObject(IReactorTime, self.reactor)
        verifyObject(IHostnameResolver, self.names)
        verifyObject(IHostResolution, Resolution("a"))
        verifyObject(IResolutionReceiver, _Reception(Deferred()))

    def test_families_by_turns(self) -> None:
        """All addresses are handed out once, the families by turns, the resolver's first one first."""
        result = self.resolver.resolve("mail.example", 993)
        self.assertNoResult(result)
        self.names.answer("mail.example", V6, OTHER_V6, V4, V6, OTHER_V4)
        self.assertEqual(self.successResultOf(result), (V6, V4, OTHER_V6, OTHER_V4))

    def test_interleaved(self) -> None:
        """Families of different sizes lose nothing."""
        self.assertEqual(interleaved([V4, V6, OTHER_V6]), (V4, V6, OTHER_V6))
        self.assertEqual(interleaved([V4, OTHER_V4]), (V4, OTHER_V4))
        self.assertEqual(interleaved([]), ())

    def test_literals(self) -> None:
        """An address is its own answer, without a look-up, and is checked."""
        self.assertEqual(self.successResultOf(self.resolver.resolve(V4, 993)), (V4,))
        self.assertEqual(self.successResultOf(self.resolver.resolve(V6.upper(), 993)), (V6,))
        self.refused(self.resolver.resolve("127.0.0.1", 993), Reason.ADDRESS_REFUSED)
        self.refused(self.resolver.resolve("fe80::1%eth0", 993), Reason.ADDRESS_REFUSED)
        self.assertEqual(self.names.asked, [])

    def test_odd_spellings(self) -> None:
        """What the system's resolver takes for an address is judged by what it makes of it."""
        for host in ("127.1", "0x7f.1", "2130706433"):
            with self.subTest(host):
                result = self.resolver.resolve(host, 993)
                self.names.answer(host, "127.0.0.1")
                self.refused(result, Reason.ADDRESS_REFUSED)

    def test_localhost(self) -> None:
        """Names of this host are loopback, whatever DNS says (RFC 6761, section 6.3), and are judged as such."""
        open_to = {"127.0.0.0/8": ("127.0.0.1",), "::1": ("::1",)}
        for host in ("localhost", "LocalHost.", "acme.authentication.localhost"):
            with self.subTest(host):
                self.refused(self.resolver.resolve(host, 993), Reason.ADDRESS_REFUSED)
                for network, addresses in open_to.items():
                    resolver = Resolver(self.reactor, Guard([ip_network(network)]))
                    self.assertEqual(self.successResultOf(resolver.resolve(host, 993)), addresses)
                both = Resolver(self.reactor, Guard(list(map(ip_network, open_to))))
                self.assertEqual(self.successResultOf(both.resolve(host, 993)), ("127.0.0.1", "::1"))
        self.assertEqual(self.names.asked, [])

    def test_localhost_of_others(self) -> None:
        """A name that only looks so is looked up."""
        for host in ("notlocalhost", "localhost.example"):
            self.resolver.resolve(host, 993)
        self.assertEqual(self.names.asked, ["notlocalhost", "localhost.example"])

    def test_no_names(self) -> None:
        """A host that is no name is not looked up."""
        for host in ("", "a b", "a\r\nb", "ü" * 64, "x" * 5000):
            with self.subTest(host[:9]):
                refusal = self.refused(self.resolver.resolve(host, 993), Reason.NAME_NOT_RESOLVED)
                self.assertTrue(refusal.message.isprintable())
                self.assertLess(len(refusal.message), 500)
        self.assertEqual(self.names.asked, [])

    def test_one_spelling(self) -> None:
        """Spellings of one name share a look-up: A-labels, lower case, without the dot of the root."""
        results = [self.resolver.resolve(host, 993) for host in ("Bücher.example", "xn--bcher-kva.example.")]
        self.assertEqual(self.names.asked, ["xn--bcher-kva.example"])
        self.names.answer("xn--bcher-kva.example", V4)
        self.assertEqual([self.successResultOf(result) for result in results], [(V4,), (V4,)])

    def test_single_flight(self) -> None:
        """All who ask while a look-up runs share it; another host has its own."""
        results = [self.resolver.resolve("mail.example", port) for port in (993, 143, 993)]
        other = self.resolver.resolve("other.example", 993)
        self.assertEqual(self.names.asked, ["mail.example", "other.example"])
        self.names.answer("mail.example", V4)
        self.assertEqual([self.successResultOf(result) for result in results], [(V4,)] * 3)
        self.assertNoResult(other)
        self.names.answer("other.example", V6)
        self.assertEqual(self.successResultOf(other), (V6,))

    def test_cancelled_waiter(self) -> None:
        """Who stops waiting disturbs nobody; the answer is kept even if all did."""
        first, second = (self.resolver.resolve("mail.example", 993) for _ in range(2))
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertNoResult(second)
        third = self.resolver.resolve("mail.example", 993)
        self.names.answer("mail.example", V4)
        self.assertEqual(self.successResultOf(second), (V4,))
        self.assertEqual(self.successResultOf(third), (V4,))
        alone = self.resolver.resolve("other.example", 993)
        alone.cancel()
        self.failureResultOf(alone, CancelledError)
        self.names.answer("other.example", V6)
        self.assertEqual(self.successResultOf(self.resolver.resolve("other.example", 993)), (V6,))
        self.assertEqual(self.names.asked, ["mail.example", "other.example"])

    def test_lost(self) -> None:
        """A look-up that never comes back is made again some time later, and whoever still waits is served by that."""
        first = self.resolver.resolve("mail.example", 993)
        self.reactor.advance(LOST_SECONDS - 0.1)
        self.resolver.resolve("mail.example", 993)
        self.assertEqual(self.names.asked, ["mail.example"])
        lost = self.names.open["mail.example"]
        self.reactor.advance(0.1)
        second = self.resolver.resolve("mail.example", 993)
        self.assertEqual(self.names.asked, ["mail.example"] * 2)
        self.names.answer("mail.example", V4)
        self.assertEqual([self.successResultOf(each) for each in (first, second)], [(V4,), (V4,)])
        lost.addressResolved(IPv4Address("TCP", OTHER_V4, 0))
        lost.resolutionComplete()
        self.assertEqual(self.successResultOf(self.resolver.resolve("mail.example", 993)), (OTHER_V4,))

    def test_waiter_that_asks_again(self) -> None:
        """Asking from within the answer is served by it."""
        again: list[Deferred] = []
        first = self.resolver.resolve("mail.example", 993)
        first.addCallback(lambda _: again.append(self.resolver.resolve("mail.example", 993)))
        self.names.answer("mail.example", V4)
        self.successResultOf(first)
        self.assertEqual(self.successResultOf(again[0]), (V4,))
        self.assertEqual(self.names.asked, ["mail.example"])

    def test_waiter_that_cancels_another(self) -> None:
        """Cancelling from within the answer is harmless."""
        first = self.resolver.resolve("mail.example", 993)
        second = self.resolver.resolve("mail.example", 993)
        first.addCallback(lambda _: second.cancel())
        self.names.answer("mail.example", V4)
        self.successResultOf(first)
        self.failureResultOf(second, CancelledError)

    def test_answered_at_once(self) -> None:
        """A resolver that answers within the call is fine."""
        self.names.at_once["mail.example"] = (V4,)
        self.assertEqual(self.successResultOf(self.resolver.resolve("mail.example", 993)), (V4,))

    def test_kept(self) -> None:
        """An answer is kept for its time, not longer."""
        self.names.at_once["mail.example"] = (V4,)
        self.successResultOf(self.resolver.resolve("mail.example", 993))
        self.names.at_once["mail.example"] = (V6,)
        self.reactor.advance(POSITIVE_SECONDS - 0.1)
        self.assertEqual(self.successResultOf(self.resolver.resolve("mail.example", 993)), (V4,))
        self.reactor.advance(0.1)
        self.assertEqual(self.successResultOf(self.resolver.resolve("mail.example", 993)), (V6,))

    def test_failure_kept_shortly(self) -> None:
        """That a name has no address is believed for a moment only."""
        self.names.at_once["mail.example"] = ()
        refusal = self.refused(self.resolver.resolve("mail.example", 993), Reason.NAME_NOT_RESOLVED)
        self.assertIn("mail.example", refusal.message)
        self.refused(self.resolver.resolve("mail.example", 993), Reason.NAME_NOT_RESOLVED)
        self.assertEqual(len(self.names.asked), 1)
        self.names.at_once["mail.example"] = (V4,)
        self.reactor.advance(NEGATIVE_SECONDS)
        self.assertEqual(self.successResultOf(self.resolver.resolve("mail.example", 993)), (V4,))

    def test_bounded(self) -> None:
        """The oldest answers that nobody asked for go first."""
        hosts = [f"host{number}.example" for number in range(CACHE_LIMIT + 1)]
        self.names.at_once = dict.fromkeys(hosts, (V4,))
        for host in hosts:
            self.successResultOf(self.resolver.resolve(host, 993))
            self.successResultOf(self.resolver.resolve(hosts[0], 993))
        self.names.asked.clear()
        self.successResultOf(self.resolver.resolve(hosts[0], 993))
        self.assertEqual(self.names.asked, [])
        self.successResultOf(self.resolver.resolve(hosts[1], 993))
        self.assertEqual(self.names.asked, [hosts[1]])

    def test_every_answer_is_checked(self) -> None:
        """Refused addresses among the answers are never handed out; where none is left, the reason is theirs."""
        result = self.resolver.resolve("mail.example", 993)
        self.names.answer("mail.example", "127.0.0.1", V4, "::ffff:10.0.0.1", "fe80::1%2")
        self.assertEqual(self.successResultOf(result), (V4,))
        result = self.resolver.resolve("other.example", 993)
        self.names.answer("other.example", "10.0.0.1", "::1")
        refusal = self.refused(result, Reason.ADDRESS_REFUSED)
        self.assertIn("other.example", refusal.message)
        self.assertIn("10.0.0.1", refusal.message)

    def test_checked_again(self) -> None:
        """An answer that was kept is judged anew for each caller and port."""
        ports: set[int] = set()
        resolver = Resolver(self.reactor, Guard([ip_network("127.0.0.0/8")], lambda: ports))
        self.names.at_once["here.example"] = ("127.0.0.1",)
        self.successResultOf(resolver.resolve("here.example", 1993))
        ports.add(1993)
        self.refused(resolver.resolve("here.example", 1993), Reason.ADDRESS_REFUSED)
        self.successResultOf(resolver.resolve("here.example", 1994))
        self.assertEqual(self.names.asked, ["here.example"])

    def test_other_addresses(self) -> None:
        """Answers that are no IP addresses are passed over."""
        result = self.resolver.resolve("mail.example", 993)
        self.names.open["mail.example"].addressResolved(UNIXAddress(b"/run/mail"))
        self.names.answer("mail.example", V4)
        self.assertEqual(self.successResultOf(result), (V4,))

    def test_clock(self) -> None:
        """A clock of its own tells the age of answers."""
        clock = Clock()
        resolver = Resolver(self.reactor, Guard([]), clock)
        self.names.at_once["mail.example"] = (V4,)
        self.successResultOf(resolver.resolve("mail.example", 993))
        self.reactor.advance(POSITIVE_SECONDS)
        self.successResultOf(resolver.resolve("mail.example", 993))
        self.assertEqual(len(self.names.asked), 1)
        clock.advance(POSITIVE_SECONDS)
        self.successResultOf(resolver.resolve("mail.example", 993))
        self.assertEqual(len(self.names.asked), 2)


class SystemResolver(TestCase):
    """With the resolver of this system: names that need no network."""

    timeout = 60

    async def test_odd_spellings(self) -> None:
        """Whatever spelling getaddrinfo takes for an address, the guard sees the address."""
        from twisted.internet import reactor

        for host in ("127.1", "0x7f.1", "0x7f000001", "2130706433", "017700000001", "127.0.0.01"):
            with self.assertRaises(RefusedError) as raised:
                await Resolver(reactor, Guard([])).resolve(host, 993)
            self.assertEqual(raised.exception.refusal.reason, Reason.ADDRESS_REFUSED, host)
            self.assertIn("127.0.0.1", raised.exception.refusal.message)

    async def test_out_of_descriptors(self) -> None:
        """A name that was asked for while there were no descriptors is resolved later: Twisted tells nobody of that."""
        from twisted.internet import reactor

        clock = Clock()
        resolver = Resolver(reactor, Guard([]), clock)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        socket.getaddrinfo("localhost", 0)  # the system's resolver is ready, and so is the thread
        await self.answered(resolver.resolve("127.2", 993))
        taken = [os.open(os.devnull, os.O_RDONLY)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 50, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(taken[0]))
        host = socket.gethostname()
        lost = resolver.resolve(host, 993)
        errors: list[object] = []
        while not errors:
            await turn()
            gc.collect()
            errors = self.flushLoggedErrors(OSError)
        for descriptor in taken:
            os.close(descriptor)
        self.assertFalse(lost.called)
        clock.advance(LOST_SECONDS)
        await self.answered(resolver.resolve(host, 993))
        await self.answered(lost)

    async def answered(self, resolved: Deferred) -> None:
        """Whatever this host has for an answer."""
        with contextlib.suppress(RefusedError):
            await resolved

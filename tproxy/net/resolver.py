"""Names become addresses that may be dialled: one look-up for all who wait for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest

from attrs import define, evolve, field, frozen
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.internet.interfaces import (
    IAddress,
    IHostResolution,
    IReactorPluggableNameResolver,
    IReactorTime,
    IResolutionReceiver,
)
from zope.interface import implementer

from tproxy.model import Reason, Refusal, RefusedError, Stage
from tproxy.net.guard import Guard
from tproxy.net.names import ascii_name, ip_literal

POSITIVE_SECONDS = 30.0
NEGATIVE_SECONDS = 1.0
LOST_SECONDS = 10.0
"""After so long a look-up is made again: Twisted says nothing of one that failed for want of descriptors or memory."""
CACHE_LIMIT = 1024

Addresses = tuple[str, ...]

LOCALHOST: Addresses = ("127.0.0.1", "::1")
"""What `localhost` and every name below it is (RFC 6761, section 6.3), the address first that every host listens on."""


@frozen
class _Answer:
    addresses: Addresses
    until: float


@define
class _LookUp:
    """Who waits for a name, and until when the look-up is believed to come back."""

    until: float = 0.0
    waiting: list[Deferred[Addresses]] = field(factory=list)


@implementer(IResolutionReceiver)
@define
class _Reception:
    """Collects the addresses of one look-up and tells all who wait when it is complete."""

    _complete: Deferred[Addresses]
    _addresses: list[str] = field(factory=list)

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """Nothing to keep: a look-up always runs to its end, for the cache."""

    def addressResolved(self, address: IAddress) -> None:
        if isinstance(address, IPv4Address | IPv6Address):
            self._addresses.append(address.host)

    def resolutionComplete(self) -> None:
        self._complete.callback(interleaved(self._addresses))


class Resolver:
    """Resolves host names to addresses that the guard lets pass.

    @param reactor: looks names up; tells the time, too, unless a clock is given
    @param clock: tells the age of answers
    """

    def __init__(self, reactor: IReactorPluggableNameResolver, guard: Guard, clock: IReactorTime | None = None) -> None:
        self._reactor = reactor
        self._guard = guard
        self._clock = IReactorTime(reactor) if clock is None else clock
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._running: dict[str, _LookUp] = {}

    def resolve(self, host: str, port: int) -> Deferred[Addresses]:
        """The addresses of a host that may be dialled, as text, in the order to try them (RFC 8305, section 4).

        Addresses that the guard refuses are left out; where none is left, the first refusal is the failure.
        Cancelling one caller's Deferred leaves the look-up and the others who wait for it alone.

        @return: fails with L{RefusedError}: stage connect, reason name-not-resolved or address-refused
        """
        literal = ip_literal(host)
        if literal is not None:
            return execute(self._checked_literal, str(literal), port)
        try:
            name = ascii_name(host)
        except ValueError as error:
            return fail(_not_resolved(f"{host[:64]!a} is {error}", "correct the host in the destination"))
        return self._addresses_of(name).addCallback(self._checked, name, port)

    def _addresses_of(self, name: str) -> Deferred[Addresses]:
        if name == "localhost" or name.endswith(".localhost"):
            return succeed(LOCALHOST)
        answer, now = self._answers.get(name), self._clock.seconds()
        if answer is not None and now < answer.until:
            self._answers.move_to_end(name)
            return succeed(answer.addresses)
        running = self._running.setdefault(name, _LookUp())
        joined: Deferred[Addresses] = Deferred(running.waiting.remove)
        running.waiting.append(joined)
        if now >= running.until:
            running.until = now + LOST_SECONDS
            complete: Deferred[Addresses] = Deferred()
            complete.addCallback(self._answered, name)
            self._reactor.nameResolver.resolveHostName(
                _Reception(complete), name, addressTypes=[IPv4Address, IPv6Address], transportSemantics="TCP"
            )
        return joined

    def _answered(self, addresses: Addresses, name: str) -> None:
        seconds = POSITIVE_SECONDS if addresses else NEGATIVE_SECONDS
        self._answers[name] = _Answer(addresses, self._clock.seconds() + seconds)
        self._answers.move_to_end(name)
        if len(self._answers) > CACHE_LIMIT:
            self._answers.popitem(last=False)
        running = self._running.pop(name, _LookUp())
        while running.waiting:
            running.waiting.pop(0).callback(addresses)

    def _checked(self, addresses: Addresses, host: str, port: int) -> Addresses:
        if not addresses:
            raise _not_resolved(
                f"The name {host} has no address", "check its spelling, and that the cluster's DNS can resolve it"
            )
        good, refused = [], []
        for address in addresses:
            try:
                self._guard.check(address, port)
            except RefusedError as error:
                refused.append(error.refusal)
            else:
                good.append(address)
        if not good:
            raise RefusedError(evolve(refused[0], message=f"{host}: {refused[0].message}"))
        return tuple(good)

    def _checked_literal(self, address: str, port: int) -> Addresses:
        self._guard.check(address, port)
        return (address,)


def interleaved(addresses: Iterable[str]) -> Addresses:
    """Each address once, the families by turns, beginning with the family of the first (RFC 8305, section 4)."""
    families: dict[bool, list[str]] = {}
    for address in dict.fromkeys(addresses):
        families.setdefault(":" in address, []).append(address)
    turns: Iterator[str | None] = chain.from_iterable(zip_longest(*families.values()))
    return tuple(address for address in turns if address is not None)


def _not_resolved(message: str, remedy: str) -> RefusedError:
    return RefusedError(Refusal(Stage.CONNECT, Reason.NAME_NOT_RESOLVED, message, remedy))

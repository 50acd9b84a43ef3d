from __future__ import annotations

import os

from twisted.internet import reactor
from twisted.internet.interfaces import IReactorFDSet, IReactorTime, IReadDescriptor, IReadWriteDescriptor
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.peers import tcp_pair, turn
from tproxy.net.hub import Hub


@implementer(IReadWriteDescriptor)
class Descriptor:
    """Notes what it is told, and does what the test says."""

    def __init__(self, sock: object, action: object = None) -> None:
        self.sock, self.action, self.told = sock, action, []

    def fileno(self) -> int:
        return self.sock.fileno()

    def logPrefix(self) -> str:
        return "test"

    def doRead(self) -> None:
        self.told.append("read")
        self.sock.recv(100)
        if self.action is not None:
            self.action()

    def doWrite(self) -> None:
        self.told.append("write")

    def connectionLost(self, reason: Failure) -> None:
        self.told.append(reason.type.__name__)


class HubTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.hub = Hub(reactor)
        self.addCleanup(self.hub.close)

    def pair(self, action: object = None) -> tuple[Descriptor, object]:
        near, far = tcp_pair()
        self.addCleanup(near.close)
        self.addCleanup(far.close)
        descriptor = Descriptor(near, action)
        verifyObject(IReadWriteDescriptor, descriptor)
        return descriptor, far

    def test_interfaces(self) -> None:
        for interface in (IReactorFDSet, IReactorTime, IReadDescriptor):
            verifyObject(interface, self.hub)

    async def test_watches(self) -> None:
        """Only what is wanted is told, as long as it is wanted; the reactor is left alone when nothing is."""
        descriptor, far = self.pair()
        self.hub.addReader(descriptor)
        self.hub.addReader(descriptor)
        self.assertEqual((self.hub.getReaders(), self.hub.getWriters()), ([descriptor], []))
        self.assertIn(self.hub, reactor.getReaders())
        far.send(b"x")
        while not descriptor.told:
            await turn()
        self.assertEqual(descriptor.told, ["read"])
        self.hub.addWriter(descriptor)
        while len(descriptor.told) < 2:
            await turn()
        self.assertEqual(descriptor.told[1], "write")
        self.hub.removeWriter(descriptor)
        self.hub.removeReader(descriptor)
        self.hub.removeReader(descriptor)
        self.assertNotIn(self.hub, reactor.getReaders())
        told = len(descriptor.told)
        far.send(b"x")
        await turn()
        await turn()
        self.assertEqual(len(descriptor.told), told)

    async def test_closed_by_another(self) -> None:
        """One that was closed by another in the same turn is not served any more."""
        first, first_far = self.pair(lambda: self.hub.removeAll())
        second, second_far = self.pair(lambda: self.hub.removeAll())
        self.hub.addReader(first)
        self.hub.addReader(second)
        first_far.send(b"x")
        second_far.send(b"x")
        while not first.told + second.told:
            await turn()
        await turn()
        self.assertEqual(first.told + second.told, ["read"])

    async def test_number_of_another(self) -> None:
        """What is new of one that was closed is not told to who has its number now."""
        latecomer, latecomer_far = self.pair()

        def take_over(other: Descriptor) -> None:
            self.hub.removeReader(other)
            number = other.fileno()
            other.sock.close()
            os.dup2(latecomer.fileno(), number)
            self.addCleanup(os.close, number)
            latecomer.fileno = lambda: number
            self.hub.addReader(latecomer)

        first, first_far = self.pair(lambda: take_over(second))
        second, second_far = self.pair(lambda: take_over(first))
        self.hub.addReader(first)
        self.hub.addReader(second)
        for far in (first_far, second_far):
            far.send(b"x")
        while not first.told + second.told:
            await turn()
        self.assertEqual((first.told + second.told, latecomer.told), (["read"], []))
        latecomer_far.send(b"x")
        while not latecomer.told:
            await turn()
        self.hub.removeAll()

    async def test_hangs_up(self) -> None:
        """A descriptor that only writes is told when its peer is gone."""
        descriptor, far = self.pair()
        far.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")
        far.close()
        await turn()
        self.hub.addWriter(descriptor)
        while "ConnectionLost" not in descriptor.told:
            await turn()
        self.hub.removeAll()

    async def test_hangs_up_while_paused(self) -> None:
        """One that is not to be read for now is told that its peer is gone, not what it said."""
        descriptor, far = self.pair()
        self.hub.addReader(descriptor)
        self.hub.pauseReader(descriptor)
        self.assertEqual((self.hub.getReaders(), self.hub.getWriters()), ([], []))
        far.send(b"x")
        await turn()
        await turn()
        self.assertEqual(descriptor.told, [])
        self.hub.addReader(descriptor)
        while not descriptor.told:
            await turn()
        self.hub.pauseReader(descriptor)
        far.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")
        far.close()
        while "ConnectionLost" not in descriptor.told:
            await turn()
        self.hub.removeReader(descriptor)
        self.assertEqual((self.hub.removeAll(), descriptor.told), ([], ["read", "ConnectionLost"]))

    async def test_failure(self) -> None:
        """A bug in one descriptor ends that one, is logged, and the others are served."""

        def fails() -> None:
            raise ZeroDivisionError

        broken, broken_far = self.pair(fails)
        whole, whole_far = self.pair()
        self.hub.addReader(broken)
        self.hub.addReader(whole)
        broken_far.send(b"x")
        whole_far.send(b"x")
        while not (broken.told and whole.told):
            await turn()
        self.assertEqual((broken.told, whole.told), (["read", "ZeroDivisionError"], ["read"]))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.hub.removeAll(), [whole])

    async def test_failure_of_the_ending(self) -> None:
        """Not even one that cannot be told of its end keeps the others from being served."""

        def fails(*args: object) -> None:
            raise ZeroDivisionError

        broken, broken_far = self.pair(fails)
        broken.connectionLost = fails
        whole, whole_far = self.pair()
        self.hub.addReader(broken)
        self.hub.addReader(whole)
        broken_far.send(b"x")
        while not broken.told:
            await turn()
        whole_far.send(b"x")
        while not whole.told:
            await turn()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEqual(self.hub.removeAll(), [whole])

    async def test_timers(self) -> None:
        """They are the reactor's."""
        called = []
        call = self.hub.callLater(0, called.append, 1)
        self.assertIn(call, self.hub.getDelayedCalls())
        while not called:
            await turn()
        self.assertLessEqual(self.hub.seconds(), reactor.seconds())

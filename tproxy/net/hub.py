"""Many sockets behind one: an epoll of our own that the reactor watches as a single descriptor."""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorFDSet,
    IReactorTime,
    IReadDescriptor,
    IWriteDescriptor,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

log = Logger()

EVENTS_AT_ONCE = 256
GONE = select.EPOLLHUP | select.EPOLLERR


@implementer(IReactorFDSet, IReactorTime, IReadDescriptor)
class Hub:
    """What a reactor is to a transport, without the reactor's wrapper around every event.

    Twisted enters a log context for each event of each descriptor, which costs as much as a small
    message. An epoll can be watched by another epoll: the reactor sees one readable descriptor, and
    all sockets with news are served in one turn. Timers are the reactor's.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._epoll = select.epoll()
        self._masks: dict[Any, int] = {}
        self._numbers: dict[Any, int] = {}
        self._descriptors: dict[int, Any] = {}

    def close(self) -> None:
        """Give the epoll back; nothing is watched any more."""
        self.removeAll()
        self._epoll.close()

    # for transports: IReactorFDSet

    def addReader(self, reader: IReadDescriptor) -> None:
        self._watch(reader, self._masks.get(reader, 0) | select.EPOLLIN)

    def addWriter(self, writer: IWriteDescriptor) -> None:
        self._watch(writer, self._masks.get(writer, 0) | select.EPOLLOUT)

    def removeReader(self, reader: IReadDescriptor) -> None:
        self._watch(reader, self._masks.get(reader, 0) & ~(select.EPOLLIN | GONE))

    def removeWriter(self, writer: IWriteDescriptor) -> None:
        self._watch(writer, self._masks.get(writer, 0) & ~select.EPOLLOUT)

    def pauseReader(self, reader: IReadDescriptor) -> None:
        """Nothing is to be read for now, but that the peer is gone is told; `removeReader` ends that, too."""
        self._watch(reader, self._masks.get(reader, 0) & ~select.EPOLLIN | GONE)

    def removeAll(self) -> list[IReadDescriptor | IWriteDescriptor]:
        removed = list(self._masks)
        for each in removed:
            self._watch(each, 0)
        return removed

    def getReaders(self) -> list[IReadDescriptor]:
        return [each for each, mask in self._masks.items() if mask & select.EPOLLIN]

    def getWriters(self) -> list[IWriteDescriptor]:
        return [each for each, mask in self._masks.items() if mask & select.EPOLLOUT]

    def _watch(self, descriptor: Any, mask: int) -> None:
        before = self._masks.get(descriptor, 0)
        if mask == before:
            return
        if not before:
            number = self._numbers[descriptor] = descriptor.fileno()
            self._epoll.register(number, mask)
            self._descriptors[number] = descriptor
            if len(self._descriptors) == 1:
                self._reactor.addReader(self)
        elif mask:
            self._epoll.modify(self._numbers[descriptor], mask)
        else:
            number = self._numbers.pop(descriptor)
            self._epoll.unregister(number)
            del self._descriptors[number], self._masks[descriptor]
            if not self._descriptors:
                self._reactor.removeReader(self)
            return
        self._masks[descriptor] = mask

    # for transports: IReactorTime

    def seconds(self) -> float:
        seconds: float = self._reactor.seconds()
        return seconds

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kwargs: object) -> IDelayedCall:
        call: IDelayedCall = self._reactor.callLater(delay, callable, *args, **kwargs)
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        calls: Sequence[IDelayedCall] = self._reactor.getDelayedCalls()
        return calls

    # for the reactor: IReadDescriptor

    def fileno(self) -> int:
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        return "tproxy"

    def doRead(self) -> None:
        """Serve every descriptor that has news."""
        masks, descriptors = self._masks, self._descriptors
        told = [(descriptors[number], number, news) for number, news in self._epoll.poll(0, EVENTS_AT_ONCE)]
        for descriptor, number, news in told:
            # one that was served before may have closed it, and another may have its number by now
            if id(descriptors.get(number)) != id(descriptor):
                continue
            try:
                if news & select.EPOLLIN:
                    descriptor.doRead()
                elif news & GONE:
                    descriptor.connectionLost(Failure(ConnectionLost()))
                if news & select.EPOLLOUT and masks.get(descriptor, 0) & select.EPOLLOUT:
                    descriptor.doWrite()
            except Exception:
                self._give_up(descriptor, Failure())

    def _give_up(self, descriptor: Any, failure: Failure) -> None:
        log.failure("{event}", failure, event="connection.failed")
        try:
            self._watch(descriptor, 0)
            descriptor.connectionLost(failure)
        except Exception:  # or the reactor would give up the hub, and all that is behind it
            log.failure("{event}", event="connection.failed")

    def connectionLost(self, reason: Failure) -> None:
        """Never called: an epoll does not hang up."""

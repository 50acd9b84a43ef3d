"""Ports that are none: they open and close as they are told."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from zope.interface import implementer


@implementer(IListeningPort)
class Port:
    """A port that takes its time to close."""

    def __init__(self, address, port, factory):
        self.address, self.port, self.factory = address, port, factory
        self.stopped = None

    def startListening(self):
        """It listens already."""

    def stopListening(self):
        self.stopped = Deferred()
        return self.stopped

    def getHost(self):
        return IPv4Address("TCP", self.address, self.port)


@implementer(IStreamServerEndpoint)
class Endpoint:
    """Listens, or fails with what it was told to."""

    def __init__(self, address, port, error, ports):
        self.address, self.port, self.error, self.ports = address, port, error, ports

    def listen(self, factory):
        if self.error:
            return fail(self.error)
        self.ports.append(Port(self.address, self.port, factory))
        return succeed(self.ports[-1])


class Sessions(Factory):
    def __init__(self, binding):
        self.binding = binding
        self.used = 0.0
        self.revoked = []

    def revoke(self, reason):
        self.revoked.append(reason)

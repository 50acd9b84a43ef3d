"""What listens on loopback where the tests run is on loopback in a pod, too: `*.localhost` leads to it there."""

from __future__ import annotations

import ctypes
import socket
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.protocols.policies import WrappingFactory
from twisted.protocols.portforward import ProxyFactory

from tests.integration.kubernetes.cluster import Pod
from tests.integration.kubernetes.network import NAMESPACES

LOOPBACK = "127.0.0.1"


def share(test, pod: Pod, port: int) -> None:
    """Carry connections to a port of a pod's loopback to the same port of our own, until the test ends."""
    with _listen(pod, port) as listening:
        forwarder = WrappingFactory(ProxyFactory(LOOPBACK, port))
        forwarder.noisy = forwarder.wrappedFactory.noisy = False
        carrier = reactor.adoptStreamPort(listening.fileno(), socket.AF_INET, forwarder)

    async def end() -> None:
        await carrier.stopListening()
        while forwarder.protocols:
            for each in list(forwarder.protocols):
                each.transport.abortConnection()
            await deferLater(reactor, 0)

    test.addCleanup(end)


def _listen(pod: Pod, port: int) -> socket.socket:
    with Path("/proc/thread-self/ns/net").open() as here, (NAMESPACES / pod.host).open() as there:
        _enter(there.fileno())
        try:
            listening = socket.create_server((LOOPBACK, port))
        finally:
            _enter(here.fileno())
    listening.setblocking(False)
    return listening


def _enter(namespace: int) -> None:
    """What this thread opens from now on is in another network namespace."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, 0):
        raise OSError(ctypes.get_errno(), "setns failed")

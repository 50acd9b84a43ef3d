"""Ports that open, move, are bound anew, and end with their sessions."""

from __future__ import annotations

import errno
import socket

from attrs import evolve
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.logs import logged
from tests.ports import Endpoint, Port, Sessions
from tproxy import listeners
from tproxy.listeners import Listeners
from tproxy.model import Binding, DestinationRequest, ListenerKey, Reason, RefusedError, Tenant, spare
from tproxy.operator.objects import mark
from tproxy.operator.plan import Listening

KEY = ListenerKey("shop", "mail", Tenant("acme"))
BINDING = Binding(KEY, DestinationRequest("local", "mailbox", Tenant("acme")))
OTHER = evolve(BINDING, request=evolve(BINDING.request, name="elsewhere"))


class ListenersTests(SynchronousTestCase):
    def setUp(self):
        self.ports = []
        self.error = None
        self.listeners = Listeners(lambda address, port: Endpoint(address, port, self.error, self.ports), Sessions)

    def open(self, binding=BINDING, port=4000):
        self.successResultOf(self.listeners.open(binding, "127.0.0.1", port))
        return self.ports[-1]

    def test_fakes(self):
        """What stands in for ports is like ports."""
        verifyObject(IStreamServerEndpoint, Endpoint("127.0.0.1", 1, None, []))
        verifyObject(IListeningPort, Port("127.0.0.1", 1, None))

    def test_used(self):
        """Ports say when they were last connected to, those that ever were."""
        port = self.open()
        self.assertEqual({}, self.listeners.used)
        port.factory.used = 7.0
        self.assertEqual({4000: 7.0}, self.listeners.used)

    def test_same(self):
        """What is open is gathered once, until something changes."""
        self.open()
        listening, marks = self.listeners.listening, self.listeners.marks
        self.assertIs(listening, self.listeners.listening)
        self.assertIs(marks, self.listeners.marks)
        self.listeners.rebind(OTHER)
        self.assertIsNot(listening, self.listeners.listening)

    def test_open(self):
        """An open port is known with its number, and the log says where it is and whose."""
        with logged(listeners.log) as logs:
            port = self.open()
        self.assertEqual((port.address, port.port, port.factory.binding), ("127.0.0.1", 4000, BINDING))
        self.assertEqual(self.listeners.listening, {KEY: Listening(BINDING, 4000)})
        self.assertEqual(self.listeners.ports, {4000})
        (event,) = logs
        fields = ("event", "listener", "destination", "tenant", "address", "port")
        self.assertEqual(
            [event[field] for field in fields],
            ["listener.opened", "shop/mail-acme", "mailbox", "acme", "127.0.0.1", 4000],
        )

    def test_other_ports(self):
        """What else this process listens on is its own, too."""
        listeners = Listeners(lambda address, port: Endpoint(address, port, None, self.ports), Sessions, frozenset({9}))
        self.assertEqual(listeners.ports, {9})
        self.successResultOf(listeners.open(BINDING, "127.0.0.1", 4000))
        self.assertEqual((listeners.ports, set(listeners.listening)), ({9, 4000}, {KEY}))

    def test_cannot_bind(self):
        """A port that cannot be bound is refused with the reason; nothing is open then."""
        for error, reason in (
            (CannotListenError("127.0.0.1", 4000, OSError(errno.EADDRINUSE, "x")), Reason.PORT_NOT_AVAILABLE),
            (OSError(errno.EACCES, "x"), Reason.PORT_NOT_AVAILABLE),
            (OSError(errno.EADDRNOTAVAIL, "x"), Reason.INTERNAL_ERROR),
            (CannotListenError("127.0.0.1", 4000, socket.gaierror(socket.EAI_NONAME, "x")), Reason.INTERNAL_ERROR),
        ):
            self.error = error
            refused = self.failureResultOf(self.listeners.open(BINDING, "127.0.0.1", 4000), RefusedError).value
            self.assertEqual(refused.refusal.reason, reason)
            self.assertEqual(self.listeners.ports, frozenset())

    def test_rebind(self):
        """Another binding is for connections to come: neither the port nor its sessions end."""
        port = self.open()
        self.listeners.rebind(OTHER)
        self.assertEqual((port.factory.binding, port.factory.revoked, port.stopped), (OTHER, [], None))
        self.assertEqual(self.listeners.listening, {KEY: Listening(OTHER, 4000)})

    def test_take(self):
        """A spare becomes somebody's: the same port, known by another key."""
        port = self.open(spare(4000))
        self.assertEqual({4000: ""}, self.listeners.marks)
        claimed = evolve(BINDING, owner="uid-1")
        with logged(listeners.log) as logs:
            self.listeners.take(spare(4000).key, claimed)
        self.assertEqual((port.factory.binding, port.factory.revoked, port.stopped), (claimed, [], None))
        self.assertEqual(self.listeners.listening, {KEY: Listening(claimed, 4000)})
        self.assertEqual(self.listeners.marks, {4000: mark(KEY, "uid-1")})
        self.assertEqual([(each["event"], each["port"]) for each in logs], [("listener.taken", 4000)])

    def test_narrow(self):
        """A narrower scope ends the sessions, and the port stays open."""
        port = self.open()
        narrowed = evolve(BINDING, scope="namespaced")
        self.listeners.narrow(narrowed, "the scope was narrowed")
        self.assertEqual(port.factory.revoked, ["the scope was narrowed"])
        self.assertEqual((port.factory.binding, port.stopped), (narrowed, None))

    def test_move(self):
        """A listener that moves opens the new port first, then closes the old one; its sessions live on."""
        old = self.open()
        self.assertEqual(self.listeners.ports, {4000})
        moved = self.listeners.open(OTHER, "127.0.0.1", 5000)
        new = self.ports[-1]
        self.assertIs(new.factory, old.factory)
        self.assertEqual((new.factory.binding, new.factory.revoked), (OTHER, []))
        self.assertNoResult(moved)
        old.stopped.callback(None)
        self.successResultOf(moved)
        self.assertEqual(self.listeners.listening, {KEY: Listening(OTHER, 5000)})
        self.assertEqual(self.listeners.ports, {5000})

    def test_failed_move(self):
        """A listener that cannot move stays what it was."""
        port = self.open()
        self.error = OSError(errno.EADDRINUSE, "x")
        self.failureResultOf(self.listeners.open(OTHER, "127.0.0.1", 5000), RefusedError)
        self.assertEqual(self.listeners.listening, {KEY: Listening(BINDING, 4000)})
        self.assertEqual((port.factory.binding, port.stopped), (BINDING, None))

    def test_close(self):
        """Closing ends the sessions at once, with the reason in the log, and waits for the port."""
        port = self.open()
        with logged(listeners.log) as logs:
            closed = self.listeners.close(KEY, "the resource is gone")
        self.assertEqual(port.factory.revoked, ["the resource is gone"])
        self.assertEqual(self.listeners.listening, {})
        self.assertEqual(
            [(event["event"], event["message"]) for event in logs], [("listener.closed", "the resource is gone")]
        )
        self.assertNoResult(closed)
        port.stopped.callback(None)
        self.successResultOf(closed)

    def test_close_nothing(self):
        """What is not open needs no closing."""
        self.successResultOf(self.listeners.close(KEY, "x"))

    def test_close_all(self):
        """Everything ends."""
        self.open()
        self.open(evolve(BINDING, key=ListenerKey("shop", "other")), 4001)
        self.assertEqual(self.listeners.ports, {4000, 4001})
        closed = self.listeners.close_all()
        self.assertEqual([len(port.factory.revoked) for port in self.ports], [1, 1])
        for port in self.ports:
            port.stopped.callback(None)
        self.successResultOf(closed)
        self.assertEqual(self.listeners.ports, frozenset())

"""A reconciler over a cluster in memory, a store that answers when told to, and ports that are none."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.operator.worlds import World, refusal
from tests.ports import Endpoint, Sessions
from tproxy.interfaces import ICluster, IDestinationStore
from tproxy.listeners import Listeners
from tproxy.model import Destination, NoCredential, Reason, RefusedError, Route
from tproxy.operator.manifests import Status
from tproxy.operator.plan import Claim, SetStatus
from tproxy.operator.reconciler import Reconciler

PORTS = {"imap4s": 993, "imap4": 143}


@implementer(IDestinationStore)
class Store:
    """Knows every destination, but for those that have another answer: a refusal, an error, or a Deferred."""

    def __init__(self):
        self.answers = {}
        self.protocol = "imap4s"
        self.login = NoCredential()
        self.asked = []

    def describe(self, request):
        self.asked.append(request.name)
        answer = self.answers.get(request.name)
        if answer is None:
            return succeed(Destination(request.name, Route(self.protocol, "mail.example", 993), "u", self.login))
        return answer if isinstance(answer, Deferred) else fail(answer)

    def resolve(self, request, offered=None):
        raise NotImplementedError

    def renew(self, request, refused, offered=None):
        raise NotImplementedError


@implementer(ICluster)
class Cluster:
    """Holds a world; what it is to perform may fail, or wait."""

    def __init__(self):
        self.world = World()
        self.unknown = False
        self.watchers = []
        self.performed = []
        self.answers = {}
        self.busy = set()

    def observe(self):
        return None if self.unknown else self.world.observed().cluster

    def watch(self, changed):
        self.watchers.append(changed)

    def perform(self, action):
        self.performed.append(action)
        if isinstance(action, Claim) and action.port in self.busy:
            return fail(RefusedError(refusal(Reason.PORT_NOT_AVAILABLE, "taken")))
        answer = self.answers.get((type(action), action.name[1] if isinstance(action, SetStatus) else action.key.name))
        if isinstance(answer, Exception):
            return fail(answer)
        if answer is None or answer.called:
            self.world.perform([action])
            return succeed(None)
        return answer


class ReconcilerTestCase(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.store = Store()
        self.cluster = Cluster()
        self.ports = []
        self.errors = {}
        self.listeners = Listeners(self.endpoint, Sessions)
        self.reconciler = Reconciler(
            self.cluster, self.store, self.listeners, PORTS, self.clock, interval=180, chance=lambda: 1.0
        )

    def endpoint(self, address, port):
        return Endpoint(address, port, self.errors.get(port), self.ports)

    def start(self, *resources):
        self.cluster.world.resources = list(resources)
        self.reconciler.startService()
        self.addCleanup(self.stop)
        self.turn()

    def stop(self):
        if self.reconciler.running:
            stopped = self.reconciler.stopService()
            self.closed()
            return stopped
        return None

    def change(self, *resources):
        self.cluster.world.resources = list(resources)
        for changed in self.cluster.watchers:
            changed()
        self.turn()

    def turn(self):
        """Let everything happen that needs no time."""
        for _ in range(10):
            self.clock.advance(0)

    def closed(self):
        """Ports that were to be closed are."""
        for port in self.ports:
            if port.stopped is not None and not port.stopped.called:
                port.stopped.callback(None)

    @property
    def open(self):
        return {key.service: there.port for key, there in self.listeners.listening.items()}

    def told(self, name) -> Status:
        return self.cluster.world.told(name)

"""Open ports: each bound to one destination and one tenant, from its opening to its end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from functools import cached_property
from typing import Any, Protocol, cast

from attrs import define, evolve
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import Logger

from tproxy.model import Binding, ListenerKey, RefusedError
from tproxy.operator.objects import told
from tproxy.operator.plan import Listening, unbindable

log = Logger()


class Sessions(Protocol):
    """What serves a listener's connections and knows them. A new `binding` concerns new connections only.

    `used` is when the last connection came, 0 if none did: the greater, the later.
    """

    binding: Binding
    used: float

    def revoke(self, reason: str) -> None:
        """End every session at once."""


@define
class _Port:
    listening: Listening
    sessions: Sessions
    port: IListeningPort


class Listeners:
    """The ports that are open, and whose they are.

    @param endpoint: makes what listens on an address and a port
    @param factory: makes the L{IProtocolFactory} that serves a binding
    @param others: the ports that this process has beside them
    """

    def __init__(
        self,
        endpoint: Callable[[str, int], IStreamServerEndpoint],
        factory: Callable[[Binding], Sessions],
        others: frozenset[int] = frozenset(),
    ) -> None:
        self._endpoint = endpoint
        self._factory = factory
        self._others = others
        self._open: dict[ListenerKey, _Port] = {}
        self._listening: dict[ListenerKey, Listening] = {}
        self._marks: dict[int, str] = {}

    def _is(self, port: _Port) -> None:
        """This is so from now on."""
        listening = port.listening
        self._open[listening.binding.key] = port
        self._listening[listening.binding.key] = listening
        self._marks |= told([(listening.port, listening.binding)])
        self._changed()

    def _is_not(self, key: ListenerKey) -> _Port | None:
        """And this is no longer so."""
        port = self._open.pop(key, None)
        if port is not None:
            del self._listening[key]
            self._marks.pop(port.listening.port, None)
            self._changed()
        return port

    def _changed(self) -> None:
        """What is asked for again and again is copied anew, when it is asked for next."""
        for copied in ("listening", "marks", "ports"):
            self.__dict__.pop(copied, None)

    @cached_property
    def listening(self) -> Mapping[ListenerKey, Listening]:
        """What is open now."""
        return self._listening.copy()

    @cached_property
    def marks(self) -> Mapping[int, str]:
        """What replicas tell each other of the open ports: whose each is."""
        return self._marks.copy()

    @cached_property
    def ports(self) -> frozenset[int]:
        """The ports of this process, by number: each connection asks."""
        return self._others.union(self._marks)

    @property
    def used(self) -> Mapping[int, float]:
        """When the last connection came to each port, of those that had one."""
        return {each.listening.port: each.sessions.used for each in self._open.values() if each.sessions.used}

    @inlineCallbacks
    def open(self, binding: Binding, address: str, port: int) -> Generator[Deferred[Any], Any, None]:
        """Open a port for a key; where it has one already, move there: the sessions live on.

        @raise RefusedError: the port cannot be bound; another may do where the reason is `PORT_NOT_AVAILABLE`
        """
        before = self._open.get(binding.key)
        sessions = before.sessions if before else self._factory(binding)
        try:
            opened = yield self._endpoint(address, port).listen(cast("IProtocolFactory", sessions))
        except CannotListenError as error:
            raise RefusedError(unbindable(address, port, error.socketError.errno)) from None
        except OSError as error:
            raise RefusedError(unbindable(address, port, error.errno)) from None
        sessions.binding = binding
        self._is_not(binding.key)
        self._is(_Port(Listening(binding, port), sessions, opened))
        log.info(
            "{listener} answers at {address}:{port}",
            event="listener.opened",
            address=address,
            port=port,
            **_who(binding),
        )
        if before:
            yield maybeDeferred(before.port.stopListening)

    def rebind(self, binding: Binding) -> None:
        """Serve the new connections of an open port by another binding of its key."""
        there = self._open[binding.key]
        there.sessions.binding = binding
        there.listening = evolve(there.listening, binding=binding)
        self._is(there)
        log.info("{listener} now stands for {destination}", event="listener.rebound", **_who(binding))

    def take(self, key: ListenerKey, binding: Binding) -> None:
        """Bind the open port of a spare, which has this key, to whose it now is; who waits there is served."""
        there = self._open[key]
        self._is_not(key)
        there.listening = evolve(there.listening, binding=binding)
        self._is(there)
        there.sessions.binding = binding
        log.info(
            "{listener} answers at port {port}", event="listener.taken", port=there.listening.port, **_who(binding)
        )

    def narrow(self, binding: Binding, reason: str) -> None:
        """Serve the new connections of an open port by another binding of its key, and end its sessions at once."""
        self.rebind(binding)
        self._open[binding.key].sessions.revoke(reason)

    @inlineCallbacks
    def close(self, key: ListenerKey, reason: str) -> Generator[Deferred[Any], Any, None]:
        """Close the port, if one is open, and end its sessions at once."""
        there = self._is_not(key)
        if there is None:
            return
        log.info(
            "{listener} is closed: {message}",
            event="listener.closed",
            port=there.listening.port,
            message=reason,
            **_who(there.listening.binding),
        )
        stopped = maybeDeferred(there.port.stopListening)
        there.sessions.revoke(reason)
        yield stopped

    def close_all(self, reason: str = "tproxy is going down") -> Deferred[Any]:
        """Close everything."""
        return gatherResults([self.close(key, reason) for key in list(self._open)], consumeErrors=True)


def _who(binding: Binding) -> dict[str, str]:
    return {
        "listener": str(binding.key),
        "destination": binding.request.name,
        "tenant": binding.key.tenant,
    }

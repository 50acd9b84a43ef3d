"""A folder of Destination resources that stands in for a cluster.

The files are those that `kubectl apply` takes. What Kubernetes keeps in a resource's status, and which port is
whose, stands in the state file.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from attrs import evolve, frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from tproxy.cluster.folder import Folder, Manifest
from tproxy.cluster.state import State, load, read_state, save
from tproxy.config import Config
from tproxy.interfaces import ICluster
from tproxy.model import PROVIDER, ListenerKey, Reason, Refusal, RefusedError, Stage
from tproxy.operator.manifests import ListenerStatus, Name, Rejected, Resource, Status, parse
from tproxy.operator.plan import Claim, Record, Release, SetStatus, Snapshot, unbindable

log = Logger()

__all__ = ["LocalCluster", "read_state"]

POLL_SECONDS = 1.0
SETTLE_SECONDS = 0.25

_Complaint = tuple[Path, int, str]


@frozen
class _Written:
    """What the state file holds, or will hold once it is written."""

    records: dict[ListenerKey, Record]
    statuses: dict[Name, Status]

    @property
    def owners(self) -> dict[int, ListenerKey]:
        """Whose each port is, in use or not."""
        return {port: record.key for record in self.records.values() for port in record.ports}


@implementer(ICluster)
class LocalCluster(Service):
    """The folder `cluster.local.directory` and the file `cluster.local.state`.

    @param bind: binds a port and lets it go again; raises OSError
    @raise ConfigError: the state file is damaged
    """

    def __init__(self, config: Config, clock: IReactorTime, bind: Callable[[str, int], None] | None = None) -> None:
        self._config, self._home = config, config.folder
        self._clock = clock
        self._bind = bind or _bind
        self._folder = Folder(self._home.directory)
        self._resources: tuple[Resource | Rejected, ...] | None = None
        self._homes: dict[Name, Path] = {}
        self._complaints: set[_Complaint] = set()
        self._watchers: list[Callable[[], None]] = []
        records = {record.key: record for record in load(self._home.state).records}
        self._now = self._written = _Written(records, {})
        self._owners = self._written.owners
        self._waiting: list[Deferred[None]] = []
        self._writing: IDelayedCall | None = None
        self._again: IDelayedCall | None = None
        self._polling = LoopingCall(self._poll)
        self._polling.clock = clock

    def startService(self) -> None:
        """Look at the folder now and once a second from then on."""
        Service.startService(self)
        self._polling.start(POLL_SECONDS)

    def stopService(self) -> None:
        """Look no more, and leave in the state file that nothing answers."""
        Service.stopService(self)
        self._polling.stop()
        for call in (self._again, self._writing):
            if call is not None and call.active():
                call.cancel()
        self._now = _Written(self._now.records, {name: _stopped(status) for name, status in self._now.statuses.items()})
        self._write()

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed()` after each change."""
        self._watchers.append(changed)

    def observe(self) -> Snapshot | None:
        """What the folder and the state file hold; None before the folder could be read."""
        if self._resources is None:
            return None
        return Snapshot(self._resources, tuple(self._now.records.values()), self._now.statuses, self._home.listen)

    def perform(self, action: Claim | Release | SetStatus) -> Deferred[None]:
        """Write an action down; those of one turn of the reactor are written together."""
        match action:
            case Claim():
                try:
                    record = self._claimed(action)
                except RefusedError as error:
                    return fail(error)
                self._keep(record)
            case Release(key):
                self._keep(evolve(self._now.records[key], active=False))
            case SetStatus(name, status):
                self._now = evolve(self._now, statuses={**self._now.statuses, name: status})
        done: Deferred[None] = Deferred()
        self._waiting.append(done)
        self._write_soon()
        return done

    def _claimed(self, claim: Claim) -> Record:
        address, port = self._home.listen, claim.port
        owner = self._owners.get(port, claim.key)
        if owner != claim.key:
            raise RefusedError(
                Refusal(Stage.ACCEPT, Reason.PORT_NOT_AVAILABLE, f"port {port} is kept for {owner}", "ask for another")
            )
        try:
            self._bind(address, port)
        except OSError as error:
            raise RefusedError(unbindable(address, port, error.errno)) from None
        before = self._now.records.get(claim.key)
        reserved = tuple(each for each in before.ports if each != port) if before else ()
        return Record(claim.key, port, claim.asked, True, reserved)

    def _keep(self, record: Record) -> None:
        self._now = evolve(self._now, records={**self._now.records, record.key: record})
        self._owners[record.port] = record.key

    def _write_soon(self) -> None:
        if self._writing is None or not self._writing.active():
            self._writing = self._clock.callLater(0, self._write)

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        path = self._home.state
        listeners = [row for status in self._now.statuses.values() for row in status.listeners]
        released = (record for record in self._now.records.values() if not record.active)
        listeners += (_released(record, self._home.listen) for record in released)
        try:
            save(path, State(tuple(self._now.records.values()), tuple(listeners)))
        except OSError as error:
            self._now, self._owners = self._written, self._written.owners
            refusal = Refusal(
                Stage.ACCEPT,
                Reason.INTERNAL_ERROR,
                f"the state file {path} cannot be written ({os.strerror(error.errno or 0)})",
                "give tproxy the right and the room to write it",
            )
            log.error("{message}", event="state.unwritable", file=str(path), message=str(refusal))
            for done in waiting:
                done.errback(RefusedError(refusal))
            return
        self._written = self._now
        for done in waiting:
            done.callback(None)

    def _poll(self) -> None:
        try:
            self._look()
        except Exception as error:
            log.critical(
                "looking at the folder of resources failed with {reason}",
                event="resources.failed",
                reason=type(error).__name__,
            )

    def _look(self) -> None:
        changed = self._folder.look()
        if self._folder.settling:
            self._again = self._clock.callLater(SETTLE_SECONDS, self._poll)
        if changed:
            self._resources = self._judge()
            names = {(resource.namespace, resource.name) for resource in self._resources}
            if self._now.statuses.keys() - names:
                statuses = {name: status for name, status in self._now.statuses.items() if name in names}
                self._now = evolve(self._now, statuses=statuses)
                self._write_soon()
            for watcher in self._watchers:
                watcher()

    def _judge(self) -> tuple[Resource | Rejected, ...]:
        """The resources of all files; of one that is there twice, the one that was first serves."""
        found: dict[Name, list[tuple[Manifest, Resource | Rejected]]] = {}
        complaints: set[_Complaint] = set()
        for manifest in self._folder.manifests:
            try:
                resource = parse(manifest.content, self._config)
            except RefusedError as error:
                complaints.add((manifest.path, manifest.line, str(error.refusal)))
                continue
            if resource is None:
                complaints.add((manifest.path, manifest.line, "this is no Destination and is ignored"))
                continue
            if isinstance(resource, Rejected):
                complaints.add((manifest.path, manifest.line, str(resource.refusal)))
            found.setdefault((resource.namespace, resource.name), []).append((manifest, resource))

        resources, homes = [], {}
        for name, copies in found.items():
            copies.sort(key=lambda copy: copy[0].path != self._homes.get(name))
            (home, resource), *others = copies
            homes[name] = home.path
            for other, _ in others:
                refusal = _repeated(name, other, home)
                complaints.add((other.path, other.line, str(refusal)))
                if isinstance(resource, Resource):
                    resource = evolve(resource, refused=(*resource.refused, (PROVIDER, refusal)))
            resources.append(resource)
        for path, line, message in sorted(complaints - self._complaints):
            log.warn("{file}:{line}: {message}", event="resource.refused", file=str(path), line=line, message=message)
        self._homes, self._complaints = homes, complaints
        return tuple(resources)


def _bind(address: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))


def _repeated(name: Name, other: Manifest, home: Manifest) -> Refusal:
    return Refusal(
        Stage.RESOLVE,
        Reason.DUPLICATE_RESOURCE,
        f"{other.path.name}:{other.line} repeats the Destination {'/'.join(name)} of {home.path.name}:{home.line}",
        "remove one of the two",
    )


def _released(record: Record, address: str) -> ListenerStatus:
    message = "the resource is gone, the port stays reserved for it"
    return ListenerStatus(record.key, address, record.port, False, "Released", message)


def _stopped(status: Status) -> Status:
    rows = (
        evolve(row, available=False, reason="Stopped", message="tproxy is not running") if row.available else row
        for row in status.listeners
    )
    return evolve(status, listeners=tuple(rows))

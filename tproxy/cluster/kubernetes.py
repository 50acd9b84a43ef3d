"""A cluster as the API server tells it, and as we write it: behind L{IInstallation}, without a decision."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.web.iweb import IAgent
from zope.interface import implementer

from tproxy.cluster.api.client import Client
from tproxy.cluster.api.election import Election
from tproxy.cluster.api.objects import APIError, Key, Object, Query, Why, key, uid
from tproxy.cluster.api.recorder import Note, Recorder, Severity
from tproxy.cluster.following import Following, ended
from tproxy.cluster.home import Home
from tproxy.cluster.kinds import DESTINATIONS, KINDS, NAMESPACES, PODS
from tproxy.cluster.replicas import Peer, Replicas
from tproxy.config import Config
from tproxy.interfaces import IInstallation
from tproxy.model import ListenerKey, Reason, Refusal, RefusedError, Stage
from tproxy.operator import objects
from tproxy.operator.manifests import Resource, Status
from tproxy.operator.objects import COMPONENT, MANAGED_NAMESPACE, US, Sort
from tproxy.operator.plan import Snapshot
from tproxy.operator.statuses import status_document
from tproxy.operator.steps import (
    Change,
    Create,
    Departed,
    Look,
    OutdatedError,
    Released,
    Remove,
    Tell,
    Unwanted,
    Vacant,
    Write,
)

LEASE = "tproxy"

LONGEST_WAIT = 10.0
"""How long an API server that has too much to do is left alone at most, in seconds, whatever it asks for."""


@implementer(IInstallation)
class KubernetesCluster(MultiService):
    """One installation in a cluster.

    @param client: follows and writes objects
    @param leaser: a client of its own for the lease, so that no other traffic delays a renewal
    @param agent: asks the other replicas, on their health `port`
    @param clock: monotonic
    @param now: wall-clock time in seconds since the epoch
    @param identity: what no other process is or was
    @param ports: the ports that this process listens on, with their marks
    """

    def __init__(
        self,
        config: Config,
        home: Home,
        client: Client,
        leaser: Client,
        agent: IAgent,
        port: int,
        clock: IReactorTime,
        now: Callable[[], float],
        identity: str,
        ports: Callable[[], Mapping[int, str]],
    ) -> None:
        MultiService.__init__(self)
        self._home, self._client, self._leaser = home, client, leaser
        self._clock, self._now, self._ports = clock, now, ports
        self._quiet_until = 0.0
        self._installation = home.installation
        self._watchers: list[Callable[[], None]] = []
        self._leaving = False
        self._following = Following(config, self._installation, client, clock, self._changed)
        Service.setServiceParent(self._following, self)
        self._departed_pods: deque[str] = deque(maxlen=100)
        self._election = Election(
            leaser,
            (self._installation.namespace, LEASE),
            identity,
            clock,
            now,
            elected=self._changed,
            lost=self._changed,
        )
        self._replicas = Replicas(
            agent, clock, port, lambda: list(self._peers()), lambda: self._election.leading, self._changed
        )
        Service.setServiceParent(self._replicas, self)
        self._recorder = Recorder(client, "tproxy", home.pod, clock, now)

    def startService(self) -> None:
        """Begin to follow, and to take part in the election."""
        MultiService.startService(self)
        self._election.startService()

    def stopService(self) -> Deferred[None]:
        """Follow nothing any more, and give the lease back."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self.resign()
        await MultiService.stopService(self)
        await self._client.close()
        await self._leaser.close()

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed()` after each change."""
        self._watchers.append(changed)

    def observe(self) -> Snapshot | None:
        """What is there, as far as we were told; None until everything was listed once."""
        replicas = tuple(self._observed_replicas())
        return self._following.snapshot(self._home.listen, replicas, self._election.leading, self._now())

    def report(self, refusal: Refusal) -> None:
        """Write an Event about the Pod of this replica."""
        for pod in self._following.pods:
            if pod["metadata"]["name"] == self._home.pod:
                text = f"{refusal}; this replica is left out there, the others serve it"
                self._recorder.record(pod, Note("FailedToListen", "Listen", text, Severity.WARNING))

    def leave(self) -> None:
        """From now on this replica is to be named nowhere, as long as there is another one that is ready."""
        self._leaving = True
        self._changed()

    def named(self) -> bool:
        """Whether this replica is named anywhere, though there is another one that is ready."""
        replicas = list(self._observed_replicas())
        mine = {address for each in replicas if each.name == self._home.pod for address in each.addresses}
        others = any(each.ready and not each.leaving for each in replicas if each.name != self._home.pod)
        return others and not mine.isdisjoint(self._following.announced)

    def resign(self) -> Deferred[None]:
        """Lead no more: another replica may do so at once."""
        return maybeDeferred(self._election.stopService) if self._election.running else succeed(None)

    def perform(self, action: Look | Write) -> Deferred[None]:
        """Look at something, or write it; what the API server answers is known at once."""
        return Deferred.fromCoroutine(self._perform(action))

    async def _perform(self, action: Look | Write) -> None:
        if self._clock.seconds() < self._quiet_until:
            await deferLater(self._clock, self._quiet_until - self._clock.seconds())
        try:
            match action:
                case Unwanted(whose, of):
                    await self._unwanted(whose, of)
                case Released(port, mark):
                    await self._released(port, mark)
                case Vacant(whose, host):
                    await self._vacant(whose, host)
                case Departed(pod, of):
                    await self._departed(pod, of)
                case _ if not self._election.leading:
                    raise OutdatedError(_refusal("this replica leads no more"))
                case Create(sort, manifest):
                    await self._create(sort, manifest)
                case Change(sort, read, change):
                    await self._refreshing(sort, read, self._client.patch(KINDS[sort], read, change))
                case Remove(sort, read):
                    await self._remove(sort, read)
                case Tell():
                    await self._tell(action)
        except APIError as error:
            until = self._clock.seconds() + min(error.retry_after, LONGEST_WAIT)
            self._quiet_until = max(self._quiet_until, until)
            words = f"the API server refuses {_words(action)}: {error.message}"
            raise RefusedError(_refusal(words, Reason.SERVICE_REFUSED)) from None

    def _changed(self) -> None:
        for watcher in self._watchers:
            watcher()

    # replicas

    def _observed_replicas(self) -> Iterator[objects.Replica]:
        for pod in self._following.pods:
            metadata, status = pod["metadata"], pod.get("status") or {}
            mine = metadata["name"] == self._home.pod
            yield objects.Replica(
                metadata["name"],
                uid(pod),
                _addresses(pod),
                any(
                    each.get("type") == "Ready" and each.get("status") == "True"
                    for each in status.get("conditions") or ()
                ),
                bool(metadata.get("deletionTimestamp")) or (mine and self._leaving),
                (pod.get("spec") or {}).get("nodeName", ""),
                self._ports() if mine else self._replicas.ports(uid(pod)),
            )

    def _peers(self) -> Iterator[Peer]:
        for pod in self._following.pods:
            addresses = _addresses(pod)
            if addresses and pod["metadata"]["name"] != self._home.pod:
                yield Peer(uid(pod), addresses[0])

    # looks

    async def _unwanted(self, whose: ListenerKey, of: str) -> None:
        name = (whose.namespace, whose.name)
        if not self._following.everywhere and await self._unmanaged(whose.namespace):
            return
        thing = await self._get(Sort.DESTINATION, name)
        if thing is None:
            # an API that is gone answers as an object that is gone does; its lists do not
            await self._client.list(Query.single(DESTINATIONS, name))
            return
        if uid(thing) != of:
            return
        resource = self._following.judged(thing)
        if isinstance(resource, Resource):
            wants = any(binding.key == whose for binding in resource.bindings)
        else:
            wants = resource is None or resource.keeps(whose.tenant)
        if wants:
            raise OutdatedError(_refusal(f"the resource {'/'.join(name)} wants {whose} after all"))

    async def _unmanaged(self, namespace: str) -> bool:
        try:
            thing = await self._client.get(NAMESPACES, ("", namespace))
        except APIError as error:
            if error.reason is not Why.NOT_FOUND:
                raise
            return True
        managed = objects.labels(thing).get(MANAGED_NAMESPACE) == self._installation.namespace
        if managed:
            self._following.learn_namespace(thing)
        return not managed

    async def _released(self, port: int, mark: str) -> None:
        thing = await self._get(Sort.SERVICE, (self._installation.namespace, objects.service_name(port)))
        there = thing and objects.read_port(thing)
        if there and there.released is None and mark in ("", there.mark):
            raise OutdatedError(_refusal(f"port {port} is recorded after all"))

    async def _vacant(self, whose: ListenerKey, host: str) -> None:
        thing = await self._get(Sort.SERVICE, (whose.namespace, whose.service))
        if thing is not None and objects.target(thing) == host:
            raise OutdatedError(_refusal(f"the Service {whose} leads to {host} still"))

    async def _departed(self, pod: str, of: str) -> None:
        if of in self._departed_pods:
            return
        try:
            thing = await self._client.get(PODS, (self._installation.namespace, pod))
        except APIError as error:
            if error.reason is not Why.NOT_FOUND:
                raise
        else:
            if uid(thing) == of and objects.labels(thing).get(COMPONENT) == US and not ended(thing):
                self._following.learn_pod(thing)
                raise OutdatedError(_refusal(f"the pod {pod} is there after all"))
        self._departed_pods.append(of)

    async def _get(self, sort: Sort, each: Key) -> Object | None:
        """An object as it is now, None where there is none; it is known from then on."""
        try:
            thing = await self._client.get(KINDS[sort], each)
        except APIError as error:
            if error.reason is not Why.NOT_FOUND:
                raise
            return None
        self._following.learn(sort, thing)
        return thing

    # writes

    async def _create(self, sort: Sort, manifest: Mapping[str, Any]) -> None:
        try:
            self._following.learn(sort, await self._client.create(KINDS[sort], manifest))
            return
        except APIError as error:
            if error.reason is not Why.ALREADY_EXISTS:
                raise
        there = await self._get(sort, (manifest["metadata"]["namespace"], manifest["metadata"]["name"]))
        if there is not None and objects.role(there, self._installation) != objects.role(manifest, self._installation):
            raise RefusedError(_taken(sort, key(there)))

    async def _remove(self, sort: Sort, read: Object) -> None:
        await self._refreshing(sort, read, self._client.delete(KINDS[sort], read))
        self._following.forget(sort, read)

    async def _tell(self, told: Tell) -> None:
        document = status_document(told.status, told.read, self._now())
        await self._refreshing(
            Sort.DESTINATION, told.read, self._client.patch_status(DESTINATIONS, told.read, document)
        )
        if told.before is None or _essence(told.before) != _essence(told.status):
            self._recorder.record(told.read, _note(told.status))

    async def _refreshing(self, sort: Sort, read: Object, asked: Deferred[Any]) -> None:
        """Wait for a change; where the object is another by now, it is looked at."""
        try:
            thing = await asked
        except APIError as error:
            if error.reason not in (Why.CONFLICT, Why.NOT_FOUND):
                raise
            if await self._get(sort, key(read)) is None:
                self._following.forget(sort, read)
            raise OutdatedError(_refusal(f"{sort} {'/'.join(key(read))} was changed meanwhile")) from None
        if thing is not None:
            self._following.learn(sort, thing)


def _addresses(pod: Object) -> tuple[str, ...]:
    status = pod.get("status") or {}
    return tuple(each["ip"] for each in status.get("podIPs") or () if each.get("ip"))


def _essence(status: Status) -> tuple[bool, str]:
    return status.available, status.reason


def _note(status: Status) -> Note:
    severity = Severity.NORMAL if status.available else Severity.WARNING
    return Note(status.reason, "Reconcile", status.message or "all that the resource names is served", severity)


def _words(action: Look | Write) -> str:
    match action:
        case Create(sort, manifest):
            where = manifest["metadata"]
            return f"to create the {sort} {where['namespace']}/{where['name']}"
        case Change(sort, read):
            return f"to change the {sort} {'/'.join(key(read))}"
        case Remove(sort, read):
            return f"to delete the {sort} {'/'.join(key(read))}"
        case Tell(name):
            return f"the status of the Destination {'/'.join(name)}"
        case Unwanted(whose) | Vacant(whose):
            return f"a look at what belongs to {whose}"
        case Departed(pod):
            return f"a look at the pod {pod}"
        case Released(port):
            return f"a look at the record of port {port}"


def _refusal(message: str, reason: Reason = Reason.INTERNAL_ERROR) -> Refusal:
    return Refusal(Stage.RESOLVE, reason, message)


def _taken(sort: Sort, each: Key) -> Refusal:
    return Refusal(
        Stage.RESOLVE,
        Reason.NAME_ALREADY_PRESENT,
        f"there is a {sort} {'/'.join(each)} already, which is somebody else's",
        "rename the Destination, or remove what has its name",
    )

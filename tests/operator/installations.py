"""A cluster in memory in which the plans of replicas and of a leader come true, step by step, under a watchful eye."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from attrs import Factory, define, evolve
from twisted.internet.task import Clock

from tests.apiserver.storage import Selection, Served, Status, Storage
from tproxy.cluster.api.objects import Listing, key
from tproxy.cluster.following import Following
from tproxy.cluster.kinds import DESTINATIONS, KINDS, NAMESPACES, POLICIES, SERVICES, SLICES
from tproxy.config import Config
from tproxy.instances import DirectoryInstance
from tproxy.model import Binding, DestinationRequest, ListenerKey, Reason, Refusal, Stage, spare
from tproxy.operator import objects
from tproxy.operator.leading import lead
from tproxy.operator.manifests import TENANTS, Resource, parse
from tproxy.operator.memory import Memory
from tproxy.operator.objects import Installation, Replica, Sort
from tproxy.operator.plan import Close, Known, Listening, Observed, Open, Rebind, Snapshot
from tproxy.operator.ports import Bounds
from tproxy.operator.serving import serve
from tproxy.operator.statuses import status_document
from tproxy.operator.steps import (
    Change,
    Create,
    Departed,
    Look,
    Narrow,
    Released,
    Remove,
    Step,
    Steps,
    Take,
    Tell,
    Unwanted,
    Vacant,
    recorded,
)

HOME = Installation("tproxy")
CONFIG = Config("shared", (DirectoryInstance("local", Path("/nowhere")),), "local", None)
IMAPS = Known("imap4s", 993)
NOW = 1_800_000_000.0

SUCCESS = ("True", "ConfigurationSuccessful")
FAILURE = ("False", "FailedToApplyConfiguration")
NOT_FOUND = Refusal(Stage.RESOLVE, Reason.DESTINATION_NOT_FOUND, "there is none")

SERVED = {
    Sort.DESTINATION: Served(DESTINATIONS, status=True, generation=True, custom=True),
    Sort.SERVICE: Served(SERVICES, status=True),
    Sort.SLICE: Served(SLICES),
    Sort.POLICY: Served(POLICIES),
}


def manifest(name: str, *tenants: str, port: int = 0, scope: str = "", destination: str = "") -> dict[str, Any]:
    """A Destination without its namespace."""
    spec: dict[str, Any] = {"destinationRef": {"name": destination or name}, "service": None, "accessControl": None}
    if port:
        spec["service"] = {"port": port}
    if scope:
        spec["accessControl"] = {"scope": scope}
    annotations = {TENANTS: json.dumps(tenants) if tenants else None}
    return {"metadata": {"name": name, "annotations": annotations}, "spec": spec}


class LookError(Exception):
    """It is wanted, or there, after all."""


@define
class Process:
    """One replica: its pod, and the ports that it has open."""

    name: str
    address: str
    ready: bool = True
    leaving: bool = False
    mute: bool = False
    listening: dict[ListenerKey, Listening] = Factory(dict)
    revoked: list[tuple[str, str]] = Factory(list)
    memory: Memory = Factory(Memory)
    used: dict[int, float] = Factory(dict)

    @property
    def seen(self) -> Replica:
        ports = objects.told((each.port, each.binding) for each in self.listening.values())
        return Replica(
            self.name, f"uid-{self.name}", (self.address,), self.ready, self.leaving, "", None if self.mute else ports
        )


class World:
    """Objects, replicas and destinations; `watch` is called after each write.

    `short` are names of Destinations that lists leave out though they are there.
    """

    def __init__(self, bounds: Bounds = Bounds(spares=2), config: Config = CONFIG) -> None:  # noqa: B008
        self.now = NOW
        self.bounds, self.config = bounds, config
        self.storage = Storage(lambda: self.now)
        namespaces = Served(NAMESPACES)
        self.storage.serve(namespaces, *SERVED.values())
        for name in (HOME.namespace, "shop", "a", "b"):
            self.storage.create(namespaces, "", {"metadata": {"name": name}})
        self.described: dict[DestinationRequest, Known | Refusal | None] = {}
        self.failures: dict[Any, Refusal] = {}
        self.replicas = [Process("tproxy-1", "10.0.0.1")]
        self.short: set[tuple[str, str]] = set()
        self.watch: Callable[[], None] = lambda: None
        self.conflicts = 0
        self.following = Following(self.config, HOME, None, Clock(), lambda: None)  # type: ignore[arg-type]
        self.memory = Memory()
        self._read: dict[tuple[str, str], Any] = {}

    # what others do

    def apply(self, namespace: str, thing: dict[str, Any]) -> None:
        """Somebody applies a Destination."""
        served, each = SERVED[Sort.DESTINATION], (namespace, thing["metadata"]["name"])
        there = self.get(Sort.DESTINATION, *each)
        if there is None:
            self.storage.create(served, namespace, _bare(thing))
        else:
            uid = there["metadata"]["uid"]
            self.storage.patch(served, each, {**thing, "metadata": {**thing["metadata"], "uid": uid}}, "")

    def delete(self, namespace: str, name: str) -> None:
        """Somebody deletes a Destination; what it owns is collected with `collect`."""
        self.storage.remove(SERVED[Sort.DESTINATION], (namespace, name))

    def collect(self) -> None:
        """What belongs to nobody any more is removed."""
        uids = {thing["metadata"]["uid"] for sort in SERVED for thing in self.all(sort)}
        for sort, served in SERVED.items():
            for thing in self.all(sort):
                owners = thing["metadata"].get("ownerReferences") or ()
                if owners and not any(each["uid"] in uids for each in owners):
                    self.storage.remove(served, key(thing))

    def describe(self, name: str, answer: Known | Refusal | None) -> None:
        """What a store says of a destination, for all tenants."""
        for request in self.requests:
            if request.name == name:
                self.described[request] = answer

    # what there is

    def all(self, sort: Sort) -> list[Any]:
        """All objects of a sort: those that did not change are the same as before."""
        kind = KINDS[sort]
        return list(map(self._same, self.storage.objects[kind.group, kind.plural].values()))

    def _same(self, thing: Any) -> Any:
        metadata = thing["metadata"]
        return self._read.setdefault((metadata["uid"], metadata["resourceVersion"]), deepcopy(thing))

    def get(self, sort: Sort, namespace: str, name: str) -> Any:
        try:
            return self.storage.get(SERVED[sort], (namespace, name))
        except Status:
            return None

    @property
    def requests(self) -> set[DestinationRequest]:
        read = (parse(thing, self.config) for thing in self.all(Sort.DESTINATION))
        return {binding.request for each in read if isinstance(each, Resource) for binding in each.bindings}

    @property
    def ports(self) -> dict[int, objects.Port]:
        found = (objects.read_port(each) for each in self.all(Sort.SERVICE) if self.role(each) == "port")
        return {port.port: port for port in found if port}

    @property
    def names(self) -> dict[str, str]:
        """Where each name leads: `namespace/name` to the first label of its target."""
        named = [each for each in self.all(Sort.SERVICE) if self.role(each) == "name"]
        return {"/".join(key(each)): objects.target(each).partition(".")[0] for each in named}

    @property
    def policies(self) -> dict[tuple[str, str], set[int]]:
        """The open ports by namespace and scope."""
        return {
            (objects.noted(each)["tproxy/namespace"], objects.noted(each)["tproxy/scope"]): objects.policy_ports(each)
            for each in self.all(Sort.POLICY)
        }

    def addresses(self, port: int) -> list[str]:
        """The addresses that a port leads to."""
        found = self.get(Sort.SLICE, HOME.namespace, f"p{port}") or {}
        return [address for each in objects.endpoints(found) for address in each["addresses"]]

    def condition(self, namespace: str, name: str) -> tuple[str, str] | None:
        """Status and reason of `Available`."""
        thing = self.get(Sort.DESTINATION, namespace, name)
        for each in thing.get("status", {}).get("conditions", ()):
            if each["type"] == "Available":
                return each["status"], each["reason"]
        return None

    def role(self, thing: Any) -> str:
        return str(objects.role(thing, HOME) or "")

    # plans

    def snapshot(self, leading: bool = True) -> Snapshot:
        following = self.following
        for sort, spreads in (
            (Sort.DESTINATION, [following._destinations]),
            (Sort.SERVICE, [following._names, following._records]),
            (Sort.SLICE, [following._slices]),
            (Sort.POLICY, [following._policies]),
        ):
            for spread in spreads:
                selection = Selection.read("", spread._query.labels, "")
                meant = [each for each in self.all(sort) if selection.means(each)]
                if sort is Sort.DESTINATION:
                    meant = [each for each in meant if key(each) not in self.short]
                spread.store(HOME.namespace).fill(Listing(tuple(meant), "1"))
        following._pods.store(HOME.namespace).fill(Listing((), "1"))
        replicas = tuple(each.seen for each in self.replicas)
        found = following.snapshot("0.0.0.0", replicas, leading, self.now)
        assert found is not None
        return found

    def observed(self, process: Process) -> Observed:
        known = {request: self.described.get(request, IMAPS) for request in self.requests}
        return Observed(
            self.snapshot(),
            {request: answer for request, answer in known.items() if answer is not None},
            dict(process.listening),
            dict(self.failures),
            frozenset(filter(None, map(recorded, self.failures))),
            process.used,
        )

    def lead(self) -> tuple[Steps, ...]:
        """What the leader is to do; it would be the same if it remembered nothing."""
        observed = self.observed(self.replicas[0])
        self.memory.see(observed)
        steps = lead(observed, self.bounds, self.memory)
        assert steps == lead(observed, self.bounds, fresh(observed))
        return steps

    def serve(self, process: Process) -> tuple[Steps, ...]:
        """What a replica is to do; it would be the same if it remembered nothing."""
        observed = self.observed(process)
        process.memory.see(observed)
        steps = serve(observed, process.memory)
        assert steps == serve(observed, fresh(observed))
        return steps

    def pending(self) -> list[Steps]:
        """All that is planned by anybody."""
        return [*(each for process in self.replicas for each in self.serve(process)), *self.lead()]

    def settle(self, rounds: int = 40) -> int:
        """Plan and perform until nothing is left to do; returns how many rounds that took."""
        for count in range(rounds):
            done = 0
            for process in self.replicas:
                done += sum(self.take(steps, process) for steps in self.serve(process))
            done += sum(self.take(steps) for steps in self.lead())
            self.collect()
            if not done:
                return count
        raise AssertionError(f"it does not settle: {self.pending()}")

    def take(self, steps: Steps, process: Process | None = None) -> bool:
        """Take steps up to the first that fails; says whether any was taken."""
        taken = False
        for step in steps.steps:
            try:
                self.perform(step, process)
            except LookError:
                return taken
            except Status as status:
                self.conflicts += 1
                if status.reason == "AlreadyExists":
                    refusal = Refusal("resolve", Reason.NAME_ALREADY_PRESENT, "somebody else's")
                    self.failures |= dict.fromkeys(steps.subjects, refusal)
                return taken
            taken = taken or not isinstance(step, Look)
            self.watch()
        return taken

    def perform(self, step: Step, process: Process | None) -> None:
        match step:
            case Unwanted(whose, uid):
                thing = self.get(Sort.DESTINATION, whose.namespace, whose.name)
                if thing is None or thing["metadata"]["uid"] != uid:
                    return
                read = parse(thing, self.config)
                wants = (
                    any(binding.key == whose for binding in read.bindings)
                    if isinstance(read, Resource)
                    else read is not None and read.keeps(whose.tenant)
                )
                if wants:
                    raise LookError
            case Released(port, mark):
                thing = self.ports.get(port)
                if thing and thing.released is None and thing.mark == mark:
                    raise LookError
            case Vacant(whose, host):
                if objects.target(self.get(Sort.SERVICE, whose.namespace, whose.service)) == host:
                    raise LookError
            case Departed(pod):
                assert pod not in {each.name for each in self.replicas}
            case Create(sort, made):
                self.storage.create(SERVED[sort], made["metadata"]["namespace"], made)
            case Change(sort, read, change):
                self._patch(sort, read, change)
            case Remove(sort, read):
                self.storage.delete(SERVED[sort], key(read), _preconditions(read))
            case Tell(_, read, status):
                document = status_document(status, read, self.now)
                self._patch(Sort.DESTINATION, read, {"status": document}, "status")
            case _:
                assert process is not None
                self._serve(step, process)

    def _patch(self, sort: Sort, read: Any, change: Any, subresource: str = "") -> None:
        metadata = {**change.get("metadata", {}), **_preconditions(read)}
        self.storage.patch(SERVED[sort], key(read), {**change, "metadata": metadata}, subresource)

    def _serve(self, step: Step, process: Process) -> None:
        listening = process.listening
        match step:
            case Open(binding, _, port):
                assert binding.key not in listening, "a listener does not move"
                assert port not in {each.port for each in listening.values()}
                listening[binding.key] = Listening(binding, port)
            case Take(binding, port):
                del listening[spare(port).key]
                assert binding.key not in listening, "nobody has two ports"
                listening[binding.key] = Listening(binding, port)
            case Rebind(binding):
                listening[binding.key] = evolve(listening[binding.key], binding=binding)
            case Narrow(binding):
                listening[binding.key] = evolve(listening[binding.key], binding=binding)
                process.revoked.append((str(binding.key), "narrowed"))
            case Close(whose, reason):
                binding: Binding = listening.pop(whose).binding
                if binding.claimed:
                    process.revoked.append((str(whose), reason))


def fresh(observed: Observed) -> Memory:
    """A memory that knows of nothing before."""
    memory = Memory()
    memory.see(observed)
    return memory


def _preconditions(read: Any) -> dict[str, str]:
    return {name: read["metadata"][name] for name in ("uid", "resourceVersion")}


def _bare(thing: dict[str, Any]) -> dict[str, Any]:
    """Without what only a patch says."""
    annotations = {name: value for name, value in thing["metadata"]["annotations"].items() if value is not None}
    spec = {name: value for name, value in thing["spec"].items() if value is not None}
    return {**thing, "metadata": {**thing["metadata"], "annotations": annotations}, "spec": spec}

"""A world in which plans come true: what the planner's tests change and look at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import Factory, define, evolve

from tproxy.model import PROVIDER, Binding, DestinationRequest, ListenerKey, Reason, Refusal, Stage, Tenant
from tproxy.operator.manifests import Name, Rejected, Resource, Status
from tproxy.operator.plan import (
    Action,
    Claim,
    Close,
    Known,
    Listening,
    Observed,
    Open,
    Rebind,
    Record,
    Release,
    SetStatus,
    Snapshot,
    plan,
)

ADDRESS = "127.0.0.1"
IMAPS = Known("imap4s", 993)

SUCCESS = "ConfigurationSuccessful"
FAILURE = "FailedToApplyConfiguration"
NOT_FOUND = "ConfigurationError-ReferencedDestination-NotFound"
DUPLICATE = "ConfigurationError-DuplicateDestinationCustomResource"


def key(name: str, tenant: str = PROVIDER, namespace: str = "shop") -> ListenerKey:
    return ListenerKey(namespace, name, Tenant(tenant))


def refusal(reason: Reason, message: str = "no") -> Refusal:
    return Refusal(Stage.RESOLVE, reason, message)


def resource(
    name: str, *tenants: str, port: int = 0, destination: str = "mailbox", namespace: str = "shop"
) -> Resource:
    """A resource whose destination has its own name."""
    return Resource(
        namespace,
        name,
        tuple(
            Binding(key(name, tenant, namespace), DestinationRequest("local", destination, Tenant(tenant)))
            for tenant in sorted(tenants or (PROVIDER,))
        ),
        port,
    )


def rejected(name: str, *named: str, reason: Reason = Reason.RESOURCE_INVALID) -> Rejected:
    return Rejected("shop", name, refusal(reason, "spec is wrong"), frozenset(map(Tenant, named)) if named else None)


@define
class World:
    """Everything that a plan is made from, and in which it comes true."""

    resources: list[Resource | Rejected] = Factory(list)
    records: dict[ListenerKey, Record] = Factory(dict)
    statuses: dict[Name, Status] = Factory(dict)
    listening: dict[ListenerKey, Listening] = Factory(dict)
    described: dict[DestinationRequest, Known | Refusal] = Factory(dict)
    failures: dict[ListenerKey, Refusal] = Factory(dict)
    blocked: set[int] = Factory(set)
    silent: bool = False
    """Whether destinations are described only where `described` says so."""

    def observed(self) -> Observed:
        described = dict(self.described)
        for each in self.resources:
            if isinstance(each, Resource) and not self.silent:
                for binding in each.bindings:
                    described.setdefault(binding.request, IMAPS)
        return Observed(
            Snapshot(tuple(self.resources), tuple(self.records.values()), dict(self.statuses), ADDRESS),
            described,
            dict(self.listening),
            dict(self.failures),
            frozenset(self.blocked),
        )

    def plan(self) -> tuple[Action, ...]:
        return plan(self.observed())

    def settle(self) -> tuple[Action, ...]:
        """Plan, and let the plan come true."""
        actions = self.plan()
        self.perform(actions)
        return actions

    def perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Claim(key, port, asked):
                    before = self.records.get(key)
                    reserved = tuple(each for each in before.ports if each != port) if before else ()
                    self.records[key] = Record(key, port, asked, True, reserved)
                case Release(key):
                    self.records[key] = evolve(self.records[key], active=False)
                case Open(binding, _, port):
                    self.listening[binding.key] = Listening(binding, port)
                case Rebind(binding):
                    self.listening[binding.key] = evolve(self.listening[binding.key], binding=binding)
                case Close(key):
                    del self.listening[key]
                case SetStatus(name, status):
                    self.statuses[name] = status

    def restart(self) -> None:
        """The process ends and begins again."""
        self.listening.clear()
        self.statuses.clear()
        self.failures.clear()
        self.blocked.clear()

    @property
    def ports(self) -> dict[str, int]:
        """The open ports by the names of their services."""
        return {key.service: there.port for key, there in self.listening.items()}

    def told(self, name: str) -> Status:
        return self.statuses["shop", name]


def kinds(actions: Sequence[Action]) -> list[str]:
    return [type(action).__name__ for action in actions]

"""An installation in a cluster, put together: credentials, clients, what is followed, and who operates it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from secrets import token_hex
from typing import Any

from attrs import frozen
from twisted.web.client import Agent, HTTPConnectionPool

from tproxy.assembly import Clock, Parts
from tproxy.cluster.api.access import Access, in_cluster
from tproxy.cluster.api.client import connect
from tproxy.cluster.home import Home, home
from tproxy.cluster.kubernetes import KubernetesCluster
from tproxy.cluster.secrets import Secrets
from tproxy.config import Kubernetes
from tproxy.listeners import Listeners
from tproxy.operator.operator import Operator
from tproxy.operator.ports import Bounds


@frozen
class Installation:
    """Where an installation is, before anything of it runs."""

    reactor: Any
    clock: Clock
    access: Access
    home: Home
    secrets: Secrets
    told: Kubernetes

    def operate(
        self, parts: Parts, listeners: Listeners, sessions: Callable[[], int]
    ) -> tuple[KubernetesCluster, Operator]:
        """The cluster, and who serves and writes what it wants; `sessions` says how many there are."""
        config, clock = parts.config, self.clock
        pool = HTTPConnectionPool(self.reactor)
        cluster = KubernetesCluster(
            config,
            self.home,
            connect(self.access, self.reactor, clock),
            connect(self.access, self.reactor, clock),
            Agent(self.reactor, pool=pool),
            config.health.port,
            clock,
            time.time,
            f"{self.home.pod}_{token_hex(8)}",
            lambda: listeners.marks,
        )
        operator = Operator(
            cluster,
            parts.store,
            listeners,
            parts.default_ports,
            clock,
            60.0 * config.execution_interval_minutes,
            Bounds(config.limits.listeners, self.told.spares, config.coexist),
            sessions,
            float(self.told.drain_seconds),
        )
        return cluster, operator


def join(told: Kubernetes, reactor: Any) -> Installation:
    """Find out where we are. Raises ConfigError."""
    clock = Clock(reactor)
    if told.kubeconfig is None and not told.context:
        access = in_cluster(os.environ, clock)
    else:
        from tproxy.cluster.api.kubeconfig import kubeconfig

        access = kubeconfig(str(told.kubeconfig) if told.kubeconfig else None, told.context or None)
    where = home(told, os.environ, access.namespace)
    secrets = Secrets(connect(access, reactor, clock), clock, where.installation.namespace)
    return Installation(reactor, clock, access, where, secrets, told)

"""A cluster as a command sees it: read once, with the rights of whoever asks, and nothing is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from tproxy.cluster.api.access import Access, in_cluster
from tproxy.cluster.api.client import Client, connect
from tproxy.cluster.api.objects import APIError, Kind, Object, Query, Why
from tproxy.cluster.home import home
from tproxy.cluster.kinds import DESTINATIONS, SECRETS, SERVICES
from tproxy.cluster.secrets import SecretRead
from tproxy.config import Kubernetes
from tproxy.instances import Instance, KeyInSecret, ServiceInstance
from tproxy.interfaces import IKeySource
from tproxy.operator.listing import OURS


class ViewError(Exception):
    """Something cannot be seen: one line says what, why, and what to do."""


@frozen
class View:
    """One cluster, as one user sees it.

    @param home: where Secrets are that name no other namespace
    """

    client: Client
    home: str

    async def destinations(self, namespace: str, name: str = "") -> tuple[Object, ...]:
        """The resources of a namespace, or of all where it is empty; those of one name, if one is given.

        @raise ViewError: they cannot be seen
        """
        fields = "metadata.name=" + re.sub(r"([\\,=])", r"\\\1", name) if name else ""
        return await self._list(Query(DESTINATIONS, namespace, fields=fields))

    async def names(self, namespace: str) -> tuple[Object, ...]:
        """The Services that are names of ours. Raises ViewError."""
        return await self._list(Query(SERVICES, namespace, labels=OURS))

    async def keys(self, instance: Instance) -> Callable[[KeyInSecret], IKeySource]:
        """What reads the Secrets in which an instance has its keys. Raises ViewError."""
        places = (instance.service_key, instance.private_key) if isinstance(instance, ServiceInstance) else ()
        read = {place: await self._secret(instance, place) for place in places if isinstance(place, KeyInSecret)}
        return read.__getitem__

    async def _secret(self, instance: Instance, place: KeyInSecret) -> SecretRead:
        namespace = place.namespace or self.home
        what = f"the Secret {namespace}/{place.name}, which has a key of the instance {instance.name}"
        try:
            return SecretRead(await self.client.get(SECRETS, (namespace, place.name)))
        except APIError as error:
            match error.reason:
                case Why.FORBIDDEN:
                    words = _right("get", SECRETS, namespace)
                    raise ViewError(f"{words}: {what}, cannot be read; have that one allowed by its name") from None
                case Why.NOT_FOUND:
                    raise ViewError(
                        f"there is no Secret {namespace}/{place.name} with a key of the instance {instance.name}: "
                        "create it, or correct serviceCredentials, or say where tproxy is installed with "
                        "cluster.kubernetes.namespace"
                    ) from None
            raise ViewError(f"{what}, cannot be read: {error.message}") from None

    async def _list(self, query: Query) -> tuple[Object, ...]:
        try:
            return (await self.client.list(query)).objects
        except APIError as error:
            match error.reason:
                case Why.FORBIDDEN:
                    elsewhere = "another namespace" if query.namespace else "one namespace"
                    words = _right("list", query.kind, query.namespace)
                    raise ViewError(f"{words}: have that allowed, or look into {elsewhere} with --namespace") from None
                case Why.NOT_FOUND:
                    raise ViewError(
                        f"the cluster has no {_resource(query.kind)}: is it the right one, and is their "
                        "CustomResourceDefinition applied?"
                    ) from None
            raise ViewError(f"{query.kind.plural} cannot be read: {error.message}") from None


def view(
    told: Kubernetes,
    file: str | None,
    context: str | None,
    environ: Mapping[str, str],
    reactor: Any,
    clock: IReactorTime,
) -> View:
    """The cluster that was chosen. Raises ConfigError."""
    access = chosen(told, file, context, environ, clock)
    return View(connect(access, reactor, clock), home(told, environ, access.namespace).installation.namespace)


def chosen(
    told: Kubernetes, file: str | None, context: str | None, environ: Mapping[str, str], clock: IReactorTime
) -> Access:
    """Which API server to ask, and as who: what the command line says, then what the configuration says, then the
    service account of the pod that this is, then the usual kubeconfig. Raises ConfigError.
    """
    if file is None:
        file, context = str(told.kubeconfig) if told.kubeconfig else None, context or told.context or None
    if file is None and context is None and environ.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster(environ, clock)
    from tproxy.cluster.api.kubeconfig import kubeconfig

    return kubeconfig(file, context)


def _right(verb: str, kind: Kind, namespace: str) -> str:
    where = f"in the namespace {namespace}" if namespace else "in all namespaces"
    return f"you have no right to {verb} {_resource(kind)} {where}"


def _resource(kind: Kind) -> str:
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural

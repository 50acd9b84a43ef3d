"""Destination resources: a manifest becomes typed values or one refusal, and what came of it becomes conditions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from attrs import evolve, frozen

from tproxy import names
from tproxy.config import Config
from tproxy.model import (
    PROVIDER,
    Binding,
    DestinationRequest,
    GreetingMode,
    ListenerKey,
    Reason,
    Refusal,
    RefusedError,
    Stage,
    Tenant,
)

API_VERSION = "destination.connectivity.api.sap/v1"
KIND = "Destination"
TENANTS = "transparent-proxy.connectivity.api.sap/tenant-subdomains"
"""The annotation that names tenants: a JSON array of subdomains, as a string."""
GREETING = "tproxy/greeting"
"""The annotation that chooses how applications are greeted, where they need not bring a credential."""
GREETINGS = (GreetingMode.PREAUTH.value, GreetingMode.OPEN.value)

TENANT_LIMIT = 500
"""How many tenants one resource may name."""
MESSAGE_LIMIT = 512
"""The longest message of a condition, in characters."""

LEVELS = ("subaccount", "instance", "provider_subaccount", "provider_instance")
SCOPES = ("namespaced", "clusterWide")

SUCCESS = "ConfigurationSuccessful"
FAILURE = "FailedToApplyConfiguration"
_CONDITION_REASONS = {
    Reason.DESTINATION_NOT_FOUND: "ConfigurationError-ReferencedDestination-NotFound",
    Reason.FRAGMENT_NOT_FOUND: "ConfigurationError-ReferencedFragment-NotFound",
    Reason.TYPE_NOT_SUPPORTED: "ConfigurationError-ReferencedDestination-TypeNotSupported",
    Reason.PROXY_TYPE_NOT_SUPPORTED: "ConfigurationError-ReferencedDestination-ProxyTypeNotSupported",
    Reason.LOOPBACK_NOT_SUPPORTED: "ConfigurationError-ReferencedDestination-LoopbackUrlNotSupported",
    Reason.TENANT_ANNOTATION_INVALID: "ConfigurationError-MultitenancyAnnotation-Invalid",
    Reason.NAME_ALREADY_PRESENT: "ConfigurationError-K8sResourceWithNameAlreadyPresent",
    Reason.DUPLICATE_RESOURCE: "ConfigurationError-DuplicateDestinationCustomResource",
    Reason.TENANT_MODE_MISMATCH: "ConfigurationError-ProxyTenantModeMismatch",
    Reason.SERVICE_REFUSED: "ServiceCreationFailed",
}

# RFC 1035, section 2.3.1, and RFC 1123, section 2.1, as Kubernetes spells them
_SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

Name = tuple[str, str]
"""A resource: its namespace and its name."""


@frozen
class Resource:
    """A Destination resource, read and judged.

    One binding for each tenant, sorted by it. `refused` are the tenants that cannot be served. `port` is
    `spec.service.port`, 0 where none is given; `created` is `metadata.creationTimestamp`, or empty.
    """

    namespace: str
    name: str
    bindings: tuple[Binding, ...]
    port: int = 0
    scope: str = "namespaced"
    refused: tuple[tuple[Tenant, Refusal], ...] = ()
    created: str = ""


@frozen
class Rejected:
    """A Destination resource that is wrong as a whole.

    `named` are the tenants that it still names, None where that can't be told: what was
    opened for them before stays open.
    """

    namespace: str
    name: str
    refusal: Refusal
    named: frozenset[Tenant] | None = None
    created: str = ""

    def keeps(self, tenant: Tenant) -> bool:
        """Whether a tenant's listener outlives the mistake in the resource."""
        return self.named is None or tenant in self.named


@frozen
class ListenerStatus:
    """How one listener fares; `port` is 0 where it has none."""

    key: ListenerKey
    address: str
    port: int
    available: bool
    reason: str
    message: str = ""


@frozen
class Status:
    """How one resource fares; `reason` is a condition reason that users' alerts match on."""

    available: bool
    reason: str
    message: str = ""
    listeners: tuple[ListenerStatus, ...] = ()


def condition_reason(reason: Reason) -> str:
    """The condition reason under which a refusal is told."""
    return _CONDITION_REASONS.get(reason, FAILURE)


def shortened(text: str) -> str:
    """The text as a condition's message takes it."""
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"


def conditions(
    status: Status, now: str, generation: int = 0, before: Sequence[Mapping[str, object]] = ()
) -> list[dict[str, object]]:
    """The `status.conditions` of a resource: `Available` and `Ready`.

    @param now: the time of writing, in RFC 3339
    @param generation: `metadata.generation` of the manifest that was acted on
    @param before: the conditions that it has now; a `lastTransitionTime` moves only with its status
    """
    value = "True" if status.available else "False"
    since = {was.get("type"): was.get("lastTransitionTime", now) for was in before if was.get("status") == value}
    return [
        {
            "type": kind,
            "status": value,
            "reason": status.reason,
            "message": shortened(status.message),
            "lastUpdateTime": now,
            "lastTransitionTime": since.get(kind, now),
            "observedGeneration": generation,
        }
        for kind in ("Available", "Ready")
    ]


def parse(manifest: object, config: Config) -> Resource | Rejected | None:
    """What a manifest asks for; None where it is an object of another kind.

    @param manifest: as YAML or JSON is read
    @raise RefusedError: it is no Kubernetes object, or has no name to file an answer under
    """
    document = _mapping(manifest, "the document")
    if _text(document.get("kind"), "kind") != KIND:
        return None
    metadata = _mapping(document.get("metadata"), "metadata")
    name = _object_name(metadata.get("name"), "metadata.name", _OBJECT_NAME)
    namespace = _object_name(metadata.get("namespace", "default"), "metadata.namespace", _LABEL)
    try:
        return _resource(document, metadata, namespace, name, config)
    except RefusedError as error:
        return Rejected(namespace, name, error.refusal, _named(metadata), _created(metadata))


def _resource(
    document: Mapping[object, object], metadata: Mapping[object, object], namespace: str, name: str, config: Config
) -> Resource:
    if document.get("apiVersion") != API_VERSION:
        raise _wrong("apiVersion", f"is {_shown(document.get('apiVersion'))}", f"write {API_VERSION}")
    if "destinationRef" in metadata:
        raise _wrong("destinationRef", "stands under metadata", "it belongs under spec: write spec.destinationRef.name")
    spec = _mapping(document.get("spec"), "spec")
    annotations = _optional(metadata, "annotations", "metadata.annotations")
    request = _request(spec, config)
    greeting = _choice(annotations.get(GREETING, "preauth"), GREETING, GREETINGS)
    access = _optional(spec, "accessControl", "spec.accessControl")
    scope = _choice(access.get("scope", config.security.default_scope), "spec.accessControl.scope", SCOPES)
    port = _port(_optional(spec, "service", "spec.service").get("port"))

    bindings: list[Binding] = []
    refused: list[tuple[Tenant, Refusal]] = []
    for tenant in _tenants(annotations, config):
        key = ListenerKey(namespace, name, tenant)
        if _SERVICE_NAME.fullmatch(key.service):
            bindings.append(Binding(key, evolve(request, tenant=tenant), GreetingMode(greeting)))
        else:
            refused.append((tenant, _no_service_name(key)))
    return Resource(namespace, name, tuple(bindings), port, scope, tuple(refused), _created(metadata))


def _request(spec: Mapping[object, object], config: Config) -> DestinationRequest:
    reference = _mapping(spec.get("destinationRef"), "spec.destinationRef")
    fragment = _optional(spec, "fragmentRef", "spec.fragmentRef")
    chain = _optional(spec, "chainRef", "spec.chainRef")
    instance = _text(
        spec.get("destinationServiceInstanceName") or config.default_instance, "spec.destinationServiceInstanceName"
    )
    known = sorted(each.name for each in config.instances)
    if instance not in known:
        raise _wrong(
            "spec.destinationServiceInstanceName",
            f"is {_shown(instance)}, which is not configured",
            "use one of: " + ", ".join(known),
        )
    return DestinationRequest(
        instance=instance,
        name=_reference_name(reference, "spec.destinationRef"),
        level=_level(reference, "spec.destinationRef"),
        fragment=_reference_name(fragment, "spec.fragmentRef") if fragment else "",
        fragment_level=_level(fragment, "spec.fragmentRef"),
        fragment_optional=_truth(fragment.get("optional", False), "spec.fragmentRef.optional"),
        chain=_reference_name(chain, "spec.chainRef") if chain else "",
        chain_variables=_variables(chain.get("variables")),
    )


def _variables(value: object) -> tuple[tuple[str, str], ...]:
    path = "spec.chainRef.variables"
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _wrong(path, "is no list", "give a list of name and value")
    pairs = []
    for place, item in enumerate(value):
        where = f"{path}[{place}]"
        variable = _mapping(item, where)
        pairs.append((_text(variable.get("name"), f"{where}.name"), _text(variable.get("value"), f"{where}.value")))
    return tuple(pairs)


def _tenants(annotations: Mapping[object, object], config: Config) -> tuple[Tenant, ...]:
    if annotations.get(TENANTS) is None:
        return (PROVIDER,)
    if config.tenant_mode == "dedicated":
        raise _refused(
            Reason.TENANT_MODE_MISMATCH,
            f"the annotation {TENANTS} names tenants while config.tenantMode is dedicated",
            "remove the annotation or set config.tenantMode to shared",
        )
    subdomains = _array(annotations[TENANTS])
    if not subdomains:
        raise _invalid_tenants("is empty" if subdomains == [] else "is no JSON array")
    if len(subdomains) > TENANT_LIMIT:
        raise _invalid_tenants(f"names {len(subdomains)} tenants, more than {TENANT_LIMIT}")
    seen: set[Tenant] = set()
    for subdomain in subdomains:
        if not isinstance(subdomain, str):
            raise _invalid_tenants(f"holds {_shown(subdomain)}, which is no text")
        try:
            tenant = names.subdomain(subdomain)
        except ValueError as error:
            raise _invalid_tenants(f"holds {_shown(subdomain)}, which {error}") from None
        if tenant in seen:
            raise _invalid_tenants(f"holds {_shown(subdomain)} twice")
        seen.add(tenant)
    return tuple(sorted(seen))


def _array(value: object) -> list[object] | None:
    """The JSON array that a text is, or None."""
    try:
        array = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        return None
    return array if isinstance(array, list) else None


def _named(metadata: Mapping[object, object]) -> frozenset[Tenant] | None:
    annotations = metadata.get("annotations")
    if annotations is not None and not isinstance(annotations, Mapping):
        return None
    value = (annotations or {}).get(TENANTS)
    if value is None:
        return frozenset({PROVIDER})
    subdomains = _array(value)
    if subdomains is None:
        return None
    return frozenset(Tenant(subdomain) for subdomain in subdomains if isinstance(subdomain, str) and subdomain)


def _created(metadata: Mapping[object, object]) -> str:
    """When a cluster made the object, as it writes that; YAML takes it for a time where it stands without quotes."""
    created = metadata.get("creationTimestamp")
    if isinstance(created, datetime) and not created.utcoffset():
        return created.strftime(_TIME)
    try:
        return datetime.strptime(created, _TIME).strftime(_TIME) if isinstance(created, str) else ""
    except ValueError:
        return ""


# One value each: typed, or a refusal that names its path


def _mapping(value: object, path: str) -> Mapping[object, object]:
    if value is None:
        raise _wrong(path, "is missing", f"add {path}")
    if not isinstance(value, Mapping):
        raise _wrong(path, "is no mapping", "give names and values")
    return value


def _optional(parent: Mapping[object, object], key: str, path: str) -> Mapping[object, object]:
    return {} if parent.get(key) is None else _mapping(parent[key], path)


def _text(value: object, path: str) -> str:
    if value is None or value == "":
        raise _wrong(path, "is missing", f"add {path}")
    if not isinstance(value, str):
        raise _wrong(path, f"is {_shown(value)}, which is no text", "put it in quotes")
    if not value.isprintable():
        raise _wrong(path, "holds characters that cannot be printed", "remove them")
    return value


def _object_name(value: object, path: str, form: re.Pattern[str]) -> str:
    name = _text(value, path)
    if len(name) > 253 or not form.fullmatch(name):
        raise _wrong(path, f"is {_shown(name)}, which no object can have", "use lower-case letters, digits and '-'")
    return name


def _reference_name(reference: Mapping[object, object], path: str) -> str:
    name = _text(reference.get("name"), f"{path}.name")
    if len(name) > 200:
        raise _wrong(f"{path}.name", f"has {len(name)} characters", "a name has at most 200")
    return name


def _level(reference: Mapping[object, object], path: str) -> str:
    level = reference.get("level")
    return "" if level is None else _choice(level, f"{path}.level", LEVELS)


def _choice(value: object, path: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise _wrong(path, f"is {_shown(value)}", "use one of: " + ", ".join(choices))
    return str(value)


def _truth(value: object, path: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(path, f"is {_shown(value)}", "use true or false")
    return value


def _port(value: object) -> int:
    if value is None:
        return 0
    if type(value) is not int or not 1 <= value <= 65535:
        raise _wrong("spec.service.port", f"is {_shown(value)}", "use a whole number from 1 to 65535, without quotes")
    return value


def _shown(value: object) -> str:
    """A value in a message; aliases and huge numbers make the repr of some values endless."""
    if (
        value is not None
        and not isinstance(value, str | bool | float)
        and not (type(value) is int and abs(value) < 2**64)
    ):
        return {list: "a list", dict: "a mapping", int: "a huge number"}.get(type(value), f"a {type(value).__name__}")
    return names.quoted(value) if isinstance(value, str) else repr(value)


def _no_service_name(key: ListenerKey) -> Refusal:
    return Refusal(
        Stage.RESOLVE,
        Reason.RESOURCE_INVALID,
        f"{_shown(key.service)} cannot be the name of a Service",
        "it has to begin with a letter, hold lower-case letters, digits and '-' only, and have at most 63 characters",
    )


def _invalid_tenants(what: str) -> RefusedError:
    return _refused(
        Reason.TENANT_ANNOTATION_INVALID,
        f"the annotation {TENANTS} {what}",
        """give different subdomains as a JSON array, such as '["acme", "globex"]'""",
    )


def _wrong(path: str, what: str, remedy: str) -> RefusedError:
    return _refused(Reason.RESOURCE_INVALID, f"{path} {what}", remedy)


def _refused(reason: Reason, message: str, remedy: str) -> RefusedError:
    return RefusedError(Refusal(Stage.RESOLVE, reason, message, remedy))

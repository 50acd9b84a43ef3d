"""The kinds of objects that the operator reads and writes."""

from __future__ import annotations

from tproxy.cluster.api.objects import Kind
from tproxy.operator.objects import Sort

DESTINATIONS = Kind("destination.connectivity.api.sap", "v1", "Destination", "destinations")
SERVICES = Kind("", "v1", "Service", "services")
SLICES = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
POLICIES = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
PODS = Kind("", "v1", "Pod", "pods")
NAMESPACES = Kind("", "v1", "Namespace", "namespaces", namespaced=False)
SECRETS = Kind("", "v1", "Secret", "secrets")

KINDS = {Sort.SERVICE: SERVICES, Sort.SLICE: SLICES, Sort.POLICY: POLICIES, Sort.DESTINATION: DESTINATIONS}

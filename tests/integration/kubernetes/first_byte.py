"""KUBECONFIG NAMESPACE DESTINATION COUNT [PORT]: make Destinations one after the other, with the official client.

Runs in a workload's pod. With PORT, each asks for a port of its own, from that one on. Writes, as one line of JSON, how
many milliseconds after the answer to the request the first byte came by each name, and what there is then of these
names: Services with where they lead, and reasons of Events by Destination.
"""

import json
import socket
import sys
import time
from contextlib import suppress

from kubernetes import client, config

GROUP, VERSION, PLURAL = "destination.connectivity.api.sap", "v1", "destinations"


def first_byte(name: str, port: int) -> bytes:
    """What comes first by a name, tried every few milliseconds until somebody is there."""
    while True:
        with suppress(OSError), socket.create_connection((name, port), 5) as connection:
            return connection.recv(1)
        time.sleep(0.005)


kubeconfig, namespace, destination, count, *first = sys.argv[1:]
ports = {f"{destination}-{number}": int(first[0]) + number if first else 0 for number in range(int(count))}
with config.new_client_from_config(kubeconfig) as api:
    objects, core, events = client.CustomObjectsApi(api), client.CoreV1Api(api), client.EventsV1Api(api)
    took = []
    for name, port in ports.items():
        made = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "Destination",
            "metadata": {"name": name},
            "spec": {"destinationRef": {"name": destination}} | ({"service": {"port": port}} if port else {}),
        }
        objects.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, made)
        began = time.monotonic()
        if first_byte(f"{name}.{namespace}", port or 993) != b"*":
            sys.exit(f"{name} answers something else")
        took.append((time.monotonic() - began) * 1000)
    told: dict[str, str] = {}
    while told.keys() < ports.keys():
        time.sleep(0.2)
        there = events.list_namespaced_event(namespace).items
        told = {each.regarding.name: each.reason for each in there if each.regarding.name in ports}
    services = core.list_namespaced_service(namespace).items
    targets = {each.metadata.name: each.spec.external_name for each in services if each.metadata.name in ports}
    print(json.dumps({"milliseconds": took, "services": targets, "events": told}))

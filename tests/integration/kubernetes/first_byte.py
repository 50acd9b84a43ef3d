"""KUBECONFIG NAMESPACE DESTINATION COUNT: make Destinations one after the other, with the official client.

Runs in a workload's pod. Writes, as one line of JSON, how many milliseconds after the answer to the request the first
byte came by each name, and what there is then: Services with where they lead, and reasons of Events by Destination.
"""

import json
import socket
import sys
import time
from contextlib import suppress

from kubernetes import client, config

GROUP, VERSION, PLURAL = "destination.connectivity.api.sap", "v1", "destinations"


def first_byte(name: str) -> bytes:
    """What comes first by a name, tried every few milliseconds until somebody is there."""
    while True:
        with suppress(OSError), socket.create_connection((name, 993), 5) as connection:
            return connection.recv(1)
        time.sleep(0.005)


kubeconfig, namespace, destination, count = sys.argv[1:]
with config.new_client_from_config(kubeconfig) as api:
    objects, core, events = client.CustomObjectsApi(api), client.CoreV1Api(api), client.EventsV1Api(api)
    took = []
    for number in range(int(count)):
        made = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "Destination",
            "metadata": {"name": f"mail-{number}"},
            "spec": {"destinationRef": {"name": destination}},
        }
        objects.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, made)
        began = time.monotonic()
        if first_byte(f"mail-{number}.{namespace}") != b"*":
            sys.exit(f"mail-{number} answers something else")
        took.append((time.monotonic() - began) * 1000)
    told: dict[str, str] = {}
    while len(told) < int(count):
        time.sleep(0.2)
        told = {each.regarding.name: each.reason for each in events.list_namespaced_event(namespace).items}
    services = core.list_namespaced_service(namespace).items
    targets = {each.metadata.name: each.spec.external_name for each in services}
    print(json.dumps({"milliseconds": took, "services": targets, "events": told}))

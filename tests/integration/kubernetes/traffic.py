"""Who reaches what, if policies are enforced: cyclonus is the judge, for no network plug-in runs in the cluster."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.integration.kubernetes.manifests import HOME
from tests.integration.kubernetes.programs import FOLDER

OURS = {"transparent-proxy.connectivity.api.sap/component": "tproxy"}
OUTSIDE = {"IP": "192.0.2.1"}


def within(namespace: str, labels: dict[str, str], **namespace_labels: str) -> dict[str, Any]:
    """One side of traffic: a pod."""
    namespace_labels = {"kubernetes.io/metadata.name": namespace, **namespace_labels}
    labelled = {"PodLabels": labels, "NamespaceLabels": namespace_labels, "Namespace": namespace}
    return {"Internal": labelled, "IP": "10.0.0.1"}


POD = within(HOME, OURS)


def judged(policies: Path, source: object, target: object, *ports: int, protocol: str = "TCP") -> list[bool]:
    """Whether a folder of policies lets traffic through, for each port."""
    traffic = [{"Source": source, "Destination": target, "ResolvedPort": port, "Protocol": protocol} for port in ports]
    path = policies.parent / "traffic.json"
    path.write_text(json.dumps(traffic))
    command = [FOLDER / "cyclonus", "analyze", "--mode", "query-traffic", "--traffic-path", path]
    said = subprocess.run([*command, "--policy-path", policies], capture_output=True, check=True, text=True)
    verdicts = re.findall(r"IS ALLOWED\? \| +(TRUE|FALSE)", said.stdout)
    if len(ports) != len(verdicts):
        raise AssertionError(f"cyclonus says something else than {len(ports)} verdicts:\n{said.stdout}")
    return [verdict == "TRUE" for verdict in verdicts]

"""Configurations that tests begin with: as text, and as a folder with all that one names."""

from __future__ import annotations

from pathlib import Path

import yaml

FILE = Path("/etc/tproxy/tproxy.yaml")
FOLDER = FILE.parent

SMALL = """\
config:
  integration:
    destinationService:
      instances:
        - name: local
          directory: destinations
cluster:
  local:
    directory: resources
    state: state.json
"""

FULL = """\
config:
  tenantMode: shared
  managedNamespacesMode: labelSelector
  providerSubdomain: provider
  manager:
    executionIntervalMinutes: 5
  integration:
    destinationService:
      defaultInstanceName: local
      instances:
        - name: local
          directory: destinations
        - name: other
          directory: /srv/destinations
  destinationService:
    defaultInstanceName: local
  security:
    allowedNetworks: [127.0.0.0/8, "fd00::/8"]
    plaintextHosts: [Mail.example]
    httpTokenHosts: [127.0.0.1, token.example]
    allowTrustAll: true
    accessControl:
      destinations:
        defaultScope: clusterWide
  limits:
    connectionsPerListener: 15
  logging:
    level: WARNING
  destinations:
    maxAge: 60
    maxStale: 7200
  health:
    listen: "::"
    port: 8080
  metrics:
    listen: 0.0.0.0
    port: 9494
additionalCAs:
  file: ca.pem
cluster:
  local:
    directory: resources
    listen: 0.0.0.0
    state: state.json
    allowRemote: true
"""

IN_CLUSTER = """\
config:
  coexist: true
  clusterDomain: cluster.example
  integration:
    destinationService:
      instances:
        - name: local
          directory: destinations
  limits:
    listeners: 500
    connections: 5000
    memory: 512
  health:
    port: 8080
cluster:
  kubernetes:
    namespace: mail-proxy
    podName: tproxy-1
    podAddress: 10.0.0.9
    kubeconfig: kubeconfig
    context: tests
    spares: 3
    drainSeconds: 20
"""


def with_key(path, value):
    """`SMALL` with one more key, as YAML text."""
    merged = yaml.safe_load(SMALL)
    here, parts = merged, path.split(".")
    for part in parts[:-1]:
        here = here.setdefault(part, {})
    here[parts[-1]] = value
    return yaml.safe_dump(merged, sort_keys=False)


def folder(path: str, **changes: object) -> Path:
    """A folder with a configuration and what it names."""
    root = Path(path)
    for name in ("destinations", "resources"):
        (root / name).mkdir(parents=True)
    configuration = {
        "config": {
            "integration": {
                "destinationService": {
                    "defaultInstanceName": "local",
                    "instances": [{"name": "local", "directory": "destinations"}],
                }
            }
        },
        "cluster": {"local": {"directory": "resources", "state": "state.json"}},
        **changes,
    }
    (root / "config.yaml").write_text(yaml.safe_dump(configuration))
    return root

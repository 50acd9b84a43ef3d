"""Where this process is in a cluster: its namespace, its pod, its address, and what names end with."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from attrs import frozen

from tproxy.config import Kubernetes
from tproxy.operator.objects import Installation

RESOLVER = Path("/etc/resolv.conf")
DOMAIN = "cluster.local"


@frozen
class Home:
    """Who we are; `addresses` are those of our pod, none where they are not known."""

    installation: Installation
    pod: str
    addresses: tuple[str, ...] = ()

    @property
    def listen(self) -> str:
        """Where listeners listen: at every address of the pod, of either family."""
        return "::" if any(":" in address for address in self.addresses) else "0.0.0.0"  # noqa: S104


def home(told: Kubernetes, environ: Mapping[str, str], namespace: str, resolver: Path = RESOLVER) -> Home:
    """What the configuration says, and for all else the downward API and the resolver's configuration.

    @param namespace: the one of our credentials
    """
    addresses = (told.address or environ.get("POD_IPS") or environ.get("POD_IP", "")).split(",")
    return Home(
        Installation(
            told.namespace or environ.get("POD_NAMESPACE") or namespace,
            told.domain or _domain(resolver) or DOMAIN,
        ),
        told.pod or environ.get("POD_NAME") or socket.gethostname(),
        tuple(str(ip_address(address)) for address in addresses if _is_address(address)),
    )


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _domain(resolver: Path) -> str:
    """What follows `svc.` in the search list of a pod, or nothing."""
    try:
        text = resolver.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^search\b.*\ssvc\.(\S+?)\.?(?:\s|$)", text, re.MULTILINE)
    return found[1].lower() if found else ""

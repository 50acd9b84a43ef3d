"""The configuration: one YAML text becomes frozen values, or one error that names the key."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from attrs import frozen

Network = IPv4Network | IPv6Network


class ConfigError(Exception):
    """One line: the file, the key's path, what is wrong with it and what would be right."""


@frozen
class Instance:
    """A store of destinations: here a folder of documents, one JSON file each."""

    name: str
    directory: Path


@frozen
class Security:
    """What is allowed beyond the safe defaults."""

    allowed_networks: tuple[Network, ...] = ()
    plaintext_hosts: frozenset[str] = frozenset()
    http_token_hosts: frozenset[str] = frozenset()
    allow_trust_all: bool = False
    default_scope: str = "namespaced"


@frozen
class Limits:
    """Bounds: connections at once per listener."""

    connections_per_listener: int = 100


@frozen
class Local:
    """A folder of Destination resources that stands in for a cluster."""

    directory: Path
    state: Path
    listen: str = "127.0.0.1"
    allow_remote: bool = False


@frozen
class Config:
    """All that the program is told; paths are absolute."""

    tenant_mode: str
    instances: tuple[Instance, ...]
    default_instance: str
    local: Local
    managed_namespaces_mode: str = "all"
    execution_interval_minutes: int = 3
    provider_subdomain: str = ""
    security: Security = Security()
    limits: Limits = Limits()
    log_level: str = "info"
    additional_cas: Path | None = None

"""Where an API server is, whom to believe that it is the one, and how to show who we are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from tproxy.config import ConfigError
from tproxy.model import Secret, Trust
from tproxy.net.trust import read_authorities

_T = TypeVar("_T")

MOUNTED = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds the credentials of its service account."""

FILE_SECONDS = 60.0
"""How old may be what was read from a file: tokens and authorities are replaced while we run."""

FILE_LIMIT = 1024 * 1024

log = Logger()


@frozen
class Access:
    """One API server, as one user: `https://host:port/path`.

    `trust` and `token` are asked before each connection and each request, because both change with time;
    `token(refused)` is told whether the API server refused the last one. `namespace` is where we are at home.
    """

    host: str
    port: int
    trust: Callable[[], Trust]
    token: Callable[[bool], Secret | None]
    namespace: str = "default"
    path: str = ""

    @property
    def url(self) -> str:
        """Where all paths begin."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}{self.path}"


class Kept(Generic[_T]):
    """What a file means, read again when that is a minute old; one that cannot be read leaves the last in force.

    @param meaning: reads the content; raises ValueError
    @raise ConfigError: it cannot be read at first
    """

    def __init__(self, path: Path, clock: IReactorTime, meaning: Callable[[bytes], _T]) -> None:
        self._path, self._clock, self._meaning = path, clock, meaning
        try:
            self._read()
        except (OSError, ValueError):
            raise ConfigError(f"{path}: cannot be read, or does not hold what it should") from None

    def __call__(self, anew: bool = False) -> _T:
        if anew or self._clock.seconds() >= self._until:
            try:
                self._read()
            except (OSError, ValueError) as error:
                log.error(
                    "{file} cannot be read ({reason}); what was read before stays in force",
                    event="kubernetes.credentials",
                    file=str(self._path),
                    reason=type(error).__name__,
                )
        return self._value

    def _read(self) -> None:
        self._until = self._clock.seconds() + FILE_SECONDS
        with self._path.open("rb") as file:
            self._value = self._meaning(file.read(FILE_LIMIT))


def in_cluster(environ: Mapping[str, str], clock: IReactorTime, folder: Path = MOUNTED) -> Access:
    """What a pod is given for its service account.

    @raise ConfigError: this is no pod, or one without a service account's token
    """
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        raise ConfigError(
            "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT name no API server: run in a pod, or give a kubeconfig"
        )
    return Access(
        host,
        int(port),
        Kept(folder / "ca.crt", clock, trusting),
        Kept(folder / "token", clock, bearer),
        Kept(folder / "namespace", clock, _name)(),
    )


def trusting(pem: bytes) -> Trust:
    """Trust in some authorities. Raises ValueError."""
    read_authorities(pem)
    return Trust((pem.decode(),))


def bearer(content: bytes) -> Secret:
    """The token that a file holds. Raises ValueError for what fits no header."""
    token = content.decode("ascii").strip()
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ValueError("no token")
    return Secret(token)


def _name(content: bytes) -> str:
    name = content.decode("ascii").strip()
    if not name:
        raise ValueError("no name")
    return name

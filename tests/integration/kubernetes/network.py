"""Hosts that are network namespaces: a node that forwards, and pods behind it. The test's own host reaches them all.

A run of the tests claims a number that no other living run has; names and addresses follow from it, so that
what a dead run left behind can be found, and is removed when the next run starts.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from ipaddress import IPv4Network
from itertools import islice
from pathlib import Path

RUNS = 64
NAMESPACES = Path("/run/netns")
ETC = Path("/etc/netns")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
IP = shutil.which("ip", path=PATH) or "ip"


def run(*arguments: str | Path) -> str:
    """What a command wrote; it must succeed."""
    done = subprocess.run(arguments, env={**os.environ, "PATH": PATH}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments))} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def _lock(number: int) -> socket.socket | None:
    """What shows other runs that a number is taken, and ends with this process; None where it is taken."""
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0tproxy-tests-{number}")
    except OSError:
        lock.close()
        return None
    return lock


def _claim() -> tuple[int, socket.socket]:
    """A number for this run, and its lock. What dead runs have left behind is removed."""
    claimed = []
    for number in range(RUNS):
        if lock := _lock(number):
            _remove(number)
            if claimed:
                lock.close()
            else:
                claimed.append((number, lock))
    return claimed[0]


class Network:
    """The namespaces of this run: `node` is the name of the node's; `address` is the node's, `host` the test's."""

    def __init__(self) -> None:
        self.number, self._lock = _claim()
        self.prefix = _prefix(self.number)
        self.folder = Path(tempfile.mkdtemp(prefix=self.prefix))
        self.node = f"{self.prefix}node"
        self.range = IPv4Network((f"198.18.{self.number * 4}.0", 22))
        self.host, self.address = map(str, islice(self.range.hosts(), 2))
        self._free = iter(enumerate(map(str, islice(self.range.hosts(), 2, None))))
        try:
            self._connect()
        except BaseException:
            self.end()
            raise

    def _connect(self) -> None:
        host = _link(self.number)
        run(IP, "netns", "add", self.node)
        run(IP, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", self.node)
        run(IP, "address", "add", self.host, "peer", self.address, "dev", host)
        run(IP, "link", "set", host, "up")
        run(IP, "route", "add", str(self.range), "via", self.address)
        for link in ("lo", "eth0"):
            run(IP, "-n", self.node, "link", "set", link, "up")
        run(IP, "-n", self.node, "address", "add", self.address, "peer", self.host, "dev", "eth0")
        run(*self.inside(self.node, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"))

    def add(self, name: str, resolver: str) -> tuple[str, str]:
        """Add a pod's namespace with this resolv.conf; returns its name and its address."""
        number, address = next(self._free)
        pod, link = self.prefix + name, f"pod-{number}"
        etc = ETC / pod
        etc.mkdir(parents=True)
        (etc / "resolv.conf").write_text(resolver)
        run(IP, "netns", "add", pod)
        run(IP, "-n", self.node, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", pod)
        run(IP, "-n", self.node, "link", "set", link, "up")
        run(IP, "-n", self.node, "route", "add", address, "dev", link)
        for each in ("lo", "eth0"):
            run(IP, "-n", pod, "link", "set", each, "up")
        run(IP, "-n", pod, "address", "add", address, "peer", self.address, "dev", "eth0")
        run(IP, "-n", pod, "route", "add", "default", "via", self.address)
        return pod, address

    @staticmethod
    def inside(name: str, *arguments: str | Path) -> list[str]:
        """The command line of a program that runs in a namespace."""
        return [IP, "netns", "exec", name, *map(os.fspath, arguments)]

    def cut(self, pod: str) -> None:
        """Unplug a pod's namespace: what runs there goes on, and reaches nobody."""
        run(IP, "-n", pod, "link", "set", "eth0", "down")

    def remove(self, pod: str) -> None:
        """End what runs in a pod's namespace, and remove it."""
        _remove_namespace(pod)

    def end(self) -> None:
        """End what runs in all the namespaces, and remove all that this run made."""
        _remove(self.number)
        self._lock.close()


def _prefix(number: int) -> str:
    return f"tproxy-{number}-"


def _link(number: int) -> str:
    return f"tproxy-{number}"


def _remove(number: int) -> None:
    """Remove what the run with this number has left behind."""
    link, pattern = _link(number), f"{_prefix(number)}*"
    if Path("/sys/class/net", link).exists():
        # With its namespace it would go too, but later.
        with suppress(RuntimeError):
            run(IP, "link", "delete", link)
    for name in {path.name for folder in (NAMESPACES, ETC) for path in folder.glob(pattern)}:
        _remove_namespace(name)
    for folder in Path(tempfile.gettempdir()).glob(pattern):
        shutil.rmtree(folder, ignore_errors=True)


def _remove_namespace(name: str) -> None:
    if (NAMESPACES / name).exists():
        while pids := run(IP, "netns", "pids", name).split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    _end(int(pid))
        run(IP, "netns", "delete", name)
    shutil.rmtree(ETC / name, ignore_errors=True)


def _end(pid: int) -> None:
    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
        select.select([process], [], [])
    finally:
        os.close(process)

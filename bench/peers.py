"""The proxies that are measured: how each is configured, so that all do the same work, and how it is run.

Every proxy leads to the same mail server over verified TLS, keeps its connections open for hours and has
one process, or one thread, that carries bytes. Where the proxy itself can write a log of sessions, it has
the log it comes with.
"""

from __future__ import annotations

import getpass
import grp
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from bench import wire
from bench.processes import HOST, await_ports, free_ports, process

SESSIONS = 5_000
"""As many at once as every proxy is configured for."""

OURS = "tproxy"
SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"))


@frozen
class Target:
    """One mail server to lead to: a name, which is also the user, and the server's port."""

    name: str
    port: int


@frozen
class Setup:
    """What a proxy is started with: its folder, the file of the mail server's authority, and its targets with ports."""

    folder: Path
    authority: Path
    targets: Sequence[tuple[Target, int]]

    def write(self, name: str, text: str) -> Path:
        """Write a file of the configuration."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path


@frozen
class Peer:
    """A kind of proxy.

    `command` writes the configuration and returns what to run in the foreground; `single_port` says that one
    port leads to all targets, by the user who logs in; `greets` that a session is logged in when it is greeted.
    """

    name: str
    title: str
    program: str
    package: str
    command: Callable[[Setup], list[str]]
    version_option: str = "-v"
    single_port: bool = False
    greets: bool = False

    @property
    def path(self) -> str | None:
        """Where the program is, if it is installed."""
        return _program(self.program)

    def version(self) -> str:
        """The version that the program says it is; ours is the source beside the benchmark."""
        if self.name == OURS:
            return "of this tree"
        done = subprocess.run(
            [self.path or self.program, *self.version_option.split()], capture_output=True, text=True, check=False
        )
        found = re.search(r"\d+\.\d+[\w.+-]*", done.stdout + done.stderr)
        return found.group() if found else "unknown"

    def login(self, target: str) -> bytes:
        """What a client sends to be logged in to a target; empty where the proxy has done it."""
        return b"" if self.greets else wire.login(target)


@frozen
class Running:
    """A proxy that runs: its process and the port of each target."""

    peer: Peer
    pid: int
    ports: dict[str, int]


def _program(name: str) -> str | None:
    beside = Path(sys.executable).with_name(name)
    return os.fspath(beside) if beside.exists() else shutil.which(name, path=SYSTEM_PATH)


@contextmanager
def running(peer: Peer, targets: Sequence[Target], authority: Path, folder: Path, cores: set[int]) -> Iterator[Running]:
    """Run a proxy on `cores`, in a folder that is made for it, until the end of the block."""
    folder.mkdir()
    ports = free_ports(1) * len(targets) if peer.single_port else free_ports(len(targets))
    setup = Setup(folder, authority, list(zip(targets, ports, strict=True)))
    command = peer.command(setup)
    with process(command, folder / "output.log", cores) as started:
        await_ports(started, ports, folder / "output.log")
        yield Running(peer, started.pid, {target.name: port for target, port in setup.targets})


# The configurations


def _tproxy(setup: Setup) -> list[str]:
    setup.write("destinations/.keep", "")
    for target, port in setup.targets:
        document = {
            "Name": target.name,
            "Type": "MAIL",
            "ProxyType": "Internet",
            "Authentication": "BasicAuthentication",
            "mail.user": target.name,
            "mail.password": wire.PASSWORD,
            "mail.transport.protocol": "imap4s",
            "mail.imap4s.host": HOST,
            "mail.imap4s.port": str(target.port),
            "mail.imap4s.auth": "true",
        }
        resource = {
            "apiVersion": "destination.connectivity.api.sap/v1",
            "kind": "Destination",
            "metadata": {"name": target.name, "namespace": "bench"},
            "spec": {"destinationRef": {"name": target.name}, "service": {"port": port}},
        }
        setup.write(f"destinations/{target.name}.json", json.dumps(document))
        setup.write(f"resources/{target.name}.yaml", json.dumps(resource))  # JSON is YAML, too
    configuration = {
        "config": {
            "tenantMode": "dedicated",
            "integration": {
                "destinationService": {
                    "defaultInstanceName": "local",
                    "instances": [{"name": "local", "directory": "destinations"}],
                }
            },
            "security": {"allowedNetworks": ["127.0.0.0/8"]},
            "limits": {"connectionsPerListener": SESSIONS},
        },
        "additionalCAs": {"file": os.fspath(setup.authority)},
        "cluster": {"local": {"directory": "resources", "listen": HOST, "state": "state.json"}},
    }
    file = setup.write("config.yaml", json.dumps(configuration))
    return [_program("twistd") or "twistd", "-n", "--pidfile=", "tproxy", "--config", os.fspath(file)]


def _haproxy(setup: Setup) -> list[str]:
    sections = "".join(
        f"""
listen {target.name}
  bind {HOST}:{port}
  server mail {HOST}:{target.port} ssl verify required ca-file {setup.authority} sni str(localhost) verifyhost localhost
"""
        for target, port in setup.targets
    )
    file = setup.write(
        "haproxy.cfg",
        f"""
global
  nbthread 1
  maxconn {SESSIONS}
defaults
  mode tcp
  timeout connect 10s
  timeout client 12h
  timeout server 12h
{sections}""",
    )
    return [_program("haproxy") or "haproxy", "-db", "-f", os.fspath(file)]


def _nginx(setup: Setup) -> list[str]:
    module = next(Path("/usr/lib/nginx/modules").glob("ngx_stream_module.so"), None)
    servers = "".join(
        f"  server {{ listen {HOST}:{port} backlog=1024; proxy_pass {HOST}:{target.port}; }}\n"
        for target, port in setup.targets
    )
    file = setup.write(
        "nginx.conf",
        f"""
{f"load_module {module};" if module else ""}
{"user root;" if os.getuid() == 0 else ""}
worker_processes 1;
daemon off;
pid {setup.folder}/nginx.pid;
error_log {setup.folder}/error.log;
worker_rlimit_nofile {_descriptors()};
events {{
  worker_connections {2 * SESSIONS + 100};
}}
stream {{
  access_log off;
  proxy_timeout 12h;
  proxy_ssl on;
  proxy_ssl_protocols TLSv1.2 TLSv1.3;
  proxy_ssl_verify on;
  proxy_ssl_trusted_certificate {setup.authority};
  proxy_ssl_server_name on;
  proxy_ssl_name localhost;
  proxy_ssl_session_reuse on;
{servers}}}
""",
    )
    return [_program("nginx") or "nginx", "-p", os.fspath(setup.folder), "-c", os.fspath(file)]


def _stunnel(setup: Setup) -> list[str]:
    services = "".join(
        f"""
[{target.name}]
client = yes
accept = {HOST}:{port}
connect = {HOST}:{target.port}
verifyChain = yes
checkHost = localhost
sni = localhost
CAfile = {setup.authority}
TIMEOUTidle = 43200
"""
        for target, port in setup.targets
    )
    file = setup.write(
        "stunnel.conf",
        f"""
foreground = yes
pid =
debug = warning
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
{services}""",
    )
    return [_program("stunnel4") or _program("stunnel") or "stunnel", os.fspath(file)]


def _dovecot(setup: Setup) -> list[str]:
    root = os.getuid() == 0
    me, group = getpass.getuser(), grp.getgrgid(os.getgid()).gr_name
    users = "".join(
        f"{target.name}:{{PLAIN}}{wire.PASSWORD}::::::proxy=y host={HOST} port={target.port} ssl=yes\n"
        for target, _port in setup.targets
    )
    setup.write("users", users)
    setup.folder.chmod(0o755)
    file = setup.write(
        "dovecot.conf",
        f"""
base_dir = {setup.folder}/run
instance_name = bench
log_path = {setup.folder}/dovecot.log
protocols = imap
listen = {HOST}
default_internal_user = {"dovecot" if root else me}
default_internal_group = {"dovecot" if root else group}
default_login_user = {"dovenull" if root else me}
default_client_limit = {2 * SESSIONS}
default_vsz_limit = 2G
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
service imap-login {{
  chroot =
  process_min_avail = 1
  process_limit = 1
  service_count = 0
  client_limit = {SESSIONS}
  inet_listener imap {{
    port = {setup.targets[0][1]}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
ssl = no
ssl_ca = <{setup.authority}
ssl_require_crl = no
disable_plaintext_auth = no
passdb {{
  driver = passwd-file
  args = username_format=%u {setup.folder}/users
}}
""",
    )
    return [_program("dovecot") or "dovecot", "-F", "-c", os.fspath(file)]


def _descriptors() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


PEERS = (
    Peer(OURS, "tproxy", "twistd", "", _tproxy, greets=True),
    Peer("haproxy", "haproxy", "haproxy", "haproxy", _haproxy),
    Peer("nginx", "nginx stream", "nginx", "nginx and libnginx-mod-stream", _nginx),
    Peer("stunnel", "stunnel", "stunnel4", "stunnel4", _stunnel, version_option="-version"),
    Peer("dovecot", "Dovecot login proxy", "dovecot", "dovecot-imapd", _dovecot, "--version", single_port=True),
)

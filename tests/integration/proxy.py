"""The real proxy as a child process, with the configuration, destinations and resources that a test gives it."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from twisted.internet.defer import Deferred
from twisted.logger import Logger

import tproxy
from tests.integration import canaries
from tests.integration.children import Child, start
from tests.integration.dovecot import Dovecot, dovecot, free_port

log = Logger()

SOURCES = Path(tproxy.__file__).parent.parent
TWISTD = "import sys; from twisted.scripts.twistd import run; sys.exit(run())"
TENANTS = "transparent-proxy.connectivity.api.sap/tenant-subdomains"


def basic(port: int, user: str, *, host: str = "127.0.0.1", protocol: str = "imap4s", **more: str) -> dict[str, str]:
    """A destination document that logs in with a password: the user's canary, where none is given."""
    return {
        "Type": "MAIL",
        "ProxyType": "Internet",
        "Authentication": "BasicAuthentication",
        "mail.user": user,
        "mail.password": more.pop("password", None) or canaries.secret(user),
        "mail.transport.protocol": protocol,
        f"mail.{protocol}.host": host,
        f"mail.{protocol}.port": str(port),
        f"mail.{protocol}.auth": "true",
        **{name.replace("__", "."): value for name, value in more.items()},
    }


class Proxy:
    """A folder with everything a proxy is told, and the process once it is started."""

    def __init__(self, test, **changes: Any) -> None:
        self.test = test
        self.folder = Path(tempfile.mkdtemp(prefix="tproxy-proxy-"))
        test.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        for name in ("destinations", "resources"):
            (self.folder / name).mkdir()
        self.configuration: dict[str, Any] = {
            "config": {
                "tenantMode": "dedicated",
                "integration": {
                    "destinationService": {
                        "defaultInstanceName": "local",
                        "instances": [{"name": "local", "directory": "destinations"}],
                    }
                },
                "security": {"allowedNetworks": ["127.0.0.0/8"]},
                "logging": {"level": "debug"},
            },
            "cluster": {"local": {"directory": "resources", "listen": "127.0.0.1", "state": "state.json"}},
        }
        _merge(self.configuration, changes)
        self.child: Child | None = None

    def trust(self, *authorities: str) -> None:
        """The CAs (PEM texts) beside those of the system."""
        (self.folder / "ca.pem").write_text("".join(authorities))
        self.configuration["additionalCAs"] = {"file": "ca.pem"}

    def document(self, name: str, properties: dict[str, str], tenant: str = "") -> Path:
        """Write a destination document."""
        path = self.folder / "destinations" / tenant / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        _replace(path, json.dumps({"Name": name, **properties}))
        return path

    def resource(
        self,
        name: str,
        *,
        destination: str = "",
        greeting: str = "",
        tenants: str = "",
        port: int = 0,
        instance: str = "",
    ) -> Path:
        """Write a Destination resource; `tenants` is the annotation, `instance` another than the default one."""
        annotations = {}
        if greeting:
            annotations["tproxy/greeting"] = greeting
        if tenants:
            annotations[TENANTS] = tenants
        path = self.folder / "resources" / f"{name}.yaml"
        resource = {
            "apiVersion": "destination.connectivity.api.sap/v1",
            "kind": "Destination",
            "metadata": {"name": name, "namespace": "tests", "annotations": annotations},
            "spec": {
                "destinationRef": {"name": destination or name},
                "service": {"port": port or free_port()},
                **({"destinationServiceInstanceName": instance} if instance else {}),
            },
        }
        _replace(path, yaml.safe_dump(resource))
        return path

    def offer(self, name: str, properties: dict[str, str], *, greeting: str = "") -> None:
        """Write a destination document and a resource for it."""
        self.document(name, properties)
        self.resource(name, greeting=greeting)

    def start(self) -> None:
        """Start the process; what it wrote is searched for secrets when it is stopped, with the test at the latest."""
        configuration = self.folder / "config.yaml"
        configuration.write_text(yaml.safe_dump(self.configuration))
        command = [sys.executable, "-c", TWISTD, "-n", "--pidfile=", "tproxy", "--config", configuration]
        child = self.child = start(self.test, command, self.folder, env={"PYTHONPATH": str(SOURCES)})
        self.test.addCleanup(self._stop, child)

    async def stop(self) -> None:
        """Stop it as an operator does; it ends with status 0."""
        await self._stop(self.child)

    async def _stop(self, child: Child) -> None:
        if child.output.end is None:
            await child.end(signal.SIGTERM)
            self.test.assertEqual(0, child.output.end, f"the proxy ended with {child.output.end}:\n{child.output}")
        log.info("{folder} wrote:\n{output}", folder=self.folder.name, output=child.output)
        self.test.assertEqual([], canaries.found(bytes(child.output)), "secrets in what the proxy wrote, see test.log")
        state = self.folder / "state.json"
        self.test.assertEqual([], canaries.found(state.read_bytes() if state.exists() else b""), "secrets in the state")

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it logged so far."""
        return _events(bytes(self.child.output))

    def logged(self, after: int = 0, **fields: object) -> Deferred:
        """Fires with the first event, of those after the first `after`, that has these fields."""

        def find(output: bytes) -> dict[str, Any] | None:
            for event in _events(bytes(output))[after:]:
                if fields.items() <= event.items():
                    return event
            return None

        return self.child.output.until(find)

    async def port(self, name: str) -> int:
        """Where a listener listens, once it does."""
        return (await self.logged(event="listener.opened", listener=f"tests/{name}"))["port"]


def _events(output: bytes) -> list[dict[str, Any]]:
    lines = output[: output.rfind(b"\n") + 1].splitlines()
    return [json.loads(line) for line in lines if line.startswith(b"{")]


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    draft.rename(path)


def _merge(target: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


async def serving(
    test, user: str, *, greeting: str = "", through: str = "imap4s", mail: Dovecot | None = None, **more: str
) -> tuple[Proxy, int]:
    """A proxy whose resource `mail` leads to a user of Dovecot, and the port where it listens."""
    mail = mail or dovecot()
    proxy = Proxy(test)
    proxy.trust(mail.authority)
    port = mail.tls if through == "imap4s" else mail.plain
    proxy.offer("mail", basic(port, user, protocol=through, **more), greeting=greeting)
    proxy.start()
    return proxy, await proxy.port("mail")

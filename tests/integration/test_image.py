"""The image, built for real, and run as Kubernetes runs it: as nobody, with a root that can't be written."""

from __future__ import annotations

import atexit
import re
from functools import cache
from http.client import HTTPConnection
from pathlib import Path

import yaml
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.integration.children import start
from tests.integration.dovecot import free_port
from tests.integration.mailserver import MailServer, listen
from tests.integration.podman import BASE, Podman, missing
from tests.integration.proxy import SOURCES, Proxy, basic
from tests.integration.wire import connect
from tproxy.testing.certificates import Authority

IMAGE = "localhost/tproxy"
ADDED = 64_000_000
"""So many bytes at most are added to the base."""

GUIDE = SOURCES / "docs" / "protocol-plugin.md"
SHELF = "localhost/tproxy-shelf"

TOOLS = ("cc", "gcc", "g++", "c++", "clang", "ld", "as", "make", "pip", "pip3", "git")
TOOLS_FOUND = f"import shutil; print([name for name in {TOOLS} if shutil.which(name)])"

# Twisted says so where it finds a cache out of date, and can't renew it.
CACHES = """
import sys
import tproxy.protocols, twisted.plugins
from twisted.plugin import getCache
from twisted.python import log
log.startLogging(sys.stdout, setStdout=False)
assert "tproxy_dropin" in getCache(twisted.plugins)
print(sorted(getCache(tproxy.protocols)))
"""


class Contained(Proxy):
    """A proxy in a container of the image, with its folder where the Deployment has the configuration."""

    def __init__(self, test, podman: Podman, *options: str) -> None:
        self.health, self.metrics = free_port(), free_port()
        windows = {"health": {"port": self.health}, "metrics": {"port": self.metrics}}
        super().__init__(test, config=windows, cluster={"local": {"state": "/tmp/state.json"}})
        self.folder.chmod(0o755)
        self.podman, self.options = podman, options

    @property
    def name(self) -> str:
        return self.folder.name

    def start(self) -> None:
        (self.folder / "tproxy.yaml").write_text(yaml.safe_dump(self.configuration))
        options = (f"--name={self.name}", f"--volume={self.folder}:/etc/tproxy:ro", *self.options)
        child = self.child = start(self.test, self.podman.restricted(IMAGE, options=options), self.folder)
        self.test.addCleanup(self._stop, child)

    def of_process(self, file: str) -> str:
        """What the system says about the process, in a file of /proc."""
        process = self.podman.run("inspect", "--format={{.State.Pid}}", self.name).strip()
        return Path("/proc", process, file).read_text()


@cache
def built() -> Podman:
    """The engine that has the image: built once, when first asked for."""
    podman = Podman()
    atexit.register(podman.end)
    podman.load_base()
    secrets = (f"--secret=id={name},src={file}" for name, file in podman.pip_files().items())
    podman.build(IMAGE, SOURCES, f"--build-arg=BASE={BASE}", *secrets)
    return podman


class ImageTests(TestCase):
    """One build for all of them."""

    timeout = 120
    skip = missing()

    def setUp(self) -> None:
        self.podman = built()

    async def proxy(self, *options: str) -> Contained:
        """A proxy in front of a mail server; its resource is `mail`."""
        self.server, authority = MailServer(), Authority.create()
        port = await listen(self, self.server, authority.issue("127.0.0.1"))
        proxy = Contained(self, self.podman, *options)
        proxy.trust(authority.pem)
        proxy.offer("mail", basic(port, "ann"))
        proxy.start()
        return proxy

    async def page(self, port: int, path: str) -> tuple[int, bytes]:
        def ask() -> tuple[int, bytes]:
            connection = HTTPConnection("127.0.0.1", port, timeout=20)
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read()
            finally:
                connection.close()

        return await deferToThread(ask)

    async def session(self, proxy: Contained) -> None:
        """A mailbox, by the port of the resource."""
        wire = await connect(self, await proxy.port("mail"))
        self.assertRegex(await wire.hears(rb"\n"), rb"^\* PREAUTH \[CAPABILITY [^]]+\] mail ready\r\n")
        await wire.ask(b"1 SELECT INBOX\r\n", rb"^1 OK ")

    async def test_serves(self) -> None:
        """It answers probes and scrapers, a session is logged in, and SIGTERM ends it with status 0."""
        proxy = await self.proxy()
        await self.session(proxy)
        self.assertEqual(1, self.server.logins)
        for port, path in ((proxy.health, "/healthz"), (proxy.health, "/readyz"), (proxy.metrics, "/metrics")):
            status, body = await self.page(port, path)
            self.assertEqual(200, status, path)
        self.assertIn(b"\ntp_", body)
        await proxy.stop()

    async def test_restricted(self) -> None:
        """It runs as the tests claim: another user than root, no capability, and a root that is read-only."""
        proxy = await self.proxy()
        await proxy.port("mail")
        status = dict(line.split(":\t", 1) for line in proxy.of_process("status").splitlines())
        self.assertEqual({"65532"}, {*status["Uid"].split(), *status["Gid"].split()})
        self.assertEqual((0, 0, "1"), (int(status["CapEff"], 16), int(status["CapBnd"], 16), status["NoNewPrivs"]))
        mounts = [line.split()[4:6] for line in proxy.of_process("mountinfo").splitlines()]
        options = {place: options.split(",") for place, options in mounts}
        self.assertEqual(("ro", "ro", "rw"), tuple(options[place][0] for place in ("/", "/etc/tproxy", "/tmp")))

    async def test_bytecode(self) -> None:
        """Nothing is compiled at start, nor for a session: a root that is read-only would have it done each time."""
        proxy = await self.proxy("--env=PYTHONVERBOSE=1")
        await self.session(proxy)
        await proxy.stop()
        loaded = re.findall(rb"^# code object from (.*)$", bytes(proxy.child.output), re.MULTILINE)
        self.assertGreater(len(loaded), 400)
        self.assertEqual([], [each for each in loaded if not each.endswith(b".pyc'")])

    def test_commands(self) -> None:
        """Both programs are there, without their paths."""
        self.assertIn("--config", self.podman.call(IMAGE, "twistd", "tproxy", "--help"))
        said = self.podman.call(IMAGE, "tproxy", "--version")
        self.assertRegex(said, r"^tproxy \d+\.\d+\.\d+\nProtocols: imap4 imap4s\n$")
        self.assertIn("usage: tproxy check", self.podman.call(IMAGE, "tproxy", "check", "--help"))

    def test_deployment(self) -> None:
        """The image says itself what the Deployment says."""
        deployment, _ = yaml.safe_load_all((SOURCES / "k8s" / "base" / "deployment.yaml").read_text())
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        config = self.podman.image(IMAGE)["Config"]
        self.assertNotIn("Entrypoint", config)
        self.assertEqual(container["command"], config["Cmd"])
        self.assertEqual(container["workingDir"], config["WorkingDir"])
        user = pod["securityContext"]
        self.assertEqual(f"{user['runAsUser']}:{user['runAsGroup']}", config["User"])

    def test_contents(self) -> None:
        """tproxy, what it imports, and bytecode: no tests, tools, caches of tools or secrets. It is small."""
        changes = (line.split(" ", 1) for line in self.podman.run("diff", IMAGE, BASE).splitlines())
        added = [path for kind, path in changes if kind == "A"]
        ours = [path for path in added if path.startswith("/opt/tproxy/")]
        self.assertIn("/opt/tproxy/bin/tproxy", ours)
        others = [path for path in added if not path.startswith("/opt/tproxy")]
        self.assertEqual([], [path for path in others if not re.search(r"/__pycache__(/[^/]+\.pyc)?$", path)])
        unwanted = re.compile(
            r"/(tests?|pip|\.git|\.env|Dockerfile)(/|$)|\.(key|p12|pfx|whl)$|/pip[^/]*\.(conf|dist-info)"
        )
        self.assertEqual([], [path for path in ours if unwanted.search(path)])
        pems = [path for path in ours if path.endswith((".pem", ".crt"))]
        self.assertEqual(["cacert.pem"], [path.rpartition("/")[2] for path in pems])
        self.assertEqual("[]\n", self.podman.call(IMAGE, "python3", "-c", TOOLS_FOUND))
        whole, base = (self.podman.image(tag)["Size"] for tag in (IMAGE, BASE))
        print(f"The image has {whole / 1e6:.0f} MB, {(whole - base) / 1e6:.0f} MB of them beside its base")
        self.assertLess(whole - base, ADDED)

    def test_caches(self) -> None:
        """The caches of plug-ins are up to date."""
        said = self.podman.call(IMAGE, "python3", "-c", CACHES)
        self.assertRegex(said, r"^\S+ \S+ \[-\] Log opened\.\n\['imap4'\]\n")
        self.assertNotIn("cache", said)

    def test_plugin(self) -> None:
        """The image on top of it that the guide shows: a protocol of somebody else's is there, and in the cache."""
        guide = GUIDE.read_text()
        dockerfile, setup, plugin = (
            re.search(rf"```{language}\n(.*?)```", guide, re.DOTALL)[1] for language in ("dockerfile", "ini", "python")
        )
        folder = Path(self.mktemp()).absolute()
        package = folder / "tproxy" / "protocols" / "shelf"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(plugin)
        (folder / "setup.cfg").write_text(setup)
        (folder / "pyproject.toml").write_text('[build-system]\nrequires = ["setuptools >= 69"]\n')
        (folder / "Dockerfile").write_text(re.sub("^FROM .*", f"FROM {IMAGE}", dockerfile))
        places = {"pip.conf": "/etc/pip.conf", "ca.pem": "/run/secrets/ca.pem"}
        volumes = (f"--volume={file}:{places[name]}:ro" for name, file in self.podman.pip_files().items())
        self.podman.build(SHELF, folder, *volumes)
        self.assertRegex(self.podman.call(SHELF, "tproxy", "--version"), r"\nProtocols: imap4 imap4s shelf\n$")
        said = self.podman.call(SHELF, "python3", "-c", CACHES)
        self.assertIn("\n['imap4', 'shelf']\n", said)
        self.assertNotIn("cache", said)
        self.assertEqual(self.podman.image(IMAGE)["Config"]["User"], self.podman.image(SHELF)["Config"]["User"])

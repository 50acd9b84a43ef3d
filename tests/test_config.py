"""The configuration: what each key may be."""

import re
from ipaddress import ip_network
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.configurations import FILE, FOLDER, FULL, IN_CLUSTER, SMALL, with_key
from tproxy import config
from tproxy.config import Config, ConfigError, Kubernetes, Limits, Local, PathKind, Security, Window
from tproxy.instances import DirectoryInstance

EXPECTED = Config(
    tenant_mode="shared",
    instances=(
        DirectoryInstance("local", FOLDER / "destinations"),
        DirectoryInstance("other", Path("/srv/destinations")),
    ),
    default_instance="local",
    local=Local(FOLDER / "resources", FOLDER / "state.json", "0.0.0.0", True),
    managed_namespaces_mode="labelSelector",
    execution_interval_minutes=5,
    provider_subdomain="provider",
    security=Security(
        (ip_network("127.0.0.0/8"), ip_network("fd00::/8")),
        frozenset({"mail.example"}),
        frozenset({"127.0.0.1", "token.example"}),
        True,
        "clusterWide",
    ),
    limits=Limits(15, 60, 7200),
    log_level="warn",
    additional_cas=FOLDER / "ca.pem",
    health=Window("::", 8080),
    metrics=Window("0.0.0.0", 9494),
)


class ParseTests(SynchronousTestCase):
    """A text becomes a configuration."""

    def test_full(self):
        """Every key has its effect."""
        self.assertEqual(config.parse(FULL, FILE), EXPECTED)

    def test_in_cluster(self):
        """A cluster takes the place of a folder; nothing need be said of it."""
        found = config.parse(IN_CLUSTER, FILE)
        self.assertEqual(
            found.kubernetes,
            Kubernetes("mail-proxy", "tproxy-1", "10.0.0.9", FOLDER / "kubeconfig", "tests", "cluster.example", 3, 20),
        )
        self.assertEqual((found.coexist, found.limits), (True, Limits(listeners=500, connections=5000, memory=512)))
        self.assertIn(("cluster.kubernetes.kubeconfig", FOLDER / "kubeconfig", PathKind.FILE), config.paths(found))
        self.assertEqual(config.loosened(found), ())
        with self.assertRaisesRegex(ConfigError, "this needs cluster.local.directory"):
            self.assertIsNone(found.folder)
        bare = IN_CLUSTER[: IN_CLUSTER.index("  kubernetes:")] + "  kubernetes: {}\n"
        self.assertEqual(config.parse(bare, FILE).kubernetes, Kubernetes(domain="cluster.example"))

    def test_defaults(self):
        """What may be left out has a safe default."""
        self.assertEqual(
            config.parse(SMALL, FILE),
            Config(
                tenant_mode="dedicated",
                instances=(DirectoryInstance("local", FOLDER / "destinations"),),
                default_instance="",
                local=Local(FOLDER / "resources", FOLDER / "state.json"),
            ),
        )

    def test_full_has_every_key(self):
        """The example of this test leaves no key out, so that none is accepted without an effect."""
        for key in config.KEYS:
            self.assertIn(f"{key.path.rpartition('.')[2]}:", FULL + IN_CLUSTER)

    def test_levels(self):
        """The levels of existing installations, in any case."""
        for said, level in {
            "debug": "debug",
            "Info": "info",
            "warn": "warn",
            "WARNING": "warn",
            "ERROR": "error",
            "critical": "critical",
        }.items():
            self.assertEqual(config.parse(with_key("config.logging.level", said), FILE).log_level, level)

    def test_default_instance_in_either_place(self):
        """Both names of the default instance are known."""
        for path in ("config.integration.destinationService", "config.destinationService"):
            text = with_key(f"{path}.defaultInstanceName", "local")
            self.assertEqual(config.parse(text, FILE).default_instance, "local")

    def test_loopback(self):
        """Loopback addresses need no leave, however they are spelled."""
        for listen in ("127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"):
            text = with_key("cluster.local.listen", listen)
            self.assertFalse(config.parse(text, FILE).local.allow_remote)


class LoosenedTests(SynchronousTestCase):
    """What loosens a rule is said at start."""

    def test_safe(self):
        """The defaults loosen nothing."""
        self.assertEqual(config.loosened(config.parse(SMALL, FILE)), ())

    def test_loosened(self):
        """One sentence a key, with what it allows."""
        self.assertEqual(
            config.loosened(EXPECTED),
            (
                "cluster.local.allowRemote: listeners are on 0.0.0.0, and whoever reaches one owns its mailbox",
                "config.destinations.maxStale: destinations are served for 7200 s without their store being asked",
                "config.security.allowedNetworks: mail servers and token endpoints may be in 127.0.0.0/8, fd00::/8",
                "config.security.plaintextHosts: credentials may go unencrypted to mail.example",
                "config.security.httpTokenHosts: "
                "client secrets and tokens may go unencrypted to 127.0.0.1, token.example",
                "config.security.allowTrustAll: "
                "destinations with TrustAll use mail servers whose certificates nobody checks",
            ),
        )


class PathsTests(SynchronousTestCase):
    """Whoever may touch files is told which have to be there."""

    def test_full(self):
        """All paths, by key."""
        instances = "config.integration.destinationService.instances"
        self.assertEqual(
            config.paths(EXPECTED),
            (
                (f"{instances}[0].directory", FOLDER / "destinations", PathKind.FOLDER),
                (f"{instances}[1].directory", Path("/srv/destinations"), PathKind.FOLDER),
                ("additionalCAs.file", FOLDER / "ca.pem", PathKind.FILE),
                ("cluster.local.directory", FOLDER / "resources", PathKind.FOLDER),
                ("cluster.local.state", FOLDER / "state.json", PathKind.WRITTEN_FILE),
            ),
        )

    def test_without_authorities(self):
        """What is not configured need not be there."""
        self.assertEqual(len(config.paths(config.parse(SMALL, FILE))), 3)


class DocumentationTests(SynchronousTestCase):
    """The user's reference and the program say the same."""

    guide = Path(__file__).parent.parent / "docs" / "configure.md"

    def test_every_key(self):
        """Each key has its row."""
        text = self.guide.read_text()
        for key in config.KEYS:
            self.assertIn(f"`{key.path}`", text)

    def test_examples(self):
        """Each example configuration is one."""
        examples = re.findall(r"```yaml\n(config:.*?)```", self.guide.read_text(), re.DOTALL)
        self.assertTrue(examples)
        for example in examples:
            config.parse(example, FILE)

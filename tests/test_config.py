"""The configuration: what each key may be, and one line for whatever is wrong."""

import re
from ipaddress import ip_network
from pathlib import Path

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tproxy import config
from tproxy.config import Config, ConfigError, Kubernetes, Limits, Local, PathKind, Security, Window
from tproxy.instances import DirectoryInstance

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


def with_key(path, value):
    """`SMALL` with one more key, as YAML text."""
    merged = yaml.safe_load(SMALL)
    here, parts = merged, path.split(".")
    for part in parts[:-1]:
        here = here.setdefault(part, {})
    here[parts[-1]] = value
    return yaml.safe_dump(merged, sort_keys=False)


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


class ErrorTests(SynchronousTestCase):
    """Whatever is wrong is one line with the file, the line, the key and what would be right."""

    def wrong(self, text):
        message = str(self.assertRaises(ConfigError, config.parse, text, FILE))
        self.assertTrue(message.startswith(f"{FILE}:"), message)
        return message.removeprefix(f"{FILE}:")

    def test_messages(self):
        """Small mistakes in a good file, one by one."""
        service = "config.integration.destinationService"
        remote = (
            "is reached from elsewhere, and whoever reaches a listener owns its mailbox; "
            "listen on 127.0.0.1, or say cluster.local.allowRemote: true"
        )
        for right, mistaken, message in (
            ("Mode: shared", "Mode: both", "2: config.tenantMode: 'both' is not one of dedicated, shared"),
            ("Mode: shared", "Mode:", "2: config.tenantMode: nothing is not one of dedicated, shared"),
            ("tenantMode:", "tenantmode:", "2: config.tenantmode: unknown key; did you mean config.tenantMode?"),
            (
                "  tenantMode: shared",
                "  allowRemote: x",
                "2: config.allowRemote: unknown key; did you mean cluster.local.allowRemote?",
            ),
            ("labelSelector", "none", "3: config.managedNamespacesMode: 'none' is not one of all, labelSelector"),
            (
                ": provider",
                ": Provider",
                "4: config.providerSubdomain: 'Provider' is no subdomain: "
                "1 to 63 lower-case letters, digits and inner hyphens",
            ),
            (": 5", ": 0", "6: config.manager.executionIntervalMinutes: 0 is not from 1 to 1440"),
            (
                ": 5",
                ": 5m",
                "6: config.manager.executionIntervalMinutes: '5m' is not a whole number from 1 to 1440",
            ),
            (
                "nstanceName: local\n      inst",
                "nstanceName: remote\n      inst",
                f"9: {service}.defaultInstanceName: 'remote' is not among the instances: 'local', 'other'",
            ),
            ("          directory: destinations\n", "", f"11: {service}.instances[0].directory: is missing"),
            ("name: local\n", "nam: local\n", f"11: {service}.instances[0].nam: unknown key; did you mean name?"),
            ("name: local\n", "name: 5\n", f"11: {service}.instances[0].name: '5' is not a text; put it in quotes"),
            (
                "name: other",
                "name: local",
                f"13: {service}.instances[1].name: 'local' is the name of an instance before it",
            ),
            (
                "  destinationService:\n    defaultInstanceName: local",
                "  destinationService:\n    defaultInstanceName: other",
                "16: config.destinationService.defaultInstanceName: "
                f"'other' differs from {service}.defaultInstanceName; keep one of the two",
            ),
            (
                "127.0.0.0/8",
                "127.0.0.1/8",
                "18: config.security.allowedNetworks[0]: "
                "'127.0.0.1/8' has bits set behind its prefix; write 127.0.0.0/8",
            ),
            (
                '[127.0.0.0/8, "fd00::/8"]',
                "127.0.0.0/8",
                "18: config.security.allowedNetworks: '127.0.0.0/8' is not a list",
            ),
            (
                "[Mail.example]",
                "[mail.example:25]",
                "19: config.security.plaintextHosts[0]: 'mail.example:25' holds a port, or is no IP address",
            ),
            (
                "TrustAll: true",
                "TrustAll: 'true'",
                "21: config.security.allowTrustAll: 'true' is neither true nor false (without quotes)",
            ),
            (
                "Scope: clusterWide",
                "Scope: cluster",
                "24: config.security.accessControl.destinations.defaultScope: "
                "'cluster' is not one of namespaced, clusterWide",
            ),
            (": 15", ": 100001", "26: config.limits.connectionsPerListener: 100001 is not from 1 to 100000"),
            (
                "WARNING",
                "loud",
                "28: config.logging.level: 'loud' is not one of debug, info, warn, warning, error, critical",
            ),
            ("port: 9494", "port: 65536", "37: config.metrics.port: 65536 is not from 0 to 65535"),
            ("port: 9494", "port: 8080", "37: config.metrics.port: 8080 is config.health.port, too; choose another"),
            (
                'listen: "::"',
                "listen: localhost",
                "33: config.health.listen: 'localhost' is not an IP address, such as 127.0.0.1 or ::1",
            ),
            ("  file: ca.pem", "  file: [ca.pem]", "39: additionalCAs.file: a list is not a text"),
            ("additionalCAs:\n  file: ca.pem", "additionalCAs: ca.pem", "38: additionalCAs: 'ca.pem' is not a mapping"),
            ("    state: state.json\n", "", "41: cluster.local.state: is missing"),
            ("  local:\n    directory: resources", "  local:", "41: cluster.local.directory: is missing"),
            (
                "listen: 0.0.0.0\n    state",
                "listen: localhost\n    state",
                "43: cluster.local.listen: 'localhost' is not an IP address, such as 127.0.0.1 or ::1",
            ),
            ("allowRemote: true", "allowRemote: false", f"43: cluster.local.listen: 0.0.0.0 {remote}"),
            (
                "0.0.0.0\n    state: state.json\n    allowRemote: true",
                '"::"\n    state: s',
                f"43: cluster.local.listen: :: {remote}",
            ),
            ("cluster:", "clusters:", "40: clusters: unknown key; did you mean cluster?"),
            ("cluster:", "config:", "40: config: is there twice; the first is in line 1"),
        ):
            with self.subTest(mistaken=mistaken):
                self.assertIn(right, FULL)
                self.assertEqual(self.wrong(FULL.replace(right, mistaken, 1)), message)

    def test_cluster(self):
        """There is one cluster, whose replicas can ask each other."""
        both = IN_CLUSTER + "  local:\n    directory: resources\n"
        self.assertEqual(self.wrong(both), "16: cluster.kubernetes: is there beside cluster.local; keep one of the two")
        self.assertEqual(
            self.wrong(IN_CLUSTER.replace("port: 8080", "port: 0")),
            "14: config.health.port: is needed in a cluster: replicas ask each other there what they serve",
        )

    def test_empty(self):
        """A file that says nothing lacks what is required."""
        self.assertEqual(self.wrong(""), "1: config.integration.destinationService.instances: is missing")

    def test_no_instances(self):
        """A program without a store of destinations would have nothing to do."""
        key = "config.integration.destinationService.instances"
        message = f"{key}: at least one instance is needed, with name and directory or serviceCredentials"
        self.assertTrue(self.wrong(with_key(key, [])).endswith(message))

    def test_short_default_not_among_instances(self):
        """The other place of the default instance is judged alike."""
        text = with_key("config.destinationService.defaultInstanceName", "remote")
        self.assertTrue(
            self.wrong(text).endswith(
                "config.destinationService.defaultInstanceName: 'remote' is not among the instances: 'local'"
            )
        )

    @given(st.data())
    @settings(deadline=None)
    def test_any_value(self, data):
        """Whatever stands behind whichever key, there is a configuration or one line that names the file."""
        leaf = (
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text()
            | st.sampled_from(["local", "::1", "10.0.0.0/8", "[", "!!x"])
        )
        parts = sorted({part for key in config.KEYS for part in key.path.split(".")} | {"name", "directory"})
        values = st.recursive(
            leaf,
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(parts) | st.text(max_size=3), inner, max_size=4)
            ),
            max_leaves=6,
        )
        path = data.draw(st.sampled_from([key.path for key in config.KEYS] + ["config", "cluster.local", "x.y"]))
        try:
            config.parse(with_key(path, data.draw(values)), FILE)
        except ConfigError as error:
            self.assertEqual(len(str(error).splitlines()), 1)
            self.assertTrue(re.match(r"/etc/tproxy/tproxy\.yaml:\d+: ", str(error)), str(error))


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

"""A configuration that is wrong: one line for whatever it is."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.configurations import FILE, FULL, IN_CLUSTER, with_key
from tproxy import config
from tproxy.config import ConfigError


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

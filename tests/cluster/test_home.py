"""Where a process is in a cluster."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tproxy.cluster import home
from tproxy.cluster.home import Home
from tproxy.config import Kubernetes
from tproxy.operator.objects import Installation

POD = {"POD_NAMESPACE": "mail-proxy", "POD_NAME": "tproxy-1", "POD_IP": "10.0.0.9"}


class HomeTests(SynchronousTestCase):
    """What the configuration says, else what the environment says, else what can be found."""

    def found(self, resolver="", told=Kubernetes(), **environ):  # noqa: B008
        path = Path(self.mktemp())
        if resolver:
            path.write_text(resolver)
        return home.home(told, environ, "home", path)

    def test_told(self):
        """The configuration comes first."""
        told = Kubernetes("there", "me", "10.1.1.1", domain="example")
        expected = Home(Installation("there", "example"), "me", ("10.1.1.1",))
        self.assertEqual(expected, self.found("search x.svc.other svc.other other\n", told, **POD))

    def test_pod(self):
        """Then the downward API."""
        self.assertEqual(Home(Installation("mail-proxy"), "tproxy-1", ("10.0.0.9",)), self.found(**POD))

    def test_nothing(self):
        """Then the credentials' namespace, and the host's name."""
        found = self.found(POD_IP="unknown")
        self.assertEqual(("home", ()), (found.installation.namespace, found.addresses))
        self.assertTrue(found.pod)

    def test_domain(self):
        """Names end with what the search list of a pod says."""
        for text, domain in (
            ("nameserver 10.0.0.1\nsearch shop.svc.Corp.Example svc.Corp.Example Corp.Example\n", "corp.example"),
            ("search shop.svc.corp.example. svc.corp.example. corp.example.\n", "corp.example"),
            ("search example.com\n", "cluster.local"),
            ("# search a.svc.b svc.b\n", "cluster.local"),
        ):
            self.assertEqual(domain, self.found(text).installation.domain)

    def test_listen(self):
        """With an address of IPv6 it listens on both families."""
        self.assertEqual("0.0.0.0", self.found(**POD).listen)
        both = self.found(POD_IPS="10.0.0.9,FD00::9")
        self.assertEqual(("::", ("10.0.0.9", "fd00::9")), (both.listen, both.addresses))

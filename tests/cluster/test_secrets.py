"""Keys that are kept in Secrets."""

from __future__ import annotations

from base64 import b64encode

from zope.interface.verify import verifyObject

from tests.apiserver.server import SECRETS
from tests.cluster.api.harness import StandInTestCase
from tproxy.cluster.secrets import Secrets
from tproxy.instances import KeyInSecret
from tproxy.interfaces import IKeySource
from tproxy.model import Reason, RefusedError


class SecretsTests(StandInTestCase):
    """A Secret, followed by its name."""

    def setUp(self):
        super().setUp()
        self.secrets = Secrets(self.client, self.clock, "default")
        self.source = self.secrets.source(KeyInSecret("key"))
        self.addCleanup(self.secrets.stopService)

    def start(self):
        self.secrets.startService()
        self.flush()

    def refused(self):
        return self.assertRaises(RefusedError, self.source.read).refusal

    def test_read(self):
        """Its entries are read, and read again when it changes; nothing else is asked for."""
        verifyObject(IKeySource, self.source)
        data = {"clientid": b64encode(b"one").decode()}
        made = self.server.create(SECRETS, "default", "key", data=data)
        self.server.create(SECRETS, "default", "other", data={})
        self.assertEqual(Reason.STORE_UNAVAILABLE, self.refused().reason)
        self.start()
        self.assertEqual({"clientid": b"one"}, self.source.read())
        uid = {"uid": made["metadata"]["uid"]}
        self.server.change(SECRETS, "default", "key", metadata=uid, data={"clientid": b64encode(b"two").decode()})
        self.flush()
        self.assertEqual({"clientid": b"two"}, self.source.read())
        self.assertEqual({"metadata.name=key"}, {asked.queries.get("fieldSelector") for asked in self.server.asked})

    def test_same(self):
        """Two instances of one Secret follow it once; another namespace is another Secret."""
        self.assertIs(self.source, self.secrets.source(KeyInSecret("key", "default", "json")))
        self.assertEqual(("kube-system", "key"), self.secrets.source(KeyInSecret("key", "kube-system")).key)

    def test_missing(self):
        """A Secret that is not there is a mistake of the configuration."""
        self.start()
        self.assertEqual(Reason.SERVICE_KEY_INVALID, self.refused().reason)
        self.assertIn("default/key", self.refused().message)

    def test_damaged(self):
        """What is no base64 is said, without a word of what it holds."""
        self.server.create(SECRETS, "default", "key", data={"clientsecret": "not base64!"})
        self.start()
        refusal = self.refused()
        self.assertEqual(Reason.SERVICE_KEY_INVALID, refusal.reason)
        self.assertNotIn("base64!", str(refusal))

    def test_empty(self):
        """A Secret may hold nothing."""
        self.server.create(SECRETS, "default", "key")
        self.start()
        self.assertEqual({}, self.source.read())

    def test_forbidden(self):
        """A right that is missing is named."""
        self.server.forbidden.add(("list", "secrets"))
        self.start()
        self.assertIn("forbidden", self.refused().message)
        self.assertEqual(Reason.STORE_UNAVAILABLE, self.refused().reason)

"""The resources in a folder: what is wrong with them, and which of two is served."""

from __future__ import annotations

from zope.interface.verify import verifyObject

from tests.cluster.folders import LocalTestCase, resource
from tests.logs import logged
from tproxy.cluster import folder, local
from tproxy.interfaces import ICluster
from tproxy.model import Reason


class Resources(LocalTestCase):
    """A cluster knows resources."""

    def test_interface(self):
        """It is a cluster."""
        verifyObject(ICluster, self.cluster(start=False))

    def test_complaints(self):
        """What is wrong in a document, or none of ours, is logged with file and line, once."""
        path = self.write(
            "a.yaml", resource("a"), "kind: ConfigMap\nmetadata: {name: x}\n", resource("UPPER"), resource("b", "''")
        )
        with logged(folder.log, local.log) as logs:
            cluster = self.cluster()
        said = [(event["file"], event["line"], event["message"]) for event in logs]
        self.assertEqual([each[:2] for each in said], [(str(path), line) for line in (6, 9, 14)])
        for (_, _, message), words in zip(said, ("ignored", "metadata.name", "spec.destinationRef.name"), strict=True):
            self.assertIn(words, message)
        self.assertEqual(self.destinations(cluster), {"a": "mailbox", "b": "rejected"})
        self.write("z.yaml", resource("z"))
        self.assertEqual(self.wait(), [])

    def test_default_namespace(self):
        """A resource that names no namespace is in `default`."""
        self.write("a.yaml", resource("a").replace(", namespace: shop", ""))
        self.assertEqual(self.cluster().observe().resources[0].namespace, "default")

    def test_duplicate(self):
        """A resource that is in two files: the one that serves goes on, and the other is told of."""
        self.write("b.yaml", resource("mail", "first"))
        cluster = self.cluster()
        path = self.write("a.yaml", "# a comment\n---\n" + resource("mail", "second"))
        (event,) = self.wait()
        self.assertEqual((event["file"], event["line"]), (str(path), 3))
        self.assertIn("a.yaml:3 repeats the Destination shop/mail of b.yaml:1", event["message"])
        (mail,) = cluster.observe().resources
        self.assertEqual(mail.bindings[0].request.name, "first")
        self.assertEqual([refusal.reason for _, refusal in mail.refused], [Reason.DUPLICATE_RESOURCE])
        (self.folder / "b.yaml").unlink()
        self.wait()
        (mail,) = cluster.observe().resources
        self.assertEqual((mail.bindings[0].request.name, mail.refused), ("second", ()))

    def test_duplicate_at_the_start(self):
        """Of two that are there from the start, the first in the order of the files serves; rejected or not."""
        self.write("b.yaml", resource("mail", "second"), resource("other", "second"))
        self.write("a.yaml", resource("mail", "first"), resource("other", "''"))
        self.assertEqual(self.destinations(self.cluster()), {"mail": "first", "other": "rejected"})

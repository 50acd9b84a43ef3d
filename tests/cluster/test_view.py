"""What a command sees of a cluster, over the stand-in of an API server."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import yaml
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from tests.apiserver.server import SECRETS, SERVICES, Cut
from tests.apiserver.storage import Served, Status
from tests.cluster.api.harness import StandInTestCase
from tproxy.cluster.api.client import DEADLINE
from tproxy.cluster.kinds import DESTINATIONS
from tproxy.cluster.view import View, ViewError, chosen
from tproxy.config import ConfigError, Kubernetes
from tproxy.instances import DirectoryInstance, KeyInFile, KeyInSecret, ServiceInstance
from tproxy.interfaces import IKeySource
from tproxy.model import RefusedError, Secret

BTP = KeyInSecret("btp")
RESOURCES = "destinations.destination.connectivity.api.sap"


class ViewTests(StandInTestCase):
    """Reading, and what stands in the way."""

    def setUp(self) -> None:
        super().setUp()
        self.server.storage.serve(Served(DESTINATIONS, custom=True, generation=True, status=True))
        for namespace, name in (("default", "mail"), ("default", "other"), ("kube-system", "mail")):
            self.server.create(DESTINATIONS, namespace, name)
        self.view = View(self.client, "default")

    def look(self, asked: Any) -> Any:
        looking = Deferred.fromCoroutine(asked)
        self.flush()
        return self.successResultOf(looking)

    def wrong(self, asked: Any) -> str:
        looking = Deferred.fromCoroutine(asked)
        self.flush()
        said = str(self.failureResultOf(looking, ViewError).value)
        self.assertEqual(1, len(said.splitlines()))
        return said

    def found(self, *where: str) -> list[tuple[str, str]]:
        return [
            (each["metadata"]["namespace"], each["metadata"]["name"])
            for each in self.look(self.view.destinations(*where))
        ]

    def test_destinations(self) -> None:
        """Those of all namespaces or of one, all or those of one name."""
        mail, other, system = ("default", "mail"), ("default", "other"), ("kube-system", "mail")
        self.assertEqual([mail, other, system], self.found(""))
        self.assertEqual([mail, other], self.found("default"))
        self.assertEqual([mail, system], self.found("", "mail"))
        self.assertEqual([], self.found("kube-system", "other"))

    def test_nothing_written(self) -> None:
        """All that is asked is to read, once."""
        self.server.create(SECRETS, "default", "btp")
        self.found("")
        self.look(self.view.names(""))
        self.look(self.view.keys(ServiceInstance("btp", BTP)))
        self.assertEqual(["list", "list", "get"], self.verbs())

    def test_odd_name(self) -> None:
        """A name that is more than a name to a selector asks for that name nevertheless."""
        self.wrong(self.view.destinations("", "a,metadata.name=mail"))
        self.assertEqual(r"metadata.name=a\,metadata.name\=mail", self.last().queries["fieldSelector"])

    def test_names(self) -> None:
        """The Services that are names of an installation, and no others."""
        for name, labels in (
            ("mail", {"app.kubernetes.io/managed-by": "tproxy", "tproxy/role": "name"}),
            ("p12345", {"app.kubernetes.io/managed-by": "tproxy", "tproxy/role": "port"}),
            ("web", {"tproxy/role": "name"}),
        ):
            self.server.create(SERVICES, "default", name, labels=labels)
        self.assertEqual(["mail"], [each["metadata"]["name"] for each in self.look(self.view.names(""))])

    def test_no_right(self) -> None:
        """What is forbidden is named with its verb and place, and what to do."""
        self.server.forbidden |= {("list", "destinations"), ("get", "secrets"), ("list", "services")}
        self.assertEqual(
            f"you have no right to list {RESOURCES} in all namespaces: have that allowed, or look into one namespace "
            "with --namespace",
            self.wrong(self.view.destinations("")),
        )
        self.assertIn(f"to list {RESOURCES} in the namespace default: ", self.wrong(self.view.destinations("default")))
        self.assertIn("no right to list services in all namespaces", self.wrong(self.view.names("")))
        self.assertEqual(
            "you have no right to get secrets in the namespace default: the Secret default/btp, which has a key of the "
            "instance key, cannot be read; have that one allowed by its name",
            self.wrong(self.view.keys(ServiceInstance("key", BTP))),
        )

    def test_no_definition(self) -> None:
        """A cluster that knows no Destinations is not one that has none."""
        self.server.storage.withdraw(self.server.served(DESTINATIONS))
        self.assertIn(f"the cluster has no {RESOURCES}: ", self.wrong(self.view.destinations("default")))

    def test_no_server(self) -> None:
        """An API server that is away or in trouble is said, in one line."""
        for asked, verb, resource in (
            (self.view.destinations, "list", "destinations"),
            (lambda _: self.view.keys(ServiceInstance("key", BTP)), "get", "secrets"),
        ):
            self.server.faults[verb, resource] += [Status(500, "InternalError", "etcd is away")]
            self.assertRegex(self.wrong(asked("")), "cannot be read: etcd is away$")
        self.server.faults["list", "destinations"] += [Cut()]
        looking = Deferred.fromCoroutine(self.view.destinations(""))
        self.flush()
        self.clock.advance(DEADLINE)
        self.assertIn("destinations cannot be read: ", str(self.failureResultOf(looking, ViewError).value))

    def test_keys(self) -> None:
        """The keys of an instance are read from the Secrets that it names; other places need nothing of a cluster."""
        self.server.create(SECRETS, "default", "btp", data={"credentials": b64encode(b"s3cret").decode()})
        self.server.create(SECRETS, "kube-system", "private", data={})
        private = KeyInSecret("private", "kube-system")
        read = self.look(self.view.keys(ServiceInstance("key", BTP, private)))
        self.assertTrue(verifyObject(IKeySource, read(BTP)))
        self.assertEqual(({"credentials": b"s3cret"}, {}), (read(BTP).read(), read(private).read()))
        self.assertNotIn(b64encode(b"s3cret").decode(), repr(read(BTP)))
        asked = len(self.server.asked)
        self.look(self.view.keys(ServiceInstance("key", KeyInFile(Path("key.json")))))
        self.look(self.view.keys(DirectoryInstance("local", Path("destinations"))))
        self.assertEqual(asked, len(self.server.asked))

    def test_bad_secret(self) -> None:
        """A Secret that is not there is named; one that holds no data is refused when it is used."""
        self.assertIn("there is no Secret default/btp with", self.wrong(self.view.keys(ServiceInstance("key", BTP))))
        self.server.create(SECRETS, "default", "btp", data={"credentials": "%"})
        read = self.look(self.view.keys(ServiceInstance("key", BTP)))
        self.assertIn("default/btp", str(self.assertRaises(RefusedError, read(BTP).read)))


class ChosenTests(StandInTestCase):
    """Which API server is asked, and as who."""

    def write(self, name: str) -> str:
        """A kubeconfig with two contexts, whose users have tokens that say which it is."""
        file = Path(self.mktemp()).absolute()
        contexts = ("here", "there")
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": "https://api.example.com"}}],
            "users": [{"name": each, "user": {"token": f"{name}-{each}"}} for each in contexts],
            "contexts": [{"name": each, "context": {"cluster": "c", "user": each}} for each in contexts],
        }
        file.write_text(yaml.safe_dump(document))
        return str(file)

    def token(self, told: Kubernetes, file: str | None = None, context: str | None = None, **environ: str) -> str:
        access = chosen(told, file, context, environ, Clock())
        secret = access.token(False)
        assert isinstance(secret, Secret)
        return secret.reveal()

    def test_kubeconfig(self) -> None:
        """The command line comes before the configuration, which comes before the pod."""
        asked, said = self.write("asked"), Path(self.write("said"))
        pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
        there = Kubernetes(kubeconfig=said, context="there")
        self.assertEqual("said-there", self.token(there, **pod))
        self.assertEqual("said-here", self.token(Kubernetes(kubeconfig=said), **pod))
        self.assertEqual("said-here", self.token(there, context="here"))
        self.assertEqual("asked-here", self.token(there, asked, **pod))
        self.assertEqual("asked-there", self.token(Kubernetes(), asked, "there", **pod))

    def test_pod(self) -> None:
        """In a pod it is the service account that counts, and no kubeconfig is looked for."""
        error = self.assertRaises(ConfigError, self.token, Kubernetes(), KUBERNETES_SERVICE_HOST="10.0.0.1")
        self.assertIn("KUBERNETES_SERVICE_PORT", str(error))

    def test_context(self) -> None:
        """A context that is not there is named; without a file it is one of the usual kubeconfig."""
        file = self.write("asked")
        error = self.assertRaises(ConfigError, chosen, Kubernetes(), file, "nowhere", {}, Clock())
        self.assertIn("the context nowhere of the kubeconfig cannot be used", str(error))

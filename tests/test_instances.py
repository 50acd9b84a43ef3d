"""Stores of destinations in a configuration."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tproxy import instances, places
from tproxy.instances import (
    DirectoryInstance,
    KeyInFile,
    KeyInFolder,
    KeyInSecret,
    PathKind,
    ServiceInstance,
    paths_of,
)

FILE = Path("/etc/tproxy/tproxy.yaml")
FOLDER = FILE.parent


def read(text):
    """The instances of a YAML list."""
    return instances.read(places.compose(text, FILE))


class ReadTests(SynchronousTestCase):
    """A list becomes instances, or one error that names the line and the key."""

    def one(self, *lines):
        """The one instance of this name, with these lines."""
        (instance,) = read("- name: btp\n" + "".join(f"  {line}\n" for line in lines))
        return instance

    def test_directory(self):
        """A folder of documents."""
        self.assertEqual(DirectoryInstance("btp", FOLDER / "documents"), self.one("directory: documents"))

    def test_service_keys(self):
        """A service key in a file, a mounted folder, or a Secret."""
        for said, place in {
            "{file: key.json}": KeyInFile(FOLDER / "key.json"),
            "{folder: /run/binding}": KeyInFolder(Path("/run/binding")),
            "{folder: binding, secretKey: credentials}": KeyInFolder(FOLDER / "binding", "credentials"),
            "{secretName: binding}": KeyInSecret("binding"),
            "{secretName: binding, secretNamespace: btp, secretKey: all}": KeyInSecret("binding", "btp", "all"),
        }.items():
            self.assertEqual(ServiceInstance("btp", place), self.one(f"serviceCredentials: {said}"))

    def test_all(self):
        """Everything that can be said of a service."""
        self.assertEqual(
            ServiceInstance("btp", KeyInFolder(FOLDER / "x509"), KeyInFile(FOLDER / "private.pem"), 3.0, 60.0),
            self.one(
                "serviceCredentials: {folder: x509, privateKey: {file: private.pem}}",
                "connectionTimeoutSeconds: 3",
                "readTimeoutSeconds: 60",
            ),
        )

    def test_mistakes(self):
        """Each in one line."""
        for said, error in (
            ("directory: d\n  serviceCredentials: {file: f}", "2: [0].directory: an instance has a directory or "),
            ("serviceCredentials: {file: f, folder: g}", "2: [0].serviceCredentials.folder: is there beside "),
            ("serviceCredentials: {secretKey: k}", "2: [0].serviceCredentials.secretKey: needs "),
            ("serviceCredentials: {file: f, secretKey: k}", "2: [0].serviceCredentials.secretKey: has no meaning "),
            (
                "serviceCredentials: {folder: f, secretNamespace: n}",
                "2: [0].serviceCredentials.secretNamespace: has no meaning ",
            ),
            ("serviceCredentials: {privateKey: {file: f}}", "2: [0].serviceCredentials.privateKey.file: belongs to "),
            ("directory: d\n  readTimeoutSeconds: 5", "3: [0].readTimeoutSeconds: belongs to an instance with "),
            ("serviceCredentials: {file: f}\n  readTimeoutSeconds: 0", "3: [0].readTimeoutSeconds: 0 is not from 1 "),
            ("serviceCredentials:", "1: [0].directory: is missing"),
            ("serviceCredentials: {fil: f}", "2: [0].serviceCredentials.fil: unknown key; did you mean "),
        ):
            with self.assertRaises(places.ConfigError) as caught:
                read(f"- name: btp\n  {said}\n")
            self.assertIn(f"{FILE}:{error}", str(caught.exception))

    def test_names(self):
        """Each name once, and at least one."""
        with self.assertRaisesRegex(places.ConfigError, r":2: \[1\].name: 'a' is the name of an instance before it"):
            read("- {name: a, directory: d}\n- {name: a, directory: e}\n")
        with self.assertRaisesRegex(places.ConfigError, "at least one instance is needed"):
            read("[]")

    def test_paths(self):
        """What has to be there; a Secret is nothing of this machine's."""
        private = KeyInFile(Path("/private.pem"))
        for instance, expected in (
            (DirectoryInstance("a", Path("/d")), [("directory", Path("/d"), PathKind.FOLDER)]),
            (
                ServiceInstance("a", KeyInFolder(Path("/k")), private),
                [
                    ("serviceCredentials.folder", Path("/k"), PathKind.FOLDER),
                    ("serviceCredentials.privateKey.file", Path("/private.pem"), PathKind.FILE),
                ],
            ),
            (ServiceInstance("a", KeyInSecret("s")), []),
        ):
            self.assertEqual(expected, [(key.path, path, kind) for key, path, kind in paths_of(instance)])

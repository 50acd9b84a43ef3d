"""What is installed, and what it may import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import tproxy.protocols

ROOT = Path(tproxy.__file__).parent.parent


def imported(module: Path) -> Iterator[str]:
    """The names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(module.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(name)):
                yield name


class PlugIns(SynchronousTestCase):
    """A plug-in is loaded by twistd before a reactor is chosen, and it decides without doing."""

    def test_nothing_of_twisted(self) -> None:
        """Of Twisted, the packages of the protocols import `twisted.plugin` alone."""
        packages = list(Path(tproxy.protocols.__file__).parent.rglob("__init__.py"))
        self.assertGreater(len(packages), 1)
        for package in packages:
            of_twisted = {name for name in imported(package) if name.partition(".")[0] == "twisted"}
            self.assertLessEqual(of_twisted, {"twisted.plugin"}, package)

    def test_namespaces(self) -> None:
        """`twisted/plugins` is no package of ours: an `__init__.py` there would hide Twisted's own plug-ins."""
        self.assertEqual([each.name for each in (ROOT / "twisted").rglob("__init__.py")], [])

    def test_drop_in(self) -> None:
        """The module that twistd loads to list its sub-commands pulls in no reactor."""
        self.assertEqual(
            set(imported(ROOT / "twisted" / "plugins" / "tproxy_dropin.py")), {"twisted.application.service"}
        )

    def test_entry_point(self) -> None:
        """The console script is there under its name."""
        setup = ConfigParser()
        setup.read(ROOT / "setup.cfg")
        self.assertIn("tproxy = tproxy.cli:main", setup["options.entry_points"]["console_scripts"])

"""The plug-ins: how the rest of the program finds IMAP."""

from __future__ import annotations

import ast
from pathlib import Path

from twisted.plugin import IPlugin, getPlugins
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import tproxy.protocols
from tproxy.interfaces import IProtocolPlugin
from tproxy.protocols import imap4


class Plugins(SynchronousTestCase):
    """`imap4` and `imap4s`."""

    def test_found(self):
        """twisted.plugin finds both, and they offer what a protocol has to."""
        found = {
            plugin.name: (plugin.default_port, plugin.encrypted)
            for plugin in getPlugins(IProtocolPlugin, tproxy.protocols)
            if plugin.name.startswith("imap")
        }
        self.assertEqual(found, {"imap4": (143, False), "imap4s": (993, True)})
        for plugin in (imap4.imap4, imap4.imap4s):
            verifyObject(IProtocolPlugin, plugin)
            verifyObject(IPlugin, plugin)

    def test_nothing_else_of_twisted(self):
        """The protocol's folder imports nothing of twisted but `twisted.plugin`, and that in one place."""
        imported = set()
        for path in Path(imap4.__file__).parent.glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    imported |= {(path.name, alias.name) for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    imported.add((path.name, node.module))
        self.assertEqual(
            {(name, module) for name, module in imported if module.startswith("twisted")},
            {("__init__.py", "twisted.plugin")},
        )

"""The guides say what is true: their code runs, and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from prometheus_client import Metric
from twisted.plugin import IPlugin
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.ops.exposition import everything, scraped
from tproxy.interfaces import IProtocolPlugin
from tproxy.lines import Dialogue
from tproxy.model import NoCredential, Password, Reason, Refusal, Secret, Stage
from tproxy.operator.manifests import SUCCESS, condition_reason
from tproxy.ops.logs import FIELDS
from tproxy.session import Close, Ended, Expired, Greeting, HandOver, LoggedIn, Login, Refuse, Send, Verified

TREE = Path(__file__).parent.parent
GUIDES = [TREE / "README.md", TREE / "CHANGELOG.md", TREE / "examples" / "README.md", *(TREE / "docs").glob("*.md")]


class PluginGuideTests(SynchronousTestCase):
    """The example of docs/protocol-plugin.md."""

    def setUp(self) -> None:
        plugin, test = re.findall(r"```python\n(.*?)```", (TREE / "docs" / "protocol-plugin.md").read_text(), re.DOTALL)
        self.names: dict[str, Any] = {"__name__": "shelf"}
        exec(plugin, self.names)
        self.test = test
        self.shelf = self.names["shelf"]

    def log_in(self, credential: object = None) -> Dialogue:
        login = Login(credential or Password("ada", Secret("pw")), "shelf.example", 7435, True, False, "t", "n")
        return Dialogue(self.shelf.log_in(login))

    def test_its_test(self) -> None:
        """The test that the guide shows passes."""
        exec(self.test, self.names)

    def test_interface(self) -> None:
        """The plug-in offers what a plug-in has to."""
        verifyObject(IPlugin, self.shelf)
        verifyObject(IProtocolPlugin, self.shelf)

    def test_client_half(self) -> None:
        """Each ending is the one that the guide tells."""
        refused = self.log_in()
        refused.receive(b"HELLO\r\n")
        for dialogue, said, reason in (
            (refused, b"NO\r\n", Reason.LOGIN_REFUSED),
            (self.log_in(), b"* OK IMAP\r\n", Reason.PROTOCOL_VIOLATION),
            (self.log_in(), b"x" * 10_000, Reason.PROTOCOL_VIOLATION),
            (self.log_in(Password("a b", Secret("x"))), b"HELLO\r\n", Reason.CREDENTIAL_INVALID),
            (self.log_in(Password("a", Secret("x\r\nDELETE"))), b"HELLO\r\n", Reason.CREDENTIAL_INVALID),
        ):
            [effect] = dialogue.receive(said)
            self.assertEqual(reason, effect.refusal.reason)
        for event, reason in ((Ended(), Reason.UPSTREAM_ENDED), (Expired(), Reason.TIMED_OUT)):
            [effect] = self.log_in().tell(event)
            self.assertEqual(reason, effect.refusal.reason)
        self.assertEqual([HandOver(b"HELLO\r\n")], self.log_in(NoCredential()).receive(b"HELLO\r\n"))

    def test_server_half(self) -> None:
        """An application is greeted, or told that it will not be."""
        machine = self.shelf.greet(Greeting("books"))
        self.assertEqual([Send(b"HELLO books\r\n"), HandOver(b"")], Dialogue(machine).tell(LoggedIn(())))
        refusal = Refuse(Refusal(Stage.CONNECT, Reason.CONNECTION_FAILED, "down"))
        self.assertEqual([Send(b"SORRY try again later\r\n"), Close()], Dialogue(machine).tell(refusal))
        self.assertEqual([Close()], Dialogue(machine).tell(Ended()))

    def test_probe(self) -> None:
        """The session is good, as far as this protocol can tell."""
        self.assertEqual([Verified()], Dialogue(self.shelf.probe(None, ())).tell(LoggedIn(())))


def exposed(family: Metric) -> str:
    """The name of a metric as the guide has it."""
    return f"{family.name}_total" if family.type == "counter" else family.name


class OperateGuideTests(SynchronousTestCase):
    """docs/operate.md leaves nothing out that an operator meets."""

    def setUp(self) -> None:
        self.explained = set(re.findall(r"`([a-z.-]+)`", (TREE / "docs" / "operate.md").read_text()))

    def test_reasons(self) -> None:
        """Every reason is explained."""
        self.assertEqual(set(), {str(reason) for reason in Reason} - self.explained)

    def test_stages(self) -> None:
        """Every stage is named."""
        self.assertEqual(set(), {str(stage) for stage in Stage} - self.explained)

    def test_events(self) -> None:
        """Every event that is logged is explained, and none that is not."""
        sources = "".join(path.read_text() for path in (TREE / "tproxy").rglob("*.py"))
        logged = set(re.findall(r'event="([a-z.-]+)"|_note\("([a-z.-]+)"', sources))
        names = {name for found in logged for name in found if name}
        names |= {f"{what.replace(' ', '-')}.failed" for what in re.findall(r'what="([a-z ]+)"', sources)}
        table = (TREE / "docs" / "operate.md").read_text().partition("| event | when |")[2].partition("\n\n")[0]
        events = {name for row in table.splitlines() for name in re.findall(r"`([a-z.-]+)`", row.rpartition(" | ")[0])}
        self.assertEqual(names, events)

    def test_metrics(self) -> None:
        """Every metric is explained with its kind, and none that is not there."""
        told = {(exposed(family), family.type) for family in scraped(everything(self))}
        table = (TREE / "docs" / "operate.md").read_text().partition("| metric | kind |")[2].partition("\n\n")[0]
        self.assertEqual(told, set(re.findall(r"^\| `([a-z_]+)` \| ([a-z]+) \|", table, re.MULTILINE)))

    def test_fields(self) -> None:
        """Every field of a log line is explained."""
        self.assertEqual(set(), set(FIELDS) - self.explained)


class KubernetesGuideTests(SynchronousTestCase):
    """docs/kubernetes.md leaves no condition unexplained."""

    def test_reasons(self) -> None:
        """Every reason that a condition may have is in the table, and none that it can't have."""
        table = (TREE / "docs" / "kubernetes.md").read_text().partition("| reason | cause |")[2].partition("\n\n")[0]
        reasons = {condition_reason(reason) for reason in Reason} | {SUCCESS, "ServiceCreationFailed"}
        self.assertEqual(reasons, set(re.findall(r"^\| `([A-Za-z0-9-]+)` \|", table, re.MULTILINE)))


class LinkTests(SynchronousTestCase):
    """Links within the project."""

    def test_links(self) -> None:
        """Every link to a file leads to one."""
        found = 0
        for guide in GUIDES:
            for link in re.findall(r"\]\((?!https?:)([^)#]+)", guide.read_text()):
                found += 1
                self.assertTrue((guide.parent / link).exists(), f"{guide.name}: {link}")
        self.assertGreater(found, 10)


class WidthTests(SynchronousTestCase):
    """What people read in an editor, too."""

    def test_width(self) -> None:
        """Prose is wrapped at 120 columns; tables and code can't be."""
        for guide in GUIDES:
            prose = re.sub(r"^ *```.*?^ *```$", "", guide.read_text(), flags=re.MULTILINE | re.DOTALL)
            long = [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")]
            self.assertEqual([], long, guide.name)

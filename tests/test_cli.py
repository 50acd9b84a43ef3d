"""The console script: what it prints and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import yaml
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.configurations import folder
from tproxy.assembly import configured
from tproxy.cli import WIDTH, _check, as_object, contents, main, offer, parser, resources, step_lines, table
from tproxy.cluster.state import State, save
from tproxy.model import ListenerKey, Offered, Reason, Refusal, Secret, Stage, Tenant
from tproxy.operator.manifests import ListenerStatus, Rejected
from tproxy.ops.check import Step

REFUSAL = Refusal(Stage.LOGIN, Reason.LOGIN_REFUSED, "The mail server refused the login", "Correct mail.password")
ROWS = (
    ListenerStatus(ListenerKey("shop", "mail"), "127.0.0.1", 1993, True, "ConfigurationSuccessful"),
    ListenerStatus(ListenerKey("shop", "mail", Tenant("acme")), "::1", 1994, True, "ConfigurationSuccessful"),
    ListenerStatus(ListenerKey("shop", "odd"), "127.0.0.1", 0, False, "FailedToApplyConfiguration", "because\x1b"),
)


class Table(SynchronousTestCase):
    """`tproxy ls` for a reader."""

    def test_columns(self) -> None:
        """Name, tenant, address and state stand under one another; what is wrong is below."""
        self.assertEqual(
            list(table(ROWS)),
            [
                "NAME            TENANT  ADDRESS         STATE",
                "shop/mail       -       127.0.0.1:1993  available",
                "shop/mail-acme  acme    [::1]:1994      available",
                "shop/odd        -       -               FailedToApplyConfiguration",
                "    because\\x1b",
            ],
        )


class Steps(SynchronousTestCase):
    """`tproxy check` for a reader and for machines."""

    def test_found(self) -> None:
        """Name, time, and one finding a line."""
        self.assertEqual(
            list(step_lines(Step("tls", 0.01234, ("TLSv1.3", "valid\x1b")))),
            ["tls              12.3 ms  TLSv1.3", " " * 26 + "valid\\x1b"],
        )
        self.assertEqual(list(step_lines(Step("connect", 1.5))), ["connect        1500.0 ms"])

    def test_failed(self) -> None:
        """A failure says what to do."""
        lines = list(step_lines(Step("login", 0, ("AUTHENTICATE PLAIN",), REFUSAL)))
        self.assertIn("FAILED: The mail server refused the login", lines[1])
        self.assertIn("What to do: Correct mail.password", lines[2])
        self.assertEqual(len(list(step_lines(Step("login", 0, (), Refusal(Stage.TLS, Reason.TLS_FAILED, "No"))))), 1)

    def test_width(self) -> None:
        """Nothing is wider than a terminal."""
        for line in step_lines(Step("capabilities", 99.9999, ("word " * 50, "x" * 200))):
            self.assertLessEqual(len(line), WIDTH)

    def test_json(self) -> None:
        """The same for machines."""
        shown = as_object("mail", "acme", False, [Step("dns", 0.0015, ("::1",)), Step("login", 0, (), REFUSAL)])
        self.assertEqual(
            json.loads(json.dumps(shown)),
            {
                "name": "mail",
                "tenant": "acme",
                "ok": False,
                "steps": [
                    {"step": "dns", "milliseconds": 1.5, "found": ["::1"], "failure": None},
                    {
                        "step": "login",
                        "milliseconds": 0,
                        "found": [],
                        "failure": {
                            "stage": "login",
                            "reason": "login-refused",
                            "message": "The mail server refused the login",
                            "remedy": "Correct mail.password",
                        },
                    },
                ],
            },
        )


class Resources(SynchronousTestCase):
    """What `tproxy check NAME` looks through."""

    def test_folder(self) -> None:
        """Destinations, good and bad; other objects and nonsense are passed over."""
        root = folder(self.mktemp())
        good = {
            "apiVersion": "destination.connectivity.api.sap/v1",
            "kind": "Destination",
            "metadata": {"name": "mail", "namespace": "shop"},
            "spec": {"destinationRef": {"name": "mail"}},
        }
        bad = {**good, "metadata": {"name": "bad"}, "spec": {}}
        documents = [good, bad, {"kind": "Secret", "metadata": {"name": "x"}}, {"kind": "Destination"}]
        (root / "resources" / "all.yaml").write_text(yaml.safe_dump_all(documents))
        config = configured(str(root / "config.yaml"))
        found = {each.name: each for each in resources(contents(config), config)}
        self.assertEqual(sorted(found), ["bad", "mail"])
        self.assertIsInstance(found["bad"], Rejected)


class Offers(TestCase):
    """What `tproxy check` brings in an application's place."""

    def read(self, content: bytes) -> Offered | None:
        """From standard input."""
        kept, sys.stdin = sys.stdin, TextIOWrapper(BytesIO(content), "utf-8")
        try:
            return offer("anna", "-")
        finally:
            sys.stdin = kept

    def wrong(self, user: str, file: str | None) -> str:
        code = str(self.assertRaises(SystemExit, offer, user, file).code)
        self.assertEqual(len(code.splitlines()), 1)
        return code

    def test_text(self) -> None:
        """The text of a file or of standard input, without the space around it, for the user."""
        file = Path(self.mktemp())
        file.write_text(" to ken\n")
        self.assertEqual(offer("anna", str(file)), Offered("anna", Secret("to ken")))
        self.assertEqual(self.read(b"\nt\xc3\xb6ken\n"), Offered("anna", Secret("töken")))
        self.assertIsNone(offer("", None))

    def test_wrong(self) -> None:
        """What cannot be read or is empty is named, never shown; a user alone is of no use."""
        file = Path(self.mktemp())
        self.assertIn(f"--credential {file} cannot be read (No such file", self.wrong("", str(file)))
        file.write_bytes(b"s3cret\xff")
        self.assertEqual(
            self.wrong("", str(file)), f"tproxy: --credential {file} cannot be read (it is not UTF-8 text)"
        )
        file.write_text(" \n")
        self.assertEqual(self.wrong("", str(file)), f"tproxy: --credential {file} holds nothing")
        for content, words in ((b"s3cret\xff", "not UTF-8"), (b"", "holds nothing")):
            self.assertIn(words, str(self.assertRaises(SystemExit, self.read, content).code))
        self.assertIn("--credential FILE", self.wrong("anna", None))

    async def test_brought(self) -> None:
        """It gets as far as a token endpoint: to one whose address is not allowed. Without it nothing is asked."""
        root = folder(self.mktemp())
        document = {
            "Name": "mail",
            "Type": "MAIL",
            "Authentication": "OAuth2RefreshToken",
            "tokenServiceURL": "https://127.0.0.1:1/token",
            "clientId": "client",
            "mail.transport.protocol": "imap4s",
            "mail.imap4s.host": "imap.example.com",
        }
        (root / "destinations" / "mail.json").write_text(json.dumps(document))
        config = configured(str(root / "config.yaml"))
        options = parser().parse_args(["check", "mail", "--config", "config.yaml", "--json"])
        for offered, step, reason in (
            (None, "resolve", Reason.CREDENTIAL_INVALID),
            (Offered("anna", Secret("s3cret")), "token", Reason.TOKEN_UNAVAILABLE),
        ):
            printed = StringIO()
            with redirect_stdout(printed):
                end = await self.assertFailure(
                    Deferred.fromCoroutine(_check(reactor, config, options, offered)), SystemExit
                )
            self.assertEqual(end.code, 1)
            self.assertNotIn("s3cret", printed.getvalue())
            last = json.loads(printed.getvalue())["steps"][-1]
            self.assertEqual((last["step"], last["failure"]["reason"]), (step, reason))


class Main(SynchronousTestCase):
    """The exit status, and what goes where."""

    def main(self, *arguments: str) -> tuple[object, str, str]:
        """The exit status, and what was written on the two streams."""
        streams = TextIOWrapper(BytesIO(), "utf-8"), TextIOWrapper(BytesIO(), "utf-8")
        kept, handler = (sys.stdout, sys.stderr), signal.getsignal(signal.SIGPIPE)
        sys.stdout, sys.stderr = streams
        status: object = 0
        try:
            main(arguments)
        except SystemExit as end:
            status = end.code
        finally:
            sys.stdout, sys.stderr = kept
            signal.signal(signal.SIGPIPE, handler)
        written = []
        for stream in streams:
            stream.seek(0)
            written.append(stream.read())
        return status, written[0], written[1]

    def test_usage(self) -> None:
        """A command line that is wrong ends with 2."""
        wrong = ((), ("nothing",), ("check",), ("check", "mail"), ("ls",), ("ls", "--odd"), ("loglevel", "loud"))
        for arguments in wrong:
            status, out, err = self.main(*arguments)
            self.assertEqual((status, out), (2, ""))
            self.assertIn("usage: tproxy", err)

    def test_help(self) -> None:
        """Help and version go to standard output."""
        for arguments, words in (
            (("--help",), "COMMAND"),
            (("check", "--help"), "--tenant"),
            (("--version",), "tproxy "),
            (("--version",), "\nProtocols: imap4 imap4s\n"),
        ):
            status, out, _ = self.main(*arguments)
            self.assertEqual(status, 0)
            self.assertIn(words, out)

    def test_wrong_configuration(self) -> None:
        """One line on standard error, status 1."""
        for command in (("ls",), ("check", "mail")):
            status, out, _ = self.main(*command, "--config", "nothing.yaml")
            self.assertRegex(str(status), r"^tproxy: nothing\.yaml: cannot be read \(.*\)$")
            self.assertEqual(out, "")

    def test_ls(self) -> None:
        """What the proxy has written down; nothing but the head before it ever ran."""
        root = folder(self.mktemp())
        words = ("ls", "--config", str(root / "config.yaml"))
        self.assertEqual(self.main(*words), (0, "NAME  TENANT  ADDRESS  STATE\n", ""))
        save(root / "state.json", State((), ROWS))
        self.assertEqual(self.main(*words)[1].splitlines(), list(table(ROWS)))
        listeners = json.loads(self.main(*words, "--json")[1])["listeners"]
        self.assertEqual(
            listeners[1],
            {
                "namespace": "shop",
                "name": "mail",
                "tenant": "acme",
                "address": "::1",
                "port": 1994,
                "available": True,
                "reason": "ConfigurationSuccessful",
                "message": "",
            },
        )

    def test_light(self) -> None:
        """What reads kubeconfigs takes a second to import: it is not there until one is read."""
        script = "import sys, tproxy.cli; sys.exit('kubernetes' in sys.modules)"
        self.assertEqual(0, subprocess.run([sys.executable, "-c", script]).returncode)

    def test_ls_namespace(self) -> None:
        """The listeners of one namespace."""
        root = folder(self.mktemp())
        save(root / "state.json", State((), ROWS))
        words = ("ls", "--config", str(root / "config.yaml"), "--namespace")
        self.assertEqual(4 + 1, len(self.main(*words, "shop")[1].splitlines()))
        self.assertEqual(1, len(self.main(*words, "other")[1].splitlines()))

    def test_cluster_of_no_cluster(self) -> None:
        """A kubeconfig has no meaning for a folder that stands in for a cluster."""
        root = folder(self.mktemp())
        for command in (("ls",), ("check", "mail")):
            for option in ("--kubeconfig", "--context"):
                status, out, _ = self.main(*command, "--config", str(root / "config.yaml"), option, "x")
                self.assertRegex(str(status), "^tproxy: .*: --kubeconfig and --context are about a cluster")
                self.assertEqual("", out)

    def test_user_alone(self) -> None:
        """A user without the credential is an error before anything is done."""
        root = folder(self.mktemp())
        status, out, _ = self.main("check", "mail", "--user", "anna", "--config", str(root / "config.yaml"))
        self.assertRegex(str(status), "^tproxy: --user says whose")
        self.assertEqual(out, "")

    def test_level(self) -> None:
        """The level of a running proxy alone is changed; what the signal would end gets none."""
        status, out, _ = self.main("loglevel", "debug", "--pid", str(os.getpid()))
        self.assertRegex(str(status), rf"^tproxy: process {os.getpid()} is no running tproxy: ")
        self.assertEqual(out, "")

    def test_damaged_state(self) -> None:
        """A state file that cannot be read is named."""
        root = folder(self.mktemp())
        (root / "state.json").write_text("{")
        self.assertRegex(str(self.main("ls", "--config", str(root / "config.yaml"))[0]), r"^tproxy: .*/state\.json: ")

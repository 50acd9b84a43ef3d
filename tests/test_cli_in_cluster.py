"""The console script against a cluster."""

from __future__ import annotations

import json
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from tests.apiserver.server import SECRETS, SERVICES
from tests.apiserver.storage import Served
from tests.cluster.api.harness import StandInTestCase
from tests.configurations import folder
from tproxy.assembly import configured
from tproxy.cli import _check, _ls, parser, told
from tproxy.cluster.kinds import DESTINATIONS
from tproxy.cluster.view import View
from tproxy.model import ListenerKey, Tenant
from tproxy.operator.listing import UNSAID
from tproxy.operator.manifests import API_VERSION, KIND, SUCCESS, TENANTS, ListenerStatus, Status
from tproxy.operator.statuses import status_document


class Clusters(StandInTestCase):
    """Both commands against a cluster."""

    def setUp(self) -> None:
        super().setUp()
        self.server.storage.serve(Served(DESTINATIONS, custom=True, status=True))
        self.root = folder(
            self.mktemp(),
            cluster={"kubernetes": {}},
            config={
                "integration": {
                    "destinationService": {
                        "instances": [
                            {"name": "local", "directory": "destinations"},
                            {"name": "btp", "serviceCredentials": {"secretName": "btp"}},
                        ]
                    }
                },
                "tenantMode": "shared",
                "health": {"port": 8080},
            },
        )
        self.config = configured(str(self.root / "config.yaml"))
        self.view = View(self.client, "default")

    def resource(self, name: str, instance: str = "local", **annotations: str) -> None:
        spec = {"destinationRef": {"name": name}, "destinationServiceInstanceName": instance}
        self.server.create(DESTINATIONS, "default", name, annotations=annotations, spec=spec)

    def command(self, *words: str) -> tuple[object, str, str]:
        """The exit status of a command, and what it wrote."""
        options = parser().parse_args([*words, "--config", "config.yaml"])

        async def main(reactor: object) -> None:
            if words[0] == "ls":
                await _ls(self.view, options)
            else:
                await _check(reactor, self.config, options, None, self.view)

        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            running = Deferred.fromCoroutine(told(main, MemoryReactorClock()))
            running.addErrback(lambda failure: failure.trap(SystemExit) and failure.value.code)
            self.flush()
            return self.successResultOf(running), out.getvalue(), err.getvalue()

    def test_ls(self) -> None:
        """Names, tenants, ports, states, and why not."""
        self.resource("mail")
        self.resource("new")
        rows = (
            ListenerStatus(ListenerKey("default", "mail", Tenant("acme")), "mail-acme.default", 993, True, SUCCESS),
            ListenerStatus(ListenerKey("default", "mail", Tenant("odd")), "", 0, False, "Failed\x1b", "because\x1b"),
        )
        mail = self.server.change(DESTINATIONS, "default", "mail")
        self.server.change(
            DESTINATIONS,
            "default",
            "mail",
            "status",
            status=status_document(Status(False, "Failed", "", rows), mail, 0),
        )
        owner = {"apiVersion": API_VERSION, "kind": KIND, "name": "mail", "uid": mail["metadata"]["uid"]}
        labels = {"app.kubernetes.io/managed-by": "tproxy", "tproxy/role": "name"}
        leads = {"externalName": "p12345.tproxy.svc.cluster.local", "ports": [{"port": 993}]}
        self.server.create(SERVICES, "default", "mail-acme", labels=labels, spec=leads)
        self.server.change(SERVICES, "default", "mail-acme", metadata={"ownerReferences": [owner]})
        status, out, err = self.command("ls")
        self.assertEqual((None, ""), (status, err))
        self.assertEqual(
            [
                "NAME               TENANT  PORT  TARGET  STATE",
                "mail-acme.default  acme    993   12345   available",
                "mail-odd.default   odd     -     -       Failed\\x1b",
                "    because\\x1b",
                "new.default        -       -     -       -",
                f"    {UNSAID}",
            ],
            out.splitlines(),
        )
        listeners = json.loads(self.command("ls", "--json")[1])["listeners"]
        self.assertEqual(
            {
                "namespace": "default",
                "name": "mail",
                "tenant": "acme",
                "address": "mail-acme.default",
                "port": 993,
                "available": True,
                "reason": "ConfigurationSuccessful",
                "message": "",
                "target": 12345,
            },
            listeners[0],
        )
        self.assertEqual("NAME  TENANT  PORT  TARGET  STATE\n", self.command("ls", "--namespace", "kube-system")[1])

    def test_ls_few_rights(self) -> None:
        """Without a right to Services some ports are not known, which is said; without one to Destinations, all."""
        self.resource("mail")
        self.server.forbidden.add(("list", "services"))
        status, out, err = self.command("ls")
        self.assertEqual((None, 3), (status, len(out.splitlines())))
        self.assertRegex(err, r"^tproxy: not all ports are shown: you have no right to list services in .*\n$")
        self.server.forbidden.add(("list", "destinations"))
        status, out, err = self.command("ls")
        self.assertRegex(str(status), "^tproxy: you have no right to list destinations")
        self.assertEqual(("", ""), (out, err))

    def test_check(self) -> None:
        """The resource is found in the cluster, and the walk begins."""
        self.resource("mail", **{TENANTS: '["acme"]'})
        for words, step, reason in (
            (("mail",), "find", "resource-invalid"),
            (("mail", "--namespace", "shop"), "find", "resource-invalid"),
            (("mail", "--namespace", "default", "--tenant", "acme"), "resolve", "destination-not-found"),
        ):
            status, out, _ = self.command("check", *words, "--json")
            last = json.loads(out)["steps"][-1]
            self.assertEqual((1, step, reason), (status, last["step"], last["failure"]["reason"]))

    def test_check_secret(self) -> None:
        """Of all instances it is the one of the resource whose Secret is read, and has to be readable."""
        self.server.forbidden.add(("get", "secrets"))
        self.resource("mail")
        self.resource("other", "btp")
        self.assertEqual(1, self.command("check", "mail")[0])
        self.assertNotIn("get", self.verbs())
        status, out, _ = self.command("check", "other")
        self.assertRegex(str(status), "^tproxy: you have no right to get secrets in the namespace default: ")
        self.assertEqual("", out)
        self.server.forbidden.clear()
        self.server.create(SECRETS, "default", "btp", data={"credentials": "e30="})
        status, out, _ = self.command("check", "other")
        self.assertEqual(1, status)
        self.assertIn("FAILED: ", out)

"""What a cluster goes through, and what listeners and sessions then do: nobody is ever led to somebody else's mail."""

from __future__ import annotations

import json
import re
import signal
from base64 import b64decode
from collections.abc import Iterator
from itertools import count
from time import monotonic
from typing import Any

from tests.integration.children import Child, start
from tests.integration.kubernetes.cluster import Pod
from tests.integration.kubernetes.installation import Installed, Replica, resource
from tests.integration.kubernetes.manifests import CRD, HOME
from tests.integration.kubernetes.programs import FOLDER
from tests.integration.proxy import TWISTD

OURS = ("-l", "app.kubernetes.io/managed-by=tproxy")
LEADS = f"from tproxy.cluster.api.election import Election; Election.leading = property(lambda self: True); {TWISTD}"
"""A replica that believes to be the leader, whatever the lease says."""


def holder(record: dict[str, Any]) -> tuple[str, ...]:
    """Whose a port is, or was until it was released: namespace, name, uid and tenant; nothing for a spare."""
    notes = record["metadata"]["annotations"]
    return tuple(
        notes[f"tproxy/{name}"] for name in ("namespace", "name", "uid", "tenant") if f"tproxy/{name}" in notes
    )


def released(record: dict[str, Any]) -> bool:
    return "tproxy/released-at" in record["metadata"]["annotations"]


class TroubleTests(Installed):
    """One installation, and sessions that know whose mailbox they should be in."""

    async def setUp(self):
        await super().setUp()
        await self.operate()
        self.tags = count()

    def tearDown(self):
        """Nothing that was said to somebody's mailbox was heard in another one."""
        for each in self.installation.mail.connections:
            heard = bytes(each.received)
            self.assertLessEqual(set(re.findall(rb"XMAILBOX (\S+)", heard)), {self.login(heard)})

    def login(self, heard: bytes) -> bytes:
        found = re.search(rb"AUTHENTICATE PLAIN (\S+)", heard)
        return b64decode(found[1]).split(b"\0")[1] if found else b""

    async def say(self, session: Child, user: str) -> None:
        """Say something in a session: it is heard in the mailbox of this user."""
        said = b"t%d XMAILBOX %s\r\n" % (next(self.tags), user.encode())
        session.transport.write(said)
        await session.output.until(rb"%s OK done" % said.split()[0])
        (there,) = (each for each in self.installation.mail.connections if said in bytes(each.received))
        self.assertEqual(user.encode(), self.login(bytes(there.received)))

    async def enter(self, client: Pod, name: str, user: str) -> Child:
        """A session by name, in the mailbox of this user."""
        session = self.session(client, name)
        await session.output.until(rb"\* PREAUTH")
        await self.say(session, user)
        return session

    async def serve(self, *users: tuple[str, str]) -> list[Child]:
        """A replica, and a session for each of these tenants and destinations in the namespace shop."""
        await self.cluster.namespace(self, "shop")
        tenants: dict[str, list[str]] = {}
        for tenant, name in users:
            self.installation.document(name, tenant)
            tenants.setdefault(name, []).append(tenant)
        self.replica = await self.installation.start("tproxy-1")
        self.client = await self.client("shop")
        await self.apply(*(resource("shop", name, *each) for name, each in tenants.items()))
        for name, each in tenants.items():
            await self.served("shop", name, *each)
        return [await self.enter(self.client, f"{name}-{tenant}", f"{tenant}{name}") for tenant, name in users]

    async def written(self) -> dict[str, str]:
        """All that we wrote, with its uids."""
        found = await self.cluster.get("services,endpointslices,networkpolicies", "-A", *OURS)
        things = [(each["kind"], each["metadata"]) for each in found["items"]]
        return {f"{kind} {each['namespace']}/{each['name']}": each["uid"] for kind, each in things}

    async def records(self) -> dict[str, Any]:
        """The records of ports by name."""
        found = await self.cluster.get("services", "-n", HOME, *OURS)
        return {each["metadata"]["name"]: each for each in found["items"]}

    async def port(self, namespace: str, name: str) -> str:
        """The record that a name leads to."""
        service = await self.cluster.get("service", name, "-n", namespace)
        return service["spec"]["externalName"].partition(".")[0]

    async def rests(self, *ports: str) -> None:
        """Returns once these ports are released."""

        async def told() -> bool:
            records = await self.records()
            return all(released(records[port]) for port in ports)

        await self.installation.until(told)

    def history(self) -> Child:
        """All records as they come and change, from now on."""
        watch = (FOLDER / "kubectl", f"--kubeconfig={self.cluster.admin}", "get", "services", "-n", HOME, *OURS)
        return start(self, [*watch, "--watch", "-o", "json"], self.cluster.folder)

    def holders(self, history: Child) -> dict[str, set[tuple[str, ...]]]:
        """Whose each port ever was."""
        found: dict[str, set[tuple[str, ...]]] = {}
        for record in documents(bytes(history.output).decode()):
            found.setdefault(record["metadata"]["name"], set()).add(holder(record))
        return {name: each - {()} for name, each in found.items()}

    async def resumed(self, before: dict[str, str], replica: Replica) -> None:
        """All is as it was, and what is new is served."""
        after = await self.written()
        self.assertEqual(before, {name: uid for name, uid in after.items() if name in before})
        self.installation.document("late")
        await self.apply(resource("shop", "late"))
        await self.available("shop", "late")
        await self.until_served(self.client, "late")
        await self.enter(self.client, "late", "late")
        self.assertEqual([], replica.logged(event="listener.closed"))

    async def test_killed(self):
        """Where the API server is killed, all goes on; a process that starts then waits, says so, and serves later."""
        users = [("acme", "mail"), ("globex", "mail")]
        sessions = await self.serve(*users)
        before = await self.written()
        self.addCleanup(self.cluster.restore)
        await self.cluster.stop("kube-apiserver")
        await self.installation.until(lambda: self.replica.logged(event="election.lost"))
        for session, (tenant, name) in zip(sessions, users, strict=True):
            await self.say(session, f"{tenant}{name}")
            await self.enter(self.client, f"{name}-{tenant}.shop", f"{tenant}{name}")
        self.assertEqual([], self.replica.logged(event="listener.closed"))

        await self.replica.child.end(signal.SIGKILL)
        again = await self.installation.run(self.replica.pod)
        await self.installation.until(lambda: again.logged(event="kubernetes.stale"))
        self.assertIn("cannot be followed", again.logged(event="kubernetes.stale")[0]["text"])
        self.assertEqual([], again.logged(event="listener.opened"))
        await self.cluster.restore()
        await self.until_served(self.client, "mail-acme")
        for tenant, name in users:
            await self.enter(self.client, f"{name}-{tenant}", f"{tenant}{name}")
        await self.resumed(before, again)

    async def test_silent(self):
        """Where the API server says nothing any more, all goes on, and goes further once it speaks again."""
        users = [("acme", "mail"), ("globex", "mail")]
        sessions = await self.serve(*users)
        before = await self.written()
        server = self.cluster.processes["kube-apiserver"]
        self.addCleanup(server.send_signal, signal.SIGCONT)
        server.send_signal(signal.SIGSTOP)
        await self.installation.until(lambda: self.replica.logged(event="election.lost"))
        for session, (tenant, name) in zip(sessions, users, strict=True):
            await self.say(session, f"{tenant}{name}")
            await self.enter(self.client, f"{name}-{tenant}.shop", f"{tenant}{name}")
        server.send_signal(signal.SIGCONT)
        await self.cluster.answers()
        await self.resumed(before, self.replica)
        for session, (tenant, name) in zip(sessions, users, strict=True):
            await self.say(session, f"{tenant}{name}")

    async def test_definition(self):
        """With the CRD go its resources, which is noticed at the latest when it is back; then all begins anew."""
        (session,) = await self.serve(("acme", "mail"))
        port = await self.port("shop", "mail-acme")
        await self.cluster.kubectl("delete", "crd", CRD)
        await self.define()
        await session.output.closed()
        await self.rests(port)
        await self.gone("shop", "mail-acme")
        await self.apply(resource("shop", "mail", "acme"))
        await self.served("shop", "mail", "acme")
        await self.enter(self.client, "mail-acme", "acmemail")
        self.assertNotEqual(port, await self.port("shop", "mail-acme"))

    async def test_deleted(self):
        """What is deleted ends at once, and its ports rest: neither who has its name later nor others get them."""
        history = self.history()
        first, _ = await self.serve(("acme", "mail"), ("globex", "other"))
        await self.cluster.namespace(self, "yard")
        self.installation.document("mail")
        await self.apply(resource("yard", "mail"))
        await self.available("yard", "mail")
        third = await self.enter(self.client, "mail.yard", "mail")
        ports = [await self.port("shop", "mail-acme"), await self.port("yard", "mail")]

        since = monotonic()
        await self.cluster.kubectl("delete", "destination", "mail", "-n", "shop")
        await first.output.closed()
        print(f"revoked after {monotonic() - since:.1f} s")
        await self.cluster.kubectl("delete", "namespace", "yard", "--wait=false")
        await self.cluster.kubectl("wait", "destination/mail", "-n", "yard", "--for=delete", "--timeout=60s")
        since = monotonic()
        await third.output.closed()
        print(f"revoked after {monotonic() - since:.1f} s")
        await self.gone("shop", "mail-acme")
        await self.rests(*ports)

        await self.apply(resource("shop", "mail", "acme"))
        await self.served("shop", "mail", "acme")
        await self.enter(self.client, "mail-acme", "acmemail")
        await self.replica.child.end(signal.SIGKILL)
        self.replica = await self.installation.run(self.replica.pod)
        names = [f"new-{number}" for number in range(7)]
        for name in names:
            self.installation.document(name)
        await self.apply(*(resource("shop", name) for name in names))
        for name in names:
            await self.available("shop", name)
            await self.enter(self.client, name, name)
        await self.enter(self.client, "other-globex", "globexother")
        await self.rests(*ports)
        self.assertEqual([], [name for name, whose in self.holders(history).items() if len(whose) > 1])

    async def test_deleted_unseen(self):
        """What was deleted, or made again, while no replica ran is noticed by the next one; all else stays."""
        await self.serve(("acme", "mail"), ("acme", "again"), ("acme", "kept"))
        await self.cluster.namespace(self, "yard")
        self.installation.document("mail")
        await self.apply(resource("yard", "mail"))
        await self.available("yard", "mail")
        names = [("shop", "mail-acme"), ("shop", "again-acme"), ("yard", "mail")]
        ports = [await self.port(*name) for name in names]
        kept = await self.port("shop", "kept-acme")
        await self.replica.child.end(signal.SIGKILL)
        await self.cluster.kubectl("delete", "destination", "mail", "again", "-n", "shop")
        await self.cluster.kubectl("delete", "namespace", "yard")
        await self.apply(resource("shop", "again", "acme"))
        self.assertEqual(
            [False] * 3, [released(each) for name, each in (await self.records()).items() if name in ports]
        )

        self.replica = await self.installation.run(self.replica.pod)
        await self.rests(*ports)
        await self.served("shop", "again", "acme")
        await self.enter(self.client, "again-acme", "acmeagain")
        await self.enter(self.client, "kept-acme", "acmekept")
        self.assertTrue(await self.refused(self.client, "mail-acme"))
        self.assertEqual({"again-acme", "kept-acme"}, await self.services("shop"))
        self.assertEqual(kept, await self.port("shop", "kept-acme"))

    async def test_two_leaders(self):
        """Two replicas that both believe to be the leader never give one port to two, nor one name two ports."""
        await self.cluster.namespace(self, "shop")
        history = self.history()
        names, tenants = [f"mail-{number}" for number in range(12)], ["acme", "globex"]
        for name in names:
            for tenant in tenants:
                self.installation.document(name, tenant)
        for name in ("tproxy-1", "tproxy-2"):
            await self.installation.start(name, LEADS)
        self.client = await self.client("shop")
        await self.apply(*(resource("shop", name, *tenants) for name in names[:8]))
        sessions = await self.each_its_own(names[:8], tenants)
        await self.cluster.kubectl("delete", "destination", *names[:4], "-n", "shop", "--wait=false")
        await self.apply(*(resource("shop", name, *tenants) for name in names[8:]))
        sessions = {
            user: sessions.get(user) or new for user, new in (await self.each_its_own(names[4:], tenants)).items()
        }
        for user, session in sessions.items():
            await self.say(session, user)
        holders = self.holders(history)
        self.assertEqual([], [name for name, whose in holders.items() if len(whose) > 1])
        self.assertLessEqual(len(names) * len(tenants), sum(map(len, holders.values())))

    async def each_its_own(self, names: list[str], tenants: list[str]) -> dict[str, Child]:
        """Each tenant of these resources has one port, and its name leads to its mailbox: a session for each user."""
        wanted = {("shop", name, tenant) for name in names for tenant in tenants}

        async def settled() -> bool:
            held = [holder(each) for each in (await self.records()).values() if not released(each)]
            return sorted((whose[0], whose[1], whose[3]) for whose in held if whose) == sorted(wanted)

        for name in names:
            await self.served("shop", name, *tenants)
        await self.installation.until(settled)
        records, sessions = await self.records(), {}
        for namespace, name, tenant in sorted(wanted):
            whose = holder(records[await self.port(namespace, f"{name}-{tenant}")])
            self.assertEqual((namespace, name, tenant), (whose[0], whose[1], whose[3]))
            sessions[f"{tenant}{name}"] = await self.enter(self.client, f"{name}-{tenant}", f"{tenant}{name}")
        return sessions


def documents(text: str) -> Iterator[Any]:
    """The JSON documents that follow each other in a text."""
    decoder, place = json.JSONDecoder(), 0
    while place < len(text):
        document, place = decoder.raw_decode(text, place)
        yield document
        place += len(text[place:]) - len(text[place:].lstrip())

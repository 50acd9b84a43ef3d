"""Replicas that come, go, and die, while workloads have sessions and begin new ones by name."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from base64 import b64decode
from itertools import chain
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from tests.integration.children import Child, start
from tests.integration.kubernetes.installation import Installed, Replica, resource
from tests.integration.kubernetes.manifests import HOME
from tests.integration.kubernetes.watching import Slices

WORKLOAD = Path(__file__).parent / "workload.py"
LISTENERS = int(os.environ.get("TPROXY_TEST_LISTENERS", "60"))
"""How many there are; with thousands of them, as a company has, these tests take an hour."""
TENANTS = 20
IDLE, RATE = 50, 20
DRAIN_SECONDS = 120


class ReplicaTests(Installed):
    """Two replicas, listeners for tenants, and a workload that uses them all."""

    timeout = 3600

    async def setUp(self):
        await super().setUp()
        await self.operate(limits={"connectionsPerListener": 300}, logging={"level": "info"})
        self.installation.configuration["cluster"]["kubernetes"]["drainSeconds"] = DRAIN_SECONDS
        await self.cluster.namespace(self, "shop")
        tenants = [f"t{number}" for number in range(TENANTS)]
        names = [f"mail-{number}" for number in range(max(1, LISTENERS // TENANTS))]
        for name in names:
            for tenant in tenants:
                self.installation.document(name, tenant)
        self.slices = Slices(self, self.cluster)
        self.first = await self.start("tproxy-1")
        self.second = await self.start("tproxy-2")
        await self.apply(*(resource("shop", name, *tenants) for name in names))
        for name in names:
            await self.served("shop", name, *tenants, seconds=600)
        self.users = {f"{name}-{tenant}": f"{tenant}{name}" for name in names for tenant in tenants}
        await self.everywhere(self.first, self.second)

    def tearDown(self):
        """Nothing that was said to somebody's mailbox was heard in another one."""
        for each in self.installation.mail.connections:
            heard = bytes(each.received)
            login = re.search(rb"AUTHENTICATE PLAIN (\S+)", heard)
            user = b64decode(login[1]).split(b"\0")[1] if login else b""
            self.assertLessEqual(set(re.findall(rb"XMAILBOX (\S+)", heard)), {user})

    async def start(self, name: str) -> Replica:
        """A replica that is ready; when it ends is noticed."""
        replica = await self.installation.start(name)
        self.slices.follow(replica)
        return replica

    async def everywhere(self, *replicas: Replica) -> None:
        """Returns once every name leads to these replicas, and to nobody else, on the node, too."""
        wanted = {replica.pod.address for replica in replicas}
        await self.installation.until(lambda: self.slices.everywhere(len(self.users), *replicas), 300)
        await self.installation.until(lambda: all(each == wanted for each in self.routed().values()), 300)

    async def work(self, idle: int, rate: int) -> Child:
        """A workload that has begun."""
        client = await self.client("shop")
        names = [f"{name}.shop={user}" for name, user in self.users.items()]
        command = client.command(sys.executable, "-u", WORKLOAD, str(idle), str(rate), *names)
        workload = start(self, command, self.cluster.folder)
        await self.answer(workload, 1)
        return workload

    async def answer(self, workload: Child, number: int) -> dict[str, Any]:
        """What a workload said, the `number`th time."""

        def said(seen: bytearray) -> Any:
            lines = seen.split(b"\n")
            return lines[number - 1] if len(lines) > number else None

        return json.loads(await workload.output.until(said))

    async def ask(self, workload: Child, command: bytes, number: int) -> dict[str, Any]:
        workload.transport.write(command + b"\n")
        return await self.answer(workload, number)

    async def end(self, replica: Replica) -> Deferred[Any]:
        """Tell a replica to go, as a kubelet does; gives what fires with its status."""
        where = ("pod", replica.pod.name, "-n", HOME, f"--grace-period={DRAIN_SECONDS + 30}", "--wait=false")
        await self.cluster.kubectl("delete", *where)
        return replica.child.end(signal.SIGTERM, DRAIN_SECONDS + 30)

    async def test_rollout(self):
        """While all replicas are replaced no connection fails, no session is harmed, no name leads to the dead only."""
        workload = await self.work(IDLE, RATE)
        replicas = [self.first, self.second]
        for number in (1, 2):
            old, other = replicas
            new = await self.start(f"tproxy-{number + 2}")
            await self.everywhere(*replicas, new)
            ended = await self.end(old)
            await self.everywhere(other, new)
            self.assertEqual([], (await self.ask(workload, b"renew", number + 1))["cut"])
            self.assertEqual(0, await ended)
            await old.pod.end()
            replicas = [other, new]
        said = await self.ask(workload, b"end", 4)
        failed, cut = list(chain.from_iterable(said["failed"])), said["cut"]
        print(
            f"a rollout with {len(self.users)} listeners: {said['begun']} connections begun, {len(failed)} failed, "
            f"{len(cut)} of {3 * IDLE} sessions cut, the slowest took {said['slowest']} s"
        )
        self.assertEqual(([], []), (failed, cut))
        self.assertEqual([], self.slices.wrong)
        self.assertIsNone(self.slices.watch.output.end, str(self.slices.watch.output))

    async def test_killed(self):
        """A replica that is killed takes its own sessions with it, and no others; new ones find the other replica."""
        workload = await self.work(200, RATE)
        await self.first.child.end(signal.SIGKILL)
        await self.first.pod.ready(False)
        await self.everywhere(self.second)
        said = await self.healed(workload)
        print(f"a replica is killed: {len(said['cut'])} of 200 sessions cut, {self.lost(said)}")
        self.assertLess(len(said["cut"]), 200)

    async def test_silent(self):
        """A replica whose node vanishes without a word is taken out, though its Pod says that it is ready."""
        workload = await self.work(0, RATE)
        self.cluster.network.cut(self.first.pod.host)
        await self.everywhere(self.second)
        said = await self.healed(workload)
        print(f"a node vanishes: {self.lost(said)}")

    async def healed(self, workload: Child) -> dict[str, Any]:
        """What a workload says once nothing new fails any more."""
        for number in (2, 3):
            await self.ask(workload, b"renew", number)
        said = await self.ask(workload, b"end", 4)
        self.assertEqual([], said["failed"][-1])
        return said

    def lost(self, said: dict[str, Any]) -> str:
        failed = sum(map(len, said["failed"]))
        return f"{failed} of {said['begun']} new connections failed until it was taken out"

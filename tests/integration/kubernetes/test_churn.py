"""Churn: Destinations, tenants, credentials and replicas change at random, under workloads that never stop coming."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from base64 import b64decode
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count, product
from math import inf
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.integration.children import Child, start
from tests.integration.kubernetes.churn import (
    CHOICES,
    NAMES,
    NAMESPACES,
    SPARES,
    TENANTS,
    Credential,
    Delete,
    Mailboxes,
    Script,
    Wish,
    faults,
    host,
    records,
)
from tests.integration.kubernetes.cluster import Pod
from tests.integration.kubernetes.inside import descriptors, leaked, listening, marks
from tests.integration.kubernetes.installation import Installed, Replica, resource
from tests.integration.kubernetes.manifests import HOME
from tests.integration.kubernetes.measures import ready
from tproxy.cluster.api.lease import DURATION
from tproxy.model import PROVIDER
from tproxy.operator.objects import Port
from tproxy.operator.upkeep import REST_SECONDS

SEED = int(os.environ.get("TPROXY_TEST_SEED", "1"))
SECONDS = float(os.environ.get("TPROXY_TEST_CHURN_SECONDS", "45"))
"""How long it goes on; an hour is 3600."""
VISITORS = Path(__file__).parent / "visitors.py"
RATE, PAUSE = 10, 0.5
DRAIN_SECONDS = 20
CALM = 10.0
"""Where nothing was changed about a name for so long, and somebody was there to lead, it is expected to answer."""


class ScriptTests(TestCase):
    """What the churn is held against."""

    def test_seed(self):
        """A seed gives always the same steps; another one gives others."""
        steps = [[script.step() for _ in range(200)] for script in map(Script, (1, 1, 2))]
        self.assertEqual(steps[0], steps[1])
        self.assertNotEqual(steps[1], steps[2])

    def test_mailboxes(self):
        """A mailbox is right while it is meant, late from then on, and wrong where it never was meant."""
        mailboxes = Mailboxes()
        mailboxes.note(1, {("mail.shop", 993, "a"), ("post.shop", 993, "b")})
        mailboxes.note(5, {("mail.shop", 993, "c"), ("post.shop", 143, "b")})
        mailboxes.note(8, {("mail.shop", 993, "c"), ("post.shop", 143, "b")}, {"mail.shop"})
        asked = [("mail.shop", "a", 4), ("mail.shop", "a", 7), ("mail.shop", "b", 4), ("post.shop", "b", 7)]
        self.assertEqual([0, 2, inf, 0], [mailboxes.age(*each) for each in asked])
        self.assertEqual([True, False], [mailboxes.steady("post.shop", *each) for each in ((2, 4), (4, 6))])
        self.assertEqual([True, False], [mailboxes.steady("mail.shop", *each) for each in ((6, 7), (6, 9))])

    def test_faults(self):
        """In an empty cluster everything is missing, and what nobody wants is too much."""
        script = Script(1)
        script.step()
        found = faults(script, [], {"10.0.0.1": ({12345: "mark"}, {12345})})
        self.assertEqual(([], sorted({name for name, *_ in script.meant})), found["hosts"])
        self.assertEqual([(993, SPARES)], found["spares"][1])
        self.assertEqual(([12345], []), found["ports of 10.0.0.1"])


def anew(step: Wish | Delete | Credential, wishes: dict[tuple[str, str], Wish]) -> set[str]:
    """The names whose sessions a step ends though they may mean the same then: as all is made anew, or others may come.

    A Destination that changes its tenants leaves those alone that stay.
    """
    if isinstance(step, Delete):
        wishes.pop((step.namespace, step.name))
    if not isinstance(step, Wish):
        return set()
    before = wishes.get((step.namespace, step.name))
    return set() if before and before.scope == step.scope else {host(key) for key in step.keys}


class ChurnTests(Installed):
    """Two replicas, three namespaces, and a seed."""

    timeout = SECONDS + 900

    async def setUp(self):
        await super().setUp()
        await self.operate(logging={"level": "info"}, limits={"connectionsPerListener": 300})
        self.installation.configuration["cluster"]["kubernetes"] |= {"drainSeconds": DRAIN_SECONDS, "spares": SPARES}
        self.script, self.mailboxes, self.done, self.numbers = Script(SEED), Mailboxes(), Counter(), count(1)
        self.judged, self.oldest, self.wrong = 0, 0.0, []
        self.replicas, self.before, self.killed = [], {}, []
        for namespace in NAMESPACES:
            await self.cluster.namespace(self, namespace)
        for *words, tenant in product(NAMESPACES, NAMES, CHOICES["colour"], (PROVIDER, *TENANTS)):
            self.write("-".join(words), tenant)
        await self.come()
        await self.come()

    # replicas

    async def come(self, pod: Pod | None = None) -> None:
        """A replica comes, in a pod of its own, or in that of one that was killed."""
        run = self.installation.run(pod) if pod else self.installation.begin(f"tproxy-{next(self.numbers)}")
        replica = await run
        await self.installation.until(lambda: ready(replica))
        await replica.pod.ready()
        self.replicas.append(replica)
        self.before[replica] = descriptors(replica)
        await self.announced(replica)

    async def leave(self, replica: Replica) -> None:
        """A replica goes, as when its Pod is deleted."""
        self.replicas.remove(replica)
        grace = DRAIN_SECONDS + 30
        where = ("pod", replica.pod.name, "-n", HOME, f"--grace-period={grace}", "--wait=false")
        await self.cluster.kubectl("delete", *where)
        self.assertEqual(0, await replica.child.end(signal.SIGTERM, grace))
        await replica.pod.end()

    async def kill(self, replica: Replica) -> None:
        self.replicas.remove(replica)
        await replica.child.end(signal.SIGKILL)
        await replica.pod.ready(False)

    async def announced(self, replica: Replica) -> None:
        """Returns once all that leads somewhere now has led to this replica, too."""
        lacking: set[str] | None = None

        async def told() -> bool:
            nonlocal lacking
            slices = (await self.cluster.get("endpointslices", "-n", HOME, "-l", "tproxy/role=port"))["items"]
            lead = {each["metadata"]["name"]: json.dumps(each["endpoints"]) for each in slices if each["endpoints"]}
            without = {name for name, where in lead.items() if f'"{replica.pod.address}"' not in where}
            lacking = without if lacking is None else lacking & without
            return not lacking

        await self.installation.until(told, 120)

    async def replace(self, until: float) -> None:
        """One replica after the other goes, and another one comes."""
        chance = Random(SEED)
        while reactor.seconds() < until:
            how, old = chance.choice(("surge", "leave", "kill", "restart")), chance.choice(self.replicas)
            elected, lost = (len(old.logged(event=f"election.{what}")) for what in ("elected", "lost"))
            self.done.update((how, "of the leader") if elected > lost else (how,))
            began = time.monotonic()
            match how:
                case "surge":
                    await self.come()
                    await self.leave(old)
                case "leave":
                    await self.leave(old)
                    await self.come()
                case "kill":
                    await self.kill(old)
                    await old.pod.end()
                    await self.come()
                case "restart":
                    await self.kill(old)
                    await self.come(old.pod)
            if how in ("kill", "restart"):
                self.killed.append((began, max(time.monotonic(), began + DURATION)))

    # what is wanted

    async def change(self, visitors: Child, until: float) -> None:
        """One step of the script after the other."""
        pause = Random(SEED)
        while reactor.seconds() < until:
            before, touched, wishes = self.script.meant, self.script.contested, dict(self.script.wishes)
            steps = self.script.step()
            touched |= self.script.contested.union(*(anew(step, wishes) for step in steps))
            touched |= {name for name, *_ in before ^ self.script.meant}
            self.mailboxes.note(time.monotonic(), before | self.script.meant, touched)
            for step in steps:
                await self.perform(step)
            self.mailboxes.note(time.monotonic(), self.script.meant, touched)
            names = " ".join(f"{name}:{port}" for name, port, _ in self.script.meant)
            visitors.transport.write(f"names {names}\n".encode())
            self.judge()
            await deferLater(reactor, pause.expovariate(1 / PAUSE))

    async def perform(self, step: Wish | Delete | Credential) -> None:
        self.done[type(step).__name__] += 1
        match step:
            case Credential(destination, tenant):
                self.write(destination, tenant)
            case Delete(namespace, name):
                await self.cluster.kubectl("delete", "destination", name, "-n", namespace)
            case Wish(namespace, name, tenants, _, port, scope):
                more = {"destination": step.destination, "port": port, "scope": scope}
                await self.apply(resource(namespace, name, *tenants, **more))

    def write(self, destination: str, tenant: str) -> None:
        user = self.script.user(destination, tenant)
        self.installation.document(destination, tenant, mail__user=user, password=f"canary-{user}")

    # what is there

    def judge(self) -> None:
        """Look at what was said in each mailbox. Connections that have ended are not needed any more then."""
        connections = self.installation.mail.connections
        for each in [each for each in connections if each.received.end is not None]:
            connections.remove(each)
            heard = bytes(each.received)
            login = re.search(rb"AUTHENTICATE PLAIN (\S+)", heard)
            user = b64decode(login[1]).split(b"\0")[1].decode() if login else ""
            for name, moment in re.findall(r"XMAILBOX (\S+) (\S+)", heard.decode()):
                age = self.mailboxes.age(name, user, float(moment))
                self.judged += 1
                if age == inf:
                    self.wrong.append(f"{name} at {moment} led to {user}")
                else:
                    self.oldest = max(self.oldest, age)

    async def rest(self) -> list[Port]:
        """The records, once all is as it should be and no session is left."""
        found: dict[str, Any] = {}

        async def told() -> list[Port] | None:
            nonlocal found
            things = (await self.cluster.get("services,endpointslices,networkpolicies,destinations", "-A"))["items"]
            replicas = {each.pod.address: (await marks(each), listening(each)) for each in self.replicas}
            found = faults(self.script, things, replicas)
            for each in self.replicas:
                if more := leaked(self.before[each], descriptors(each)):
                    found[f"descriptors of {each.pod.name}"] = [dict(more)], []
            self.judge()
            if left := self.installation.mail.connections:
                found["connections"] = [str(each.received) for each in left], []
            return None if found else records(things)

        try:
            return await self.installation.until(told, 120)
        except AssertionError:
            shown = json.dumps(found, default=str, indent=1)
            raise AssertionError(f"seed {SEED}: too much, and missing:\n{shown}") from None

    def served(self, seconds: float) -> set[tuple[int, str]]:
        """Which port was whose within some seconds, as the replicas have told it."""
        since = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()
        told = (event for replica in self.installation.replicas for event in replica.events if event["time"] > since)
        taken = [event for event in told if event.get("event") in ("listener.opened", "listener.taken")]
        return {(event["port"], event["listener"]) for event in taken if event["listener"][0] != "/"}

    def unexplained(self, lost: list[list[Any]]) -> list[list[Any]]:
        """What was lost though nothing was changed about its name, and no replica was killed."""
        return [
            [what, name, began, ended, *more]
            for what, name, began, ended, *more in lost
            if self.mailboxes.steady(name, began - CALM, ended)
            and not any(since < ended and began < until + CALM for since, until in self.killed)
        ]

    def show(self, begun: int, lost: list[list[Any]], ports: list[Port]) -> None:
        """Print the figures."""
        became = Counter("late" if late else what for what, _, _, _, late, _ in lost)
        unexplained = self.unexplained(lost)
        kinds = Counter("spare" if port.spare else "held" if port.holder else "resting" for port in ports)
        print(
            f"{SECONDS:.0f} s of churn with seed {SEED}, {dict(self.done)}:\n{begun} sessions begun: "
            f"{became['cut']} cut, {became['failed']} and {became['late']} late ones failed, {len(unexplained)} of "
            f"these for no known reason; {self.judged} mailboxes, {len(self.wrong)} wrong ones, "
            f"{self.oldest:.1f} s after a change at most;\nports: {dict(kinds)}"
        )
        for each in self.replicas:
            before, now = self.before[each], descriptors(each)
            print(f"{each.pod.name}: {dict(now)}, at first {dict(before)}")
        told = (event for replica in self.installation.replicas for event in replica.logged(event="session.refused"))
        print(f"refused: {dict(Counter((event['stage'], event['reason']) for event in told))}")
        for what, name, moment, ended, late, why in unexplained:
            since = moment - self.mailboxes.changed(name, moment)
            how = f"{what} {name} at {moment:.1f}, {since:.1f} s after a change, for {ended - moment:.1f} s, {late=}"
            print(f"for no known reason: {how}: {why}")

    async def test_churn(self):
        """Nobody is led to somebody else's mailbox; no port, no object and no descriptor is left over."""
        client = await self.client(NAMESPACES[0])
        visitors = start(self, client.command(sys.executable, "-u", VISITORS, str(RATE)), self.cluster.folder)
        began = reactor.seconds()
        # Who is there in the last quarter of the time shows what it does not give back.
        parts = [self.change(visitors, began + SECONDS), self.replace(began + 0.75 * SECONDS)]
        await gatherResults(map(Deferred.fromCoroutine, parts), consumeErrors=True)
        visitors.transport.write(b"end\n")
        self.assertEqual(0, await visitors.output.closed(), str(visitors.output))
        said = json.loads(bytes(visitors.output))

        ports = await self.rest()
        self.assertLessEqual(self.served(REST_SECONDS - 100), {(port.port, str(port.key)) for port in ports})
        held = [port for port in ports if port.holder]
        self.show(said["begun"], said["lost"], ports)
        sessions = [await self.enter(client, host(port.key), port.service_port) for port in held]
        self.oldest = 0.0
        for wish in list(self.script.wishes.values()):
            await self.perform(self.script.give_up(wish))
        for session in sessions:
            await session.output.closed()
        await self.rest()
        self.assertEqual(([], 0.0), (self.wrong, self.oldest))

    async def enter(self, client: Pod, name: str, port: int) -> Child:
        session = self.session(client, name, port)
        await session.output.until(rb"\* PREAUTH")
        session.transport.write(f"a XMAILBOX {name} {time.monotonic()}\r\n".encode())
        await session.output.until(rb"a OK done")
        return session

"""A look inside a replica: the ports that it tells, and what the system says of its process."""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.integration.kubernetes.cluster import API
from tests.integration.kubernetes.installation import HEALTH, Replica
from tests.integration.kubernetes.measures import asked
from tproxy.cluster.api.transport import KEPT_CONNECTIONS

SOCKET = re.compile(r"socket:\[(\d+)\]")
LISTENS = "0A"
"""The state of a socket that listens, as the kernel writes it."""


async def marks(replica: Replica) -> dict[int, str]:
    """The ports that a replica tells, with their marks."""
    _, page = await asked(replica, HEALTH, "/status")
    told = json.loads(page)
    return {int(port): mark for port, mark in told["Components"]["tproxy-tcp"]["Marks"].items()}


def sockets(replica: Replica) -> dict[str, tuple[str, int, str]]:
    """The TCP sockets in a replica's network, by inode: state, own port, and the other end, in hexadecimal digits."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{replica.child.pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            found[words[9]] = words[3], int(words[1].rpartition(":")[2], 16), words[2]
    return found


def listening(replica: Replica) -> set[int]:
    """Where a replica listens, but for its own pages."""
    return {port for state, port, _ in sockets(replica).values() if state == LISTENS} - {HEALTH}


def descriptors(replica: Replica) -> Counter[str]:
    """The open descriptors of a replica, by what they are."""
    known = sockets(replica)
    found: Counter[str] = Counter()
    api = "".join(f"{int(each):02X}" for each in reversed(API.split(".")))
    for each in Path(f"/proc/{replica.child.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            what = str(each.readlink())
            socket = SOCKET.fullmatch(what)
            match known.get(socket[1]) if socket else None:
                case None:
                    what = what.partition("[")[0]
                case "0A", _, _:
                    what = "listening"
                case _, port, end if port == HEALTH or end.endswith(f":{HEALTH:04X}"):
                    what = "health"
                case _, _, end:
                    what = "API server" if end.startswith(api) else "session"
            found[what] += 1
    return found


def leaked(before: Counter[str], now: Counter[str]) -> Counter[str]:
    """The descriptors that a replica has more than before, with no session left.

    There may be other listeners, connections that are kept for the next request to the API server, and those on
    which replicas ask each other.
    """
    kept = {"API server": before["API server"] + KEPT_CONNECTIONS, "health": 2}
    return now - Counter({**before, **kept, "listening": now["listening"], "session": 0})

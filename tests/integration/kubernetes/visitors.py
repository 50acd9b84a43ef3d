"""RATE: what workloads do while names come and go. Runs in a workload's pod.

Reads commands, a line each. `names HOST:PORT …`: by these names, from now on, RATE sessions are begun each second. Some
begin late, at the address that a name had minutes ago, as with a client that keeps what it was told. Each says
`XMAILBOX HOST MOMENT`, by which name it came and when that was looked up, and lasts some seconds. `end` ends all, and
is answered with a line of JSON: how many were begun, and what was lost: whether it `failed` to begin or was `cut`, the
host, the moment, the moment of the end, whether it was late, and why.
"""

import asyncio
import json
import random
import socket
import sys
import time
from collections import deque

LATE, LATE_SECONDS = 0.2, 240
LASTS, LONGEST = 1.5, 5.0
PATIENCE = 20.0


class Visitors:
    def __init__(self, rate):
        self.rate, self.names, self.running = rate, [], set()
        self.known = deque(maxlen=int(rate * LATE_SECONDS))
        self.begun, self.lost = 0, []

    async def once(self):
        late = bool(self.known) and random.random() < LATE
        host, moment, address = random.choice(self.known) if late else (None, time.monotonic(), None)
        self.begun += 1
        lost = ["failed", host, moment, None, late, None]
        try:
            async with asyncio.timeout(PATIENCE):
                if not late:
                    lost[1], port = host, _ = random.choice(self.names)
                    address = await self.look_up(host, port)
                    self.known.append((host, moment, address))
                await self.visit(host, moment, address, lost)
        except (OSError, EOFError, TimeoutError) as error:
            lost[3], lost[5] = time.monotonic(), repr(error)
            self.lost.append(lost)

    async def look_up(self, host, port):
        loop = asyncio.get_running_loop()
        return (await loop.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_STREAM))[0][4]

    async def visit(self, host, moment, address, lost):
        reader, writer = await asyncio.open_connection(*address)
        try:
            await self.hear(reader, b"* PREAUTH ")
            writer.write(f"a XMAILBOX {host} {moment}\r\n".encode())
            await self.hear(reader, b"a OK done\r\n")
            lost[0] = "cut"
            await asyncio.sleep(min(random.expovariate(1 / LASTS), LONGEST))
            writer.write(b"b LOGOUT\r\n")
            await self.hear(reader, b"* BYE bye\r\n")
            await self.hear(reader, b"b OK done\r\n")
        finally:
            writer.close()

    async def hear(self, reader, wanted):
        line = await reader.readline()
        if not line.startswith(wanted):
            raise EOFError(line)

    async def begin(self):
        while self.rate:
            if self.names:
                task = asyncio.create_task(self.once())
                self.running.add(task)
                task.add_done_callback(self.running.discard)
            await asyncio.sleep(1 / self.rate)

    async def run(self):
        loop = asyncio.get_running_loop()
        commands = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        beginning = asyncio.create_task(self.begin())
        while (words := (await commands.readline()).decode().split())[:1] == ["names"]:
            self.names = [word.split(":") for word in words[1:]]
        self.rate = 0
        await beginning
        await asyncio.gather(*self.running)
        print(json.dumps({"begun": self.begun, "lost": self.lost}), flush=True)


asyncio.run(Visitors(float(sys.argv[1])).run())

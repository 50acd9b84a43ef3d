"""IDLE RATE NAME…: what workloads do while replicas come and go. Runs in a workload's pod.

`NAME` is `host=user`: by the host's name, on port 993, there should be a session in this user's mailbox. IDLE sessions
are kept; RATE more are begun each second, are asked whose they are, and end. Reads commands, a line each, and answers
each with a line of JSON: `renew` ends the kept sessions, after a look whether all of them are well, and begins them
anew; `end` ends everything. Every answer tells what there was so far; `failed` has a list for each command, of what
was begun after it.
"""

import asyncio
import json
import random
import sys
import time
from contextlib import suppress

PORT = 993
PATIENCE = 15.0


class Workload:
    def __init__(self, idle, rate, names):
        self.idle, self.rate, self.names = idle, rate, names
        self.kept, self.begun, self.failed, self.cut = [], 0, [[]], []
        self.slowest = 0.0
        self.running = set()

    async def session(self, name, user):
        """A session that said whose it is: exactly what is expected, and nothing else."""
        reader, writer = await asyncio.open_connection(name, PORT)
        try:
            greeting = await reader.readline()
            label = name.partition(".")[0].encode()
            if not (greeting.startswith(b"* PREAUTH ") and label in greeting):
                raise ValueError(f"the greeting is {greeting!r}")
            await self.ask(reader, writer, b"a", b"XMAILBOX " + user.encode())
        except BaseException:
            writer.close()
            raise
        return reader, writer

    async def ask(self, reader, writer, tag, command):
        writer.write(tag + b" " + command + b"\r\n")
        answer = await reader.readline()
        if answer != tag + b" OK done\r\n":
            raise ValueError(f"the answer to {command!r} is {answer!r}")

    async def leave(self, reader, writer):
        writer.write(b"z LOGOUT\r\n")
        rest = await reader.read()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        if rest != b"* BYE bye\r\nz OK done\r\n":
            raise ValueError(f"the end is {rest!r}")

    async def once(self):
        name, user = random.choice(self.names)
        began = time.monotonic()
        self.begun += 1
        failed = self.failed[-1]
        try:
            async with asyncio.timeout(PATIENCE):
                await self.leave(*await self.session(name, user))
        except (OSError, ValueError, TimeoutError) as error:
            failed.append(f"{name} after {time.monotonic() - began:.2f} s: {error!r}")
        self.slowest = max(self.slowest, time.monotonic() - began)

    async def keep(self):
        while len(self.kept) < self.idle:
            name, user = random.choice(self.names)
            with suppress(OSError):
                self.kept.append((name, *await self.session(name, user)))

    async def look(self):
        """Whether each kept session is still what it was; they are ended."""
        for name, reader, writer in self.kept:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self.ask(reader, writer, b"b", b"NOOP")
                    await self.leave(reader, writer)
            except (OSError, ValueError, TimeoutError) as error:
                self.cut.append(f"{name}: {error!r}")
                writer.close()
        self.kept = []

    async def begin(self):
        while self.rate:
            task = asyncio.create_task(self.once())
            self.running.add(task)
            task.add_done_callback(self.running.discard)
            await asyncio.sleep(1 / self.rate)

    def said(self):
        told = {"begun": self.begun, "failed": self.failed, "cut": self.cut, "slowest": round(self.slowest, 2)}
        print(json.dumps(told), flush=True)

    async def run(self):
        loop = asyncio.get_running_loop()
        commands = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        await self.keep()
        beginning = asyncio.create_task(self.begin())
        self.said()
        while (await commands.readline()).strip() == b"renew":
            self.failed.append([])
            await self.look()
            await self.keep()
            self.said()
        self.rate = 0
        await beginning
        await asyncio.gather(*self.running)
        await self.look()
        self.said()


asyncio.run(Workload(int(sys.argv[1]), float(sys.argv[2]), [word.split("=") for word in sys.argv[3:]]).run())

"""`tproxy demo`: a mail server, a stand-in of SAP BTP, and tproxy, on this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from attrs import frozen
from twisted.internet.defer import Deferred, race
from twisted.internet.error import CannotListenError, ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.ssl import PrivateCertificate
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from tproxy.model import PROVIDER, ListenerKey, Tenant
from tproxy.operator.manifests import TENANTS
from tproxy.places import ConfigError
from tproxy.testing.btp import BTP, Setup
from tproxy.testing.btp.__main__ import read, write_key
from tproxy.testing.btp.setup import Properties, parse
from tproxy.testing.certificates import Authority
from tproxy.testing.mailserver import MailServer
from tproxy.testing.messages import SAMPLES, compose

LOOPBACK = "127.0.0.1"
TWISTD = "from twisted.scripts.twistd import run; run()"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
START_SECONDS = 30
STOP_SECONDS = 10


class Trouble(Exception):
    """The demo can't go on; the words are for its user."""


class Moment:
    """Something that happens once, and that any number may wait for."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[Any]] = []
        self._results: list[object] = []

    def happen(self, result: object = None) -> None:
        """It happens now; a second time is none."""
        if not self._results:
            self._results.append(result)
            for waiter in self._waiting:
                waiter.callback(result)

    def wait(self) -> Deferred[Any]:
        """Fires when it happens, or at once if it has."""
        waiter: Deferred[Any] = Deferred(self._waiting.remove)
        if self._results:
            waiter.callback(self._results[0])
        else:
            self._waiting.append(waiter)
        return waiter


class Proxy(ProcessProtocol):
    """The process of tproxy. `ended` happens with its exit status, or minus the signal that ended it."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.ended = Moment()

    def start(self, folder: Path) -> None:
        """Run `twistd -n --pidfile= tproxy --config tproxy.yaml` in the folder; it writes where we write."""
        arguments = [sys.executable, "-c", TWISTD, "-n", "--pidfile=", "tproxy", "--config", "tproxy.yaml"]
        streams: dict[int, Any] = {0: "w", 1: 1, 2: 2}
        self._reactor.spawnProcess(self, arguments[0], arguments, env=None, path=str(folder), childFDs=streams)

    def processEnded(self, reason: Failure) -> None:
        """Twisted says that it ended."""
        status: Any = reason.value
        self.ended.happen(status.exitCode if status.signal is None else -status.signal)

    async def stop(self) -> None:
        """End it, by force if it takes too long."""
        self._signal("TERM")
        force = self._reactor.callLater(STOP_SECONDS, self._signal, "KILL")
        await self.ended.wait()
        if force.active():
            force.cancel()

    def _signal(self, name: str) -> None:
        try:
            if self.transport is not None:
                self.transport.signalProcess(name)
        except ProcessExitedAlready:
            pass


@frozen
class Listener:
    """Where a destination answers; `wanted` is the port that its resource asks for, `user` whose mailbox it is."""

    key: ListenerKey
    address: str
    port: int
    wanted: int
    greeting: str
    user: str


@frozen
class Examples:
    """A working copy of the examples, and what the stand-in knows: edited to what this machine allows."""

    folder: Path
    setup: Setup

    def destinations(self) -> dict[tuple[Tenant, str], Properties]:
        """The destinations by tenant and name: those in the folder, and those that the stand-in has for each tenant."""
        paths = sorted((self.folder / "destinations").glob("*.json"))
        found = {(PROVIDER, path.stem): json.loads(path.read_text()) for path in paths}
        for tenant, account in self.setup.accounts.items():
            for level in account.destinations.values():
                found |= {(tenant, name): properties for name, properties in level.items()}
        return found

    def mailboxes(self) -> dict[tuple[Tenant, str], Properties]:
        """The destinations that lead to a mail server on this machine."""
        return {key: each for key, each in self.destinations().items() if each.get("mail.imap4s.host") == LOOPBACK}

    def resources(self) -> list[Mapping[str, Any]]:
        """The Destination resources."""
        paths = sorted((self.folder / "resources").glob("*.yaml"))
        return [resource for path in paths for resource in yaml.safe_load_all(path.read_text())]

    def move_mail_server(self, port: int) -> None:
        """Correct the destinations: the mail server is at another port."""
        for (tenant, name), properties in self.mailboxes().items():
            properties["mail.imap4s.port"] = str(port)
            if tenant == PROVIDER:
                (self.folder / "destinations" / f"{name}.json").write_text(json.dumps(properties, indent=2))

    def listeners(self) -> list[Listener] | None:
        """What tproxy opened, once that is all that the resources ask for."""
        try:
            records = json.loads((self.folder / "state.json").read_text())["listeners"]
        except (OSError, ValueError):
            return None
        opened = {(each["namespace"], each["name"], each["tenant"]): each for each in records if each["available"]}
        destinations = self.destinations()
        found = []
        for resource in self.resources():
            metadata, spec = resource["metadata"], resource["spec"]
            annotations = metadata.get("annotations", {})
            for tenant in json.loads(annotations.get(TENANTS, f'["{PROVIDER}"]')):
                record = opened.get((metadata["namespace"], metadata["name"], tenant))
                if record is None:
                    return None
                found.append(
                    Listener(
                        key=ListenerKey(metadata["namespace"], metadata["name"], tenant),
                        address=record["address"],
                        port=record["port"],
                        wanted=spec["service"]["port"],
                        greeting=annotations.get("tproxy/greeting", "preauth"),
                        user=destinations.get((tenant, spec["destinationRef"]["name"]), {}).get("mail.user", ""),
                    )
                )
        return sorted(found, key=lambda each: each.key)


def open_mail_server(reactor: Any, examples: Examples, authority: Authority) -> int:
    """Serve the mailboxes that the destinations name, where they say, or else at another port; returns the port."""
    mailboxes = examples.mailboxes()
    certificate = authority.issue(LOOPBACK, "localhost")
    tls = PrivateCertificate.loadPEM(certificate.pem + certificate.key_pem).options()
    tenants_users = {each["mail.user"] for (tenant, _), each in mailboxes.items() if tenant != PROVIDER}
    server = MailServer(
        {each["mail.user"]: each["mail.password"] for each in mailboxes.values()},
        lambda user: [welcome(user)] if user in tenants_users else SAMPLES,
    )
    wanted = int(next(iter(mailboxes.values()))["mail.imap4s.port"])
    try:
        reactor.listenSSL(wanted, server, tls, interface=LOOPBACK)
    except CannotListenError:
        port = int(reactor.listenSSL(0, server, tls, interface=LOOPBACK).getHost().port)
        print(f"Port {wanted} is taken: the mail server answers at port {port} instead.", flush=True)
        examples.move_mail_server(port)
        return port
    return wanted


def welcome(user: str) -> bytes:
    """The message that a tenant's user finds."""
    return compose(
        "Welcome",
        "Postmaster <postmaster@mail.example>",
        "Mon, 02 Jun 2025 08:00:00 +0000",
        f"This is the mailbox of {user}.\n",
        to=user,
    )


async def opened(reactor: Any, examples: Examples) -> list[Listener] | None:
    """The listeners, once they all are there; None if that takes too long."""
    for _ in range(START_SECONDS * 10):
        if listeners := examples.listeners():
            return listeners
        await deferLater(reactor, 0.1)
    return None


def guide(folder: Path, mail_port: int, listeners: Sequence[Listener]) -> Iterator[str]:
    """What to tell the user once everything answers, line by line."""
    rows = [(f"{each.address}:{each.port}", str(each.key), each.user) for each in listeners]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    holders = {each.port: f"{each.key.service}'s" for each in listeners}
    tenants = [each for each in listeners if each.key.tenant]
    yield ""
    yield f"The mailboxes of the IMAPS server at {LOOPBACK}:{mail_port} are open, without a password, at"
    for row, each in zip(rows, listeners, strict=True):
        note = f" (port {each.wanted} is {holders.get(each.wanted, 'taken')})" if each.port != each.wanted else ""
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {cells}  greets with {each.greeting}{note}"
    for each in [each for each in listeners if each.greeting == "preauth"][:1]:
        yield ""
        yield "Try, and type what is below it:"
        yield f"  telnet {each.address} {each.port}"
        yield '  2 LIST "" "*"'
        yield "  3 SELECT INBOX"
        yield "  5 FETCH 1 BODY[TEXT]"
    for each in [each for each in listeners if each.greeting == "open"][:1]:
        yield ""
        yield "A client that wants to log in may, with any user and password:"
        login = f"m = imaplib.IMAP4('{each.address}', {each.port}); m.login('any', 'any')"
        yield f'  python3 -c "import imaplib; {login}; print(m.select(), m.logout())"'
    if tenants:
        yield ""
        yield "Each tenant reads its own mail; its destination comes from a stand-in of SAP BTP's Destination service:"
        for each in tenants:
            read_mail = (
                f"m = imaplib.IMAP4('{each.address}', {each.port}); m.select(); print(m.fetch('1', 'BODY[TEXT]'))"
            )
            yield f'  python3 -c "import imaplib; {read_mail}; m.logout()"'
    yield ""
    yield "Each step of the way to the mail server:"
    command = Path(sysconfig.get_path("scripts")) / "tproxy"
    shown = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
    for each in [*listeners[:1], *tenants[:1]]:
        tenant = ["--tenant", each.key.tenant] if each.key.tenant else []
        yield "  " + shlex.join([str(shown), "check", each.key.name, *tenant, "--config", str(folder / "tproxy.yaml")])
    yield ""
    yield "Loopback addresses are open here (config.security.allowedNetworks); an installation refuses them."
    yield "Ctrl-C ends the demo and removes its files."


async def serve(reactor: Any, examples: Examples, signalled: Moment) -> None:
    """Serve until a signal comes. Raises Trouble."""
    btp = BTP(reactor, examples.setup)
    mail_port = open_mail_server(reactor, examples, btp.authority)
    await btp.start(LOOPBACK)
    (examples.folder / "ca.pem").write_text(btp.authority.pem)
    write_key(btp, examples.folder / "service-key.json")
    proxy = Proxy(reactor)
    proxy.start(examples.folder)
    try:
        listening: Deferred[Any] = Deferred.fromCoroutine(opened(reactor, examples))
        match await race([signalled.wait(), proxy.ended.wait(), listening]):
            case 0, _:
                return
            case 2, None:
                raise Trouble(f"tproxy did not open its listeners within {START_SECONDS} s.")
            case 2, listeners:
                print(*guide(examples.folder, mail_port, listeners), sep="\n", flush=True)
                which, status = await race([signalled.wait(), proxy.ended.wait()])
                if which == 1:
                    raise Trouble(f"tproxy ended with status {status}.")
            case _, status:
                raise Trouble(f"tproxy ended with status {status}.")
    finally:
        await proxy.stop()


def run(reactor: Any, examples: Examples) -> None:
    """Run the reactor until a signal comes. Raises Trouble."""
    signalled = Moment()
    outcome: list[object] = []

    def begin() -> None:
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: reactor.callFromThread(signalled.happen))
        serving = Deferred.fromCoroutine(serve(reactor, examples, signalled))
        serving.addBoth(outcome.append).addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    for each in outcome:
        if isinstance(each, Failure):
            each.raiseException()


@contextmanager
def own_terminal() -> Iterator[None]:
    """Ctrl-C is for us alone meanwhile: to `make`, which may have started us, it would be a failure."""
    group = os.getpgrp()
    if group == os.getpid() or not sys.stdin.isatty() or os.tcgetpgrp(sys.stdin.fileno()) != group:
        yield
        return
    os.setpgid(0, 0)
    for number in (signal.SIGTTOU, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    os.tcsetpgrp(sys.stdin.fileno(), os.getpid())
    try:
        yield
    finally:
        os.tcsetpgrp(sys.stdin.fileno(), group)


def main(argv: Sequence[str]) -> int:
    """Run the demo; returns the exit status."""
    installed = Path(sysconfig.get_path("data")) / "share" / "tproxy" / "examples"
    parser = argparse.ArgumentParser(prog="tproxy demo", description=__doc__)
    parser.add_argument("--examples", type=Path, default=installed, help="the folder to run a copy of")
    original = parser.parse_args(argv).examples
    if not (original / "tproxy.yaml").is_file():
        parser.error(f"{original} holds no tproxy.yaml: name the folder of examples with --examples")

    from twisted.internet import reactor

    with own_terminal(), tempfile.TemporaryDirectory(prefix="tproxy-demo-") as temporary:
        folder = Path(temporary).resolve()
        shutil.copytree(original, folder, dirs_exist_ok=True)
        try:
            path = original / "btp.yaml"
            run(reactor, Examples(folder, parse(read(path), path)))
        except (ConfigError, Trouble) as trouble:
            print(trouble, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`tproxy demo`: a mail server and tproxy in front of it, on this machine, until Ctrl-C."""

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

from tproxy.testing.certificates import Authority
from tproxy.testing.mailserver import MailServer

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
    """Where a destination answers; `wanted` is the port that its resource asks for."""

    name: str
    address: str
    port: int
    wanted: int
    greeting: str


@frozen
class Examples:
    """A working copy of the examples: the files are edited to what this machine allows."""

    folder: Path

    def documents(self) -> list[tuple[Path, dict[str, str]]]:
        """The destination documents that lead to a mail server on this machine."""
        paths = sorted((self.folder / "destinations").glob("*.json"))
        documents = [(path, json.loads(path.read_text())) for path in paths]
        return [(path, document) for path, document in documents if document.get("mail.imap4s.host") == LOOPBACK]

    def resources(self) -> list[Mapping[str, Any]]:
        """The Destination resources."""
        paths = sorted((self.folder / "resources").glob("*.yaml"))
        return [resource for path in paths for resource in yaml.safe_load_all(path.read_text())]

    def move_mail_server(self, port: int) -> None:
        """Correct the documents: the mail server is at another port."""
        for path, document in self.documents():
            path.write_text(json.dumps({**document, "mail.imap4s.port": str(port)}, indent=2))

    def listeners(self) -> list[Listener] | None:
        """What tproxy opened, once that is all that the resources ask for."""
        try:
            records = json.loads((self.folder / "state.json").read_text())["listeners"]
        except (OSError, ValueError):
            return None
        opened = {(each["namespace"], each["name"]): each for each in records if each["available"]}
        found = []
        for resource in self.resources():
            metadata = resource["metadata"]
            record = opened.get((metadata["namespace"], metadata["name"]))
            if record is None:
                return None
            found.append(
                Listener(
                    name=f"{metadata['namespace']}/{metadata['name']}",
                    address=record["address"],
                    port=record["port"],
                    wanted=resource["spec"]["service"]["port"],
                    greeting=metadata.get("annotations", {}).get("tproxy/greeting", "preauth"),
                )
            )
        return sorted(found, key=lambda each: each.name)


def open_mail_server(reactor: Any, examples: Examples) -> int:
    """Serve the mailboxes that the documents name, where they say, or else at another port; returns the port."""
    documents = [document for _, document in examples.documents()]
    authority = Authority.create()
    (examples.folder / "ca.pem").write_text(authority.pem)
    certificate = authority.issue(LOOPBACK, "localhost")
    tls = PrivateCertificate.loadPEM(certificate.pem + certificate.key_pem).options()
    server = MailServer({document["mail.user"]: document["mail.password"] for document in documents})
    wanted = int(documents[0]["mail.imap4s.port"])
    try:
        reactor.listenSSL(wanted, server, tls, interface=LOOPBACK)
    except CannotListenError:
        port = int(reactor.listenSSL(0, server, tls, interface=LOOPBACK).getHost().port)
        print(f"Port {wanted} is taken: the mail server answers at port {port} instead.", flush=True)
        examples.move_mail_server(port)
        return port
    return wanted


async def opened(reactor: Any, examples: Examples) -> list[Listener] | None:
    """The listeners, once they all are there; None if that takes too long."""
    for _ in range(START_SECONDS * 10):
        if listeners := examples.listeners():
            return listeners
        await deferLater(reactor, 0.1)
    return None


def guide(folder: Path, mail_port: int, listeners: Sequence[Listener]) -> Iterator[str]:
    """What to tell the user once everything answers, line by line."""
    width = max(len(each.name) for each in listeners)
    yield ""
    yield f"The mailbox of the IMAPS server at {LOOPBACK}:{mail_port} is open, without a password, at"
    for each in listeners:
        taken = f" (port {each.wanted} is taken)" if each.port != each.wanted else ""
        yield f"  {each.address}:{each.port}  {each.name:<{width}}  greets with {each.greeting}{taken}"
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
    yield ""
    yield "Each step of the way to the mail server:"
    command = Path(sysconfig.get_path("scripts")) / "tproxy"
    shown = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
    name = listeners[0].name.partition("/")[2]
    yield "  " + shlex.join([str(shown), "check", name, "--config", str(folder / "tproxy.yaml")])
    yield ""
    yield "Loopback addresses are open here (config.security.allowedNetworks); an installation refuses them."
    yield "Ctrl-C ends the demo and removes its files."


async def serve(reactor: Any, examples: Examples, signalled: Moment) -> None:
    """Serve until a signal comes. Raises Trouble."""
    mail_port = open_mail_server(reactor, examples)
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
            run(reactor, Examples(folder))
        except Trouble as trouble:
            print(trouble, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

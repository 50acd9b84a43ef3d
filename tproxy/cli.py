"""The console script `tproxy`: check a destination, list the listeners, run the demo."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import textwrap
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, cast

from attrs import asdict, evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import globalLogBeginner

from tproxy.assembly import Clock, assemble, configured, installed, release
from tproxy.cluster.folder import Folder
from tproxy.cluster.state import read_state
from tproxy.cluster.view import View, ViewError, view
from tproxy.config import Config, ConfigError
from tproxy.model import Offered, RefusedError, Secret, Tenant
from tproxy.operator.listing import Row, listing
from tproxy.operator.manifests import ListenerStatus, Rejected, Resource, parse
from tproxy.ops.check import Checker, Step, find
from tproxy.ops.logs import LineObserver, escaped

WIDTH = 80
NAME_COLUMN = 13
TIME_COLUMN = 13


class ShowVersion(argparse.Action):
    """Prints which release this is, and which mail protocols are installed with it. Raises ConfigError."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"tproxy {release()}\nProtocols: {' '.join(sorted(installed()))}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="tproxy",
        description="A transparent proxy for mail systems: plain TCP ports that are logged-in mail sessions. "
        "The proxy itself runs under Twisted: twistd -n --pidfile= tproxy --config FILE",
    )
    top.add_argument(
        "--version", action=ShowVersion, nargs=0, help="show the version and the protocols that are installed"
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    check = commands.add_parser(
        "check",
        help="log in to one destination and say how each step went",
        description="Walks to a destination's mail server as the proxy would: resolve, DNS, connect, TLS, greeting, "
        "login, one harmless command. The walk starts here, on this machine: what only the pods of a cluster can reach "
        "may be out of reach. Prints each step with its time, and for a failure the likely cause and what to change. "
        "Exit status 0 if all is well, 1 if not.",
    )
    check.add_argument("name", metavar="NAME", help="a Destination resource, or a destination of the default instance")
    check.add_argument("--namespace", metavar="NS", help="where the resource is, if its name is in several namespaces")
    check.add_argument("--tenant", metavar="T", default="", help="the tenant's subdomain")
    check.add_argument(
        "--credential",
        metavar="FILE",
        help="holds the refresh token or authorization code that an application would send, where the destination "
        "asks for one; - is standard input. A code is used up by the check",
    )
    check.add_argument("--user", metavar="U", default="", help="the user that the application would name beside it")
    check.set_defaults(run=run_check)

    ls = commands.add_parser(
        "ls",
        help="list the listeners",
        description="Lists name, tenant, address and state of every listener, as the proxy has written them down; in a "
        "cluster the names as workloads use them, with the port to connect to and the port of tproxy's pods that it "
        "leads to. Connects to nothing but an API server.",
    )
    ls.add_argument("--namespace", metavar="NS", help="those of one namespace alone")
    ls.set_defaults(run=run_ls)

    for command in (check, ls):
        command.add_argument("--config", metavar="FILE", required=True, help="the configuration: one YAML file")
        command.add_argument("--json", action="store_true", help="print JSON, for machines")
        command.add_argument(
            "--kubeconfig",
            metavar="FILE",
            help="how to reach the cluster, where the configuration has cluster.kubernetes; without it what that says, "
            "in a pod its service account, else the usual kubeconfig",
        )
        command.add_argument("--context", metavar="CONTEXT", help="a context of the kubeconfig; without it the current")

    commands.add_parser("demo", help="run a mail server and a proxy in front of it, to try")
    return top


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says and exits: 0 all is well, 1 it is not, 2 the command line is wrong."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["demo"]:
        from tproxy.testing.demo import main as demo

        sys.exit(demo(words[1:]))
    try:
        options = parser().parse_args(words)
        cast(Any, sys.stdout).reconfigure(errors="backslashreplace")
        options.run(options)
    except ConfigError as error:
        sys.exit(f"tproxy: {error}")


# The commands


def run_check(options: argparse.Namespace) -> None:
    """`tproxy check NAME`."""
    config = settings(options)
    offered = offer(options.user, options.credential)
    run(lambda reactor: _check(reactor, config, options, offered, seen(reactor, config, options)))


def settings(options: argparse.Namespace) -> Config:
    """The configuration, which fits the command line. Raises ConfigError."""
    config = configured(options.config)
    if config.kubernetes is None and (options.kubeconfig or options.context):
        raise ConfigError(
            f"{options.config}: --kubeconfig and --context are about a cluster, and this configuration has "
            "cluster.local: leave them out, or give the configuration that is used in the cluster"
        )
    return config


def seen(reactor: Any, config: Config, options: argparse.Namespace) -> View | None:
    """The cluster, if there is one. Raises ConfigError."""
    if config.kubernetes is None:
        return None
    return view(config.kubernetes, options.kubeconfig, options.context, os.environ, reactor, Clock(reactor))


def run(main: Callable[[Any], Awaitable[None]]) -> NoReturn:
    """Runs the reactor until `main` is done, and exits."""
    globalLogBeginner.beginLoggingTo([LineObserver(sys.stderr, "error", text=True)], redirectStandardIO=False)
    react(lambda reactor: Deferred.fromCoroutine(told(main, reactor)))


async def told(main: Callable[[Any], Awaitable[None]], reactor: Any) -> None:
    """Does what `main` does; what is wrong is one line and exit status 1."""
    try:
        await main(reactor)
    except (ConfigError, ViewError) as error:
        raise SystemExit(f"tproxy: {error}") from None


def offer(user: str, file: str | None) -> Offered | None:
    """What an application would bring: the text of a file, or of standard input for `-`. Exits where it is nothing."""
    if file is None:
        if user:
            sys.exit("tproxy: --user says whose the credential is; give that with --credential FILE")
        return None
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else "it is not UTF-8 text"
        sys.exit(f"tproxy: --credential {file} cannot be read ({why})")
    if not text.strip():
        sys.exit(f"tproxy: --credential {file} holds nothing")
    return Offered(user, Secret(text.strip()))


async def _check(
    reactor: Any,
    config: Config,
    options: argparse.Namespace,
    offered: Offered | None,
    cluster: View | None = None,
) -> None:
    steps: list[Step] = []

    def done(step: Step) -> None:
        steps.append(step)
        if not options.json:
            print(*step_lines(step), sep="\n", flush=True)

    if cluster is None:
        manifests: Iterable[object] = contents(config)
    else:
        manifests = await cluster.destinations(options.namespace or "", options.name)
    try:
        request = find(
            resources(manifests, config),
            options.name,
            options.namespace,
            Tenant(options.tenant),
            config.default_instance,
        )
    except RefusedError as error:
        done(Step("find", 0.0, refusal=error.refusal))
        good = False
    else:
        instance = next(each for each in config.instances if each.name == request.instance)
        secrets = None if cluster is None else await cluster.keys(instance)
        parts = assemble(evolve(config, instances=(instance,)), reactor, secrets=secrets)
        checker = Checker(parts.clock, parts.store, parts.connector, parts.plugins, config.security.plaintext_hosts)
        good = await checker.check(request, done, offered)
    if options.json:
        print(json.dumps(as_object(options.name, options.tenant, good, steps), indent=2))
    raise SystemExit(0 if good else 1)


def contents(config: Config) -> Iterator[object]:
    """The manifests of the folder."""
    folder = Folder(config.folder.directory)
    folder.look()
    return (manifest.content for manifest in folder.manifests)


def resources(manifests: Iterable[object], config: Config) -> Iterator[Resource | Rejected]:
    """The Destination resources among manifests; what is no such resource is passed over."""
    for manifest in manifests:
        with suppress(RefusedError):
            resource = parse(manifest, config)
            if resource is not None:
                yield resource


def run_ls(options: argparse.Namespace) -> None:
    """`tproxy ls`."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    config = settings(options)
    if config.kubernetes is not None:
        run(lambda reactor: _ls(cast(View, seen(reactor, config, options)), options))
    listeners = read_state(config.folder.state)
    shown = [each for each in listeners if options.namespace in (None, each.key.namespace)]
    _print(options, [as_row(each) for each in shown], table(shown))


async def _ls(cluster: View, options: argparse.Namespace) -> None:
    namespace = options.namespace or ""
    found = await cluster.destinations(namespace)
    try:
        names = await cluster.names(namespace)
    except ViewError as error:
        print(f"tproxy: not all ports are shown: {error}", file=sys.stderr)
        names = ()
    rows = listing(found, names)
    _print(options, [{**as_row(each.status), "target": each.target} for each in rows], names_table(rows))


def _print(options: argparse.Namespace, rows: list[dict[str, object]], lines: Iterable[str]) -> None:
    if options.json:
        print(json.dumps({"listeners": rows}, indent=2))
    else:
        print(*lines, sep="\n")


def as_row(listener: ListenerStatus) -> dict[str, object]:
    """A listener for machines."""
    return {**asdict(listener.key), **named(listener)}


def named(listener: ListenerStatus) -> dict[str, object]:
    """What is known of a listener, beside its key."""
    return {name: value for name, value in asdict(listener, recurse=False).items() if name != "key"}


# What is printed


def step_lines(step: Step) -> Iterator[str]:
    """A step of a check, for a reader: its name and time, then what was found or went wrong."""
    said = list(step.found)
    if step.refusal is not None:
        said.append(f"FAILED: {step.refusal.message}")
        if step.refusal.remedy:
            said.append(f"What to do: {step.refusal.remedy}")
    margin = NAME_COLUMN + TIME_COLUMN
    shape = textwrap.TextWrapper(WIDTH - margin, subsequent_indent="  ", break_on_hyphens=False)
    wrapped = [line for each in said for line in shape.wrap(escaped(each))]
    head = f"{step.name:<{NAME_COLUMN}}{step.seconds * 1000:>{TIME_COLUMN - 5}.1f} ms  "
    for number, line in enumerate(wrapped or [""]):
        yield ((" " * margin if number else head) + line).rstrip()


def as_object(name: str, tenant: str, good: bool, steps: Sequence[Step]) -> dict[str, object]:
    """A check for machines."""
    return {
        "name": name,
        "tenant": tenant,
        "ok": good,
        "steps": [
            {
                "step": step.name,
                "milliseconds": round(step.seconds * 1000, 3),
                "found": list(step.found),
                "failure": step.refusal
                and {
                    "stage": step.refusal.stage,
                    "reason": step.refusal.reason,
                    "message": step.refusal.message,
                    "remedy": step.refusal.remedy,
                },
            }
            for step in steps
        ],
    }


def table(listeners: Sequence[ListenerStatus]) -> Iterator[str]:
    """The listeners for a reader: a line each, and for those that are not available why."""
    rows = [("NAME", "TENANT", "ADDRESS", "STATE")]
    for each in listeners:
        address = f"[{each.address}]" if ":" in each.address else each.address
        place = f"{address}:{each.port}" if each.port else "-"
        rows.append((str(each.key), each.key.tenant or "-", place, state(each)))
    return _aligned(rows, listeners)


def names_table(rows: Sequence[Row]) -> Iterator[str]:
    """The names of a cluster for a reader, in the same way."""
    cells = [("NAME", "TENANT", "PORT", "TARGET", "STATE")]
    for each in rows:
        key = each.status.key
        port, target = str(each.status.port or "-"), str(each.target or "-")
        cells.append((f"{key.service}.{key.namespace}", key.tenant or "-", port, target, state(each.status)))
    return _aligned(cells, [each.status for each in rows])


def state(listener: ListenerStatus) -> str:
    """How a listener fares, in a word."""
    return "available" if listener.available else listener.reason or "-"


def _aligned(rows: Sequence[tuple[str, ...]], listeners: Sequence[ListenerStatus]) -> Iterator[str]:
    rows = [tuple(map(escaped, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for row, message in zip(rows, ["", *(each.message for each in listeners)], strict=True):
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        yield from textwrap.wrap(escaped(message), WIDTH, initial_indent="    ", subsequent_indent="    ")

"""The state file of a local cluster: whose each port is, for ever, and how the listeners fared last."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from tproxy.config import ConfigError
from tproxy.model import ListenerKey, Tenant
from tproxy.operator.manifests import ListenerStatus
from tproxy.operator.plan import Record


@frozen
class State:
    """What the file holds, in the order of the keys."""

    records: tuple[Record, ...] = ()
    listeners: tuple[ListenerStatus, ...] = ()


def hold(path: Path) -> None:
    """Keeps other processes from the file for as long as this one lives: each would undo what the other wrote.

    @raise ConfigError: another one has it, or that cannot be known
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        fcntl.flock(os.open(lock, os.O_WRONLY | os.O_CREAT, 0o600), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"{path}: another tproxy keeps its ports in this file: stop it, or name another file in cluster.local.state"
        ) from None
    except OSError as error:
        raise ConfigError(f"{lock}: the file cannot be locked: {os.strerror(error.errno or 0)}") from None


def load(path: Path) -> State:
    """What a file holds; nothing where there is none.

    @raise ConfigError: it is there and cannot be read. To begin afresh instead might give a
        port, and the mailbox behind it, to another application than before.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return State()
    except OSError as error:
        raise ConfigError(f"{path}: the state file cannot be read: {os.strerror(error.errno or 0)}") from None
    try:
        content = json.loads(text)
        state = State(
            tuple(_record(item) for item in content["ports"]),
            tuple(_listener(item) for item in content["listeners"]),
        )
        _unique([record.key for record in state.records])
        _unique([port for record in state.records for port in record.ports])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(
            f"{path}: the state file is damaged, and without it ports could go to others than before: "
            "restore it, or remove it to have all ports given anew"
        ) from None
    return state


def read_state(path: Path) -> tuple[ListenerStatus, ...]:
    """How the listeners fared last, in the order namespace, name, tenant; nothing where no file is.

    @raise ConfigError: the file cannot be read
    """
    return load(path).listeners


def save(path: Path, state: State) -> None:
    """Replace the file in one step, which is on the disk when this returns.

    @raise OSError: it could not be written; the file is as it was
    """
    content = {
        "listeners": [_flat(row) for row in sorted(state.listeners, key=lambda row: (row.key, row.port))],
        "ports": [_flat(record) for record in sorted(state.records, key=lambda record: record.key)],
    }
    new = path.with_name(f".{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _flat(item: Record | ListenerStatus) -> dict[str, Any]:
    values = asdict(item)
    return {**values.pop("key"), **values}


def _key(item: Any) -> ListenerKey:
    return ListenerKey(_text(item["namespace"]), _text(item["name"]), Tenant(_text(item["tenant"])))


def _record(item: Any) -> Record:
    reserved = item["reserved"]
    if not isinstance(reserved, list):
        raise TypeError
    return Record(
        _key(item),
        _number(item["port"], 1),
        _number(item["asked"]),
        _truth(item["active"]),
        tuple(_number(port, 1) for port in reserved),
    )


def _listener(item: Any) -> ListenerStatus:
    return ListenerStatus(
        _key(item),
        _text(item["address"]),
        _number(item["port"]),
        _truth(item["available"]),
        _text(item["reason"]),
        _text(item["message"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: Any, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= 65535:
        raise TypeError
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _unique(values: Iterable[object]) -> None:
    values = list(values)
    if len(set(values)) < len(values):
        raise ValueError

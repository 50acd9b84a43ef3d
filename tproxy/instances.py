"""Stores of destinations, as the configuration names them: folders of documents, and Destination services."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from attrs import frozen

from tproxy import names, places
from tproxy.places import Found, Key, Place


@frozen
class DirectoryInstance:
    """A store of destinations: a folder of documents, one JSON file each."""

    name: str
    directory: Path


@frozen
class KeyInFile:
    """A file that holds a service key."""

    path: Path


@frozen
class KeyInFolder:
    """A mounted Secret: one file for each of its keys, or the one file `name` that holds it all."""

    path: Path
    name: str = ""


@frozen
class KeyInSecret:
    """A Kubernetes Secret; `namespace` is empty for the one that tproxy runs in, `key` is the one that holds it all."""

    name: str
    namespace: str = ""
    key: str = ""


KeyPlace = KeyInFile | KeyInFolder | KeyInSecret


@frozen
class ServiceInstance:
    """A store of destinations: an instance of SAP BTP's Destination service. Durations are seconds.

    `private_key` is where the key of an X.509 binding is, if that does not hold it itself.
    """

    name: str
    service_key: KeyPlace
    private_key: KeyPlace | None = None
    connect_seconds: float = 10.0
    read_seconds: float = 10.0


Instance = DirectoryInstance | ServiceInstance


class PathKind(StrEnum):
    """What has to stand at a configured path; a written file need not exist yet, its folder must."""

    FOLDER = "folder"
    FILE = "file"
    WRITTEN_FILE = "written file"


# What may be said


def read(place: Place) -> tuple[Instance, ...]:
    """The instances of a list; each is a folder of documents or a Destination service."""
    known: dict[str, Instance] = {}
    for item in place.items():
        found = places.gather(item, INSTANCE_KEYS)
        instance = _instance(found)
        if instance.name in known:
            raise found.place(NAME).wrong(f"{names.quoted(instance.name)} is the name of an instance before it")
        known[instance.name] = instance
    if not known:
        raise place.wrong("at least one instance is needed, with name and directory or serviceCredentials")
    return tuple(known.values())


def _instance(found: Found) -> Instance:
    service_key = _key_place(found, SERVICE_KEY)
    if service_key is None:
        for key in (*PRIVATE_KEY, *SERVICE_LIMITS):
            if key in found:
                raise found.place(key).wrong("belongs to an instance with serviceCredentials")
        return DirectoryInstance(found[NAME], found[DIRECTORY])
    if DIRECTORY in found:
        raise found.place(DIRECTORY).wrong("an instance has a directory or serviceCredentials; remove one of the two")
    return ServiceInstance(
        found[NAME], service_key, _key_place(found, PRIVATE_KEY), *(float(found[key]) for key in SERVICE_LIMITS)
    )


def _key_place(found: Found, keys: _KeyKeys) -> KeyPlace | None:
    """Where a service key, or the private key that belongs to one, is kept; None where nothing is said of it."""
    given = [key for key in (keys.file, keys.folder, keys.secret_name) if key in found]
    stray = [key for key in (keys.secret_key, keys.secret_namespace) if key in found]
    if len(given) > 1:
        raise found.place(given[1]).wrong(f"is there beside {given[0].path}; keep one of the two")
    if not given:
        if stray:
            raise found.place(stray[0]).wrong(f"needs {keys.secret_name.path} beside it")
        return None
    if (given[0] is keys.file and stray) or (given[0] is keys.folder and keys.secret_namespace in found):
        raise found.place(stray[-1]).wrong(f"has no meaning beside {given[0].path}; remove it")
    if given[0] is keys.file:
        return KeyInFile(found[keys.file])
    if given[0] is keys.folder:
        return KeyInFolder(found[keys.folder], found[keys.secret_key])
    return KeyInSecret(found[keys.secret_name], found[keys.secret_namespace], found[keys.secret_key])


class _KeyKeys(NamedTuple):
    file: Key[Path]
    folder: Key[Path]
    secret_name: Key[str]
    secret_key: Key[str]
    secret_namespace: Key[str]


def _keys_of_key(path: str) -> _KeyKeys:
    return _KeyKeys(
        Key(f"{path}.file", places.path),
        Key(f"{path}.folder", places.path),
        Key(f"{path}.secretName", places.text),
        Key(f"{path}.secretKey", places.text, ""),
        Key(f"{path}.secretNamespace", places.text, ""),
    )


NAME = Key("name", places.text)
DIRECTORY = Key("directory", places.path)
SERVICE_KEY = _keys_of_key("serviceCredentials")
PRIVATE_KEY = _keys_of_key("serviceCredentials.privateKey")
SERVICE_LIMITS = (
    Key("connectionTimeoutSeconds", places.whole(1, 60), 10),
    Key("readTimeoutSeconds", places.whole(1, 600), 10),
)
INSTANCE_KEYS: tuple[Key[Any], ...] = (NAME, DIRECTORY, *SERVICE_KEY, *PRIVATE_KEY, *SERVICE_LIMITS)


def paths_of(instance: Instance) -> Iterator[tuple[Key[Path], Path, PathKind]]:
    """The paths that an instance names, each with its key."""
    if isinstance(instance, DirectoryInstance):
        yield DIRECTORY, instance.directory, PathKind.FOLDER
        return
    for keys, place in ((SERVICE_KEY, instance.service_key), (PRIVATE_KEY, instance.private_key)):
        match place:
            case KeyInFile(path):
                yield keys.file, path, PathKind.FILE
            case KeyInFolder(path):
                yield keys.folder, path, PathKind.FOLDER

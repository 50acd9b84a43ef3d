"""A folder of destination documents, one JSON file each; a tenant's own are in a folder of its name.

The folder may be a mounted ConfigMap or Secret: what counts is what a path leads to, and names that begin with
a dot are left alone. A file that becomes unreadable or wrong keeps its last good content serving.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Set
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from typing import NoReturn

from attrs import field, frozen
from twisted.logger import Logger

from tproxy.model import PROVIDER, Reason, Refusal, RefusedError, Stage, Tenant
from tproxy.names import quoted
from tproxy.net.trust import AuthoritiesError, read_authorities

SIZE_LIMIT = 1024 * 1024
"""The longest document or certificate file, in bytes."""

CERTIFICATES = (".cer", ".crt", ".pem")
"""Endings of files that `TrustStoreLocation` may name."""

Signature = tuple[int, ...]
_Key = tuple[str, str]
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?', re.DOTALL)
log = Logger()


class FileError(Exception):
    """What is wrong with a file, in our words, at which line (from 1)."""

    def __init__(self, line: int, message: str, remedy: str) -> None:
        super().__init__(line, message, remedy)
        self.line = line
        self.message = message
        self.remedy = remedy


class _ReadError(FileError):
    """The content is unknown: to be tried again even if nothing seems to change."""


@frozen
class Document:
    """A document as it was written, its file, and whose folder it was found in: a tenant's or the common one."""

    values: Mapping[str, object] = field(repr=False)
    file: Path
    folder: Tenant


@frozen
class _Kept:
    """A file as it was last seen: the last good content, and what is wrong with the present one."""

    signature: Signature = field(eq=False)
    good: Mapping[str, object] | str | None = field(repr=False, eq=repr)  # true and 1 are not the same
    fault: Refusal | None


class Directory:
    """The documents of one folder, kept in memory; `refresh` looks for changes.

    @param name: the instance's, for messages
    """

    def __init__(self, name: str, path: Path) -> None:
        self._name = name
        self._path = path
        self._kept: dict[_Key, _Kept] = {}
        self._faults = {PROVIDER: _unreadable(path, "not read yet")}
        self._doubtful: Set[_Key] = frozenset()

    def refresh(self) -> bool:
        """Looks at every file's signature and reads what changed; a file is gone when it is missing twice in a row.

        @return: whether anything is different from before
        """
        seen, faults = _look(self._path)
        for folder, fault in faults.items():
            if fault != self._faults.get(folder):
                log.error(
                    "{message}",
                    event="directory.unreadable",
                    file=str(self._path / folder),
                    message=fault.message,
                    remedy=fault.remedy,
                )
        unseen = {key: kept for key, kept in self._kept.items() if key not in seen}
        blind = {key for key in unseen if key[0] in faults or PROVIDER in faults}
        doubtful = unseen.keys() - blind - self._doubtful
        before = self._kept, self._faults
        self._kept = {key: self._keep(key, signature) for key, signature in seen.items()}
        self._kept |= {key: unseen[key] for key in blind | doubtful}
        self._faults, self._doubtful = faults, doubtful
        return before != (self._kept, self._faults)

    @property
    def doubtful(self) -> bool:
        """Whether a file was missing for the first time: many editors save by taking it away for a moment."""
        return bool(self._doubtful)

    def find(self, name: str, tenant: Tenant) -> Document:
        """The tenant's own document of this name, else the common one.

        @raise RefusedError: if there is none, or one that never was good
        """
        for folder in dict.fromkeys((tenant, PROVIDER)):
            key = folder, f"{name}.json"
            good = self._good(key)
            if isinstance(good, Mapping):
                return Document(good, self._file(key), folder)
        raise RefusedError(
            Refusal(
                Stage.RESOLVE,
                Reason.DESTINATION_NOT_FOUND,
                f"the instance {self._name} has no destination {quoted(name)}"
                + (f" for the tenant {tenant}" if tenant else ""),
                f"add the file NAME.json to {self._path} or correct spec.destinationRef.name",
            )
        )

    def authority(self, location: str, folder: Tenant) -> str:
        """The PEM text that a document's `TrustStoreLocation` names: a file beside it, or in the common folder.

        @raise RefusedError: if there is none
        """
        for place in dict.fromkeys((folder, PROVIDER)):
            good = self._good((place, location))
            if isinstance(good, str):
                return good
        raise RefusedError(
            Refusal(
                Stage.RESOLVE,
                Reason.DOCUMENT_INVALID,
                f"TrustStoreLocation names {quoted(location)}, and {self._path} has no such certificate file",
                f"add the certificates as a PEM file whose name ends in one of {', '.join(CERTIFICATES)}",
            )
        )

    def _file(self, key: _Key) -> Path:
        return self._path.joinpath(*filter(None, key))

    def _good(self, key: _Key) -> Mapping[str, object] | str | None:
        """What serves for this file; None if there is surely no such file."""
        kept = self._kept.get(key)
        if kept is None:
            if key[0] in self._faults:
                raise RefusedError(self._faults[Tenant(key[0])])
            return None
        if kept.good is None and kept.fault is not None:
            raise RefusedError(kept.fault)
        return kept.good

    def _keep(self, key: _Key, signature: Signature) -> _Kept:
        kept = self._kept.get(key)
        if kept is not None and kept.signature == signature and signature:
            return kept
        file = self._file(key)
        try:
            content = _read(file)
            good = parse(content, file.stem) if file.suffix == ".json" else certificates(content)
        except FileError as error:
            last_good = kept.good if kept is not None else None
            message = f"{file}, line {error.line}: {error.message}"
            fault = Refusal(Stage.RESOLVE, Reason.DOCUMENT_INVALID, message, error.remedy)
            if kept is None or kept.fault != fault:
                log.error(
                    "{message}; the last good content serves on" if last_good is not None else "{message}",
                    event="document.broken",
                    file=str(file),
                    line=error.line,
                    message=message,
                    remedy=error.remedy,
                )
            return _Kept(() if isinstance(error, _ReadError) else signature, last_good, fault)
        return _Kept(signature, good, None)


def parse(content: bytes, name: str) -> dict[str, object]:
    """One document: a JSON object in UTF-8 (RFC 8259) without a key given twice, whose `Name` is `name`.

    @raise FileError: for everything else
    """
    text = _text(content)
    try:
        values = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise FileError(error.lineno, f"is not JSON from column {error.colno} on", "correct the syntax") from None
    except _DuplicateError as error:
        line = _line_of_key(text, error.key, 2)
        raise FileError(line, f"the property {quoted(error.key)} is given twice", "keep one of them") from None
    except UnicodeEncodeError:
        raise FileError(1, "holds half of a surrogate pair", "write the whole character") from None
    except (ValueError, RecursionError):
        raise FileError(1, "is not a flat JSON object", "give every property as a string") from None
    if not isinstance(values, dict):
        raise FileError(1, "is not a JSON object", "begin with { and end with }")
    if "Name" not in values:
        raise FileError(1, "the property Name is missing", f'add "Name": "{name}"')
    if values["Name"] != name:
        line = _line_of_key(text, "Name", 1)
        given = quoted(values["Name"]) if isinstance(values["Name"], str) else "no string"
        raise FileError(line, f"Name is {given}, the file's name says {quoted(name)}", "make them the same")
    return values


def certificates(content: bytes) -> str:
    """One file of certificates: PEM text (RFC 7468).

    @raise FileError: for everything else
    """
    text = _text(content)
    try:
        read_authorities(content)
    except AuthoritiesError as error:
        raise FileError(error.line, error.message, "convert it to PEM (BEGIN CERTIFICATE)") from None
    return text


class _DuplicateError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in pairs:
        if key in values:
            raise _DuplicateError(key)
        if isinstance(value, str):
            (key + value).encode()
        values[key] = value
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError("no JSON")


def _line_of_key(text: str, key: str, occurrence: int) -> int:
    """Where a key stands for the first or second time; strings are read as JSON reads them."""
    lines = (
        text.count("\n", 0, match.start()) + 1
        for match in _STRING.finditer(text)
        if match[1] is not None and json.loads(match[0].removesuffix(match[1])) == key
    )
    return next(islice(lines, occurrence - 1, None))


def _text(content: bytes) -> str:
    if len(content) > SIZE_LIMIT:
        raise FileError(1, f"is larger than {SIZE_LIMIT} bytes", "is it the right file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileError(line, "is not UTF-8", "save it as UTF-8") from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise _ReadError(1, f"cannot be read ({_cause(error)})", "correct its permissions") from None


def _look(path: Path) -> tuple[dict[_Key, Signature], dict[Tenant, Refusal]]:
    """Every file of interest, one level of folders deep, with what changes when it does; and the folders not seen."""
    seen: dict[_Key, Signature] = {}
    faults: dict[Tenant, Refusal] = {}
    try:
        with os.scandir(path) as entries:
            folders = [Tenant(entry.name) for entry in entries if _is_folder(entry)]
    except OSError as error:
        return {}, {PROVIDER: _unreadable(path, _cause(error))}
    for folder in (PROVIDER, *folders):
        try:
            seen.update(_files(path / folder, folder))
        except OSError as error:
            faults[folder] = _unreadable(path / folder, _cause(error))
    return seen, faults


def _files(path: Path, folder: Tenant) -> Iterator[tuple[_Key, Signature]]:
    with os.scandir(path) as entries:
        for entry in entries:
            if not _is_wanted(entry.name):
                continue
            try:
                seen = entry.stat()
            except FileNotFoundError:
                continue
            except OSError:
                yield (folder, entry.name), ()
                continue
            if S_ISREG(seen.st_mode):
                yield (folder, entry.name), (seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size, seen.st_ino, seen.st_dev)


def _is_wanted(name: str) -> bool:
    return not name.startswith(".") and name.endswith((".json", *CERTIFICATES))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return not entry.name.startswith(".") and entry.is_dir()
    except OSError:  # a link that leads nowhere sensible: not known to be none
        return not _is_wanted(entry.name)


def _unreadable(path: Path, cause: str) -> Refusal:
    return Refusal(
        Stage.RESOLVE,
        Reason.STORE_UNAVAILABLE,
        f"the folder {path} cannot be read ({cause})",
        "create it, or correct its permissions or the configuration",
    )


def _cause(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else type(error).__name__

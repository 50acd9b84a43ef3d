"""The manifests in a folder of YAML files: what changed is read again, what is broken stands for what it last said."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from attrs import frozen
from twisted.logger import Logger

log = Logger()

FILE_LIMIT = 1024 * 1024
"""The longest file that is read, in bytes."""

DEPTH_LIMIT = 50
"""How deep a document may be nested; the loader recurses."""

Signature = tuple[int, int, int]
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEPTHS = {
    yaml.MappingStartEvent: 1,
    yaml.SequenceStartEvent: 1,
    yaml.MappingEndEvent: -1,
    yaml.SequenceEndEvent: -1,
}


@frozen
class Manifest:
    """One document of a file and the line that it begins at."""

    path: Path
    line: int
    content: object


class BrokenFileError(Exception):
    """A file that cannot be read: from which line on, and why."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(line, message)
        self.line = line
        self.message = message


class Folder:
    """The `*.yaml` and `*.yml` files of one folder.

    A file that has changed, or is gone, is believed at the second look that sees it so: it may have been in the
    middle of being written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: dict[Path, Signature] | None = None
        self._read: dict[Path, Signature] = {}
        self._manifests: dict[Path, tuple[Manifest, ...]] = {}
        self._unreadable = False
        self.settling = False

    @property
    def manifests(self) -> Iterator[Manifest]:
        """All documents, in the order of the files' names."""
        for path in sorted(self._manifests):
            yield from self._manifests[path]

    def look(self) -> bool:
        """Whether the manifests are others than at the last look, or known for the first time.

        Sets `settling` where something is to be looked at once more.
        """
        self.settling = False
        seen = self._signatures()
        if seen is None:
            return False
        first, before, self._seen = self._seen is None, self._seen or {}, seen
        changed = first
        for path in sorted({*seen, *self._read}):
            signature = seen.get(path)
            if signature == self._read.get(path):
                continue
            if first or signature == before.get(path):
                changed |= self._take(path, signature)
            else:
                self.settling = True
        return changed

    def _signatures(self) -> dict[Path, Signature] | None:
        seen: dict[Path, Signature] = {}
        try:
            for path in self._directory.iterdir():
                if path.suffix not in (".yaml", ".yml") or path.name.startswith("."):
                    continue
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    seen[path] = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError as error:
            if not self._unreadable:
                self._unreadable = True
                log.error(
                    "The folder of resources {file} cannot be read ({reason}); what runs goes on",
                    event="resources.unreadable",
                    file=str(self._directory),
                    reason=os.strerror(error.errno or 0),
                )
            return None
        self._unreadable = False
        return seen

    def _take(self, path: Path, signature: Signature | None) -> bool:
        if signature is None:
            del self._read[path]
            return self._manifests.pop(path, None) is not None
        self._read[path] = signature
        try:
            manifests = tuple(read(path))
        except BrokenFileError as error:
            log.error(
                "{file}:{line}: {message}; what the file said before stays in force",
                event="resources.broken",
                file=str(path),
                line=error.line,
                message=error.message,
            )
            return False
        self._manifests[path] = manifests
        return True


def read(path: Path) -> Iterator[Manifest]:
    """The documents of a file.

    @raise BrokenFileError: it cannot be read as what it should be
    """
    try:
        with path.open("rb") as file:
            octets = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise BrokenFileError(1, f"the file cannot be read ({os.strerror(error.errno or 0)})") from None
    if len(octets) > FILE_LIMIT:
        raise BrokenFileError(1, f"the file is longer than {FILE_LIMIT} bytes")
    try:
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenFileError(octets.count(b"\n", 0, error.start) + 1, "the file is not UTF-8") from None
    return _documents(path, text)


def _documents(path: Path, text: str) -> Iterator[Manifest]:
    line = 1
    try:
        _refuse_depth(text)
        loader = _Loader(text)
        while loader.check_node():
            node: Any = loader.get_node()
            line = node.start_mark.line + 1
            _refuse_repeated_keys(node)
            content = loader.construct_document(node)
            if content is not None:
                yield Manifest(path, line, content)
    except BrokenFileError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BrokenFileError(mark.line + 1 if mark else line, "this is not well-formed YAML") from None
    except yaml.reader.ReaderError as error:
        raise BrokenFileError(text.count("\n", 0, error.position) + 1, "a character is not allowed in YAML") from None
    except Exception:
        # PyYAML lets out what its constructors stumble over: IndexError, KeyError, AttributeError and more.
        raise BrokenFileError(line, "a value of this document cannot be read") from None


def _refuse_depth(text: str) -> None:
    depth = 0
    event: Any
    for event in yaml.parse(text, _Loader):
        depth += _DEPTHS.get(type(event), 0)
        if depth > DEPTH_LIMIT:
            raise BrokenFileError(event.start_mark.line + 1, f"this is nested deeper than {DEPTH_LIMIT} levels")


def _refuse_repeated_keys(document: yaml.Node) -> None:
    """YAML 1.2, section 3.2.1.1: keys are unique; and so says kubectl."""
    waiting, seen = [document], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = set[object]()
            for key, value in node.value:
                waiting += (key, value)
                if isinstance(key, yaml.ScalarNode) and key.value in keys:
                    raise BrokenFileError(key.start_mark.line + 1, "this key was given before")
                keys.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value

"""YAML values that know where they stand, so that an error can name the file, the line and the key.

A mapping is read against a list of `Key`s: each is a path and a reader that turns what stands
there into a value. Every error is one `ConfigError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from attrs import frozen

from tproxy import names

Network = IPv4Network | IPv6Network
T = TypeVar("T")

_TAG = "tag:yaml.org,2002:"


class ConfigError(Exception):
    """One line: the file, the key's path, what is wrong with it and what would be right."""


@frozen
class Place:
    """A value and where in the file it stands; `key` is its path, empty for the whole file."""

    file: Path
    line: int
    key: str
    node: yaml.Node

    def wrong(self, what: str) -> ConfigError:
        return ConfigError(": ".join(part for part in (f"{self.file}:{self.line}", self.key, what) if part))

    @property
    def nothing(self) -> bool:
        """Whether nothing stands behind the key."""
        return isinstance(self.node, yaml.ScalarNode) and self.node.tag == f"{_TAG}null"

    @property
    def scalar(self) -> str | None:
        """The text as it was written, unless a list, a mapping or nothing stands here."""
        return str(self.node.value) if isinstance(self.node, yaml.ScalarNode) and not self.nothing else None

    @property
    def shown(self) -> str:
        """What stands here, as a message says it."""
        if self.scalar is not None:
            return names.quoted(self.scalar)
        return "nothing" if self.nothing else "a list" if isinstance(self.node, yaml.SequenceNode) else "a mapping"

    def items(self) -> Iterator[Place]:
        """The values of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.wrong(f"{self.shown} is not a list")
        for index, node in enumerate(self.node.value):
            yield Place(self.file, node.start_mark.line + 1, f"{self.key}[{index}]", node)

    def entries(self) -> Iterator[tuple[str, Place]]:
        """The names and values of a mapping; none where nothing stands."""
        if self.nothing:
            return
        if not isinstance(self.node, yaml.MappingNode):
            raise self.wrong(f"{self.shown} is not a mapping")
        for name, node in self.node.value:
            line = name.start_mark.line + 1
            if not isinstance(name, yaml.ScalarNode):
                raise Place(self.file, line, self.key, node).wrong("a list or mapping cannot be a key")
            shown = name.value if re.fullmatch(r"[\w-]{1,60}", name.value) else names.quoted(name.value)
            yield name.value, Place(self.file, line, _join(self.key, shown), node)


def compose(text: str, file: Path) -> Place:
    """The whole of a YAML file of one document; nothing is constructed from its tags."""
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{file}:{line}: is no YAML: it holds a character that YAML does not allow") from None
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{file}:{line}: is no YAML: {error.problem}") from None
    except RecursionError:
        raise ConfigError(f"{file}:{loader.line + 1}: is nested too deeply") from None
    except (ValueError, OverflowError):
        # PyYAML lets these out of escapes and directives whose numbers are out of range.
        raise ConfigError(f"{file}:{loader.line + 1}: is no YAML: a number is out of range") from None
    return Place(file, 1, "", node or yaml.ScalarNode(f"{_TAG}null", ""))


# Readers

Read = Callable[[Place], T]


def text(place: Place) -> str:
    """A text on one line, without spaces at its ends."""
    value = place.scalar
    if value is None:
        raise place.wrong(f"{place.shown} is not a text")
    if place.node.tag != f"{_TAG}str":
        raise place.wrong(f"{place.shown} is not a text; put it in quotes")
    if not value or not value.isprintable() or value != value.strip():
        raise place.wrong(f"{place.shown} is empty, has a space at an end or holds a control character")
    return value


def one_of(*choices: str, folded: bool = False) -> Read[str]:
    """One of some words, in lower case if any case will do."""

    def read(place: Place) -> str:
        value = place.scalar or ""
        if folded:
            value = value.lower()
        if value not in choices:
            raise place.wrong(f"{place.shown} is not one of {', '.join(choices)}")
        return value

    return read


def truth(place: Place) -> bool:
    """True or false, in YAML's usual spelling."""
    if place.node.tag != f"{_TAG}bool" or place.scalar not in ("true", "false"):
        raise place.wrong(f"{place.shown} is neither true nor false (without quotes)")
    return place.scalar == "true"


def whole(least: int, most: int) -> Read[int]:
    """A whole number within bounds, written in decimal digits."""

    def read(place: Place) -> int:
        digits = place.scalar or ""
        if place.node.tag != f"{_TAG}int" or not re.fullmatch("0|[1-9][0-9]{0,8}", digits):
            raise place.wrong(f"{place.shown} is not a whole number from {least} to {most}")
        if not least <= int(digits) <= most:
            raise place.wrong(f"{digits} is not from {least} to {most}")
        return int(digits)

    return read


def path(place: Place) -> Path:
    """A path, absolute or relative to the file's folder; gives an absolute one."""
    return (place.file.parent / text(place)).absolute()


def host(place: Place) -> str:
    """A DNS name or IP address, spelled as `names.host` does."""
    try:
        return names.host(text(place))
    except ValueError as error:
        raise place.wrong(f"{place.shown} {error}") from None


def subdomain(place: Place) -> str:
    """A tenant's subdomain."""
    try:
        return names.subdomain(text(place))
    except ValueError as error:
        raise place.wrong(f"{place.shown} {error}") from None


def address(place: Place) -> str:
    """An IP address."""
    try:
        return str(ip_address(text(place)))
    except ValueError:
        raise place.wrong(f"{place.shown} is not an IP address, such as 127.0.0.1 or ::1") from None


def network(place: Place) -> Network:
    """An IP network in CIDR notation, or one address."""
    value = text(place)
    try:
        meant = ip_network(value, strict=False)
    except ValueError:
        raise place.wrong(f"{place.shown} is not a network, such as 10.0.0.0/8 or fd00::/8") from None
    try:
        return ip_network(value)
    except ValueError:
        raise place.wrong(f"{place.shown} has bits set behind its prefix; write {meant}") from None


def several(read: Read[T]) -> Read[tuple[T, ...]]:
    """A list of what `read` reads."""
    return lambda place: tuple(read(item) for item in place.items())


def distinct(read: Read[T]) -> Read[frozenset[T]]:
    """A list of what `read` reads, whatever its order."""
    return lambda place: frozenset(several(read)(place))


# Mappings

REQUIRED: Any = object()
"""The default of a key that has none."""


@frozen(eq=False)
class Key(Generic[T]):
    """What may stand under one path of a mapping; required where it has no default."""

    path: str
    read: Read[T]
    default: Any = REQUIRED


@frozen
class Found:
    """What a mapping says: the places of its values and sections, by their paths within it."""

    top: Place
    places: dict[str, Place]

    def __contains__(self, key: Key[Any]) -> bool:
        return key.path in self.places

    def __getitem__(self, key: Key[T]) -> T:
        """The value or its default; raises ConfigError where it is wrong, or missing and required."""
        if key in self:
            return key.read(self.places[key.path])
        if key.default is REQUIRED:
            raise self.place(key).wrong("is missing")
        default: T = key.default
        return default

    def place(self, key: Key[Any]) -> Place:
        """Where the key stands; if it does not, the line of its innermost section that does."""
        around = [self.places[section] for section in (*_sections(key.path), key.path) if section in self.places]
        nearest = around[-1] if around else self.top
        return Place(nearest.file, nearest.line, _join(self.top.key, key.path), nearest.node)


def gather(top: Place, keys: tuple[Key[Any], ...]) -> Found:
    """Find what a mapping says about some keys; raises ConfigError for unknown and repeated ones."""
    known = {key.path for key in keys}
    sections = {section for key in keys for section in _sections(key.path)}
    found = Found(top, {})
    pending = [("", top)]
    for within, section in pending:
        for name, place in section.entries():
            inner = _join(within, name)
            if "." in name or inner not in known | sections:
                raise place.wrong(f"unknown key; {_meant(name, within, known | sections)}")
            if inner in found.places:
                raise place.wrong(f"is there twice; the first is in line {found.places[inner].line}")
            found.places[inner] = place
            if inner in sections:
                pending.append((inner, place))
    return found


def _meant(name: str, within: str, known: set[str]) -> str:
    siblings = {path.rpartition(".")[2]: path for path in known if path.rpartition(".")[0] == within}
    elsewhere = {path.rpartition(".")[2]: path for path in sorted(known)}
    near = names.nearest(name, siblings)
    if near:
        return f"did you mean {siblings[near]}?"
    if name in elsewhere:
        return f"did you mean {elsewhere[name]}?"
    return f"known here are {', '.join(sorted(siblings))}"


def _sections(path: str) -> list[str]:
    """The paths of the mappings around a key, outermost first."""
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)

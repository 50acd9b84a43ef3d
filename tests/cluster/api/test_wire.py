"""What the API server says."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from tests.apiserver.server import CONFIG_MAPS
from tproxy.cluster.api import wire
from tproxy.cluster.api.objects import APIError, Gone, Mark, Put, Why
from tproxy.cluster.api.wire import (
    QUOTE_LIMIT,
    SHARED_LIMIT,
    Lines,
    read_change,
    read_object,
    read_page,
    read_refusal,
    shown,
)
from tproxy.model import Secret
from tproxy.net.http import Answer

METADATA = {"name": "one", "namespace": "shop", "uid": "u", "resourceVersion": "7"}
THING = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": METADATA}
LIST = {"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": [THING]}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def octets(value: Any) -> bytes:
    return json.dumps(value).encode()


def changed(thing: Any, path: str, value: Any) -> Any:
    """The thing with a value at `a.b` replaced, or taken out where that is Ellipsis."""
    name, _, rest = path.partition(".")
    result = dict(thing)
    if rest:
        result[name] = changed(thing[name], rest, value)
    elif value is ...:
        del result[name]
    else:
        result[name] = value
    return result


class LinesTests(SynchronousTestCase):
    """A stream cut into lines."""

    @given(st.lists(st.text(max_size=20)), st.lists(st.integers(0, 200), max_size=8))
    @settings(deadline=None)
    def test_any_cut(self, texts: list[str], places: list[int]) -> None:
        """However the network cuts it, the lines are the same, and what has no end is none."""
        lines = [text.replace("\n", "").encode("utf-8", "replace") for text in texts]
        stream = b"".join(line + b"\n" for line in lines) + b"rest"
        cuts = sorted(min(place, len(stream)) for place in places)
        reader, heard = Lines(80), []
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            heard += reader.feed(stream[start:end])
        self.assertEqual(heard, lines)

    def test_limit(self) -> None:
        """A line of the limit is taken, however it comes; a longer one is not, even before it ends."""
        self.assertEqual(Lines(4).feed(b"1234\n1234\n"), [b"1234", b"1234"])
        reader = Lines(4)
        self.assertEqual(reader.feed(b"12"), [])
        self.assertEqual(reader.feed(b"34\n1234"), [b"1234"])
        error = self.assertRaises(APIError, reader.feed, b"5")
        self.assertEqual(error.reason, Why.TOO_LARGE)


class ObjectTests(SynchronousTestCase):
    """Objects and pages."""

    def test_object(self) -> None:
        """As it came, with what lists leave out, and without managed fields."""
        bare = {"metadata": {**METADATA, "managedFields": [1]}, "data": {"a": "b"}}
        self.assertEqual(read_object(octets(bare), CONFIG_MAPS), {**THING, "data": {"a": "b"}})
        unscoped = changed(THING, "metadata.namespace", ...)
        self.assertEqual(read_object(octets(unscoped), CONFIG_MAPS), unscoped)

    def test_shared(self) -> None:
        """Objects that say the same have one string of it."""
        some, others = (read_object(octets({**THING, "data": {"a key": "a value"}}), CONFIG_MAPS) for _ in range(2))
        for one, other in zip(*([*each["data"], *each["data"].values()] for each in (some, others)), strict=True):
            self.assertIs(one, other)

    def test_shared_bounded(self) -> None:
        """Only so many strings are kept for others, and no long ones: those that nobody has any more are free."""
        for number in range(SHARED_LIMIT):
            one = read_object(octets({**THING, "data": {"short": str(number), "long": f"{number:0200}"}}), CONFIG_MAPS)
        self.assertLessEqual(len(wire._strings), SHARED_LIMIT)
        self.assertIn(one["data"]["short"], wire._strings)
        self.assertNotIn(one["data"]["long"], wire._strings)

    def test_no_object(self) -> None:
        """What lacks a name, a uid or a version is none."""
        broken = [changed(THING, f"metadata.{name}", value) for name in METADATA for value in (..., 1, None)]
        broken.remove(changed(THING, "metadata.namespace", ...))
        for value in (*broken, [], None, "text", {}):
            error = self.assertRaises(APIError, read_object, octets(value), CONFIG_MAPS)
            self.assertEqual((error.status, error.reason), (200, Why.BROKEN))
        for body in (b"", b"{", b"\xff", b"[" * 100_000):
            error = self.assertRaises(APIError, read_object, body, CONFIG_MAPS)
            self.assertEqual(error.message, "the answer is no JSON")

    def test_page(self) -> None:
        """Objects, version and what asks for the next page; `items: null` is Go's empty list."""
        page = read_page(octets(changed(LIST, "metadata.continue", "abc")), CONFIG_MAPS)
        self.assertEqual((page.objects, page.version, page.token), ((THING,), "9", "abc"))
        for items in ([], None):
            page = read_page(octets(changed(LIST, "items", items)), CONFIG_MAPS)
            self.assertEqual((page.objects, page.version, page.token), ((), "9", ""))

    def test_no_page(self) -> None:
        """Nothing else is taken for a list, least of all for an empty one."""
        for path, value in (
            ("kind", "SecretList"),
            ("kind", ...),
            ("items", ...),
            ("items", {}),
            ("items", [1]),
            ("metadata", ...),
            ("metadata.resourceVersion", ...),
            ("metadata.resourceVersion", ""),
            ("metadata.continue", 7),
        ):
            error = self.assertRaises(APIError, read_page, octets(changed(LIST, path, value)), CONFIG_MAPS)
            self.assertEqual(error.reason, Why.BROKEN, path)

    @given(json_values)
    @settings(deadline=None)
    def test_anything(self, value: Any) -> None:
        """Whatever comes is read or refused."""
        for read in (read_object, read_page, read_change):
            self.assertRaises(APIError, read, octets(value), CONFIG_MAPS)


class ChangeTests(SynchronousTestCase):
    """Lines of a watch."""

    def read(self, kind: str, thing: Any) -> Any:
        return read_change(octets({"type": kind, "object": thing}), CONFIG_MAPS)

    def test_changes(self) -> None:
        """What came, changed and went, and how far that goes."""
        self.assertEqual(self.read("ADDED", THING), Put(THING))
        self.assertEqual(self.read("MODIFIED", THING), Put(THING))
        self.assertEqual(self.read("DELETED", THING), Gone(THING))
        self.assertEqual(self.read("BOOKMARK", {"metadata": {"resourceVersion": "8"}}), Mark("8"))

    def test_error(self) -> None:
        """An error in the stream is one, whatever it says."""
        gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
        for status, code, why in (
            (gone, 410, Why.EXPIRED),
            ({**gone, "reason": "Gone"}, 410, Why.EXPIRED),
            ({**gone, "code": 504, "reason": "Timeout"}, 504, Why.TIMEOUT),
            ({"kind": "Status"}, 500, Why.INTERNAL_ERROR),
        ):
            error = self.assertRaises(APIError, self.read, "ERROR", status)
            self.assertEqual((error.status, error.reason), (code, why))

    def test_no_change(self) -> None:
        """A bookmark without a place, an error that says nothing, a type of the future."""
        for kind, thing in (
            ("BOOKMARK", {"metadata": {"resourceVersion": ""}}),
            ("ERROR", {}),
            ("RENAMED", THING),
            ("ADDED", {}),
        ):
            error = self.assertRaises(APIError, self.read, kind, thing)
            self.assertEqual(error.reason, Why.BROKEN)


class RefusalTests(SynchronousTestCase):
    """Answers that are no success."""

    def read(self, code: int, body: bytes, *secrets: Secret, **headers: str) -> APIError:
        raw = {name.replace("_", "-").encode(): [value.encode()] for name, value in headers.items()}
        return read_refusal(Answer(code, Headers(raw), body), *secrets)

    def test_status(self) -> None:
        """The server's words and reason; a reason that nobody knows is that of the HTTP status."""
        status = {"kind": "Status", "message": "it is there", "reason": "AlreadyExists"}
        error = self.read(409, octets(status))
        self.assertEqual((error.status, error.reason, error.message), (409, Why.ALREADY_EXISTS, "it is there"))
        for code, said, why in (
            (409, "Nonsense", Why.CONFLICT),
            (409, None, Why.CONFLICT),
            (500, "ServerTimeout", Why.SERVER_TIMEOUT),
            (418, "Teapot", Why.UNKNOWN),
            (302, "Unreachable", Why.UNKNOWN),
            (410, "Gone", Why.EXPIRED),
        ):
            self.assertEqual(self.read(code, octets({"reason": said})).reason, why)

    def test_pause(self) -> None:
        """Retry-After, else the details; never longer than we are willing to wait."""
        details = {"details": {"retryAfterSeconds": 4}}
        for body, headers, expected in (
            (details, {"retry_after": "2"}, 2.0),
            (details, {"retry_after": "tomorrow"}, 4.0),
            (details, {}, 4.0),
            ({"details": {"retryAfterSeconds": "4"}}, {}, 0.0),
            ({"details": {"retryAfterSeconds": -4}}, {}, 0.0),
            ({}, {"retry_after": "99999999999999999999"}, 300.0),
        ):
            self.assertEqual(self.read(429, octets(body), **headers).retry_after, expected)

    def test_words(self) -> None:
        """Plain text is quoted, anything else is not."""
        plain = self.read(429, b"Too many requests\n", content_type="text/plain; charset=utf-8")
        self.assertEqual((plain.reason, plain.message), (Why.TOO_MANY_REQUESTS, "Too many requests"))
        for body in (b"<html>", b"[]", b'{"message": 7}', b'{"message": ""}'):
            self.assertEqual(self.read(502, body).message, "the API server answers HTTP 502")

    def test_safe(self) -> None:
        """No secret, no control character, no long text."""
        error = self.read(400, octets({"message": "token s3cret\x1b[31m"}), Secret("s3cret"))
        self.assertEqual(error.message, "token ***\\x1b[31m")
        self.assertEqual(shown("x" * QUOTE_LIMIT), "x" * QUOTE_LIMIT)
        self.assertEqual(shown("x" * (QUOTE_LIMIT + 1)), "x" * (QUOTE_LIMIT - 1) + "…")

"""Service keys: every shape that they are kept in, every place, and what is said about the wrong ones."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tproxy.destinations.keys import (
    ENTRY_LIMIT,
    LOOKS,
    SIZE_LIMIT,
    KeyFile,
    KeyFolder,
    ServiceKey,
    _settled,
    private_key,
    service_key,
)
from tproxy.interfaces import IKeySource
from tproxy.model import Code, Identity, Reason, Refusal, RefusedError, Secret, Stage
from tproxy.testing.certificates import Authority

URL = "https://provider.auth.example"
URI = "https://destination.example"
FIELDS = {"clientid": "sb-app!b1", "clientsecret": "canary$=", "url": URL, "uri": URI}
KEY = ServiceKey("sb-app!b1", Secret("canary$="), None, URL, URI)
METADATA = {
    ".metadata": b'{"metaDataProperties": [{"name": "url", "format": "text"}]}',
    "type": b"destination",
    "plan": b"lite",
    "instance_name": b"destinations",
    "tags": b'["destination"]',
}
CLIENT = Authority.create().subordinate("Issuing").subordinate("client")
X509 = {
    "clientid": "sb-app!b1",
    "certificate": CLIENT.chain_pem,
    "key": CLIENT.key_pem,
    "url": URL,
    "certurl": "https://provider.cert.example",
    "uri": URI,
}


def entries(fields: Mapping[str, object]) -> dict[str, bytes]:
    """One entry for each field."""
    return {name: str(value).encode() for name, value in fields.items()}


def whole(fields: Mapping[str, object]) -> bytes:
    """All fields in one entry."""
    return json.dumps(fields).encode()


class ShapesTests(SynchronousTestCase):
    """`service_key` on what is good."""

    def test_entries(self) -> None:
        """An entry for each field, among others; files end with line breaks, some begin with a byte order mark."""
        self.assertEqual(service_key(METADATA | entries(FIELDS)), KEY)
        files = {name: b"\xef\xbb\xbf" + value + b"\r\n" for name, value in entries(FIELDS).items()}
        self.assertEqual(service_key(files), KEY)

    def test_spellings(self) -> None:
        """Names of the client as OAuth spells them; the same thing twice is no contradiction."""
        fields = {"client_id": "sb-app!b1", "client_secret": "canary$=", "url": URL, "uri": URI}
        self.assertEqual(service_key(entries(fields)), KEY)
        self.assertEqual(service_key(entries(FIELDS | fields | {"client_id": ""})), KEY)

    def test_whole(self) -> None:
        """The key as JSON or as base64 of that, under a name that is told or found."""
        text = whole(FIELDS | {"instanceid": "7", "xsmasterappname": None, "uaa": {"url": "x"}})
        folded = b64encode(text)[:60] + b"\n" + b64encode(text)[60:] + b"\n"
        for entry in (text, b"\xef\xbb\xbf" + text + b"\n", b64encode(text), folded):
            self.assertEqual(service_key({"key.json": entry}), KEY)
            self.assertEqual(service_key(METADATA | {"credentials": entry}), KEY)
            self.assertEqual(service_key({"a": entry, "b": whole(FIELDS | {"uri": "x"})}, "a"), KEY)
            self.assertEqual(service_key({"a": entry} | entries(FIELDS | {"clientid": "other"}), "a"), KEY)

    def test_urls(self) -> None:
        """URLs in one spelling, without a slash at the end; http only where that is allowed."""
        for given_url, url in (
            ("https://Auth.Example:8443/path/", "https://auth.example:8443/path"),
            ("HTTPS://[2001:DB8::1]/", "https://[2001:db8::1]"),
            ("http://local.example", "http://local.example"),
        ):
            fields = entries(FIELDS | {"url": given_url, "uri": given_url})
            key = service_key(fields, http_hosts=frozenset({"local.example"}))
            self.assertEqual((key.url, key.uri), (url, url))

    def test_certificate(self) -> None:
        """A certificate with its chain and key, and the authorization server for those."""
        expected = ServiceKey(
            "sb-app!b1", None, Identity(CLIENT.chain_pem, Secret(CLIENT.key_pem)), "https://provider.cert.example", URI
        )
        self.assertEqual(service_key({"key": whole(X509)}), expected)
        self.assertEqual(service_key({"key": whole(X509 | {"clientsecret": "x"})}, private_key=Secret("x")), expected)
        stripped = service_key(entries(X509)).identity
        assert stripped is not None
        self.assertEqual(stripped.certificates, CLIENT.chain_pem.rstrip())

    def test_key_kept_elsewhere(self) -> None:
        """A binding without the private key, which is given separately."""
        fields = {name: value for name, value in X509.items() if name != "key"}
        key = service_key(entries(fields), private_key=Secret(CLIENT.key_pem))
        assert key.identity is not None
        self.assertEqual(key.identity.key, Secret(CLIENT.key_pem))

    def test_never_printed(self) -> None:
        """A key does not show its secrets."""
        self.assertNotIn("canary", repr(KEY))
        self.assertNotIn("PRIVATE", repr(service_key(entries(X509))))


class MistakesTests(SynchronousTestCase):
    """`service_key` on what is not."""

    def refusal(self, fields: Mapping[str, bytes], secret_key: str = "", private_key: Secret | None = None) -> Refusal:
        error = self.assertRaises(RefusedError, service_key, fields, secret_key, private_key)
        refusal = error.refusal
        self.assertEqual(
            (refusal.stage, refusal.reason, refusal.code),
            (Stage.RESOLVE, Reason.SERVICE_KEY_INVALID, Code.CONTACT_ADMIN),
        )
        self.assertTrue(refusal.remedy)
        self.assertTrue(str(refusal).isprintable())
        self.assertNotIn("canary", str(refusal))
        return refusal

    def test_fields(self) -> None:
        """Each field that is missing or wrong is named."""
        for change, words in (
            ({"clientid": ""}, "clientid is missing"),
            ({"clientsecret": ""}, "clientsecret is missing"),
            ({"url": ""}, "url is missing"),
            ({"uri": "\n"}, "uri is missing"),
            ({"client_id": "other"}, "clientid and client_id differ"),
            ({"client_secret": "other"}, "clientsecret and client_secret differ"),
            ({"clientid": "canary\ncanary"}, "clientid holds a control character"),
            ({"clientsecret": "canary\x00"}, "clientsecret holds a control character"),
            ({"url": "https://[canary"}, "url is no URL"),
            ({"url": "https://:443"}, "url is no URL"),
            ({"url": "https://127.1"}, "url is no URL"),
            ({"url": "https://h.example:canary"}, "url is no URL"),
            ({"url": "canary.example"}, "url is no URL"),
            ({"url": "ftp://canary.example"}, "url is no https URL"),
            ({"uri": "https://canary@h.example"}, "uri holds a user"),
            ({"uri": "https://h.example?"}, "uri holds a user, a query"),
            ({"uri": "https://h.example/#canary"}, "uri holds a user, a query or a fragment"),
            ({"uri": "https://h.example:0"}, "uri holds port 0"),
            ({"uri": "https://h.example/ö"}, "uri holds port 0, or a character"),
            ({"uri": "http://canary.example"}, "uri is http"),
        ):
            self.assertIn(words, self.refusal(entries(FIELDS | change)).message)
        self.assertIn("clientsecret is not UTF-8", self.refusal(entries(FIELDS) | {"clientsecret": b"\xff"}).message)
        for value in (["canary"], 7, None, True):
            refusal = self.refusal({"key": whole(FIELDS | {"clientsecret": value})})
            self.assertIn("clientsecret is not a text", refusal.message)
        self.assertIn("control character", self.refusal({"key": whole(FIELDS | {"clientid": "\ud800"})}).message)

    def test_no_key(self) -> None:
        """Nothing that looks like a key, more than one, or not where it was said to be."""
        nested = whole({"credentials": FIELDS})
        for fields in (
            {},
            METADATA,
            {"key": b"canary"},
            {"key": b'{"clientid": "canary"'},
            {"key": b"[" * 100_000},
            {"key": b'{"clientid": ' + b"9" * 5000 + b"}"},
            {"key": b'["clientid"]'},
            {"key": b"{}"},
            {"key": b64encode(b64encode(whole(FIELDS)))},
            {"key": nested},
        ):
            self.assertIn("there is neither an entry clientid", self.refusal(fields).message)
        two = self.refusal({"a": whole(FIELDS), "b": whole(FIELDS)})
        self.assertIn("more than one entry", two.message)
        self.assertIn("secretKey", two.remedy)
        for fields in ({"b": whole(FIELDS)}, {"a": b"canary"}):
            refusal = self.refusal(fields, "a")
            self.assertIn("the entry 'a' is missing or is not JSON", refusal.message)
        self.assertIn("clientid is missing", self.refusal({"a": b"{}"}, "a").message)

    def test_certificate(self) -> None:
        """A certificate that is of no use; the authorization server for certificates is another one."""
        other = Authority.create().key_pem
        for change, private, words in (
            ({"certurl": ""}, None, "certurl is missing"),
            ({"key": ""}, None, "key is missing beside certificate"),
            ({"key": ""}, Secret(""), "key is missing beside certificate"),
            ({"key": ""}, Secret(other), "the private key is not that of the first certificate"),
            ({"key": "canary"}, None, "the private key cannot be read"),
            ({"certificate": "canary"}, None, "certificate cannot be read"),
        ):
            refusal = self.refusal(entries(X509 | change), private_key=private)
            self.assertIn(words, refusal.message)

    @settings(deadline=None)
    @given(st.data())
    def test_anything(self, data: st.DataObject) -> None:
        """Whatever is kept, there is a key or a refusal, and that shows no value."""
        mark = "cAnArY"
        text = st.text(max_size=8) | st.sampled_from(
            ["", "https://h.example", "https://{}.example", "https://h/{}", "{}", "{}\n", "-----BEGIN CERTIFICATE-----"]
        ).map(lambda value: value.replace("{}", mark))
        names = st.sampled_from([*X509, *FIELDS, "client_id", "client_secret", ".metadata"])
        json_value = text | st.none() | st.integers() | st.lists(text, max_size=2)
        objects = st.dictionaries(names, json_value, max_size=8).map(whole)
        content = objects | objects.map(b64encode) | st.binary(max_size=8) | text.map(str.encode)
        fields = data.draw(st.dictionaries(names, content, max_size=8))
        secret_key = data.draw(st.sampled_from(["", "key", "clientid"]))
        private_key = data.draw(st.none() | text.map(Secret))
        try:
            key = service_key(fields, secret_key, private_key)
        except RefusedError as error:
            self.assertEqual(error.refusal.reason, Reason.SERVICE_KEY_INVALID)
            self.assertNotIn(mark.lower(), str(error.refusal).lower())
        else:
            self.assertTrue(key.client_id)
            self.assertTrue(key.client_secret != Secret(""))


class PrivateKeyTests(SynchronousTestCase):
    """`private_key`, where it is kept apart."""

    def test_found(self) -> None:
        """The only entry whatever it is called, else `key`, or the one that is named; files end with line breaks."""
        pem = Secret(CLIENT.key_pem.rstrip("\n"))
        content = CLIENT.key_pem.encode()
        self.assertEqual(private_key({"private.pem": content}), pem)
        self.assertEqual(private_key({"key": content, "certificate": b"x"}), pem)
        self.assertEqual(private_key({"key": b"x", "tls.key": content + b"\r\n"}, "tls.key"), pem)

    def test_missing(self) -> None:
        """One that is not there, empty or no text is told by its name."""
        for fields, entry, words in (
            ({}, "", "the private key 'key' is missing"),
            ({"a": b"canary", "b": b"canary"}, "", "the private key 'key' is missing"),
            ({"key": b"canary"}, "tls.key", "the private key 'tls.key' is missing"),
            ({"key": b"\n"}, "", "the private key 'key' is missing"),
            ({"key": b"canary\xff"}, "", "key is not UTF-8"),
        ):
            refusal = self.assertRaises(RefusedError, private_key, fields, entry).refusal
            self.assertEqual(refusal.reason, Reason.SERVICE_KEY_INVALID)
            self.assertIn(words, refusal.message)
            self.assertTrue(refusal.remedy)
            self.assertNotIn("canary", str(refusal))


class SourcesTests(SynchronousTestCase):
    """`KeyFile` and `KeyFolder`."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.mkdir()

    def refusal(self, source: KeyFile | KeyFolder) -> Refusal:
        return self.assertRaises(RefusedError, source.read).refusal

    def test_file(self) -> None:
        """One entry, named like the file; what is in there now counts."""
        source = KeyFile(self.path / "key.json")
        verifyObject(IKeySource, source)
        source.path.write_bytes(whole(FIELDS))
        self.assertEqual(service_key(source.read()), KEY)
        source.path.write_bytes(whole(FIELDS | {"clientid": "new"}))
        self.assertEqual(service_key(source.read()).client_id, "new")

    def test_folder(self) -> None:
        """A mounted Secret: links to links, and names with a dot that are none of our business."""
        source = KeyFolder(self.path)
        verifyObject(IKeySource, source)
        for version, client_id in (("..1", "sb-app!b1"), ("..2", "new")):
            data = self.path / version
            data.mkdir()
            for name, value in entries(FIELDS | {"clientid": client_id}).items():
                (data / name).write_bytes(value)
            (self.path / "..data.new").symlink_to(version)
            (self.path / "..data.new").rename(self.path / "..data")
            for name in FIELDS:
                if not (self.path / name).is_symlink():
                    (self.path / name).symlink_to(f"..data/{name}")
            (self.path / "folder").mkdir(exist_ok=True)
            self.assertEqual(source.read(), entries(FIELDS | {"clientid": client_id}))

    def test_replaced_meanwhile(self) -> None:
        """What counts is what was seen twice in a row."""
        looks = [{"a": b"1", "b": b"1"}, {"a": b"1", "b": b"2"}, {"a": b"2", "b": b"2"}, {"a": b"2", "b": b"2"}, {}]
        self.assertEqual(_settled(lambda: looks.pop(0), self.path), {"a": b"2", "b": b"2"})
        self.assertEqual(looks, [{}])
        restless = [{"a": str(number).encode()} for number in range(LOOKS)]
        error = self.assertRaises(RefusedError, _settled, lambda: restless.pop(0), self.path)
        self.assertEqual(error.refusal.reason, Reason.STORE_UNAVAILABLE)
        self.assertEqual(restless, [])

    def test_unreadable(self) -> None:
        """What cannot be read, with the path and the system's words."""
        (self.path / "file").touch()
        (self.path / "loop").symlink_to("loop")
        for source, words in (
            (KeyFile(self.path / "missing"), "No such file"),
            (KeyFile(self.path / "loop"), "symbolic links"),
            (KeyFile(self.path), "no regular file"),
            (KeyFile(Path("/dev/null")), "no regular file"),
            (KeyFolder(self.path / "missing"), "No such file"),
            (KeyFolder(self.path / "file"), "Not a directory"),
        ):
            refusal = self.refusal(source)
            self.assertEqual(
                (refusal.stage, refusal.reason, refusal.code),
                (Stage.RESOLVE, Reason.STORE_UNAVAILABLE, Code.UNAVAILABLE),
            )
            self.assertIn(str(source.path), refusal.message)
            self.assertIn(words, refusal.message)
            self.assertTrue(refusal.remedy)

    def test_bounded(self) -> None:
        """Neither a large file nor a large folder is a key."""
        file = self.path / "0"
        file.write_bytes(b"x" * SIZE_LIMIT)
        self.assertEqual(len(KeyFile(file).read()["0"]), SIZE_LIMIT)
        file.write_bytes(b"x" * (SIZE_LIMIT + 1))
        for source in (KeyFile(file), KeyFolder(self.path)):
            refusal = self.refusal(source)
            self.assertEqual(refusal.reason, Reason.SERVICE_KEY_INVALID)
            self.assertIn(str(file), refusal.message)
        for number in range(ENTRY_LIMIT):
            (self.path / str(number)).write_bytes(b"x")
        self.assertEqual(len(KeyFolder(self.path).read()), ENTRY_LIMIT)
        (self.path / "more").touch()
        refusal = self.refusal(KeyFolder(self.path))
        self.assertEqual(refusal.reason, Reason.SERVICE_KEY_INVALID)
        self.assertIn(str(self.path), refusal.message)

"""A folder of documents: what is read, what is refused, what keeps serving."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tproxy.destinations.directory import SIZE_LIMIT, Directory, FileError, certificates, parse
from tproxy.model import PROVIDER, Reason, Refusal, RefusedError, Tenant
from tproxy.testing.certificates import Authority

ACME = Tenant("acme")


class ParseTests(SynchronousTestCase):
    """One document."""

    def fault(self, content: bytes) -> FileError:
        return self.assertRaises(FileError, parse, content, "mail")

    def test_good(self) -> None:
        """A JSON object whose Name is the file's, with or without a byte order mark."""
        for content in (b'{"Name": "mail", "a": "\xc3\xa9"}', b'\xef\xbb\xbf{"Name": "mail", "a": "\\u00e9"}'):
            self.assertEqual(parse(content, "mail"), {"Name": "mail", "a": "é"})

    def test_faults(self) -> None:
        """Each is told with the line that it is in."""
        for content, line, words in (
            (b'{\n"Name": "mail"\n,}', 3, "not JSON from column "),
            (b'{"Name": "mail"}\n\nx', 3, "not JSON"),
            (b"", 1, "not JSON"),
            (b"[" * 100_000, 1, "not a flat JSON object"),
            (b'{"Name": "mail", "a": NaN}', 1, "not a flat JSON object"),
            (b'{"Name": "mail", "a": ' + b"1" * 5000 + b"}", 1, "not a flat JSON object"),
            (b'["Name"]', 1, "not a JSON object"),
            (b'{\n"Name": "mail",\n"a": "\\"b\\":",\n"b": "1",\n"b": "1"}', 5, "'b' is given twice"),
            (b'{"Name": "mail",\n"k\\u0041": "",\n"kA": ""}', 3, "'kA' is given twice"),
            (b'{"a": {\n"b": 1}, "b": {"b": 1,\n"b": 2}}', 2, "'b' is given twice"),
            (b'{"Name": "mail",\n"a": "\xff"}', 2, "not UTF-8"),
            (b'{"Name": "mail", "a": "\\ud800"}', 1, "surrogate"),
            (b'{"a": "b"}', 1, "Name is missing"),
            (b'{"a": "Name",\n"Name": "other"}', 2, "Name is 'other', the file's name says 'mail'"),
            (b'{"Name": 1}', 1, "Name is no string"),
            (b'{"Name": "mail"}' + b" " * SIZE_LIMIT, 1, "larger than"),
        ):
            fault = self.fault(content)
            self.assertEqual(fault.line, line, repr(content[:80]))
            self.assertIn(words, fault.message)
            self.assertTrue(fault.remedy)

    @settings(deadline=None)
    @given(st.binary() | st.text().map(str.encode))
    def test_any_bytes(self, content: bytes) -> None:
        """Whatever the file holds, there is a document or a fault in a line that exists."""
        try:
            self.assertEqual(parse(content, "mail")["Name"], "mail")
        except FileError as fault:
            self.assertTrue(1 <= fault.line <= content.count(b"\n") + 1)

    @settings(deadline=None)
    @given(st.dictionaries(st.text(), st.text()), st.text())
    def test_any_document(self, properties: Mapping[str, str], name: str) -> None:
        """What was written is what is read."""
        document = {**properties, "Name": name}
        self.assertEqual(parse(json.dumps(document, ensure_ascii=False).encode(), name), document)

    def test_certificates(self) -> None:
        """PEM text, and nothing else."""
        pem = Authority.create().pem
        self.assertEqual(certificates(pem.encode()), pem)
        for content, line in ((b"\x30\x82", 1), (b"x", 1), (b"# one\n-----BEGIN CERTIFICATE-----\nAAAA\n", 2)):
            self.assertEqual(self.assertRaises(FileError, certificates, content).line, line)


class DirectoryTests(SynchronousTestCase):
    """Real files."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.mkdir()
        self.directory = Directory("local", self.path)
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.note)
        self.addCleanup(globalLogPublisher.removeObserver, self.note)

    def note(self, event: LogEvent) -> None:
        if str(event.get("event", "")).startswith(("document.", "directory.")):
            self.events.append(event)

    def write(self, name: str, text: str | None = None, **more: str) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"Name": file.stem, **more}) if text is None else text)
        return file

    def value(self, name: str = "mail", tenant: Tenant = PROVIDER) -> object:
        return self.directory.find(name, tenant).values.get("v")

    def refusal(self, name: str = "mail", tenant: Tenant = PROVIDER) -> Refusal:
        return self.assertRaises(RefusedError, self.directory.find, name, tenant).refusal

    def test_comes_changes_goes(self) -> None:
        """A file is there when it is there; `refresh` tells whether anything is different."""
        self.assertTrue(self.directory.refresh())
        self.assertFalse(self.directory.refresh())
        self.assertEqual(self.refusal().reason, Reason.DESTINATION_NOT_FOUND)
        self.write("mail.json", v="1")
        self.assertTrue(self.directory.refresh())
        self.assertEqual(self.value(), "1")
        self.write("mail.json", v="22")
        self.assertTrue(self.directory.refresh())
        self.assertEqual(self.value(), "22")
        self.write("mail.json", v="22")
        self.assertFalse(self.directory.refresh())
        (self.path / "mail.json").unlink()
        self.assertFalse(self.directory.refresh())
        self.assertTrue(self.directory.doubtful)
        self.assertEqual(self.value(), "22")
        self.assertTrue(self.directory.refresh())
        self.assertFalse(self.directory.doubtful)
        self.assertEqual(self.refusal().reason, Reason.DESTINATION_NOT_FOUND)

    def test_saved_anew(self) -> None:
        """A file that an editor takes away and puts back was never gone."""
        file = self.write("mail.json", v="1")
        self.directory.refresh()
        for value in ("2", "3"):
            file.unlink()
            self.assertFalse(self.directory.refresh())
            self.write("mail.json", v=value)
            self.assertTrue(self.directory.refresh())
            self.assertEqual(self.value(), value)

    def test_tenants(self) -> None:
        """The tenant's own first, also where it is broken; then the common one."""
        self.write("mail.json", v="common")
        self.write("acme/mail.json", v="acme")
        self.write("globex/mail.json", "{")
        self.directory.refresh()
        self.assertEqual(self.value(tenant=ACME), "acme")
        self.assertEqual(self.directory.find("mail", ACME).folder, ACME)
        self.assertEqual(self.value(tenant=Tenant("other")), "common")
        self.assertEqual(self.directory.find("mail", Tenant("other")).folder, PROVIDER)
        self.assertEqual(self.refusal(tenant=Tenant("globex")).reason, Reason.DOCUMENT_INVALID)

    def test_no_way_out(self) -> None:
        """Neither a name nor a tenant leads to a file elsewhere."""
        self.write("mail.json", v="common")
        self.write("acme/deep/mail.json")
        self.write(".hidden/mail.json", v="hidden")
        outside = self.path.parent / "secret.json"
        outside.write_text('{"Name": "secret"}')
        self.directory.refresh()
        for name, tenant in (
            ("../secret", ""),
            ("secret", ".."),
            ("mail", ".hidden/.."),
            ("acme/mail", ""),
            ("deep/mail", "acme"),
            (str(outside.absolute())[:-5], ""),
        ):
            if (name, tenant) != ("mail", ".hidden/.."):
                self.assertEqual(self.refusal(name, Tenant(tenant)).reason, Reason.DESTINATION_NOT_FOUND)
        self.assertEqual(self.value("mail", Tenant(".hidden")), "common")

    def test_broken_keeps_serving(self) -> None:
        """The last good document serves on; one error names file and line; mended, it is served."""
        file = self.write("mail.json", v="good")
        self.directory.refresh()
        self.write("mail.json", '{"Name": "mail",\n"v": "canary\n"}')
        self.directory.refresh()
        self.directory.refresh()
        self.assertEqual(self.value(), "good")
        (event,) = self.events
        self.assertEqual((event["file"], event["line"]), (str(file), 2))
        self.assertNotIn("canary", str(event))
        self.write("mail.json", v="mended")
        self.directory.refresh()
        self.assertEqual(self.value(), "mended")

    def test_never_good(self) -> None:
        """A document that never was good is refused with the same words."""
        file = self.write("mail.json", '{"Name": "other"}')
        self.directory.refresh()
        refusal = self.refusal()
        self.assertEqual(refusal.reason, Reason.DOCUMENT_INVALID)
        self.assertIn(f"{file}, line 1: Name is 'other'", refusal.message)
        self.assertEqual(self.refusal("other").reason, Reason.DESTINATION_NOT_FOUND)

    def test_others_unaffected(self) -> None:
        """A broken file is nobody else's trouble, and what is no document is left alone."""
        self.write("broken.json", "{")
        self.write("mail.json", v="1")
        self.write("notes.txt", "x")
        (self.path / "folder.json").mkdir()
        os.mkfifo(self.path / "pipe.json")
        (self.path / "dangling.json").symlink_to("nowhere")
        self.directory.refresh()
        self.assertEqual(self.value(), "1")
        self.assertEqual(len(self.events), 1)

    def test_mounted(self) -> None:
        """A mounted ConfigMap: the visible names lead through a link that is swapped as a whole."""
        for version in ("1", "2"):
            self.write(f"..v{version}/mail.json", v=version)
            self.write(f"..v{version}/acme/mail.json", v=f"acme {version}")
        (self.path / "..data").symlink_to("..v1")
        (self.path / "mail.json").symlink_to("..data/mail.json")
        (self.path / "acme").symlink_to("..data/acme")
        self.directory.refresh()
        self.assertEqual((self.value(), self.value(tenant=ACME)), ("1", "acme 1"))
        (self.path / "..data_tmp").symlink_to("..v2")
        (self.path / "..data_tmp").rename(self.path / "..data")
        self.assertTrue(self.directory.refresh())
        self.assertEqual((self.value(), self.value(tenant=ACME)), ("2", "acme 2"))
        self.assertEqual(self.events, [])

    def test_folder_gone(self) -> None:
        """A folder that cannot be read is an outage: what was read serves on, and it is told once."""
        self.write("mail.json", v="1")
        self.directory.refresh()
        self.path.rename(self.path.with_suffix(".away"))
        self.directory.refresh()
        self.directory.refresh()
        self.assertEqual(self.value(), "1")
        self.assertEqual(self.refusal("other").reason, Reason.STORE_UNAVAILABLE)
        self.assertEqual([event["event"] for event in self.events], ["directory.unreadable"])
        self.path.with_suffix(".away").rename(self.path)
        self.assertTrue(self.directory.refresh())
        self.assertEqual(self.refusal("other").reason, Reason.DESTINATION_NOT_FOUND)

    def test_not_read_yet(self) -> None:
        """Before the first look nothing is known."""
        self.write("mail.json")
        self.assertEqual(self.refusal().reason, Reason.STORE_UNAVAILABLE)

    def test_endless_link(self) -> None:
        """A link to itself is a document that cannot be read; a tenant's does not give way to the common one."""
        self.write("mail.json", v="common")
        (self.path / "acme").mkdir()
        (self.path / "acme" / "mail.json").symlink_to("mail.json")
        self.directory.refresh()
        self.directory.refresh()
        self.assertIn("cannot be read", self.refusal(tenant=ACME).message)
        self.assertEqual(len(self.events), 1)

    def test_tenant_gone(self) -> None:
        """A tenant's folder that is gone takes its documents with it; one that cannot be listed keeps them."""
        self.write("mail.json", v="common")
        self.write("acme/mail.json", v="acme")
        self.directory.refresh()
        (self.path / "acme").rename(self.path / "away")
        (self.path / "acme").symlink_to("acme")
        for _ in range(3):
            self.directory.refresh()
        self.assertEqual(self.value(tenant=ACME), "acme")
        self.assertEqual(self.refusal("other", ACME).reason, Reason.STORE_UNAVAILABLE)
        self.assertEqual(self.value(), "common")
        self.assertEqual([event["event"] for event in self.events], ["directory.unreadable"])
        (self.path / "acme").unlink()
        self.directory.refresh()
        self.directory.refresh()
        self.assertEqual(self.value(tenant=ACME), "common")

    def test_authority(self) -> None:
        """Certificates are found beside the document, then in the common folder; never elsewhere."""
        one, other = Authority.create().pem, Authority.create().pem
        self.write("ca.pem", one)
        self.write("acme/ca.pem", other)
        self.write("only.crt", one)
        self.write("mail.json")
        self.write("bad.cer", "x")
        self.directory.refresh()
        for location, folder, pem in (
            ("ca.pem", PROVIDER, one),
            ("ca.pem", ACME, other),
            ("only.crt", ACME, one),
        ):
            self.assertEqual(self.directory.authority(location, folder), pem)
        for location in ("none.pem", "mail.json", "acme/ca.pem", "../ca.pem", "bad.cer", "store.jks"):
            refused = self.assertRaises(RefusedError, self.directory.authority, location, PROVIDER).refusal
            self.assertEqual(refused.reason, Reason.DOCUMENT_INVALID)
            self.assertIn(location, refused.message)

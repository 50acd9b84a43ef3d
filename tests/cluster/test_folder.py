"""The files of a folder: what is read of them, and when."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cluster.folders import LocalTestCase, resource
from tproxy.cluster import folder


class Folders(LocalTestCase):
    """A cluster follows a folder."""

    def test_files(self):
        """All documents of all YAML files are read at the start; other files are nobody's."""
        self.write("a.yaml", resource("a"), resource("b"), "# nothing\n")
        self.write("c.yml", resource("c"))
        self.write("d.json", resource("d"))
        self.write(".e.yaml", resource("e"))
        (self.folder / "f.yaml").mkdir()
        (self.folder / "g.yaml").symlink_to("nowhere")
        cluster = self.cluster()
        self.assertEqual(set(self.destinations(cluster)), {"a", "b", "c"})
        self.assertEqual(cluster.observe().address, "127.0.0.1")
        self.assertEqual(self.changes, 1)

    def test_unknown_is_not_empty(self):
        """Before the folder was read, nothing is known; an empty folder is known to be empty."""
        cluster = self.cluster(start=False)
        self.assertIsNone(cluster.observe())
        cluster.startService()
        self.assertEqual(cluster.observe().resources, ())
        self.assertEqual(self.changes, 1)
        cluster.stopService()

    def test_changes(self):
        """What is added, changed or removed takes effect within 2 s; what stays the same is left alone."""
        self.write("a.yaml", resource("a"))
        cluster = self.cluster()
        self.write("b.yaml", resource("b"))
        self.wait()
        self.assertEqual(self.destinations(cluster), {"a": "mailbox", "b": "mailbox"})
        self.write("b.yaml", resource("b", "elsewhere"))
        self.wait()
        self.assertEqual(self.destinations(cluster), {"a": "mailbox", "b": "elsewhere"})
        (self.folder / "a.yaml").unlink()
        self.wait()
        self.assertEqual(self.destinations(cluster), {"b": "elsewhere"})
        self.assertEqual(self.changes, 4)
        self.wait(10)
        self.assertEqual(self.changes, 4)

    def test_half_written(self):
        """A file that is gone or changing for a moment is not believed at once."""
        path = self.write("a.yaml", resource("a"))
        cluster = self.cluster()
        moment = self.folder / "a.tmp"
        path.rename(moment)
        self.clock.advance(1)
        self.assertEqual(self.destinations(cluster), {"a": "mailbox"})
        moment.rename(path)
        self.wait()
        self.write("a.yaml", "")
        self.clock.advance(1)
        self.write("a.yaml", resource("a", "elsewhere"))
        self.clock.advance(0.25)
        self.assertEqual(self.destinations(cluster), {"a": "mailbox"})
        self.wait(0.5)
        self.assertEqual(self.destinations(cluster), {"a": "elsewhere"})
        self.assertEqual(self.changes, 2)

    def test_broken_file(self):
        """A broken file keeps what it said before, the log names file and line, once; the others are followed."""
        path = self.write("a.yaml", resource("a"))
        cluster = self.cluster()
        for content, line, words in (
            ("a: b\nc: [\n", 3, "well-formed"),
            ("a: 'b\n", 2, "well-formed"),
            ("a: b\n- c\n", 2, "well-formed"),
            ("a: *hunter2\n", 1, "well-formed"),
            ("a: !!python/object:os.system {}\n", 1, "well-formed"),
            ("a: 1\nb:\n  c: 1\n  c: 2\n", 4, "given before"),
            ("a: 1\n---\nb: 2024-99-99\n", 3, "cannot be read"),
            ('---\n---\nb: !!int ""\n', 3, "cannot be read"),
            ("a: !!bool maybe\n", 1, "cannot be read"),
            ("a: !!timestamp never\n", 1, "cannot be read"),
            ('a: "\\UFFFFFFFF"\n', 1, ""),
            ("%YAML 99999999999999999999.1\n---\na: 1\n", 1, ""),
            ("a: 1\nb: " + "[" * 60 + "]" * 60, 2, "nested deeper"),
            ("a: " + "[" * 500_000, 1, ""),
            ("a: 1\nb: \x01\n", 2, "not allowed"),
            (b"a: 1\nb: \xff\n", 2, "UTF-8"),
            ("# " + "x" * folder.FILE_LIMIT, 1, "longer than"),
        ):
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            events = self.wait(4)
            self.assertEqual(
                [(event["file"], event["line"]) for event in events], [(str(path), line)], repr(content[:40])
            )
            self.assertIn(words, events[0]["message"])
            self.assertNotIn("hunter2", str(events))
            self.assertEqual(self.destinations(cluster), {"a": "mailbox"})
        self.write("b.yaml", resource("b"))
        self.wait()
        self.assertEqual(set(self.destinations(cluster)), {"a", "b"})
        self.write("a.yaml", resource("a", "elsewhere"))
        self.wait()
        self.assertEqual(self.destinations(cluster)["a"], "elsewhere")

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=60) | st.text("ab:-[]{}&*!%@`\"'|>? \n\t#0,.~=", max_size=40).map(str.encode))
    def test_any_bytes(self, octets):
        """Whatever a file holds, it is read or broken."""
        path = self.base / "any.yaml"
        path.write_bytes(octets)
        try:
            for manifest in folder.read(path):
                self.assertGreaterEqual(manifest.line, 1)
        except folder.BrokenFileError as error:
            self.assertGreaterEqual(error.line, 1)

    def test_failing_watcher(self):
        """An error of the program at a change is logged, and the next change is followed."""
        cluster = self.cluster()
        cluster.watch(lambda: 1 / 0)
        self.write("a.yaml", resource("a"))
        (event,) = self.wait()
        self.assertEqual((event["event"], event["reason"]), ("resources.failed", "ZeroDivisionError"))
        self.write("b.yaml", resource("b"))
        self.wait()
        self.assertEqual(set(self.destinations(cluster)), {"a", "b"})

    def test_recursive_yaml(self):
        """Aliases that go in circles, or multiply, cost nothing."""
        bomb = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
        self.write(
            "a.yaml", resource("a"), "kind: &k\n- *k\n", f"{bomb}kind: *a29\n", "&x {kind: Destination, y: *x}\n"
        )
        cluster = self.cluster()
        self.assertEqual(self.destinations(cluster), {"a": "mailbox"})

    def test_no_file_any_more(self):
        """What is no regular file is not opened: it might never end, or never begin."""
        path = self.write("a.yaml", resource("a"))
        cluster = self.cluster()
        path.unlink()
        os.mkfifo(path)
        self.wait()
        self.assertEqual(self.destinations(cluster), {})

    def test_unreadable_file(self):
        """A file that cannot be opened is broken at its first line."""
        error = self.assertRaises(folder.BrokenFileError, lambda: list(folder.read(self.folder / "none.yaml")))
        self.assertEqual((error.line, "No such file" in error.message), (1, True))

    def test_folder_gone(self):
        """A folder that is gone is an error, logged once, that ends nothing; when it is back, it is followed again."""
        self.write("a.yaml", resource("a"))
        cluster = self.cluster()
        self.folder.rename(self.base / "away")
        events = self.wait(10)
        self.assertEqual(
            [(event["event"], event["file"]) for event in events], [("resources.unreadable", str(self.folder))]
        )
        self.assertEqual(self.destinations(cluster), {"a": "mailbox"})
        (self.base / "away").rename(self.folder)
        self.write("b.yaml", resource("b"))
        self.wait()
        self.assertEqual(set(self.destinations(cluster)), {"a", "b"})

    def test_folder_not_there(self):
        """Without a folder at the start nothing is known, until it is there."""
        self.folder.rmdir()
        cluster = self.cluster()
        self.wait()
        self.assertIsNone(cluster.observe())
        self.folder.mkdir()
        self.wait()
        self.assertEqual(cluster.observe().resources, ())

"""Messages as an IMAP server shows them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tproxy.testing.messages import SAMPLES, Entity, compose, envelope, structure

NESTED = b"""\
From: "Ada" <ada@mail.example>\r
Subject: outer\r
X-Note: one\r
 and folded\r
Content-Type: multipart/mixed; boundary=B\r
\r
preamble\r
--B\r
\r
plain\r
\r
--B\r
Content-Type: message/rfc822\r
\r
Subject: inner\r
Content-Type: multipart/alternative; boundary=C\r
\r
--C\r
Content-Type: text/plain\r
\r
first\r
--C\r
Content-Type: text/html\r
\r
<b>second</b>\r
--C--\r
--B--\r
epilogue\r
"""


class EntityTests(SynchronousTestCase):
    """Sections are bytes of the message as it came."""

    def setUp(self) -> None:
        self.entity = Entity(NESTED)

    def test_header_and_body_are_the_whole(self) -> None:
        """Nothing is lost between header and body."""
        for raw in (NESTED, *SAMPLES):
            entity = Entity(raw)
            self.assertEqual(raw, entity.header + entity.body)

    def test_parts(self) -> None:
        """Each part has its number, also within an enclosed message."""
        for path, body in (
            ((0,), b"plain\r\n"),
            ((1, 0), b"first"),
            ((1, 1), b"<b>second</b>"),
        ):
            self.assertEqual(body, self.entity.part(path).body)

    def test_no_such_part(self) -> None:
        """A number that is not there is no error, it is nothing."""
        for path in ((2,), (0, 1), (1, 2)):
            self.assertIsNone(self.entity.part(path))

    def test_single_part(self) -> None:
        """A message without parts is its own first part."""
        entity = Entity(b"Subject: x\r\n\r\nwords\r\n")
        self.assertIs(entity, entity.part((0,)))

    def test_selected_fields(self) -> None:
        """Fields are taken by name in any case, folds and all, or left out."""
        self.assertEqual(b"X-Note: one\r\n and folded\r\n\r\n", self.entity.select(["x-note"]))
        self.assertEqual(
            b'From: "Ada" <ada@mail.example>\r\nSubject: outer\r\n\r\n',
            self.entity.select(["X-Note", "content-type"], negate=True),
        )
        self.assertEqual(self.entity.header, self.entity.select([], negate=True))

    def test_words(self) -> None:
        """A person reads what RFC 2047 encoded."""
        self.assertEqual("Größere Bestellung für München", Entity(SAMPLES[1]).words("subject"))
        self.assertEqual("会議のお知らせ 📅", Entity(SAMPLES[3]).words("subject"))
        self.assertEqual("", Entity(SAMPLES[3]).words("cc"))

    def test_eight_bit_field(self) -> None:
        """A field that breaks RFC 5322 with raw bytes is still shown in ASCII."""
        self.assertTrue(Entity("Subject: Grüße\r\n\r\n".encode()).field("subject").isascii())

    def test_text(self) -> None:
        """The words of attachments of text count, those of pictures don't."""
        text = Entity(SAMPLES[1]).text()
        self.assertIn("Filiale in München", text)
        self.assertIn("Brötchen;480", text)
        self.assertNotIn("PNG", Entity(SAMPLES[2]).text())

    def test_multipart_without_parts(self) -> None:
        """A multipart whose boundary never comes is a text."""
        entity = Entity(b"Content-Type: multipart/mixed; boundary=B\r\n\r\nnothing\r\n")
        self.assertEqual(("text", "plain"), entity.kind)
        self.assertEqual(["text", "plain"], structure(entity, extended=False)[:2])


class StructureTests(SynchronousTestCase):
    """BODYSTRUCTURE and ENVELOPE."""

    def test_attachment(self) -> None:
        """An attachment shows its type, size and name, which RFC 2231 encodes."""
        _, attachment, *rest = structure(Entity(SAMPLES[1]), extended=True)
        self.assertEqual("mixed", rest[0])
        self.assertEqual(["text", "csv", ["charset", "utf-8"], None, None, "base64"], attachment[:6])
        name = ["filename*", "utf-8''Bestellung%20f%C3%BCr%20M%C3%BCnchen.csv"]
        self.assertEqual(["attachment", name], attachment[9])

    def test_enclosed_message(self) -> None:
        """An enclosed message carries its envelope, structure and lines."""
        enclosed = structure(Entity(NESTED), extended=False)[1]
        main, sub, _, _, _, _, size, inside, body, lines = enclosed
        self.assertEqual(("message", "rfc822"), (main, sub))
        self.assertEqual("inner", inside[1])
        self.assertEqual("alternative", body[-1])
        part = Entity(NESTED).parts[1]
        self.assertEqual((len(part.body), part.body.count(b"\n")), (size, lines))

    def test_not_extended(self) -> None:
        """BODY is BODYSTRUCTURE without what was added to it later."""
        self.assertEqual(8, len(structure(Entity(SAMPLES[0]), extended=False)))
        self.assertEqual(12, len(structure(Entity(SAMPLES[0]), extended=True)))

    def test_envelope(self) -> None:
        """Sender and reply-to are the author where the header has none; absent lists are nothing."""
        ada = [["Ada", None, "ada", "mail.example"]]
        self.assertEqual([None, "outer", ada, ada, ada, None, None, None, None, None], envelope(Entity(NESTED)))


class ComposeTests(SynchronousTestCase):
    """The messages to look at."""

    def test_line_ends(self) -> None:
        """Each line ends in CRLF, as on the wire."""
        for raw in SAMPLES:
            self.assertEqual(raw.count(b"\n"), raw.count(b"\r\n"))

    def test_same_each_time(self) -> None:
        """A message is the same bytes in every run."""
        arguments = (
            "Subject",
            "a@mail.example",
            "Mon, 02 Jun 2025 08:00:00 +0000",
            "x\n",
            ("a.txt", "text/plain", b"y"),
        )
        self.assertEqual(compose(*arguments), compose(*arguments))

    def test_recipient(self) -> None:
        """A message is for Ada, or for whom it says."""
        arguments = "Subject", "a@mail.example", "Mon, 02 Jun 2025 08:00:00 +0000", "x\n"
        self.assertEqual("Ada Lovelace <ada@mail.example>", Entity(compose(*arguments)).field("to"))
        self.assertEqual("b@mail.example", Entity(compose(*arguments, to="b@mail.example")).field("to"))

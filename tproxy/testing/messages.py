"""Mail messages as an IMAP server shows them: sections, structure, envelope; and a few to look at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from email.header import Header, decode_header, make_header
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.utils import getaddresses, parsedate_to_datetime
from urllib.parse import quote

_FIELD = re.compile(rb"([^:\r\n]*)[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*")


class Entity:
    """A message, or a part of one (RFC 2046): its header and its body, byte for byte as they came."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        if raw.startswith(b"\r\n"):
            head, self.body = b"", raw[2:]
        else:
            head, _, self.body = raw.partition(b"\r\n\r\n")
            head += b"\r\n"
        self._head = head
        self.header = head + b"\r\n"
        self.fields: Message = BytesParser().parsebytes(self.header, headersonly=True)
        self.parts = tuple(Entity(part) for part in self._inner())

    def _inner(self) -> Iterable[bytes]:
        boundary = self.fields.get_boundary()
        if self.fields.get_content_type() == "message/rfc822":
            return (self.body,)
        if self.fields.get_content_maintype() != "multipart" or boundary is None:
            return ()
        delimiter = rb"(?:^|\r\n)--" + re.escape(boundary.encode()) + rb"(?:--)?[ \t]*(?:\r\n|$)"
        return re.split(delimiter, self.body)[1:-1]

    @property
    def kind(self) -> tuple[str, str]:
        """Type and subtype; text/plain where a multipart has no parts."""
        kind = self.fields.get_content_maintype(), self.fields.get_content_subtype()
        return ("text", "plain") if kind[0] == "multipart" and not self.parts else kind

    def part(self, path: Sequence[int]) -> Entity | None:
        """The part with this number (RFC 3501, section 6.4.5), counted from 0; one without parts is its own first."""
        found = self
        for number in path:
            if found.kind == ("message", "rfc822") and found is not self:
                (found,) = found.parts
            if found.kind[0] == "multipart":
                if number >= len(found.parts):
                    return None
                found = found.parts[number]
            elif number:
                return None
        return found

    def select(self, names: Iterable[str], negate: bool = False) -> bytes:
        """The header's fields of these names, or all others, with the empty line."""
        wanted = {name.lower() for name in names}
        return (
            b"".join(
                field[0]
                for field in _FIELD.finditer(self._head)
                if (field[1].decode("ascii", "replace").strip().lower() in wanted) is not negate
            )
            + b"\r\n"
        )

    def field(self, name: str) -> str | None:
        """A field's value on one line, in ASCII as it stands in the header."""
        value = self.fields.get(name)
        if value is None:
            return None
        return " ".join((value.encode() if isinstance(value, Header) else value).split())

    def words(self, name: str) -> str:
        """A field's value as a person reads it (RFC 2047)."""
        return str(make_header(decode_header(self.field(name) or "")))

    def text(self) -> str:
        """The words of all text parts."""
        if self.parts:
            return "\n".join(part.text() for part in self.parts)
        if self.kind[0] != "text":
            return ""
        content = BytesParser().parsebytes(self.header + self.body)
        octets = content.get_payload(decode=True)
        return octets.decode(content.get_content_charset("ascii"), "replace") if isinstance(octets, bytes) else ""


def structure(entity: Entity, extended: bool) -> list[object]:
    """BODY or BODYSTRUCTURE (RFC 3501, section 7.4.2) as nested lists."""
    main, sub = entity.kind
    fields = entity.fields
    if main == "multipart":
        result: list[object] = [structure(part, extended) for part in entity.parts]
        result.append(sub)
        extension: list[object] = [_parameters(fields, "content-type")]
    else:
        encoding = entity.field("content-transfer-encoding") or "7bit"
        result = [main, sub, _parameters(fields, "content-type")]
        result += [entity.field("content-id"), entity.field("content-description"), encoding, len(entity.body)]
        if (main, sub) == ("message", "rfc822"):
            result += [envelope(entity.parts[0]), structure(entity.parts[0], extended)]
        if main == "text" or (main, sub) == ("message", "rfc822"):
            result.append(entity.body.count(b"\n"))
        extension = [entity.field("content-md5")]
    if extended:
        disposition = fields.get_content_disposition()
        result += [*extension, disposition and [disposition, _parameters(fields, "content-disposition")]]
        result += [entity.field("content-language"), entity.field("content-location")]
    return result


def _parameters(fields: Message, name: str) -> list[str] | None:
    flat: list[str] = []
    for key, value in fields.get_params([], name)[1:]:
        if isinstance(value, tuple):  # RFC 2231
            charset, language, octets = value
            flat += [f"{key}*", f"{charset or ''}'{language or ''}'{quote(octets, encoding='latin-1')}"]
        else:
            flat += [key, value.encode("ascii", "replace").decode()]
    return flat or None


def envelope(entity: Entity) -> list[object]:
    """ENVELOPE (RFC 3501, section 7.4.2) as nested lists."""
    author = _addresses(entity, "from")
    return [
        entity.field("date"),
        entity.field("subject"),
        author,
        _addresses(entity, "sender") or author,
        _addresses(entity, "reply-to") or author,
        *(_addresses(entity, name) for name in ("to", "cc", "bcc")),
        entity.field("in-reply-to"),
        entity.field("message-id"),
    ]


def _addresses(entity: Entity, name: str) -> list[list[str | None]] | None:
    found = getaddresses([entity.field(name) or ""])
    split = [(person, *address.partition("@")) for person, address in found if address]
    return [[person or None, None, user, host] for person, user, _, host in split] or None


def compose(
    subject: str,
    author: str,
    date: str,
    text: str,
    *attachments: tuple[str, str, bytes],
    to: str = "Ada Lovelace <ada@mail.example>",
) -> bytes:
    """A message to look at; an attachment is a file name, a type and its content."""
    message = EmailMessage()
    message["From"] = author
    message["To"] = to
    message["Subject"] = subject
    message["Date"] = parsedate_to_datetime(date)
    message["Message-ID"] = f"<{parsedate_to_datetime(date):%Y%m%d%H%M%S}@mail.example>"
    message.set_content(text)
    for name, kind, content in attachments:
        main, _, sub = kind.partition("/")
        message.add_attachment(content, maintype=main, subtype=sub, filename=name)
        if main == "text":
            [*_, part] = message.iter_parts()
            part.set_param("charset", "utf-8")
    if attachments:
        message.set_boundary(f"part-{parsedate_to_datetime(date):%Y%m%d%H%M%S}")
    return message.as_bytes(policy=message.policy.clone(linesep="\r\n"))


_DOT = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415478da63f87ad4090004af01fd50b6b6e70000000049454e44ae426082"
)
"""A picture: one pixel, PNG."""

SAMPLES = (
    compose(
        "Welcome",
        "Postmaster <postmaster@mail.example>",
        "Mon, 02 Jun 2025 08:00:00 +0000",
        "You are reading this without having logged in.\n\nNobody told this program a password: the proxy knows it.\n",
    ),
    compose(
        "Größere Bestellung für München",
        "Jürgen Müller <juergen@shop.example>",
        "Tue, 03 Jun 2025 09:30:00 +0200",
        "Guten Tag,\n\nanbei die Bestellung für die Filiale in München.\n\nGrüße\nJürgen\n",
        ("Bestellung für München.csv", "text/csv", "Artikel;Stück\r\nKäse;12\r\nBrötchen;480\r\n".encode()),
    ),
    compose(
        "Your invoice 2025-0042",
        "Billing <billing@shop.example>",
        "Wed, 04 Jun 2025 17:45:12 +0000",
        "The invoice is attached, and a picture of the goods.\n",
        ("invoice-2025-0042.txt", "text/plain", b"Invoice 2025-0042\r\n\r\n12 cheeses    96.00\r\n"),
        ("goods.png", "image/png", _DOT),
    ),
    compose(
        "会議のお知らせ 📅",
        "山田花子 <hanako@office.example>",
        "Thu, 05 Jun 2025 11:00:00 +0900",
        "来週の会議は月曜日の十時からです。\n",
    ),
)

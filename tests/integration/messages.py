"""The mail that the tests begin with."""

from __future__ import annotations

from email.message import EmailMessage
from email.policy import SMTP
from hashlib import sha256
from random import Random


def digest(*messages: bytes) -> str:
    """A name for many bytes: where they differ, nobody wants to see how."""
    return sha256(b"".join(messages)).hexdigest()


def _message(subject: str, text: str, attachment: bytes = b"") -> bytes:
    message = EmailMessage(policy=SMTP)
    message["From"] = "Zoë <zoe@example.org>"
    message["To"] = "ann@example.org"
    message["Subject"] = subject
    message["Date"] = "Mon, 06 Jan 2025 10:00:00 +0000"
    message.set_content(text)
    if attachment:
        message.add_attachment(attachment, maintype="application", subtype="octet-stream", filename="übersicht.bin")
    return message.as_bytes()


FIRST = b"From: zoe@example.org\r\nSubject: Hello\r\n\r\nGood morning.\r\nSecond line.\r\n"
MESSAGES = (
    FIRST,
    _message("Grüße aus Köln 🎠", "Schöne Grüße!\n"),
    _message("An attachment", "See below.\n", Random(1).randbytes(150_000)),
)
LARGE = _message("Five megabytes", "Large.\n", Random(2).randbytes(3_800_000))

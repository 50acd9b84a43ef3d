"""The tools of the integration tests: they would notice what they are there to notice."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from tests.integration import canaries

SECRET = canaries.secret("harness")


class CanaryTests(SynchronousTestCase):
    def test_seen_in_every_spelling(self):
        """A secret is found however a log might spell it."""
        spelled = {
            "plain": SECRET.encode(),
            "in JSON": b'{"message": "' + SECRET.replace("/", "\\/").encode() + b'"}',
            "PLAIN": b64encode(b"\0user\0" + SECRET.encode()),
            "PLAIN with an authorization id": b64encode(b"u\0user\0" + SECRET.encode()),
            "XOAUTH2": b64encode(b"user=ann\x01auth=Bearer " + SECRET.encode() + b"\x01\x01"),
            "twice": b64encode(b64encode(b"x" + SECRET.encode())),
            "URL": quote(SECRET, safe="").encode(),
            "hexadecimal": SECRET.encode().hex().upper().encode(),
            "UTF-16": SECRET.encode("utf-16-le"),
        }
        for name, text in spelled.items():
            self.assertEqual([SECRET], canaries.found(b"before " + text + b" after"), name)

    def test_odd_characters(self):
        """A secret with quotes, controls and other scripts is found as Python and JSON escape it."""
        odd = canaries.also('canary "ö\\' + "\r\nx")
        for text in (repr(odd), repr(odd.encode()), '"canary \\"ö\\\\\\r\\nx"', '"canary \\"\\u00f6\\\\\\r\\nx"'):
            self.assertEqual([odd], canaries.found(text.encode()))

    def test_not_seen_elsewhere(self):
        """Other text is no secret."""
        self.assertEqual([], canaries.found(b"Canary." + b64encode(b"nothing to see here") * 100))

"""Hosts and subdomains: what is valid, and its one spelling."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tproxy import names


class HostTests(SynchronousTestCase):
    """A host is a DNS name or an IP address, in one spelling."""

    def test_spelling(self):
        """Case, brackets, a final dot and other scripts make no other host."""
        for text, host in {
            "imap.example.com": "imap.example.com",
            "IMAP.Example.COM.": "imap.example.com",
            "localhost": "localhost",
            "mail_server": "mail_server",
            "1und1.example": "1und1.example",
            "a" * 63 + ".example": "a" * 63 + ".example",
            ".".join(["a" * 49] * 5) + ".a.": ".".join(["a" * 49] * 5) + ".a",
            "bücher.example": "xn--bcher-kva.example",
            "BÜCHER。example": "xn--bcher-kva.example",
            "127.0.0.1": "127.0.0.1",
            "::1": "::1",
            "[2001:DB8::0001]": "2001:db8::1",
        }.items():
            self.assertEqual(names.host(text), host)

    def test_refused(self):
        """Anything else is refused in words that fit the mistake."""
        for text, words in {
            "": "is empty",
            "imap example": "space",
            " imap.example": "space",
            "imap.example\r\nx": "control character",
            "imap.example\0": "control character",
            "imap\u202e.example": "control character",
            "imaps://imap.example": "URL",
            "imap.example/": "path",
            "imap\\example": "path",
            "user@imap.example": "'@'",
            "imap.example:993": "holds a port",
            "[::1]:993": "holds a port",
            "fe80::1%eth0": "holds a port, or is no IP address",
            "1.2.3.4%eth0": "neither",
            "[imap.example]": "neither",
            "imap..example": "neither",
            ".": "neither",
            "-imap.example": "neither",
            "*.example": "neither",
            "%65xample": "neither",
            "a" * 64 + ".example": "neither",
            "a." * 128: "longer",
            "ü" * 254: "longer",
            ".".join(["ü" + "a" * 40] * 6): "no DNS name",
            "ü.-a": "no DNS name",
            "\ud800": "control character",
        }.items():
            with self.subTest(text=text):
                error = self.assertRaises(ValueError, names.host, text)
                self.assertIn(words, str(error))

    def test_numbers(self):
        """A spelling that a resolver may read as an IPv4 address is no name: it can't slip past as one."""
        for text in (
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7F.1",
            "0177.0.0.1",
            "127.0.0.0x1",
            "１２７.0.0.1",
            "1.2.3.4.",
        ):
            self.assertRaises(ValueError, names.host, text)

    @given(st.text())
    @settings(deadline=None)
    def test_any_text(self, text):
        """Any text is a host whose spelling is its own, or a ValueError; never more than one line either way."""
        try:
            host = names.host(text)
        except ValueError as error:
            self.assertEqual(len(str(error).splitlines()), 1)
        else:
            self.assertEqual(names.host(host), host)
            self.assertTrue(host.isascii())


class SubdomainTests(SynchronousTestCase):
    """A subdomain is one host label."""

    def test_valid(self):
        """Letters, digits and inner hyphens, at most 63."""
        for text in ("a", "acme", "a-1", "1", "a" * 63):
            self.assertEqual(names.subdomain(text), text)

    def test_refused(self):
        """All else, without repeating it."""
        for text in ("", "-a", "a-", "Acme", "a.b", "a_b", "ä", "a\n", "a" * 64, "a/../b"):
            with self.subTest(text=text):
                error = self.assertRaises(ValueError, names.subdomain, text)
                self.assertIn("is no subdomain", str(error))


class NearestTests(SynchronousTestCase):
    """A misspelt name finds the one that was meant."""

    def test_near(self):
        """Whatever the case, and only if it is near."""
        known = ["tenantMode", "logging", "security"]
        for name, meant in {
            "tenantmode": "tenantMode",
            "tenentMode": "tenantMode",
            "LOGGING": "logging",
            "limits": "",
            "": "",
        }.items():
            self.assertEqual(names.nearest(name, known), meant)


class QuotedTests(SynchronousTestCase):
    """What users wrote is shown on one line, escaped and not endless."""

    def test_short(self):
        """Control characters are escaped."""
        self.assertEqual(names.quoted("a\r\n\x1b[1m"), r"'a\r\n\x1b[1m'")

    def test_long(self):
        """A long text is cut."""
        self.assertEqual(names.quoted("a" * 10, 10), repr("a" * 10))
        self.assertEqual(names.quoted("a" * 11, 10), repr("a" * 9 + "…"))

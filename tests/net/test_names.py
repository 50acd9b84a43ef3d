"""One spelling of host names for resolver, SNI and certificates."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tproxy.net.names import ascii_name, ip_literal


class Names(SynchronousTestCase):
    """`ascii_name` and `ip_literal`."""

    def test_names(self) -> None:
        """Lower case, no dot of the root, A-labels; underscores occur in clusters."""
        for host, name in {
            "Mail.Example": "mail.example",
            "mail.example.": "mail.example",
            "bücher.example": "xn--bcher-kva.example",
            "BÜCHER.example": "xn--bcher-kva.example",
            "xn--bcher-kva.example": "xn--bcher-kva.example",
            "my_mail": "my_mail",
            "127.1": "127.1",
            "a" * 63: "a" * 63,
        }.items():
            with self.subTest(host):
                self.assertEqual(ascii_name(host), name)

    def test_no_names(self) -> None:
        """Anything else is refused in words that repeat nothing of it."""
        for host in (
            "",
            ".",
            "a..b",
            ".a",
            "a b",
            "a\r\nb",
            "a\0",
            "a\n",
            "a/b",
            "a:1",
            "u@h",
            "[::1]",
            "*.example",
            "a" * 64,
            ".".join(["a" * 63] * 4),
            "ü" * 64,
            "a\u2024b\u200b c",
            "ü\n",
        ):
            with self.subTest(host):
                error = self.assertRaises(ValueError, ascii_name, host)
                self.assertIn(str(error), ("not a host name", "not an internationalised host name"))

    def test_literals(self) -> None:
        """Addresses in their usual form are no names; odd spellings are left to the system's resolver."""
        for host, literal in {"10.0.0.1": True, "::1": True, "127.1": False, "2130706433": False, "a": False}.items():
            with self.subTest(host):
                self.assertEqual(ip_literal(host) is not None, literal)

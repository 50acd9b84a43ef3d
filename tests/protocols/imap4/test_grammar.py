"""As much of IMAP's grammar as a proxy needs."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tproxy.protocols.imap4 import grammar
from tproxy.protocols.imap4.grammar import (
    After,
    Announced,
    Between,
    Command,
    Continuation,
    Data,
    Garbage,
    Inside,
    Status,
    Strings,
)
from tproxy.session import Line, Literal

lines = st.binary(max_size=60).map(lambda octets: octets.replace(b"\n", b""))
tags = st.text("ABYZabyz0189.!#$&'-/:;<=>?@[]^_`|}~", min_size=1, max_size=8).map(str.encode)
strings = st.binary(max_size=30)
texts = st.binary(max_size=30).map(lambda octets: re.sub(rb"[\r\n\0]", b"", octets))


class Commands(SynchronousTestCase):
    """What an application says."""

    def test_commands(self):
        """A tag, a name in any case, and the rest; anything else is not a command."""
        for text, read in (
            (b"a1 noop", Command(b"a1", "NOOP", b"")),
            (b"a1  LOGIN  me x ", Command(b"a1", "LOGIN", b"  me x")),
            (b'1] LIST "" *', Command(b"1]", "LIST", b' "" *')),
            (b"a1", None),
            (b"a1 ", None),
            (b" a1 NOOP", None),
            (b"+a NOOP", None),
            (b"a+ NOOP", None),
            (b"* NOOP", None),
            (b"a\x00 NOOP", None),
            (b"a1 NO\x00OP", None),
            (b"a1 NOOP\x00", None),
            (b"a1 N\xc3\x96OP", None),
            (b"", None),
        ):
            self.assertEqual(grammar.command(text), read)

    @settings(deadline=None)
    @given(tags, st.from_regex(rb"[A-Za-z]{1,12}", fullmatch=True), texts)
    def test_every_command(self, tag, name, rest):
        """What is put together is taken apart again."""
        read = grammar.command(tag + b" " + name + b" " + rest)
        self.assertEqual(read, Command(tag, name.decode().upper(), (b" " + rest).rstrip(b" ")))

    @settings(deadline=None)
    @given(lines)
    def test_any_line(self, line):
        """No line upsets any of the parsers."""
        for parse in (grammar.command, grammar.announced, grammar.strings, grammar.response, grammar.capabilities):
            parse(line)

    def test_announced(self):
        """A literal is announced at the very end of a line; its size is a number of a sensible length."""
        for text, read in (
            (b"x {3}", Announced(3, True)),
            (b"x{3+}", Announced(3, False)),
            (b"x ~{0}", Announced(0, True)),
            (b"x {3} ", None),
            (b"x {-3}", None),
            (b"x {}", None),
            (b"x {3-}", None),
            (b"x 3}", None),
            (b"x {" + b"9" * 19 + b"}", Announced(10**19 - 1, True)),
            (b"x {" + b"9" * 20 + b"}", None),
            (b"", None),
        ):
            self.assertEqual(grammar.announced(text), read)

    def test_strings(self):
        """Atoms and quoted strings are counted, and a literal behind them."""
        for text, read in (
            (b"", Strings(0, None)),
            (b" ", Strings(0, None)),
            (b" a b", Strings(2, None)),
            (b'  "a \\" b"   c ', Strings(2, None)),
            (b' "" {3}', Strings(2, Announced(3, True))),
            (b" {3+}", Strings(1, Announced(3, False))),
            (b"a", None),
            (b"a{3}", None),
            (b' "a', None),
            (b' "a"b', None),
            (b' "a\\"', None),
            (b" {3", None),
            (b" a\x00b", None),
        ):
            self.assertEqual(grammar.strings(text), read)

    @settings(deadline=None)
    @given(strings, st.sampled_from([0, 4096]))
    def test_string(self, value, at_once):
        """A string is sent so that it is read as one string again, with its very octets."""
        first, *others = grammar.string(value, at_once)
        if first.startswith(b'"'):
            self.assertEqual(others, [])
            self.assertRegex(first, rb'\A"(?:[ !#-\[\]-~]|\\["\\])*"\Z')
            self.assertEqual(re.sub(rb"\\(.)", rb"\1", first[1:-1]), value)
        elif at_once:
            self.assertEqual((first, others), (b"{%d+}\r\n%b" % (len(value), value), []))
        else:
            self.assertEqual((first, others), (b"{%d}" % len(value), [value]))
        line, _, _ = first.partition(b"\r\n")
        counted = grammar.strings(b" " + line)
        self.assertEqual(counted.count, 1)


class Responses(SynchronousTestCase):
    """What a mail server says."""

    def test_responses(self):
        """Statuses with their codes, other data, continuations; anything else is garbage."""
        for text, read in (
            (b"* OK", Status(b"*", "OK")),
            (b"* ok hi", Status(b"*", "OK", text=b"hi")),
            (b"a1 NO [AuthenticationFailed] no", Status(b"a1", "NO", "AUTHENTICATIONFAILED", text=b"no")),
            (b"* OK [CAPABILITY A B]", Status(b"*", "OK", "CAPABILITY", b"A B")),
            (b"* OK [CAPABILITY A B]x", Status(b"*", "OK", "CAPABILITY", b"A B", b"x")),
            (b"* OK [CAPABILITY A B", Status(b"*", "OK", text=b"[CAPABILITY A B")),
            (b"* OK [\xff] x", Status(b"*", "OK", text=b"[\xff] x")),
            (b"* BYE x", Status(b"*", "BYE", text=b"x")),
            (b"* PREAUTH x", Status(b"*", "PREAUTH", text=b"x")),
            (b"a1 BYE x", Garbage()),
            (b"a1 PREAUTH x", Garbage()),
            (b"a1 OKAY", Garbage()),
            (b"* OKAY x", Data("OKAY", b"x")),
            (b"* capability A", Data("CAPABILITY", b"A")),
            (b"* 3 EXISTS", Data("3", b"EXISTS")),
            (b"* SEARCH", Data("SEARCH", b"")),
            (b"*", Garbage()),
            (b"* ", Garbage()),
            (b"*  OK", Garbage()),
            (b"+", Continuation(b"")),
            (b"+ ", Continuation(b"")),
            (b"+ x y", Continuation(b"x y")),
            (b"+OK x", Garbage()),
            (b"+ OK", Continuation(b"OK")),
            (b"", Garbage()),
        ):
            self.assertEqual(grammar.response(text), read)

    def test_text_is_not_shown(self):
        """What a server says is not in the repr."""
        for text in (b"* OK [CAPABILITY canary] canary", b"* X canary", b"+ canary"):
            self.assertNotIn("canary", repr(grammar.response(text)))

    @settings(deadline=None)
    @given(st.binary(max_size=80))
    def test_capabilities(self, octets):
        """A list shown on has nothing but atoms that no reader takes for anything else."""
        for name in grammar.capabilities(octets):
            self.assertRegex(name, r"\A[!#$&'+,\-./0-9:;<=>?@A-Z^_`a-z|~]+\Z")
            self.assertIn(name.encode(), octets)

    def test_inside(self):
        """What means something after a login; never nothing."""
        self.assertEqual(
            grammar.inside(("IMAP4rev1", "AUTH=X", "auth=Y", "Sasl-IR", "StartTLS", "AUTHX", "LITERAL+")),
            ("IMAP4rev1", "AUTHX", "LITERAL+"),
        )
        self.assertEqual(grammar.inside(("STARTTLS",)), ("IMAP4rev1",))


class Flow(SynchronousTestCase):
    """Where a mail server stands between its lines and literals."""

    def test_follow(self):
        """A literal interrupts a response, which then goes on; statuses have none."""
        for flow, event, after in (
            (Between(), Line(b"* X {3}\r\n"), Inside(3)),
            (Between(), Line(b"* X\r\n"), Between()),
            (Between(), Line(b"* OK {3}\r\n"), Between()),
            (Between(), Line(b"a1 NO {3}\r\n"), Between()),
            (Between(), Line(b"+ {3}\r\n"), Between()),
            (Between(), Line(b"x {3}\r\n"), Between()),
            (Between(), Literal(b"x"), Between()),
            (Inside(3), Literal(b"xy"), Inside(1)),
            (Inside(3), Literal(b"xyz"), After()),
            (Inside(0), Literal(b""), After()),
            (Inside(3), Line(b"x\r\n"), Between()),
            (After(), Line(b" y {3}\r\n"), Inside(3)),
            (After(), Line(b"* OK {3}\r\n"), Inside(3)),
            (After(), Line(b")\r\n"), Between()),
            (After(), Literal(b"x"), Between()),
        ):
            self.assertEqual(grammar.follow(flow, event), after)

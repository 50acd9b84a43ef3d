"""The vocabulary of dialogues: lines as they came, and no wire bytes in any text."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tproxy.model import GreetingMode
from tproxy.session import (
    LINE_LIMIT,
    Forward,
    Greeting,
    HandOver,
    Line,
    Literal,
    ReadLine,
    Send,
    Upstream,
)


class LineTests(SynchronousTestCase):
    """A line keeps its end and can be read without it."""

    def test_ends(self):
        """CRLF and a bare LF end a line; any other CR belongs to it."""
        for raw, text in {
            b"a NOOP\r\n": b"a NOOP",
            b"a NOOP\n": b"a NOOP",
            b"\r\n": b"",
            b"\n": b"",
            b"a\r\r\n": b"a\r",
            b"a\rb\n": b"a\rb",
        }.items():
            self.assertEqual(Line(raw).text, text)

    @given(st.binary().filter(lambda text: b"\n" not in text and not text.endswith(b"\r")))
    @settings(deadline=None)
    def test_any_line(self, text):
        """The text is what stood before the end, for both ends."""
        self.assertEqual(Line(text + b"\r\n").text, text)
        self.assertEqual(Line(text + b"\n").text, text)
        self.assertEqual(Line(text + b"\r\n").raw, text + b"\r\n")


class PrintedTests(SynchronousTestCase):
    """Wire bytes may be a login's: events and effects don't show them."""

    def test_repr(self):
        """Neither is there a way around it by nesting them."""
        canary = b"canary-77aa"
        for value in (
            Line(canary),
            Literal(canary),
            Send(canary),
            Forward(canary),
            HandOver(canary),
            Upstream(Line(canary)),
            Upstream(Literal(canary)),
        ):
            self.assertNotIn(canary.decode(), repr(value))


class DefaultTests(SynchronousTestCase):
    """What is meant where nothing is said."""

    def test_limit(self):
        """A line of an application is bounded."""
        self.assertEqual(ReadLine().limit, LINE_LIMIT)

    def test_greeting(self):
        """An application is greeted as already logged in."""
        self.assertIs(Greeting("mail").mode, GreetingMode.PREAUTH)

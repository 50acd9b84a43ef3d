"""What log lines say, and what they never say."""

from __future__ import annotations

import json
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import PurePosixPath

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from twisted.python.log import LogPublisher as LegacyPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tproxy.model import ListenerKey, Reason, Refusal, RefusedError, Secret, Stage, Tenant
from tproxy.ops.level import Level
from tproxy.ops.logs import LEVELS, LONGEST, LineObserver, escaped

CANARY = "canary-5e1f"


class Parcel:
    """A value of a type that the log knows nothing of."""

    def __repr__(self) -> str:
        return CANARY

    __str__ = __repr__


def logged(say, *, namespace="tproxy.relay", level="info", text=False):
    """What is written while `say(log)` runs."""
    stream = StringIO()
    say(Logger(namespace=namespace, observer=LogPublisher(LineObserver(stream, Level(level), text))))
    return stream.getvalue()


def one(say, **options):
    """The one JSON object that is written while `say(log)` runs."""
    (line,) = logged(say, **options).splitlines()
    return json.loads(line)


def failure_with(error):
    """A Failure that has a traceback."""
    try:
        raise error
    except Exception:
        return Failure()


class JSON(SynchronousTestCase):
    """Off a terminal: one JSON object a line."""

    def test_is_an_observer(self) -> None:
        """It can be given to twistd."""
        self.assertTrue(verifyObject(ILogObserver, LineObserver(StringIO())))

    def test_fields(self) -> None:
        """The sentence is formatted and each allowed field is there by its name."""
        key = ListenerKey("shop", "mail", Tenant("acme"))
        said = one(
            lambda log: log.info(
                "{listener} ended after {seconds} s",
                event="session.ended",
                listener=key,
                seconds=1.23456,
                received=7,
                file=PurePosixPath("/etc/ca.pem"),
                stage=Stage.LOGIN,
                tenant="",
            )
        )
        self.assertRegex(said.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertEqual(
            said,
            {
                "level": "info",
                "text": "shop/mail-acme ended after 1.235 s",
                "event": "session.ended",
                "listener": "shop/mail-acme",
                "seconds": 1.235,
                "received": 7,
                "file": "/etc/ca.pem",
                "stage": "login",
            },
        )

    def test_other_fields_are_dropped(self) -> None:
        """A field that is not on the list is neither written nor formatted, by whatever spelling."""
        line = logged(
            lambda log: log.info(
                "{password} {password!r} {message.__class__} {message[0]} {} {thing()}!",
                password=CANARY,
                thing=lambda: CANARY,
                message="m",
            )
        )
        self.assertNotIn(CANARY, line)
        self.assertEqual(json.loads(line)["text"], "… … … … … …!")

    def test_values_of_unknown_types_are_dropped(self) -> None:
        """Of bytes, exceptions and foreign objects nothing is written, even in an allowed field."""
        for value in (CANARY.encode(), ValueError(CANARY), Parcel(), [CANARY], {CANARY: 1}, Secret(CANARY)):
            self.assertNotIn(CANARY, logged(lambda log, value=value: log.info("{message}", message=value)))

    def test_types_are_named(self) -> None:
        """A type is written by its name."""
        self.assertEqual(one(lambda log: log.info("", reason=KeyError))["reason"], "KeyError")

    def test_control_characters(self) -> None:
        """What a terminal would act on is spelled out, in the sentence as in the fields, so that a line is a line."""
        said = one(lambda log: log.info("a\x1b[2Jb\n{message}", message="\r\n\x07\x9b\u202e\u2028é"))
        self.assertEqual(said["message"], "\\r\\n\\x07\\x9b\\u202e\\u2028é")
        self.assertEqual(said["text"], "a\\x1b[2Jb\\n\\r\\n\\x07\\x9b\\u202e\\u2028é")

    def test_long_values_are_cut(self) -> None:
        """No field makes a line endless."""
        self.assertEqual(len(one(lambda log: log.info("", message="x" * 10**6))["message"]), LONGEST + 1)

    def test_odd_formats(self) -> None:
        """A sentence that cannot be formatted, or is none, does not stop the line."""
        self.assertEqual(one(lambda log: log.info("{", event="e"))["text"], "…")
        self.assertEqual(one(lambda log: log.info(None, event="e"))["text"], "…")


class Failures(SynchronousTestCase):
    """An exception's message may hold anything, so it is not written."""

    def test_type_and_place(self) -> None:
        """A Failure is its type and where it happened."""
        failure = failure_with(KeyError(CANARY))
        line = logged(lambda log: log.failure("it broke", failure))
        self.assertNotIn(CANARY, line)
        self.assertNotIn("Traceback", line)
        said = json.loads(line)
        self.assertEqual((said["text"], said["failure"], said["level"]), ("it broke", "KeyError", "critical"))
        self.assertRegex(said["at"], r"tests/ops/test_logs\.py:\d+ failure_with$")

    def test_place_is_ours_if_it_can_be(self) -> None:
        """The innermost frame of tproxy says more than the library's that it called."""
        try:
            escaped(5)  # type: ignore[arg-type]
        except AttributeError:
            failure = Failure()
        failure.frames.append(["deeper", "/lib/python3/site-packages/other/thing.py", 1, (), ()])
        self.assertRegex(one(lambda log: log.failure("it broke", failure))["at"], r"tproxy/ops/logs\.py:\d+ escaped$")

    def test_no_traceback(self) -> None:
        """A Failure without a traceback has no place."""
        said = one(lambda log: log.failure("it broke", Failure(ValueError(CANARY))))
        self.assertEqual(said["failure"], "ValueError")
        self.assertNotIn("at", said)

    def test_refusal(self) -> None:
        """A refusal's words are ours: they are written."""
        refusal = Refusal(Stage.TLS, Reason.CERTIFICATE_EXPIRED, "It expired", "Renew it")
        said = one(lambda log: log.failure("no", Failure(RefusedError(refusal))))
        self.assertEqual(
            {name: said[name] for name in ("stage", "reason", "message", "remedy", "failure")},
            {
                "stage": "tls",
                "reason": "certificate-expired",
                "message": "It expired",
                "remedy": "Renew it",
                "failure": "RefusedError",
            },
        )


class Libraries(SynchronousTestCase):
    """What others log is not trusted to be harmless."""

    def test_quiet_below_warnings(self) -> None:
        """The chatter of libraries is left out, at level info and above."""
        self.assertEqual(logged(lambda log: log.info("Starting"), namespace="twisted.internet"), "")
        self.assertEqual(logged(lambda log: log.warn("Odd"), namespace="twisted.internet", level="error"), "")
        self.assertEqual(
            one(lambda log: log.debug("Starting {factory}", factory=CANARY), namespace="treq", level="debug")["text"],
            "Starting …",
        )

    def test_named(self) -> None:
        """A library's warning says which library it is."""
        said = one(lambda log: log.warn("Odd: {what}", what=CANARY), namespace="twisted.web")
        self.assertEqual((said["library"], said["text"]), ("twisted.web", "Odd: …"))
        self.assertEqual(one(lambda log: log.warn("Odd"), namespace="")["library"], "…")

    def test_legacy_text(self) -> None:
        """Text that was made before it was logged is withheld."""
        stream = StringIO()
        old = LegacyPublisher(publishPublisher=LogPublisher(LineObserver(stream, Level("debug"))))
        old.msg(CANARY)
        old.msg(format="%(x)s", x=CANARY, isError=True)
        self.assertEqual(len(stream.getvalue().splitlines()), 2)
        self.assertNotIn(CANARY, stream.getvalue())


class Levels(SynchronousTestCase):
    """`config.logging.level` is the quietest that is written."""

    def test_filter(self) -> None:
        """Each level lets itself and what is louder through."""
        for at, level in enumerate(LEVELS):
            lines = logged(lambda log: [log.emit(each, "x") for each in LogLevel.iterconstants()], level=level)
            self.assertEqual([json.loads(line)["level"] for line in lines.splitlines()], list(LEVELS[at:]))


class Text(SynchronousTestCase):
    """On a terminal: a sentence, and the fields that it does not say."""

    def test_line(self) -> None:
        """Time, level, words, then the rest; values with spaces in quotes."""
        line = logged(
            lambda log: log.warn(
                "{listener} refused", event="e", listener=ListenerKey("shop", "mail"), reason="r", message="a b"
            ),
            text=True,
        )
        self.assertRegex(line, r'^\d\d:\d\d:\d\d warn  shop/mail refused  reason=r message="a b"\n$')

    def test_nothing_to_add(self) -> None:
        """A sentence without fields ends there."""
        self.assertRegex(logged(lambda log: log.info("Hello"), text=True), r"^\S+ info  Hello\n$")

    def test_unformattable(self) -> None:
        """Fields are shown where the sentence cannot be."""
        self.assertRegex(logged(lambda log: log.info("{", message="m"), text=True), r"info  …  message=m\n$")

    def test_narrow_encoding(self) -> None:
        """A terminal that lacks a letter gets it spelled out, not an error."""
        stream = TextIOWrapper(BytesIO(), encoding="ascii")
        Logger(namespace="tproxy", observer=LineObserver(stream, text=True)).info("{message}", message="é")
        stream.seek(0)
        self.assertIn("\\xe9", stream.read())


class Anything(SynchronousTestCase):
    """No event breaks the log or its lines."""

    @settings(deadline=None)
    @given(st.text(), st.text(), st.booleans())
    def test_one_event_one_printable_line(self, form, value, text) -> None:
        """Whatever the sentence and the value, one line of printable characters comes out."""
        line = logged(lambda log: log.info(form, message=value), text=text)
        self.assertTrue(line.endswith("\n"))
        self.assertTrue(line[:-1].isprintable(), line)
        if not text:
            json.loads(line)

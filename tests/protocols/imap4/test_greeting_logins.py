"""The server half: an application logs in, with whatever."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.protocols.imap4.greetings import BEGUN, PREAUTH, SHOWN, greeted
from tests.protocols.transcripts import Transcripts
from tproxy.session import LINE_LIMIT, Send


class Logins(Transcripts, SynchronousTestCase):
    """Anybody may log in, with whatever; nothing of it goes on."""

    IN = "OK [CAPABILITY IMAP4rev1 IDLE] logged in already"

    def test_login(self):
        """LOGIN with atoms, quoted strings, literals that wait for `+` and such that don't, in any case."""
        transcript = (
            BEGUN
            + rf"""
            P: a1 LOGIN me secret
            A: a1 {self.IN}
            P: a2 login "m\\"e" ""
            A: a2 {self.IN}
            P: a3 Login "me" {{6}}
            A: + go on
            P: secret
            A: a3 {self.IN}
            P: a4 LOGIN {{2}}
            A: + go on
            P: me {{6}}
            A: + go on
            P: a\r\n\x00) …
            P:
            A: a4 {self.IN}
            P: a5 LOGIN {{2+}}
            P: me {{6+}}
            P: secret
            A: a5 {self.IN}
            P: a6 LOGIN {{0}}
            A: + go on
            P:  x
            A: a6 {self.IN}
            P: a7   LOGIN   me%   p*ss(w)örd\x20
            A: a7 {self.IN}
            P: a8 SELECT INBOX
            = HandOver
            H: a8 SELECT INBOX
            """
        )
        self.holds(PREAUTH, transcript)

    def test_capabilities_after_a_login(self):
        """Once logged in, the application is not offered to log in any more."""
        transcript = (
            BEGUN
            + rf"""
            P: a1 CAPABILITY
            A: * CAPABILITY {SHOWN}
            A: a1 OK that is all
            P: a2 LOGIN me secret
            A: a2 {self.IN}
            P: a3 capability
            A: * CAPABILITY IMAP4rev1 IDLE
            A: a3 OK that is all
            """
        )
        self.holds(PREAUTH, transcript)
        self.holds_with_bare_lf(PREAUTH, transcript)

    def test_malformed_login(self):
        """LOGIN takes two strings."""
        bad = "BAD LOGIN takes a user and a password"
        self.holds(
            PREAUTH,
            BEGUN
            + rf"""
            P: a1 LOGIN
            A: a1 {bad}
            P: a2 LOGIN me
            A: a2 {bad}
            P: a3 LOGIN me secret more
            A: a3 {bad}
            P: a4 LOGIN "me secret
            A: a4 {bad}
            P: a5 LOGIN "me"secret x
            A: a5 {bad}
            P: a6 LOGIN me se\x00cret
            A: a6 {bad}
            P: a7 LOGIN me se\rcret
            A: a7 {bad}
            P: a8 LOGIN me secret {{3}}
            A: a8 {bad}
            P: a9 LOGIN {{2}}
            A: + go on
            P: mesecret
            A: a9 {bad}
            P: a10 LOGIN {{2}}
            A: + go on
            P: me
            A: a10 {bad}
            P: a11 LOGIN me{{2}}
            A: a11 {bad}
            P: a12 LOGIN {{2}} x
            A: a12 {bad}
            """,
        )

    def test_literal_that_is_too_large(self):
        """A literal over the limit is not asked for; if it comes unasked, the session ends."""
        self.holds(
            PREAUTH,
            BEGUN
            + r"""
            P: a1 LOGIN {65537}
            A: a1 BAD LOGIN takes a user and a password
            P: a2 LOGIN {99999999999999999999999999}
            A: a2 BAD LOGIN takes a user and a password
            P: a3 LOGIN {65537+}
            A: * BYE [LIMIT] the literal is too large or out of place
            = Close
            """,
        )

    def test_literal_out_of_place(self):
        """Octets that come unasked behind a LOGIN that is none are not taken for commands."""
        self.holds(
            PREAUTH,
            BEGUN
            + r"""
            P: a1 LOGIN me secret {6+}
            A: * BYE [LIMIT] the literal is too large or out of place
            = Close
            """,
        )

    def test_largest_literal(self):
        """A literal of just the limit is swallowed."""
        dialogue = greeted()
        secret = b"s" * LINE_LIMIT
        effects = dialogue.receive(b"a1 LOGIN me {%d+}\r\n%b\r\n" % (len(secret), secret))
        self.assertEqual([effect.octets[:5] for effect in effects], [b"a1 OK"])

    def test_authenticate(self):
        """AUTHENTICATE with an initial response, an empty one, and without."""
        transcript = (
            BEGUN
            + rf"""
            P: a1 AUTHENTICATE PLAIN AG1lAHNlY3JldA==
            A: a1 {self.IN}
            P: a2 authenticate plain =
            A: a2 {self.IN}
            P: a3 AUTHENTICATE XOAUTH2
            A: + …
            A:
            P: bWU=
            A: a3 {self.IN}
            P: a4 AUTHENTICATE OAUTHBEARER
            A: + …
            A:
            P:
            A: a4 {self.IN}
            P: a5 AUTHENTICATE LOGIN
            A: + VXNlcm5hbWU6
            P: bWU=
            A: + UGFzc3dvcmQ6
            P: c2VjcmV0
            A: a5 {self.IN}
            P: a6 AUTHENTICATE LOGIN bWU=
            A: + UGFzc3dvcmQ6
            P: c2VjcmV0
            A: a6 {self.IN}
            """
        )
        self.holds(PREAUTH, transcript)
        self.holds_with_bare_lf(PREAUTH, transcript)

    def test_cancelled(self):
        """A `*` takes AUTHENTICATE back."""
        transcript = (
            BEGUN
            + r"""
            P: a1 AUTHENTICATE PLAIN
            A: + …
            A:
            P: *
            A: a1 BAD cancelled, as you asked
            P: a2 AUTHENTICATE LOGIN
            A: + VXNlcm5hbWU6
            P: bWU=
            A: + UGFzc3dvcmQ6
            P: *
            A: a2 BAD cancelled, as you asked
            """
        )
        self.holds(PREAUTH, transcript)
        self.holds_with_bare_lf(PREAUTH, transcript)

    def test_other_mechanisms(self):
        """What is not offered is refused, with words."""
        self.holds(
            PREAUTH,
            BEGUN
            + r"""
            P: a1 AUTHENTICATE GSSAPI
            A: a1 NO [CANNOT] this mechanism is not offered
            P: a2 AUTHENTICATE CRAM-MD5 bWU=
            A: a2 NO [CANNOT] this mechanism is not offered
            P: a3 AUTHENTICATE
            A: a3 BAD AUTHENTICATE takes a mechanism and at most one response
            P: a4 AUTHENTICATE PLAIN bWU= c2VjcmV0
            A: a4 BAD AUTHENTICATE takes a mechanism and at most one response
            """,
        )

    @settings(deadline=None, max_examples=200)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["atom", "quoted", "literal", "at once"]),
                st.binary(max_size=20).filter(lambda octets: b"\0" not in octets),
            ),
            min_size=2,
            max_size=2,
        )
    )
    def test_nothing_goes_on(self, said):
        """Whatever is said in a LOGIN, however it is written, none of it is forwarded nor kept."""
        command = b"canary LOGIN"
        for way, octets in said:
            secret = b"secret" + octets
            match way:
                case "quoted":
                    secret = secret.replace(b"\r", b"").replace(b"\n", b"")
                    command += b' "' + secret.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
                case "literal":
                    command += b" {%d}\r\n" % len(secret) + secret
                case "at once":
                    command += b" {%d+}\r\n" % len(secret) + secret
                case _:
                    command += b" secret"
        dialogue = greeted()
        effects = dialogue.receive(command + b"\r\n")
        self.assertEqual({type(effect) for effect in effects}, {Send})
        self.assertRegex(effects[-1].octets, rb"\Acanary OK ")
        self.assertNotIn(b"secret", b"".join(effect.octets for effect in effects))
        self.assertNotIn("secret", repr(dialogue.state))
        self.assertEqual((dialogue.rest(), dialogue.state.shown), (b"", ("IMAP4rev1", "IDLE")))

"""The client half within TLS: how a mail server is logged in to."""

from __future__ import annotations

from base64 import b64encode

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.protocols.imap4.logins import BEARER, GREETED, PASSWORD, on_plain_port, refusal
from tests.protocols.transcripts import Transcripts
from tproxy.lines import Dialogue
from tproxy.model import Bearer, Password, Secret
from tproxy.protocols.imap4 import imap4, imap4s
from tproxy.session import Login, Send


class Login_(Transcripts, SynchronousTestCase):
    """From the greeting to the capabilities of after the login, within TLS."""

    def test_one_round_trip(self):
        """A server that lists its capabilities in passing and takes an initial response costs one round trip."""
        transcript = r"""
            P: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready
            A: t1 AUTHENTICATE PLAIN AHUAcHc=
            P: t1 OK [CAPABILITY IMAP4rev1 IDLE] in
            = LoggedIn IMAP4rev1 IDLE
            """
        self.holds(imap4s.log_in(PASSWORD), transcript)
        self.holds_with_bare_lf(imap4s.log_in(PASSWORD), transcript)

    def test_laconic(self):
        """One that lists nothing in passing is asked before and after the login; a bare `+` asks as well as any."""
        transcript = r"""
            P: * OK ready
            A: t1 CAPABILITY
            P: * CAPABILITY IMAP4rev1 AUTH=PLAIN
            P: t1 OK that is all
            A: t2 AUTHENTICATE PLAIN
            P: +
            A: AHUAcHc=
            P: t2 OK in
            A: t3 CAPABILITY
            P: * CAPABILITY IMAP4rev1 IDLE
            P: t3 OK that is all
            = LoggedIn IMAP4rev1 IDLE
            """
        self.holds(imap4s.log_in(PASSWORD), transcript)
        self.holds_with_bare_lf(imap4s.log_in(PASSWORD), transcript)

    def test_capabilities_in_codes(self):
        """The answer to CAPABILITY may ride in its tagged OK alone."""
        self.holds(
            imap4s.log_in(PASSWORD),
            r"""
            P: * OK ready
            A: t1 CAPABILITY
            P: t1 OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] that is all
            A: t2 AUTHENTICATE PLAIN AHUAcHc=
            P: t2 OK in
            A: t3 CAPABILITY
            P: t3 OK [CAPABILITY IMAP4rev1] that is all
            = LoggedIn IMAP4rev1
            """,
        )

    def test_any_case(self):
        """Keywords are read in any case; a list on a line of its own during the login is not asked for again."""
        self.holds(
            imap4s.log_in(PASSWORD),
            r"""
            P: * ok [capability imap4rev1 Sasl-Ir auth=plain] ready
            A: t1 AUTHENTICATE PLAIN AHUAcHc=
            P: * capability IMAP4rev1 Idle
            P: t1 ok
            = LoggedIn IMAP4rev1 Idle
            """,
        )

    def test_bytes_behind_the_tagged_ok(self):
        """What came behind the tagged OK is the application's, unchanged and once."""
        self.holds(
            imap4s.log_in(PASSWORD),
            r"""
            P: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready
            A: t1 AUTHENTICATE PLAIN AHUAcHc=
            P: t1 OK [CAPABILITY IMAP4rev1] in
            P: * OK [ALERT] the quota is nearly used up
            P: * 3 EX…
            = LoggedIn IMAP4rev1
            R: * OK [ALERT] the quota is nearly used up
            R: * 3 EX…
            """,
        )

    def test_lines_between_login_and_capabilities(self):
        """So is what comes while the capabilities of after the login are asked for."""
        self.holds(
            imap4s.log_in(PASSWORD),
            r"""
            P: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready
            A: t1 AUTHENTICATE PLAIN AHUAcHc=
            P: * OK this is said before the login
            P: t1 OK in
            A: t2 CAPABILITY
            P: * OK [ALERT] the quota is nearly used up
            P: * CAPABILITY IMAP4rev1
            P: t2 OK that is all
            P: * 3 EXISTS
            = LoggedIn IMAP4rev1
            R: * OK [ALERT] the quota is nearly used up
            R: * 3 EXISTS
            """,
        )

    def test_capabilities_are_atoms(self):
        """A list cannot carry anything out of its place in a greeting."""
        self.holds(
            imap4s.log_in(PASSWORD),
            r"""
            P: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready
            A: t1 AUTHENTICATE PLAIN AHUAcHc=
            P: * CAPABILITY IMAP4rev1 A]B C\rD E\x00F (G) "H" {3} \xe9 I%J K* L\\M  LITERAL+ QUOTA=RES-STORAGE
            P: t1 OK in
            = LoggedIn IMAP4rev1 LITERAL+ QUOTA=RES-STORAGE
            """,
        )

    def test_long_initial_response(self):
        """An initial response that would make too long a line waits for the server's `+`."""
        long = evolve(BEARER, credential=Bearer("u", Secret("k" * 7000)))
        [sent] = Dialogue(imap4s.log_in(long)).receive(GREETED)
        self.assertEqual(sent, Send(b"t1 AUTHENTICATE XOAUTH2\r\n"))

    def test_tags(self):
        """The tag of each command begins with the prefix that nobody can guess."""
        dialogue = Dialogue(imap4s.log_in(evolve(PASSWORD, tag="f00")))
        self.assertEqual(dialogue.receive(b"* OK ready\r\n"), [Send(b"f001 CAPABILITY\r\n")])


class Passwords(Transcripts, SynchronousTestCase):
    """Which mechanism carries a password."""

    def chosen(self, capabilities: str, login: Login = PASSWORD) -> str:
        """The first command after a greeting with these capabilities."""
        plugin = imap4s if login.encrypted else imap4
        greeting = f"* OK [CAPABILITY {capabilities}] ready\r\n".encode()
        [sent] = Dialogue(plugin.log_in(login)).receive(greeting)
        return sent.octets.decode() if isinstance(sent, Send) else sent.refusal.reason

    def test_order(self):
        """Within TLS: PLAIN, SCRAM-SHA-256, AUTH=LOGIN, then the LOGIN command unless it is disabled."""
        self.assertEqual(self.chosen("AUTH=LOGIN AUTH=SCRAM-SHA-256 AUTH=PLAIN"), "t1 AUTHENTICATE PLAIN\r\n")
        self.assertEqual(self.chosen("AUTH=LOGIN AUTH=SCRAM-SHA-256"), "t1 AUTHENTICATE SCRAM-SHA-256\r\n")
        self.assertEqual(self.chosen("LOGINDISABLED AUTH=LOGIN"), "t1 AUTHENTICATE LOGIN\r\n")
        self.assertEqual(self.chosen("AUTH=XOAUTH2 AUTH=CRAM-MD5"), 't1 LOGIN "u" "pw"\r\n')
        self.assertEqual(self.chosen("AUTH=XOAUTH2 LoginDisabled"), "mechanism-not-offered")

    def test_order_without_tls(self):
        """Without TLS, the mechanism that does not show the password comes first."""
        bare = on_plain_port(PASSWORD, allowed=True)
        self.assertEqual(self.chosen("AUTH=PLAIN AUTH=SCRAM-SHA-256", bare), "t1 AUTHENTICATE SCRAM-SHA-256\r\n")
        self.assertEqual(self.chosen("AUTH=LOGIN AUTH=PLAIN", bare), "t1 AUTHENTICATE PLAIN\r\n")

    def test_auth_login(self):
        """LOGIN, the mechanism: the server begins, whatever it prompts with."""
        self.holds(
            imap4s.log_in(PASSWORD),
            r"""
            P: * OK [CAPABILITY IMAP4rev1 SASL-IR LOGINDISABLED AUTH=LOGIN] ready
            A: t1 AUTHENTICATE LOGIN
            P: + VXNlcm5hbWU6
            A: dQ==
            P: + Password:
            A: cHc=
            P: t1 OK [CAPABILITY IMAP4rev1] in
            = LoggedIn IMAP4rev1
            """,
        )

    def test_scram(self):
        """SCRAM-SHA-256: the exchange of RFC 7677, where the server proves itself before the login counts."""
        user = evolve(PASSWORD, credential=Password("user", Secret("pencil")), nonce="rOprNGfwEbeRWgbNEkqO")
        first = b64encode(
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        ).decode()
        proof = b64encode(
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
            b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        ).decode()
        final = b64encode(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").decode()
        self.holds(
            imap4s.log_in(user),
            rf"""
            P: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=SCRAM-SHA-256] ready
            A: t1 AUTHENTICATE SCRAM-SHA-256 biwsbj11c2VyLHI9ck9wck5HZndFYmVSV2diTkVrcU8=
            P: + {first}
            A: {proof}
            P: + {final}
            A:
            P: t1 OK [CAPABILITY IMAP4rev1] in
            = LoggedIn IMAP4rev1
            """,
        )
        refused = refusal(
            imap4s.log_in(user),
            b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=SCRAM-SHA-256] ready\r\n",
            b"+ " + first.encode() + b"\r\n",
            b"t1 OK [CAPABILITY IMAP4rev1] in\r\n",
        )
        self.assertEqual((refused.stage, refused.reason), ("login", "protocol-violation"))

    def test_scram_broken(self):
        """A server that breaks SCRAM is refused, with words that name the breach."""
        refused = refusal(
            imap4s.log_in(PASSWORD),
            b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=SCRAM-SHA-256] ready\r\n",
            b"+ " + b64encode(b"r=nonceX,s=c2FsdA==,i=999999") + b"\r\n",
        )
        self.assertEqual((refused.stage, refused.reason), ("login", "protocol-violation"))
        self.assertIn("iterations", refused.message)

    def test_scram_credential(self):
        """What SASLprep does not allow is refused before a byte of the mechanism is sent."""
        self.assertEqual(
            self.chosen("AUTH=SCRAM-SHA-256", evolve(PASSWORD, credential=Password("u", Secret("\ue000")))),
            "credential-invalid",
        )

    def test_quoted(self):
        """LOGIN sends quoted strings where these can carry the characters."""
        user = evolve(PASSWORD, credential=Password('a"b\\c', Secret("")))
        self.assertEqual(self.chosen("X", user), 't1 LOGIN "a\\"b\\\\c" ""\r\n')

    def test_literals(self):
        """Else literals, each after the server's `+`."""
        self.holds(
            imap4s.log_in(evolve(PASSWORD, credential=Password("ü", Secret("p\tw")))),
            r"""
            P: * OK [CAPABILITY IMAP4rev1] ready
            A: t1 LOGIN {2}
            P: + go on
            A: \xc3\xbc {3}
            P: +
            A: p\tw
            P: t1 OK [CAPABILITY IMAP4rev1] in
            = LoggedIn IMAP4rev1
            """,
        )

    def test_literal_after_quoted(self):
        """A quoted string and a literal mix."""
        self.holds(
            imap4s.log_in(evolve(PASSWORD, credential=Password("u", Secret("ü")))),
            r"""
            P: * OK [CAPABILITY IMAP4rev1] ready
            A: t1 LOGIN "u" {2}
            P: + go on
            A: \xc3\xbc
            P: t1 OK [CAPABILITY IMAP4rev1] in
            = LoggedIn IMAP4rev1
            """,
        )

    def test_literals_at_once(self):
        """A server with LITERAL+ or LITERAL- needs no round trip for them, up to 4096 octets for the latter."""
        user = evolve(PASSWORD, credential=Password("ü", Secret("é")))
        self.assertEqual(self.chosen("LITERAL+", user), "t1 LOGIN {2+}\r\nü {2+}\r\né\r\n")
        self.assertEqual(self.chosen("LITERAL-", user), "t1 LOGIN {2+}\r\nü {2+}\r\né\r\n")
        just = evolve(PASSWORD, credential=Password("u", Secret("é" * 2048)))
        self.assertIn("{4096+}", self.chosen("LITERAL-", just))
        long = evolve(PASSWORD, credential=Password("u", Secret("é" * 2049)))
        self.assertEqual(self.chosen("LITERAL-", long), 't1 LOGIN "u" {4098}\r\n')
        self.assertIn("{4098+}", self.chosen("LITERAL+", long))

    @settings(deadline=None, max_examples=200)
    @given(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0")), st.text(st.characters(codec="utf-8")))
    def test_no_second_command(self, user, password):
        """Whatever user and password are, the server reads these in one command, or nothing is sent."""
        machine = imap4s.log_in(evolve(PASSWORD, credential=Password(user, Secret(password))))
        dialogue = Dialogue(machine)
        sent = b""
        [effect] = dialogue.receive(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")
        while isinstance(effect, Send):
            sent += effect.octets
            if not effect.octets.endswith(b"}\r\n") or dialogue.state.pieces == ():
                break
            [effect] = dialogue.receive(b"+\r\n")
        if any(char in password for char in "\r\n\0"):
            self.assertEqual((sent, effect.refusal.reason), (b"", "credential-invalid"))
        else:
            self.assertEqual(arguments(sent.removeprefix(b"t1 LOGIN")), [user.encode(), password.encode()])


def arguments(octets: bytes) -> list[bytes]:
    """How a server reads what follows LOGIN."""
    read = []
    while octets != b"\r\n":
        assert octets[:1] == b" ", octets
        if octets[1:2] == b'"':
            word, at = b"", 2
            while octets[at : at + 1] != b'"':
                at += octets[at : at + 1] == b"\\"
                word += octets[at : at + 1]
                at += 1
            octets = octets[at + 1 :]
        else:
            size, _, octets = octets[2:].partition(b"}\r\n")
            word, octets = octets[: int(size)], octets[int(size) :]
        read.append(word)
    return read

"""The client half on a plain port, and where nobody logs in."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.protocols.imap4.logins import NOBODY, PASSWORD, on_plain_port, refusal
from tests.protocols.transcripts import Transcripts
from tproxy.lines import Dialogue
from tproxy.protocols.imap4 import imap4, imap4s
from tproxy.session import Refuse, Send, TLSEstablished


class StartTLS_(Transcripts, SynchronousTestCase):
    """The protocol imap4: a plain port is upgraded before a credential is sent."""

    def test_upgrade(self):
        """STARTTLS; what was listed before is forgotten."""
        self.holds(
            imap4.log_in(on_plain_port(PASSWORD)),
            r"""
            P: * OK [CAPABILITY IMAP4rev1 SASL-IR STARTTLS AUTH=PLAIN] ready
            A: t1 STARTTLS
            P: t1 OK go on
            = StartTLS
            ! TLSEstablished
            A: t2 CAPABILITY
            P: * CAPABILITY IMAP4rev1 AUTH=LOGIN
            P: t2 OK that is all
            A: t3 AUTHENTICATE LOGIN
            P: + VXNlcm5hbWU6
            A: dQ==
            P: + UGFzc3dvcmQ6
            A: cHc=
            P: t3 OK [CAPABILITY IMAP4rev1] in
            = LoggedIn IMAP4rev1
            """,
        )

    def test_upgrade_of_a_laconic_server(self):
        """One that lists nothing in its greeting is asked on either side of the handshake."""
        self.holds(
            imap4.log_in(on_plain_port(PASSWORD)),
            r"""
            P: * OK ready
            A: t1 CAPABILITY
            P: * CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED
            P: t1 OK that is all
            A: t2 STARTTLS
            P: * OK nearly
            P: * CAPABILITY AUTH=PLAIN
            P: t2 OK go on
            = StartTLS
            ! TLSEstablished
            A: t3 CAPABILITY
            P: t3 OK [CAPABILITY IMAP4rev1] that is all
            A: t4 LOGIN "u" "pw"
            P: t4 OK [CAPABILITY IMAP4rev1] in
            = LoggedIn IMAP4rev1
            """,
        )

    def test_not_offered(self):
        """Without STARTTLS nothing is sent."""
        self.holds(
            imap4.log_in(on_plain_port(PASSWORD)),
            r"""
            P: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready
            = Refuse tls encryption-not-offered PRIVACYREQUIRED
            """,
        )

    def test_allowed_without(self):
        """Unless the operator allowed this host."""
        self.holds(
            imap4.log_in(on_plain_port(PASSWORD, allowed=True)),
            r"""
            P: * OK ready
            A: t1 CAPABILITY
            P: * CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN
            P: t1 OK that is all
            A: t2 AUTHENTICATE PLAIN AHUAcHc=
            P: t2 OK [CAPABILITY IMAP4rev1] in
            = LoggedIn IMAP4rev1
            """,
        )

    def test_offered_though_allowed_without(self):
        """TLS is used where it is offered, also where it need not be."""
        self.holds(
            imap4.log_in(on_plain_port(PASSWORD, allowed=True)),
            r"""
            P: * OK [CAPABILITY IMAP4rev1 STARTTLS] ready
            A: t1 STARTTLS
            P: t1 NO not today
            = Refuse tls encryption-not-offered PRIVACYREQUIRED
            """,
        )

    def test_injection(self):
        """Bytes between the consent and the handshake are refused, however they are cut (CVE-2011-0411)."""
        for pieces in ((b"t1 OK go on\r\n* CAPABILITY X\r\n",), (b"t1 OK go on\r\n*",), (b"t1 OK go on\r\n", b"*")):
            dialogue = Dialogue(imap4.log_in(on_plain_port(PASSWORD)))
            dialogue.receive(b"* OK [CAPABILITY STARTTLS] ready\r\n")
            effects = [effect for piece in pieces for effect in dialogue.receive(piece)]
            effects += dialogue.tell(TLSEstablished())
            self.assertEqual(
                [effect.refusal.reason for effect in effects if isinstance(effect, Refuse)], ["protocol-violation"]
            )
            self.assertNotIn(Send, map(type, effects))

    def test_preauth(self):
        """A PREAUTH instead of the chance to encrypt is refused."""
        self.assertEqual(
            refusal(imap4.log_in(on_plain_port(PASSWORD)), b"* PREAUTH ready\r\n").reason, "greeting-refused"
        )


class Nobody(Transcripts, SynchronousTestCase):
    """`auth: false`: the server's own greeting begins the relay."""

    def test_greetings(self):
        """OK and BYE are handed over as they are, with what follows."""
        for greeting in ("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] ready", "* BYE [LIMIT] later"):
            self.holds(
                imap4s.log_in(NOBODY),
                f"""
                P: {greeting}
                P: * more…
                = HandOver
                H: {greeting}
                R: * more…
                """,
            )

    def test_other_greetings(self):
        """Anything else is refused as ever."""
        for greeting in (b"* PREAUTH ready\r\n", b"* NO\r\n", b"HTTP/1.1 400 Bad Request\r\n"):
            self.assertEqual(refusal(imap4s.log_in(NOBODY), greeting).reason, "greeting-refused")

    def test_starttls(self):
        """After STARTTLS the greeting is ours, with what the server lists within TLS."""
        self.holds(
            imap4.log_in(on_plain_port(NOBODY)),
            r"""
            P: * OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] ready
            A: t1 STARTTLS
            P: t1 OK go on
            = StartTLS
            ! TLSEstablished
            A: t2 CAPABILITY
            P: * CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN
            P: t2 OK that is all
            = HandOver
            H: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] ready
            """,
        )

    def test_no_starttls(self):
        """Without STARTTLS the application's own password would go unencrypted."""
        self.holds(
            imap4.log_in(on_plain_port(NOBODY)),
            r"""
            P: * OK [CAPABILITY IMAP4rev1] ready
            = Refuse tls encryption-not-offered PRIVACYREQUIRED
            """,
        )

    def test_no_starttls_but_allowed(self):
        """Where the operator allowed it, the greeting is the server's own, also after a question."""
        self.holds(
            imap4.log_in(on_plain_port(NOBODY, allowed=True)),
            r"""
            P: * OK ready
            A: t1 CAPABILITY
            P: * CAPABILITY IMAP4rev1
            P: t1 OK that is all
            = HandOver
            H: * OK ready
            """,
        )

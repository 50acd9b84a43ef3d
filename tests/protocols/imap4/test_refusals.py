"""Why there is no session: each cause is named, and nothing of what the mail server said is repeated."""

from __future__ import annotations

from base64 import b64encode

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.protocols.imap4.logins import BEARER, GREETED, PASSWORD, on_plain_port, refusal
from tproxy.lines import Dialogue
from tproxy.model import Bearer, Password, Secret
from tproxy.protocols.imap4 import imap4, imap4s, login
from tproxy.session import LOGIN_LINE_LIMIT, Ended, Expired, LineTooLong, Refuse


class Refusals(SynchronousTestCase):
    """What goes wrong is named; what the mail server said is not repeated."""

    def test_greetings(self):
        """Only an untagged OK is a greeting after which one logs in; nothing is sent after another."""
        for greeting, words, code in (
            (b"* PREAUTH secret", "PREAUTH", "UNAVAILABLE"),
            (b"* BYE secret", "(BYE)", "UNAVAILABLE"),
            (b"* BYE [LIMIT] secret", "(BYE LIMIT)", "LIMIT"),
            (b"* BYE [SECRET] secret", "(BYE)", "UNAVAILABLE"),
            (b"* NO secret", "did not greet as an IMAP server", "UNAVAILABLE"),
            (b"* BAD secret", "did not greet as an IMAP server", "UNAVAILABLE"),
            (b"* 3 EXISTS", "did not greet as an IMAP server", "UNAVAILABLE"),
            (b"t1 OK secret", "did not greet as an IMAP server", "UNAVAILABLE"),
            (b"+ secret", "did not greet as an IMAP server", "UNAVAILABLE"),
            (b"", "did not greet as an IMAP server", "UNAVAILABLE"),
            (b"\x00\xff\x1b[2Jsecret", "did not greet as an IMAP server", "UNAVAILABLE"),
            (b"HTTP/1.1 400 secret", "HTTP", "UNAVAILABLE"),
            (b"+OK secret", "POP3", "UNAVAILABLE"),
            (b"220 secret", "SMTP", "UNAVAILABLE"),
            (b"SSH-2.0-secret", "SSH", "UNAVAILABLE"),
        ):
            dialogue = Dialogue(imap4s.log_in(PASSWORD))
            [effect] = dialogue.receive(greeting + b"\r\n* OK [CAPABILITY AUTH=PLAIN] ready\r\n")
            self.assertIsInstance(effect, Refuse)
            refused = effect.refusal
            self.assertEqual((refused.stage, refused.reason, refused.code), ("greeting", "greeting-refused", code))
            self.assertIn(words, refused.message)
            self.assertNotIn("secret", str(refused).lower())

    def test_endless_line(self):
        """A line over the limit is refused as soon as it is over."""
        dialogue = Dialogue(imap4s.log_in(PASSWORD))
        self.assertEqual(dialogue.receive(b"* OK " + b"x" * (LOGIN_LINE_LIMIT - 6)), [])
        [effect] = dialogue.receive(b"x")
        self.assertEqual((effect.refusal.stage, effect.refusal.reason), ("greeting", "protocol-violation"))

    def test_remedies(self):
        """Whoever hears nothing, or something else than IMAP, is told to look at the route."""
        for event in (Ended(), Expired(), LineTooLong()):
            [effect] = Dialogue(imap4s.log_in(PASSWORD)).tell(event)
            self.assertRegex(effect.refusal.remedy, "host.* port .*protocol", event)
        dialogue = Dialogue(imap4s.log_in(PASSWORD))
        dialogue.receive(b"* OK ready\r\n")
        [effect] = dialogue.tell(Expired())
        self.assertEqual(effect.refusal.remedy, "see the log of the mail server")

    def test_answers_to_a_login(self):
        """Only the codes of a wrong credential, and none, count as one; the others only pace."""
        for answer, reason, code in (
            (b"NO secret", "login-refused", "AUTHENTICATIONFAILED"),
            (b"NO", "login-refused", "AUTHENTICATIONFAILED"),
            (b"NO [ALERT] secret", "login-refused", "AUTHENTICATIONFAILED"),
            (b"NO [authenticationfailed] secret", "login-refused", "AUTHENTICATIONFAILED"),
            (b"NO [AUTHORIZATIONFAILED] secret", "login-refused", "AUTHORIZATIONFAILED"),
            (b"NO [EXPIRED] secret", "login-refused", "EXPIRED"),
            (b"NO [UNAVAILABLE] secret", "login-unavailable", "UNAVAILABLE"),
            (b"NO [LIMIT] secret", "login-unavailable", "LIMIT"),
            (b"NO [CONTACTADMIN] secret", "login-unavailable", "CONTACTADMIN"),
            (b"NO [PRIVACYREQUIRED] secret", "login-unavailable", "PRIVACYREQUIRED"),
            (b"NO [INUSE] secret", "login-unavailable", "UNAVAILABLE"),
            (b"BAD secret", "login-unavailable", "UNAVAILABLE"),
            (b"BAD User is authenticated but not connected.", "session-unusable", "UNAVAILABLE"),
        ):
            for greeting in (GREETED, b"* OK [CAPABILITY IMAP4rev1] ready\r\n"):
                refused = refusal(imap4s.log_in(PASSWORD), greeting, b"t1 " + answer + b"\r\n")
                self.assertEqual((refused.stage, refused.reason, refused.code), ("login", reason, code))
                self.assertNotIn("secret", str(refused).lower())

    def test_whose_credential(self):
        """The remedy fits the kind of credential."""
        self.assertIn("mail.password", refusal(imap4s.log_in(PASSWORD), GREETED, b"t1 NO no\r\n").remedy)
        self.assertIn("scope", refusal(imap4s.log_in(BEARER), GREETED, b"t1 NO no\r\n").remedy)

    def test_bye(self):
        """A BYE in the middle is a refusal that does not count as a wrong credential."""
        refused = refusal(imap4s.log_in(PASSWORD), GREETED, b"* BYE [LIMIT] secret\r\n")
        self.assertEqual((refused.stage, refused.reason, refused.code), ("login", "login-unavailable", "LIMIT"))
        self.assertIn("(BYE LIMIT)", refused.message)

    def test_unusable_session(self):
        """A session that does not even list its capabilities is of no use, and a well-known reason is explained."""
        accepted = (GREETED, b"t1 OK in\r\n")
        refused = refusal(imap4s.log_in(BEARER), *accepted, b"t2 BAD User is authenticated but not connected.\r\n")
        self.assertEqual((refused.stage, refused.reason), ("login", "session-unusable"))
        self.assertIn("service principal", refused.remedy)
        refused = refusal(imap4s.log_in(BEARER), *accepted, b"t2 NO [LIMIT] secret\r\n")
        self.assertEqual((refused.stage, refused.reason), ("login", "session-unusable"))
        self.assertNotIn("secret", str(refused))

    def test_credentials_that_would_end_a_line(self):
        """CR, LF and NUL are refused by the property's name, before a byte is sent."""
        for user, password, named in (
            ("u\rx", "p", "mail.user"),
            ("u\nx", "p", "mail.user"),
            ("u\0x", "p", "mail.user"),
            ("u", "canary\r", "mail.password"),
            ("u", "canary\n", "mail.password"),
            ("u", "canary\0", "mail.password"),
            ("u", "canary\ud800", "mail.password"),
        ):
            credential = Password(user, Secret(password))
            for plugin, made in ((imap4s, PASSWORD), (imap4, on_plain_port(PASSWORD))):
                [effect] = Dialogue(plugin.log_in(evolve(made, credential=credential))).receive(GREETED)
                refused = effect.refusal
                self.assertEqual((refused.stage, refused.reason), ("login", "credential-invalid"))
                self.assertIn(named, refused.message)
                self.assertNotIn("canary", str(refused))

    def test_too_much_talk(self):
        """Untagged responses are borne with, up to a number."""
        dialogue = Dialogue(imap4s.log_in(PASSWORD))
        dialogue.receive(GREETED)
        self.assertEqual(dialogue.receive(b"* OK still here\r\n" * login.MAX_UNTAGGED), [])
        [effect] = dialogue.receive(b"* OK still here\r\n")
        self.assertEqual(effect.refusal.reason, "protocol-violation")

    def test_literal(self):
        """A literal has no place before the login; the words of a status are not one."""
        dialogue = Dialogue(imap4s.log_in(PASSWORD))
        dialogue.receive(GREETED)
        self.assertEqual(dialogue.receive(b"* OK {5}\r\n"), [])
        [effect] = dialogue.receive(b"* ID {5}\r\n")
        self.assertEqual(effect.refusal.reason, "protocol-violation")

    def test_no_list(self):
        """A server that does not list its capabilities when asked is refused."""
        for plugin, made in ((imap4s, PASSWORD), (imap4, on_plain_port(PASSWORD))):
            refused = refusal(plugin.log_in(made), b"* OK ready\r\n", b"t1 OK that is all\r\n")
            self.assertEqual(refused.reason, "protocol-violation")

    def test_nothing_secret_is_shown(self):
        """No state shows a password, a token, or what goes over the wire."""
        for made in (PASSWORD, BEARER):
            secret = evolve(
                made,
                credential=Password("u", Secret("canary-ü"))
                if isinstance(made.credential, Password)
                else Bearer("u", Secret("canary")),
            )
            for capabilities in (
                b"AUTH=PLAIN AUTH=XOAUTH2",
                b"AUTH=OAUTHBEARER AUTH=LOGIN",
                b"AUTH=SCRAM-SHA-256 AUTH=XOAUTH2 SASL-IR",
                b"AUTH=XOAUTH2",
            ):
                dialogue = Dialogue(imap4s.log_in(secret))
                dialogue.receive(b"* OK [CAPABILITY " + capabilities + b"] ready\r\n")
                self.assertNotIn("canary", repr(dialogue.state))
                self.assertNotIn(b64encode(b"canary").decode()[:7], repr(dialogue.state))

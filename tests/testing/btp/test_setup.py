"""The configuration file of the stand-in."""

from __future__ import annotations

from pathlib import Path

from attrs import asdict
from twisted.trial.unittest import SynchronousTestCase

from tproxy.places import ConfigError
from tproxy.testing.btp.__main__ import EPILOG
from tproxy.testing.btp.setup import Account, Endpoint, Fault, Setup, parse
from tproxy.testing.tokens import BROKEN, HUGE, LOGIN_PAGE, SILENT, TRUNCATED, UNAVAILABLE, Client, busy, redirect

LEAST = "provider: main\nclientId: sb\n"
FILE = Path("/etc/btp.yaml")


class SetupTests(SynchronousTestCase):
    """`setup.parse`."""

    maxDiff = None

    def wrong(self, text: str) -> str:
        with self.assertRaises(ConfigError) as raised:
            parse(text, FILE)
        message = str(raised.exception)
        self.assertEqual(len(message.splitlines()), 1)
        return message

    def test_least(self) -> None:
        """A provider and a client are enough; what is not said is as in a program."""
        setup = parse(LEAST, FILE)
        self.assertEqual(asdict(setup), asdict(Setup("main", "sb")))
        self.assertEqual(setup.accounts, {"main": Account()})

    def test_help(self) -> None:
        """The example of `--help` is a configuration, and all that can be said."""
        setup = parse(EPILOG.partition("\n\n")[2], FILE)
        self.assertEqual((setup.provider, setup.client_id, setup.client_secret), ("main", "sb-tproxy", "s3cret"))
        self.assertEqual((setup.token_seconds, setup.mail_seconds, setup.auth_tokens), (43200, 3600, True))
        self.assertEqual(list(setup.accounts), ["main", "acme"])
        acme = setup.accounts["acme"]
        self.assertEqual(acme.destinations["subaccount"]["mail"]["Name"], "mail")
        self.assertEqual(acme.fragments["instance"], {"other-user": {"mail.user": "bert@acme.example"}})
        self.assertEqual(setup.mail_clients, {"mail-client": Client("mail-secret", "anna@acme.example")})
        self.assertEqual(setup.refresh_tokens, {"a-refresh-token": "anna@acme.example"})
        self.assertEqual(setup.codes, {"a-code": "anna@acme.example"})
        self.assertEqual(setup.faults, [Fault(Endpoint.DESTINATION, busy("7"), tenant="acme", requests=3)])

    def test_provider_among_tenants(self) -> None:
        """The provider may have destinations of its own."""
        setup = parse(f"{LEAST}tenants: {{main: {{destinations: {{instance: {{own: {{Type: MAIL}}}}}}}}}}", FILE)
        destinations = setup.accounts["main"].destinations
        self.assertEqual(destinations, {"instance": {"own": {"Type": "MAIL", "Name": "own"}}, "subaccount": {}})

    def test_nothing_is_shared(self) -> None:
        """What is changed in one setup is changed in no other."""
        text = f"{LEAST}tenants: {{acme: {{}}}}"
        one, other = parse(text, FILE), parse(text, FILE)
        one.accounts["acme"].destinations["subaccount"]["mail"] = {}
        one.accounts["acme"].fragments["instance"]["f"] = {}
        one.accounts["globex"] = Account()
        one.mail_clients["a"] = Client("b")
        one.faults.append(Fault(Endpoint.TOKEN))
        self.assertEqual(other, parse(text, FILE))

    def test_faults(self) -> None:
        """All that can go wrong."""
        for said, fault in (
            ("answer: broken", Fault(Endpoint.DESTINATION, BROKEN)),
            ("answer: unavailable", Fault(Endpoint.DESTINATION, UNAVAILABLE)),
            ("answer: silent", Fault(Endpoint.DESTINATION, SILENT)),
            ("answer: truncated", Fault(Endpoint.DESTINATION, TRUNCATED)),
            ("answer: login-page", Fault(Endpoint.DESTINATION, LOGIN_PAGE)),
            ("answer: huge", Fault(Endpoint.DESTINATION, HUGE)),
            ("answer: redirect", Fault(Endpoint.DESTINATION, redirect("/elsewhere"))),
            ("answer: busy", Fault(Endpoint.DESTINATION, busy("1"))),
            ("answer: slow", Fault(Endpoint.DESTINATION, seconds=1)),
            ("answer: slow, seconds: 20", Fault(Endpoint.DESTINATION, seconds=20)),
            ("answer: token-error", Fault(Endpoint.DESTINATION, token_error="the token service refused")),
            ("answer: token-error, error: denied", Fault(Endpoint.DESTINATION, token_error="denied")),
        ):
            setup = parse(f"{LEAST}faults: [{{endpoint: destination, {said}}}]", FILE)
            self.assertEqual(setup.faults, [fault], said)

    def test_wrong(self) -> None:
        """Whatever is wrong is said in one line that names the key."""
        for text, words in (
            ("clientId: sb", "/etc/btp.yaml:1: provider: is missing"),
            ("provider: main", "/etc/btp.yaml:1: clientId: is missing"),
            (f"{LEAST}clientID: a", "/etc/btp.yaml:3: clientID: unknown key; did you mean clientId?"),
            (f"{LEAST}clientSecret: ''", "clientSecret: is empty"),
            (f"{LEAST}tenants: {{A.b: }}", "tenants.'A.b': is no subdomain"),
            (f"{LEAST}tenants: {{a: , a: }}", "tenants.a: is there twice"),
            (f"{LEAST}tenants: {{a: {{levels: }}}}", "tenants.a.levels: unknown key"),
            (
                f"{LEAST}tenants: {{a: {{destinations: {{instance: {{m: {{Name: n}}}}}}}}}}",
                "tenants.a.destinations.instance: 'm' has another Name",
            ),
            (f"{LEAST}mailProvider: {{clients: {{a: {{username: b}}}}}}", "mailProvider.clients.a.secret: is missing"),
            (f"{LEAST}faults: [{{endpoint: door, answer: busy}}]", "faults[0].endpoint: 'door' is not one of"),
            (f"{LEAST}faults: [{{endpoint: mail, answer: ill}}]", "faults[0].answer: 'ill' is not one of"),
            (f"{LEAST}faults: [{{endpoint: mail, answer: token-error}}]", "faults[0].answer: token-error belongs to"),
            (f"{LEAST}faults: [{{endpoint: mail, answer: broken, seconds: 2}}]", "faults[0].seconds: belongs to busy"),
            (f"{LEAST}faults: [{{endpoint: mail, answer: busy, error: a}}]", "faults[0].error: belongs to token-error"),
        ):
            self.assertIn(words, self.wrong(text))

    def test_secrets(self) -> None:
        """A message repeats nothing that may be a secret."""
        for text, key in (
            ("clientSecret: 12345678", "clientSecret"),
            ("mailProvider: {clients: {a: {secret: 12345678}}}", "mailProvider.clients.a.secret"),
            (
                "tenants: {a: {destinations: {instance: {m: {mail.password: 12345678}}}}}",
                "tenants.a.destinations.instance.m.'mail.password'",
            ),
            ("tenants: {a: {fragments: {instance: {m: {mail.password: [a]}}}}}", "m.'mail.password'"),
        ):
            message = self.wrong(f"{LEAST}{text}")
            self.assertIn(f"{key}: is not a text; put it in quotes", message)
            self.assertNotIn("12345678", message)

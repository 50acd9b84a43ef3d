"""Documents that are right, for tests that change something in them."""

import trustme
from twisted.trial.unittest import SynchronousTestCase

from tproxy.document import Rules, parse
from tproxy.model import DestinationRequest, Reason, Refusal, RefusedError, Stage, Tenant

RULES = Rules({"imap4s": 993, "imap4": 143})
REQUEST = DestinationRequest("local", "mailbox")
ACME = DestinationRequest("local", "mailbox", Tenant("acme"))

BASIC = {
    "Name": "mailbox",
    "Type": "MAIL",
    "ProxyType": "Internet",
    "Authentication": "BasicAuthentication",
    "mail.user": "joe@example.com",
    "mail.password": "s3cret",
    "mail.transport.protocol": "imap4s",
    "mail.imap4s.host": "imap.example.com",
}
NOBODY = {**BASIC, "Authentication": "NoAuthentication"}
GRANT = {
    **BASIC,
    "Authentication": "OAuth2ClientCredentials",
    "tokenServiceURL": "https://token.example/oauth/token",
    "clientId": "client",
    "clientSecret": "s3cret",
}
REFRESH = {**GRANT, "Authentication": "OAuth2RefreshToken"}
CODE = {**GRANT, "Authentication": "OAuth2AuthorizationCode"}

FULL = (
    ("tokenServiceURLType", "Dedicated"),
    ("scope", "https://outlook.office365.com/.default"),
    ("tokenServiceUser", "user"),
    ("tokenServicePassword", "pässword"),
    ("tokenService.addClientCredentialsInBody", "false"),
    ("tokenServiceURL.headers.X-Zone", "z 1"),
    ("tokenServiceURL.headers.apikey", "k"),
    ("tokenServiceURL.queries.q", "ä&="),
    ("tokenService.body.b", ""),
    ("tokenService.body.resource", "r"),
    ("tokenServiceURL.ConnectionTimeoutInSeconds", "60"),
    ("tokenServiceURL.SocketReadTimeoutInSeconds", "600"),
    ("TrustStoreLocation", "ca.pem"),
)

CA = trustme.CA(key_type=trustme.KeyType.ECDSA)
PEM = CA.cert_pem.bytes().decode()
KEY = CA.private_key_pem.bytes().decode()


def no_authority(location):
    raise RefusedError(Refusal(Stage.RESOLVE, Reason.DOCUMENT_INVALID, f"TrustStoreLocation names {location!r}"))


def read(document, request=REQUEST, rules=RULES, authority=no_authority, **changes):
    """The destination that a document with some properties changed describes; None takes one out."""
    changed = {name: value for name, value in (document | changes).items() if value is not None}
    return parse(changed, request, rules, authority)


class Refusals(SynchronousTestCase):
    """Asks for refusals."""

    def refused(self, document, request=REQUEST, rules=RULES, authority=no_authority, **changes):
        error = self.assertRaises(RefusedError, read, document, request, rules, authority, **changes)
        self.assertIs(error.refusal.stage, Stage.RESOLVE)
        self.assertNotIn("s3cret", str(error))
        return error.refusal

    def table(self, document, cases, **context):
        """Each case: the properties that are changed, and the whole refusal."""
        for changes, message in cases:
            with self.subTest(changes=changes):
                refusal = self.refused(document | changes, **context)
                self.assertEqual((refusal.reason, str(refusal)), (Reason.DOCUMENT_INVALID, message))

"""Which user an application may log in as."""

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tproxy.model import (
    Code,
    Destination,
    Grant,
    GrantKind,
    Offered,
    Reason,
    Refusal,
    RefusedError,
    Route,
    Secret,
    Stage,
)
from tproxy.offers import user_of

GRANT = Grant("https://token.example", "client", Secret("secret"), kind=GrantKind.REFRESH_TOKEN)
USERS = st.text() | st.text("aA1.@\x01\x7f", max_size=3)


def decide(document, application):
    """Whose mailbox it is, where the document and the application name these users."""
    destination = Destination("mail", Route("imap4s", "imap.example", 993), document, GRANT)
    return user_of(destination, Offered(application, Secret("brought")))


class UserTests(SynchronousTestCase):
    """The document's user comes first, then the application's."""

    def refused(self, document, application):
        return self.assertRaises(RefusedError, decide, document, application).refusal

    def test_document(self):
        """The document's user counts, in its spelling; the application may leave it out or say the same."""
        for application in ("", "Anna@example.com", "ANNA@EXAMPLE.COM"):
            self.assertEqual(decide("Anna@example.com", application), "Anna@example.com")
        self.assertEqual(decide("Straße", "STRASSE"), "Straße")

    def test_application(self):
        """Without one in the document the application's counts, as it is."""
        for application in ("Anna@example.com", ' jö"e ', "a,b=c"):
            self.assertEqual(decide("", application), application)

    def test_another(self):
        """Another user is refused: not even a blank may be different."""
        for application in ("ben@example.com", "anna@example.com ", "anna", "anna@example.com\x01"):
            self.assertEqual(
                self.refused("anna@example.com", application),
                Refusal(
                    Stage.LOGIN,
                    Reason.CREDENTIAL_INVALID,
                    "the application names another user than mail.user",
                    "have it name that one or none, or remove mail.user from the destination",
                    Code.AUTHORIZATION_FAILED,
                ),
            )

    def test_nobody(self):
        """Somebody has to be named."""
        self.assertEqual(
            self.refused("", ""),
            Refusal(
                Stage.LOGIN,
                Reason.CREDENTIAL_INVALID,
                "neither the application nor mail.user names a user",
                "have the application send one, or add mail.user to the destination",
                Code.AUTHORIZATION_FAILED,
            ),
        )

    def test_control_characters(self):
        """No user of an application's holds one, nor half a character."""
        for character in ("\0", "\x01", "\r", "\n", "\x7f", "\x9b", "\ud800"):
            self.assertEqual(
                self.refused("", f"anna{character}"),
                Refusal(
                    Stage.LOGIN,
                    Reason.CREDENTIAL_INVALID,
                    "the user that the application names holds a control character, and there is no mail.user",
                    "have the application name the mailbox alone, or none and add mail.user to the destination",
                    Code.AUTHORIZATION_FAILED,
                ),
            )

    @given(USERS, USERS)
    @settings(deadline=None)
    def test_any(self, document, application):
        """One of the two users comes out, or a refusal that is the same whatever they are."""
        try:
            user = decide(document, application)
        except RefusedError as error:
            self.assertIn(error.refusal, (self.refused("a", "b"), self.refused("", ""), self.refused("", "\0")))
        else:
            self.assertTrue(user)
            self.assertEqual(user, document or application)
            if document:
                self.assertIn(application.casefold(), ("", document.casefold()))
            else:
                self.assertNotIn("Cc", [unicodedata.category(character) for character in user])

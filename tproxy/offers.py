"""What an application brings to log in with, judged by what the destination says."""

from __future__ import annotations

import unicodedata

from tproxy.model import Code, Destination, Offered, Reason, Refusal, RefusedError, Stage


def user_of(destination: Destination, offered: Offered) -> str:
    """Whose mailbox is opened: the document's `mail.user`, else the user that the application names.

    Where both are there they have to be the same, but for upper and lower case; the document's spelling counts.
    Raises RefusedError, stage LOGIN, which repeats neither.
    """
    if destination.user:
        if offered.user and offered.user.casefold() != destination.user.casefold():
            raise _refused(
                "the application names another user than mail.user",
                "have it name that one or none, or remove mail.user from the destination",
            )
        return destination.user
    if not offered.user:
        raise _refused(
            "neither the application nor mail.user names a user",
            "have the application send one, or add mail.user to the destination",
        )
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in offered.user):
        raise _refused(
            "the user that the application names holds a control character, and there is no mail.user",
            "have the application name the mailbox alone, or none and add mail.user to the destination",
        )
    return offered.user


def _refused(message: str, remedy: str) -> RefusedError:
    return RefusedError(Refusal(Stage.LOGIN, Reason.CREDENTIAL_INVALID, message, remedy, Code.AUTHORIZATION_FAILED))

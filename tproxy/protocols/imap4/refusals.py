"""Why there is no IMAP session: one place for all the words."""

from __future__ import annotations

from tproxy.model import Bearer, Code, Credential, Reason, Refusal, Stage
from tproxy.protocols.imap4.grammar import Status

_CHECK_ROUTE = "check the host, the port and mail.transport.protocol of the destination"

_OTHERS = (
    (b"HTTP/", "HTTP"),
    (b"+OK", "POP3"),
    (b"220", "SMTP or FTP"),
    (b"SSH-", "SSH"),
)

_COUNTED = {
    "": "the mail server refused the login",
    "ALERT": "the mail server refused the login",
    "AUTHENTICATIONFAILED": "the mail server refused the login",
    "AUTHORIZATIONFAILED": "the mail server knows the credential but does not let it into this mailbox",
    "EXPIRED": "the mail server says that the credential has expired",
}
"""By the code of a tagged NO: those that say that the credential is wrong."""

_PACED = {
    "CONTACTADMIN": "the mail server asks to contact its administrator",
    "LIMIT": "the mail server's limit of connections or logins is reached",
    "PRIVACYREQUIRED": "the mail server wants a login to be encrypted",
    "UNAVAILABLE": "the mail server cannot log anybody in for now",
}

_NOT_CONNECTED = b"user is authenticated but not connected"


def ended(stage: Stage) -> Refusal:
    """The connection ended in the middle."""
    message = f"the mail server ended the connection during the {_WHEN[stage]}"
    return Refusal(stage, Reason.UPSTREAM_ENDED, message, _remedy(stage))


def expired(stage: Stage) -> Refusal:
    """The time was up in the middle."""
    message = f"the mail server did not answer in time during the {_WHEN[stage]}"
    return Refusal(stage, Reason.TIMED_OUT, message, _remedy(stage))


_WHEN = {
    Stage.GREETING: "wait for its greeting",
    Stage.TLS: "change to TLS",
    Stage.LOGIN: "login",
}


def _remedy(stage: Stage) -> str:
    """Nothing at all is heard where one side speaks TLS and the other does not."""
    return _CHECK_ROUTE if stage is Stage.GREETING else "see the log of the mail server"


def greeting(said: Status | None, text: bytes) -> Refusal:
    """The first line was no greeting after which one could log in."""
    match said:
        case Status(b"*", "PREAUTH"):
            message = "the mail server says that the session is logged in already (PREAUTH), as nobody knows whom"
            return Refusal(Stage.GREETING, Reason.GREETING_REFUSED, message, _CHECK_ROUTE)
        case Status(b"*", "BYE", code):
            message = f"the mail server turned the connection away (BYE{_shown(code)})"
            return Refusal(Stage.GREETING, Reason.GREETING_REFUSED, message, "try again later", _code(code))
        case _:
            spoken = [name for beginning, name in _OTHERS if text.startswith(beginning)]
            message = "the server did not greet as an IMAP server does"
            if spoken:
                message = f"the server speaks {spoken[0]}, not IMAP"
            return Refusal(Stage.GREETING, Reason.GREETING_REFUSED, message, _CHECK_ROUTE)


def encryption(message: str) -> Refusal:
    """There is no TLS, and it must not go without."""
    remedy = "use the protocol imap4s, or let config.security.plaintextHosts name the host"
    return Refusal(Stage.TLS, Reason.ENCRYPTION_NOT_OFFERED, message, remedy, Code.PRIVACY_REQUIRED)


def credential_invalid(error: Exception) -> Refusal:
    """The credential can't be said to a mail server; `error` is one of our own."""
    remedy = "correct the destination, or what issues its tokens"
    return Refusal(Stage.LOGIN, Reason.CREDENTIAL_INVALID, str(error), remedy, Code.CONTACT_ADMIN)


def mechanism(credential: Credential) -> Refusal:
    """The mail server offers no way to log in with what we have."""
    if isinstance(credential, Bearer):
        message = "the mail server takes no OAuth tokens (it offers neither OAUTHBEARER nor XOAUTH2)"
        remedy = "use BasicAuthentication, or turn OAuth on at the mail server"
    else:
        message = "the mail server takes no passwords (LOGINDISABLED, and none of PLAIN, SCRAM-SHA-256 and LOGIN)"
        remedy = "use OAuth2ClientCredentials, or turn passwords on at the mail server"
    return Refusal(Stage.LOGIN, Reason.MECHANISM_NOT_OFFERED, message, remedy, Code.CONTACT_ADMIN)


def login(said: Status, credential: Credential, why: str = "") -> Refusal:
    """The tagged NO or BAD to a login; `why` is what an OAuth error said, made safe to print."""
    if _NOT_CONNECTED in said.text.lower():
        return session(said)
    if said.condition == "BAD":
        message = "the mail server did not understand the login (BAD)"
        return Refusal(Stage.LOGIN, Reason.LOGIN_UNAVAILABLE, message, _CHECK_ROUTE)
    if said.code in _COUNTED:
        message = _COUNTED[said.code] + (f": {why}" if why else "")
        remedy = "check mail.user and mail.password of the destination"
        if isinstance(credential, Bearer):
            remedy = "check mail.user, the scope, and that the OAuth client may use this mailbox"
        code = _code(said.code, Code.AUTHENTICATION_FAILED)
        return Refusal(Stage.LOGIN, Reason.LOGIN_REFUSED, message, remedy, code)
    message = _PACED.get(said.code, "the mail server did not log us in for a reason of its own")
    return Refusal(Stage.LOGIN, Reason.LOGIN_UNAVAILABLE, message, "try again later", _code(said.code))


def bye(stage: Stage, said: Status) -> Refusal:
    """An untagged BYE before the login was done."""
    message = f"the mail server broke off during the {_WHEN[stage]} (BYE{_shown(said.code)})"
    return Refusal(stage, Reason.LOGIN_UNAVAILABLE, message, "try again later", _code(said.code))


def session(said: Status) -> Refusal:
    """The login was accepted, but the session answers no command."""
    message = f"the mail server accepted the login but not the next command ({said.condition}{_shown(said.code)})"
    remedy = "try again later"
    if _NOT_CONNECTED in said.text.lower():
        message = 'the mail server answers "authenticated but not connected": there is a login but no mailbox'
        remedy = "give the application's service principal permission to the mailbox that mail.user names"
    return Refusal(Stage.LOGIN, Reason.SESSION_UNUSABLE, message, remedy)


def _code(code: str, otherwise: Code = Code.UNAVAILABLE) -> Code:
    return Code(code) if code in set(Code) else otherwise


def _shown(code: str) -> str:
    return f" {code}" if code in set(Code) else ""

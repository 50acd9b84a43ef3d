"""Failures of TLS in plain words: which check failed, and what to change."""

from __future__ import annotations

from attrs import frozen
from cryptography import x509
from cryptography.x509.oid import NameOID
from OpenSSL.SSL import Error, SysCallError, X509VerificationCodes, ZeroReturnError

from tproxy.model import Reason, Refusal, Stage

SHOWN_LIMIT = 64
"""Characters of a name that came from the other side."""

_EXPIRED = X509VerificationCodes.ERR_CERT_HAS_EXPIRED
_NOT_YET_VALID = X509VerificationCodes.ERR_CERT_NOT_YET_VALID
_SELF_SIGNED = X509VerificationCodes.ERR_DEPTH_ZERO_SELF_SIGNED_CERT
_UNKNOWN_ISSUER = (
    X509VerificationCodes.ERR_SELF_SIGNED_CERT_IN_CHAIN,
    X509VerificationCodes.ERR_UNABLE_TO_GET_ISSUER_CERT,
    X509VerificationCodes.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
    X509VerificationCodes.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE,
    X509VerificationCodes.ERR_CERT_UNTRUSTED,
)
_OTHER_CHECKS = {
    X509VerificationCodes.ERR_CERT_SIGNATURE_FAILURE: "has a signature that is not its issuer's",
    X509VerificationCodes.ERR_INVALID_CA: "signed another one but is no authority",
    X509VerificationCodes.ERR_KEYUSAGE_NO_CERTSIGN: "signed another one but may not sign certificates",
    X509VerificationCodes.ERR_PATH_LENGTH_EXCEEDED: "has more certificates below it than it allows",
    X509VerificationCodes.ERR_CERT_CHAIN_TOO_LONG: "has too long a chain",
    X509VerificationCodes.ERR_INVALID_PURPOSE: "is not meant for servers",
    X509VerificationCodes.ERR_CERT_REJECTED: "is not meant for servers",
    X509VerificationCodes.ERR_PERMITTED_VIOLATION: "has a name that its authority may not certify",
    X509VerificationCodes.ERR_EXCLUDED_VIOLATION: "has a name that its authority may not certify",
    66: "has too short a key",  # X509_V_ERR_EE_KEY_TOO_SMALL and the next two have no public name
    67: "has too short a key",
    68: "is signed with a weak hash",
}
_TRUST_IT = "add it to additionalCAs.file, or to the file that the destination's TrustStoreLocation names"
_PLAIN_TEXT = ("wrong version number", "packet length too long", "http request", "record layer failure")
_OLD_VERSION = ("unsupported protocol", "alert protocol version", "version too low", "no protocols available")


@frozen
class Failed:
    """A check of the chain that failed: OpenSSL's number for it, and where (0 is the server's own certificate)."""

    number: int
    depth: int
    certificate: x509.Certificate


def distrusted(host: str, failed: Failed) -> Refusal:
    """The chain did not pass."""
    certificate = failed.certificate
    subject = f"The certificate of {host}"
    if failed.depth:
        subject = f'The certificate "{_called(certificate.subject)}" in the chain of {host}'
    if failed.number == _EXPIRED:
        return _refusal(
            Reason.CERTIFICATE_EXPIRED,
            f"{subject} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
            "have it renewed on the mail server",
        )
    if failed.number == _NOT_YET_VALID:
        return _refusal(
            Reason.CERTIFICATE_NOT_YET_VALID,
            f"{subject} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on",
            "check the clock of this machine, then the certificate on the mail server",
        )
    if failed.number == _SELF_SIGNED:
        return _refusal(
            Reason.CERTIFICATE_UNTRUSTED,
            f"{subject} is self-signed",
            f"if it is the right one, {_TRUST_IT}; better, have one issued by an authority",
        )
    if failed.number in _UNKNOWN_ISSUER:
        return _refusal(
            Reason.CERTIFICATE_UNTRUSTED,
            f'{subject} is issued by "{_called(certificate.issuer)}", which is not trusted here',
            f"if this authority is the right one, {_TRUST_IT}; "
            "if it is an intermediate one, the mail server has to send its certificate along",
        )
    words = _OTHER_CHECKS.get(failed.number, f"does not pass check {failed.number} of OpenSSL")
    return _refusal(Reason.CERTIFICATE_INVALID, f"{subject} {words}", "have another one issued for the mail server")


def other_names(host: str, is_address: bool, certificate: x509.Certificate) -> Refusal:
    """The chain is good, yet the certificate is not meant for the host."""
    carried = names(certificate)
    kind = "IP address" if is_address else "DNS name"
    wanted = f"have a certificate issued whose subjectAltName holds the {kind} {host}"
    if not carried:
        return _refusal(
            Reason.CERTIFICATE_NAME_MISMATCH,
            f"The certificate of {host} has no subjectAltName; "
            f'its common name "{_called(certificate.subject)}" does not count (RFC 9525)',
            wanted,
        )
    more = f" and {len(carried) - 4} more" if len(carried) > 4 else ""
    return _refusal(
        Reason.CERTIFICATE_NAME_MISMATCH,
        f"The certificate of {host} is meant for {', '.join(map(_shown, carried[:4]))}{more}",
        f"name the mail server in the destination as its certificate does, or {wanted}",
    )


def unreadable(host: str) -> Refusal:
    """The certificate's names break their format."""
    return _refusal(
        Reason.CERTIFICATE_INVALID,
        f"The certificate of {host} has a subjectAltName that cannot be read",
        "have another one issued for the mail server",
    )


def no_certificate(host: str) -> Refusal:
    """There is nothing to judge."""
    return _refusal(Reason.CERTIFICATE_INVALID, f"{host} showed no certificate", "give the mail server a certificate")


def no_host(host: str, why: str) -> Refusal:
    """No certificate could ever be meant for this host."""
    return _refusal(Reason.NAME_NOT_RESOLVED, f"{host[:64]!a} is {why}", "correct the host in the destination")


def broken(host: str, error: Exception) -> Refusal:
    """The handshake failed before a certificate was judged."""
    if isinstance(error, SysCallError | ZeroReturnError | OSError):
        return _refusal(
            Reason.TLS_FAILED,
            f"{host} closed the connection during the TLS handshake",
            "check that this port speaks TLS, and that the mail server accepts connections from here",
        )
    reason = _reason(error)
    if reason in _PLAIN_TEXT:
        return _refusal(
            Reason.TLS_FAILED,
            f"{host} does not speak TLS on this port but answers in plain text",
            "name the port for TLS, or a protocol that upgrades a plain connection",
        )
    if reason.endswith(_OLD_VERSION):
        return _refusal(
            Reason.TLS_FAILED, f"{host} offers no TLS version of 1.2 or later", "enable TLS 1.2 on the mail server"
        )
    if reason.endswith(("alert handshake failure", "alert insufficient security", "dh key too small")):
        return _refusal(
            Reason.TLS_FAILED,
            f"{host} and tproxy have no cipher or key exchange in common",
            "enable forward-secret ciphers on the mail server; a client certificate, if it wants one, is not supported",
        )
    if reason.endswith("unrecognized name"):
        return _refusal(
            Reason.TLS_FAILED, f"The mail server does not know the name {host}", "correct the host in the destination"
        )
    return _refusal(
        Reason.TLS_FAILED,
        f"The TLS handshake with {host} failed ({reason})",
        "check the TLS settings and the log of the mail server",
    )


def names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names and IP addresses that a certificate is meant for."""
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return ()
    addresses = alternatives.get_values_for_type(x509.IPAddress)
    return (*alternatives.get_values_for_type(x509.DNSName), *map(str, addresses))


def _reason(error: Exception) -> str:
    """OpenSSL's own words for a failure: a fixed list, nothing that the other side wrote."""
    queue = error.args[0] if isinstance(error, Error) and error.args else ()
    return str(queue[0][-1]) if isinstance(queue, list) and queue else type(error).__name__


def _called(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return _shown(str(common[0].value) if common else name.rfc4514_string())


def _shown(text: str) -> str:
    return ascii(text[:SHOWN_LIMIT])[1:-1] + ("..." if len(text) > SHOWN_LIMIT else "")


def _refusal(reason: Reason, message: str, remedy: str) -> Refusal:
    return Refusal(Stage.TLS, reason, message, remedy)

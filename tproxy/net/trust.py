"""Whom to trust: authorities, TLS contexts, and the verdict on the certificate of one connection."""

from __future__ import annotations

import re
import ssl
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from socket import socket
from typing import Any, NoReturn, Self, cast

import certifi
from attrs import frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.logger import Logger

from tproxy.config import ConfigError
from tproxy.model import Code, Identity, Reason, Refusal, RefusedError, Stage, Trust
from tproxy.net import verdicts
from tproxy.net.names import ascii_name, ip_literal
from tproxy.net.resumption import Resumption

CIPHERS = (
    b"ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:"
    b"ECDHE+AES+SHA256:ECDHE+AES+SHA384:!aNULL:!eNULL:!PSK:@SECLEVEL=2"
)
"""For TLS 1.2: forward secrecy always; CBC only with SHA-2, which some Windows mail servers need."""

CONTEXT_LIMIT = 64
"""Distinct trusts kept at once; each context with the system's authorities takes about 1 MB."""

SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
)

_BEGIN = re.compile(rb"-----BEGIN CERTIFICATE-----")

log = Logger()


class AuthoritiesError(ValueError):
    """A text is no list of certificates in PEM form; `line` says where."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


def _content(path: Path) -> bytes:
    with suppress(OSError):
        return path.read_bytes()
    return b""


def read_authorities(pem: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM text (RFC 7468); text between them is passed over.

    @raise AuthoritiesError: there is none, or one that cannot be read
    """
    starts = [match.start() for match in _BEGIN.finditer(pem)]
    if not starts:
        raise AuthoritiesError(1, "no certificate in PEM form can be read here")
    certificates = []
    for start, end in zip(starts, [*starts[1:], len(pem)], strict=True):
        try:
            certificates.append(x509.load_pem_x509_certificate(pem[start:end]))
        except ValueError:
            line = pem.count(b"\n", 0, start) + 1
            raise AuthoritiesError(line, "the certificate that begins here cannot be read") from None
    return tuple(certificates)


def load_system_authorities(
    context: SSL.Context,
    paths: ssl.DefaultVerifyPaths | None = None,
    bundles: Iterable[str] = SYSTEM_BUNDLES,
    otherwise: str | None = None,
) -> None:
    """Trust the authorities of this system; where it has none, those of certifi.

    @param paths: where OpenSSL looks for them
    @param bundles: where else systems keep them
    @param otherwise: instead of certifi's file
    """
    context.set_default_verify_paths()
    paths = ssl.get_default_verify_paths() if paths is None else paths
    files = any(file and Path(file).exists() for file in (paths.cafile, *bundles))
    if not files and not (paths.capath and any(Path(paths.capath).iterdir())):
        context.load_verify_locations(certifi.where() if otherwise is None else otherwise)


class TrustStore:
    """Makes TLS for outgoing connections: one context for each distinct trust.

    @param additional: a PEM file of authorities that are trusted beside the system's
    @param system: loads the system's authorities into a context
    @param forgotten: is told of each context that makes no more connections
    @raise ConfigError: the file holds no certificates, or unreadable ones
    """

    def __init__(
        self,
        additional: Path | None = None,
        system: Callable[[SSL.Context], None] = load_system_authorities,
        forgotten: Callable[[SSL.Context], None] = lambda context: None,
    ) -> None:
        self._path = additional
        self._system = system
        self._forgotten = forgotten
        self._contexts: OrderedDict[Trust, SSL.Context] = OrderedDict()
        self._seen = b""
        self._additional: tuple[x509.Certificate, ...] = ()
        if additional is not None:
            self._seen = _content(additional)
            try:
                self._additional = read_authorities(self._seen)
            except AuthoritiesError as error:
                raise ConfigError(f"{additional}:{error.line}: additionalCAs.file: {error.message}") from None

    def client(self, trust: Trust, host: str) -> ClientTLS:
        """TLS for one connection to a host.

        @param host: a DNS name or an IP address, as the destination spells it
        @raise RefusedError: the host is no name, an authority of `trust` cannot be read, or its identity not be used
        """
        return ClientTLS(self._context(trust), host, trust.verify)

    def refresh(self) -> bool:
        """Read the additional authorities again if their file has changed, for connections from now on.

        A file that cannot be read leaves those in force that were read last, and an error in the log.

        @return: whether others are trusted now
        """
        if self._path is None:
            return False
        content = _content(self._path)
        if content == self._seen:
            return False
        self._seen = content
        try:
            authorities = read_authorities(content)
        except AuthoritiesError as error:
            log.error(
                "{file}:{line}: {message}; the authorities read before stay in force",
                event="trust.broken",
                file=str(self._path),
                line=error.line,
                message=error.message,
            )
            return False
        if authorities == self._additional:
            return False
        self._additional = authorities
        while self._contexts:
            self._forget()
        log.info("authorities read again from {file}", event="trust.changed", file=str(self._path))
        return True

    def _context(self, trust: Trust) -> SSL.Context:
        context = self._contexts.get(trust)
        if context is None:
            context = self._contexts[trust] = self._create(trust)
            if len(self._contexts) > CONTEXT_LIMIT:
                self._forget()
        self._contexts.move_to_end(trust)
        return context

    def _forget(self) -> None:
        self._forgotten(self._contexts.popitem(last=False)[1])

    def _create(self, trust: Trust) -> SSL.Context:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(CIPHERS)
        context.set_options(SSL.OP_NO_COMPRESSION | getattr(SSL, "OP_NO_RENEGOTIATION", 0))
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        if trust.verify:
            context.set_verify(SSL.VERIFY_PEER, _record)
            self._system(context)
            _trust(context, self._additional)
            _trust(context, _own_authorities(trust))
        if trust.identity is not None:
            show(context, trust.identity)
        return context


def show(context: SSL.Context, identity: Identity) -> None:
    """Have a context show an identity to servers that ask for a client's certificate.

    @raise RefusedError: stage resolve; certificate or key cannot be read or used, or they do not belong together
    """
    try:
        own, *chain = read_authorities(identity.certificates.encode())
        public_key = own.public_key()
    except (ValueError, UnsupportedAlgorithm):
        _unusable("the client's certificate cannot be read", "give it in PEM form, followed by its chain")
    try:
        key = load_pem_private_key(identity.key.reveal().encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        _unusable("the private key cannot be read", "give it in PEM form, without a passphrase")
    if key.public_key() != public_key:
        _unusable("the private key is not that of the first certificate", "give both of the same service key")
    try:
        context.use_certificate(own)
        for each in chain:
            context.add_extra_chain_cert(each)
        context.use_privatekey(cast(Any, key))
    except (SSL.Error, TypeError):
        _unusable(
            "the client's certificate is too weak, or of a kind that TLS does not know", "have another one issued"
        )


def _unusable(message: str, remedy: str) -> NoReturn:
    raise RefusedError(
        Refusal(Stage.RESOLVE, Reason.SERVICE_KEY_INVALID, message, remedy, Code.CONTACT_ADMIN)
    ) from None


@frozen
class Peer:
    """What a mail server showed of itself in the handshake."""

    names: tuple[str, ...]
    not_after: datetime
    version: str
    cipher: str


class ClientTLS:
    """TLS of one connection: makes the TLS object, then judges the certificate or explains the failure."""

    def __init__(self, context: SSL.Context, host: str, verify: bool) -> None:
        self._context = context
        self._verify = verify
        self._host = host
        self._is_address = ip_literal(host) is not None and "%" not in host
        self._failed: verdicts.Failed | None = None
        self._chain_end: bytes | None = None
        self._kept: tuple[Resumption, Hashable] | None = None
        if not self._is_address:
            try:
                self._host = ascii_name(host)
            except ValueError as error:
                raise RefusedError(verdicts.no_host(host, str(error))) from None

    def resuming(self, resumption: Resumption, key: Hashable) -> Self:
        """Itself, resuming the session that is kept for `key`; a server that declines gets a full handshake."""
        self._kept = (resumption, key)
        return self

    def keep(self, connection: SSL.Connection) -> None:
        """The login on this connection was accepted: its session may be resumed.

        Where nothing was verified (`TrustAll`) nothing is kept.
        """
        if self._kept is not None:
            resumption, key = self._kept
            resumption.keep(key, connection, None if self._chain_end is None else _moment(self._chain_end))

    def verified(self, end: bytes) -> None:
        """A certificate of the chain, which ends then (GeneralizedTime, in UTC), was verified in this handshake."""
        self._chain_end = end if self._chain_end is None else min(self._chain_end, end)

    def connection(self, sock: socket) -> SSL.Connection:
        """The TLS object on a connected, non-blocking socket, ready for `do_handshake`.

        Its app data belongs to this module.
        """
        connection = SSL.Connection(self._context, sock)
        connection.set_app_data(self)
        if not self._is_address:  # RFC 6066, section 3: no addresses
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        if self._kept is not None:
            resumption, key = self._kept
            session = resumption.session(key, self._context)
            if session is not None:
                connection.set_session(session)
        connection.set_connect_state()
        return connection

    def verify(self, connection: SSL.Connection) -> None:
        """After the handshake, before anything is sent: is the certificate meant for the host (RFC 9525)?

        @raise RefusedError: stage tls
        """
        if not self._verify:
            return
        certificate = self._certificate(connection)
        try:
            _meant_for(certificate, self._host, self._is_address)
        except (VerificationError, CertificateError):
            raise RefusedError(verdicts.other_names(self._host, self._is_address, certificate)) from None
        except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
            raise RefusedError(verdicts.unreadable(self._host)) from None

    def refusal(self, connection: SSL.Connection, error: Exception) -> Refusal:
        """Why the handshake, or `verify`, failed, as precisely as is known."""
        if isinstance(error, RefusedError):
            return error.refusal
        if self._failed is not None:
            return verdicts.distrusted(self._host, self._failed)
        return verdicts.broken(self._host, error)

    def peer(self, connection: SSL.Connection) -> Peer:
        """After the handshake: what the other side showed. Its names are as they came: escape them."""
        certificate = self._certificate(connection)
        return Peer(
            names=verdicts.names(certificate),
            not_after=certificate.not_valid_after_utc,
            version=connection.get_protocol_version_name(),
            cipher=connection.get_cipher_name() or "",
        )

    def failed(self, failed: verdicts.Failed) -> None:
        """Remember the check of the chain that failed: the first one ends the handshake."""
        self._failed = failed

    def _certificate(self, connection: SSL.Connection) -> x509.Certificate:
        certificate = connection.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            raise RefusedError(verdicts.no_certificate(self._host))
        return certificate


@lru_cache(maxsize=256)
def _meant_for(certificate: x509.Certificate, host: str, is_address: bool) -> None:
    """Passes, or raises what `verify` refuses; only that the very same certificate passed for a host is remembered."""
    judge = verify_certificate_ip_address if is_address else verify_certificate_hostname
    judge(certificate, host)


def _record(connection: SSL.Connection, certificate: crypto.X509, number: int, depth: int, ok: int) -> bool:
    if ok:
        connection.get_app_data().verified(certificate.get_notAfter())
    else:
        connection.get_app_data().failed(verdicts.Failed(number, depth, certificate.to_cryptography()))
    return bool(ok)


@lru_cache(maxsize=256)
def _moment(end: bytes) -> datetime:
    return datetime.strptime(end.decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _trust(context: SSL.Context, authorities: Iterable[x509.Certificate]) -> None:
    store = context.get_cert_store()
    if store is not None:
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # an intermediate that was named is an anchor, too
        for authority in authorities:
            store.add_cert(crypto.X509.from_cryptography(authority))


def _own_authorities(trust: Trust) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(each for pem in trust.authorities for each in read_authorities(pem.encode()))
    except AuthoritiesError as error:
        message = f"The destination's own authorities: line {error.line}: {error.message}"
        remedy = "put certificates in PEM form into the file that TrustStoreLocation names"
        raise RefusedError(Refusal(Stage.TLS, Reason.DOCUMENT_INVALID, message, remedy)) from None

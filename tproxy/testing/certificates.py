"""Throw-away certificates, good and bad, for the demo and for tests. Nothing here is meant to protect anything."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL

DAY = timedelta(days=1)


@frozen
class Certificate:
    """A certificate, what comes between it and its authority, and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> str:
        """The certificate itself."""
        return _pem(self.certificate)

    @property
    def chain_pem(self) -> str:
        """The certificate and its chain, as a server's certificate file holds them."""
        return "".join(map(_pem, (self.certificate, *self.chain)))

    @property
    def key_pem(self) -> str:
        """The private key, without a passphrase."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write `NAME.pem` and `NAME.key` (readable by the owner only) and return their paths."""
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        certificate.write_text(self.chain_pem)
        key.touch(mode=0o600)
        key.write_text(self.key_pem)
        return certificate, key

    def server_context(self) -> SSL.Context:
        """A context for the server that shows this certificate."""
        context = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate(self.certificate)
        context.use_privatekey(self.key)
        for each in self.chain:
            context.add_extra_chain_cert(each)
        return context


@frozen
class Authority(Certificate):
    """A certificate authority that lives as long as the program."""

    @classmethod
    def create(cls, name: str = "tproxy throw-away CA") -> Authority:
        """A new root."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), _name(name), key, -DAY, 30 * DAY)
        return cls(_authority(builder, key).sign(key, SHA256()), key)

    def subordinate(self, name: str = "tproxy throw-away intermediate CA") -> Authority:
        """An authority below this one; what it issues carries it in the chain."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), self.certificate.subject, key, -DAY, 30 * DAY)
        builder = builder.add_extension(_key_of(self.key), critical=False)
        return Authority(_authority(builder, key).sign(self.key, SHA256()), key, self._below())

    def issue(
        self,
        *hosts: str,
        common_name: str | None = None,
        since: timedelta = -DAY,
        until: timedelta = 30 * DAY,
    ) -> Certificate:
        """A server's certificate for host names and IP addresses, which stand in its subjectAltName.

        @param common_name: the subject's, where that is not the first host
        @param since: when it becomes valid, from now
        @param until: when it expires, from now
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(common_name or hosts[0][:64]), self.certificate.subject, key, since, until)
        builder = builder.add_extension(_key_of(self.key), critical=False)
        return Certificate(_server(builder, hosts).sign(self.key, SHA256()), key, self._below())

    def expired(self, *hosts: str) -> Certificate:
        """A certificate that was valid until yesterday."""
        return self.issue(*hosts, since=-10 * DAY, until=-DAY)

    def not_yet_valid(self, *hosts: str) -> Certificate:
        """A certificate that is valid from tomorrow on."""
        return self.issue(*hosts, since=DAY)

    def common_name_only(self, host: str) -> Certificate:
        """A certificate of the old kind: the host stands in its common name alone."""
        return self.issue(common_name=host)

    def _below(self) -> tuple[x509.Certificate, ...]:
        root = self.certificate.issuer == self.certificate.subject
        return () if root else (self.certificate, *self.chain)


def self_signed(*hosts: str) -> Certificate:
    """A certificate that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(hosts[0])
    return Certificate(_server(_builder(name, name, key, -DAY, 30 * DAY), hosts).sign(key, SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, since: timedelta, until: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + since)
        .not_valid_after(now + until)
    )


def _authority(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _server(builder: x509.CertificateBuilder, hosts: Sequence[str]) -> x509.CertificateBuilder:
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_general_name, hosts))), critical=False)
    return builder


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_of(issuer: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()

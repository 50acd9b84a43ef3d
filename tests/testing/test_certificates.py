"""The throw-away certificates are what they say; that they pass or fail in a handshake is shown in tests/net."""

from __future__ import annotations

import ssl
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tproxy.testing.certificates import Authority


class Files(SynchronousTestCase):
    """`Certificate.write`."""

    def test_write(self) -> None:
        """A server can be started with the two files; the key is its owner's alone, and not in the repr."""
        directory = Path(self.mktemp())
        directory.mkdir()
        certificate = Authority.create().subordinate().issue("mail.example", "127.0.0.1")
        files = certificate.write(directory, "mail")
        self.assertEqual([each.name for each in files], ["mail.pem", "mail.key"])
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(*files)
        self.assertEqual(files[0].read_text().count("BEGIN CERTIFICATE"), 2)
        self.assertEqual(files[1].stat().st_mode & 0o777, 0o600)
        self.assertNotIn("rivate", repr(certificate))

    def test_strict_clients(self) -> None:
        """Python's own clients accept them in their strictest setting (RFC 5280)."""
        authority = Authority.create()
        client, server = ssl.create_default_context(cadata=authority.pem), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        client.verify_flags |= ssl.VERIFY_X509_STRICT
        directory = Path(self.mktemp())
        directory.mkdir()
        server.load_cert_chain(*authority.subordinate().issue("mail.example").write(directory, "mail"))
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        ours = client.wrap_bio(to_client, to_server, server_hostname="mail.example")
        theirs = server.wrap_bio(to_server, to_client, server_side=True)
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        ours.do_handshake()
        self.assertEqual(ours.getpeercert()["subjectAltName"], (("DNS", "mail.example"),))

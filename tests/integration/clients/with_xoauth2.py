"""Logs in with a refresh token from standard input, as docs/configure.md shows it, and prints the first subject."""

import imaplib
import sys

port, user = int(sys.argv[1]), sys.argv[2]
token = sys.stdin.read()
mail = imaplib.IMAP4("127.0.0.1", port)
mail.authenticate("XOAUTH2", lambda _: f"user={user}\x01auth=Bearer {token}\x01\x01".encode())
mail.select("INBOX", readonly=True)
_, found = mail.fetch("1", "(BODY[HEADER.FIELDS (SUBJECT)])")
print(found[0][1].decode())
mail.logout()

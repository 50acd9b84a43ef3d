"""HOST PORT: writes the last message of INBOX to standard output, as it comes."""

import imaplib
import sys

session = imaplib.IMAP4(sys.argv[1], int(sys.argv[2]))
_, (count,) = session.select("INBOX", readonly=True)
_, answer = session.fetch(count.decode(), "(BODY.PEEK[])")
sys.stdout.buffer.write(answer[0][1])
session.logout()

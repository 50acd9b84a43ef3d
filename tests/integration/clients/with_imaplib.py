"""HOST PORT USER PASSWORD MESSAGE: the steps of every client, with Python's imaplib; USER `-` logs nobody in."""

import imaplib
import sys
from hashlib import sha256
from pathlib import Path

host, port, user, password, message = sys.argv[1:]


def fetched(session: imaplib.IMAP4, numbers: str) -> list[bytes]:
    _, answer = session.fetch(numbers, "(BODY.PEEK[])")
    return [part[1] for part in answer if isinstance(part, tuple)]


session = imaplib.IMAP4(host, int(port))
if user != "-":
    session.login(user, password)
_, folders = session.list()
print("list", *sorted(line.split()[-1].decode() for line in folders))
print("select", session.select("INBOX")[1][0].decode())
print("one", sha256(fetched(session, "1")[0]).hexdigest())
print("all", sha256(b"".join(fetched(session, "1:*"))).hexdigest())

status, _ = session.append("INBOX", None, None, Path(message).read_bytes())
session.noop()
_, (latest,) = session.search(None, "ALL")
print("append", status, sha256(fetched(session, latest.split()[-1].decode())[0]).hexdigest())

tag = session._new_tag()
session.send(tag + b" IDLE\r\n")
while not session.readline().startswith(b"+"):
    pass
print("idle")
while b"EXISTS" not in (line := session.readline()):
    pass
print("arrived", line.split()[1].decode())
session.send(b"DONE\r\n")
while not session.readline().startswith(tag):
    pass
print("logout", session.logout()[0])

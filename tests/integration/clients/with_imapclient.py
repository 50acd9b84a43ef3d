"""HOST PORT USER PASSWORD MESSAGE: the steps of every client, with IMAPClient; USER `-` logs nobody in."""

import sys
from hashlib import sha256
from pathlib import Path

from imapclient import IMAPClient

host, port, user, password, message = sys.argv[1:]

session = IMAPClient(host, int(port), ssl=False)
if user != "-":
    session.login(user, password)
print("list", *sorted(name for _, _, name in session.list_folders()))
print("select", session.select_folder("INBOX")[b"EXISTS"])
print("one", sha256(session.fetch(1, ["BODY.PEEK[]"])[1][b"BODY[]"]).hexdigest())
everything = session.fetch(session.search("ALL"), ["BODY.PEEK[]"])
print("all", sha256(b"".join(everything[number][b"BODY[]"] for number in sorted(everything))).hexdigest())

answer = session.append("INBOX", Path(message).read_bytes())
latest = session.search("ALL")[-1]
status = "OK" if b"completed" in answer else answer
print("append", status, sha256(session.fetch(latest, ["BODY.PEEK[]"])[latest][b"BODY[]"]).hexdigest())

session.idle()
print("idle")
arrived = None
while arrived is None:
    arrived = next((event[0] for event in session.idle_check() if event[1] == b"EXISTS"), None)
print("arrived", arrived)
session.idle_done()
print("logout", "BYE" if b"out" in session.logout() else "?")

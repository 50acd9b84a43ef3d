"""HOST PORT: negotiates COMPRESS=DEFLATE (RFC 4978), then lists, selects and fetches all under compression."""

import socket
import sys
import zlib
from hashlib import sha256

connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
lines = connection.makefile("rb")
greeting = lines.readline()
print("offered", b"COMPRESS=DEFLATE" in greeting)
connection.sendall(b"1 COMPRESS DEFLATE\r\n")
print(lines.readline().split()[1].decode())

outward = zlib.compressobj(wbits=-zlib.MAX_WBITS)
inward = zlib.decompressobj(wbits=-zlib.MAX_WBITS)


def ask(command: bytes) -> bytes:
    """The answer to one command, to its tagged line."""
    tag = command.split()[0]
    connection.sendall(outward.compress(command + b"\r\n") + outward.flush(zlib.Z_SYNC_FLUSH))
    answer = b""
    while not (answer.endswith(b"\r\n") and answer.split(b"\r\n")[-2].startswith(tag + b" ")):
        answer += inward.decompress(connection.recv(65536))
    return answer


print("list", ask(b'2 LIST "" "*"').count(b"* LIST"))
print("select", b" EXISTS" in ask(b"3 SELECT INBOX"))
answer = ask(b"4 FETCH 1 BODY.PEEK[]")
size = int(answer.partition(b"{")[2].partition(b"}")[0])
start = answer.index(b"}\r\n") + 3
print("one", sha256(answer[start : start + size]).hexdigest())
print("logout", b"5 OK" in ask(b"5 LOGOUT"))

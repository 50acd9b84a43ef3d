"""Mailboxes in memory, in the words of Twisted's IMAP server."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from io import BytesIO
from itertools import count
from typing import IO, Any

from twisted.internet.defer import Deferred, succeed
from twisted.mail import imap4
from twisted.mail.interfaces import (
    IAccountIMAP,
    IMailboxIMAP,
    IMailboxIMAPListener,
    IMessageIMAP,
    IMessageIMAPFile,
    IMessageIMAPPart,
    INamespacePresenter,
    ISearchableIMAPMailbox,
)
from zope.interface import implementer

from tproxy.testing import search
from tproxy.testing.messages import Entity

FLAGS = ("\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft")
DELIMITER = "/"
FOLDERS = ("INBOX", "Sent", "Trash", "Projekte", "Projekte/Büro München")
"""The mailboxes that every user has at first; the messages are in the first."""


@implementer(IMessageIMAPPart)
class Part:
    """A part of a message, in the words of Twisted's server."""

    def __init__(self, content: Entity) -> None:
        self.content = content

    def getHeaders(self, negate: bool, *names: str | bytes) -> dict[str, str]:
        wanted = {name.decode().lower() if isinstance(name, bytes) else name.lower() for name in names}
        return {
            name.lower(): self.content.field(name) or ""
            for name in self.content.fields
            if (name.lower() in wanted) is not negate
        }

    def getBodyFile(self) -> IO[bytes]:
        return BytesIO(self.content.body)

    def getSize(self) -> int:
        return len(self.content.body)

    def isMultipart(self) -> bool:
        return self.content.kind[0] == "multipart"

    def getSubPart(self, part: int) -> Part:
        return Part(self.content.parts[part])


@implementer(IMessageIMAP, IMessageIMAPFile)
class Message(Part):
    """A message in a mailbox: what it is never changes, its flags do."""

    def __init__(self, uid: int, raw: bytes, flags: Iterable[str], date: datetime) -> None:
        super().__init__(Entity(raw))
        self.uid = uid
        self.flags = set(flags)
        self.date = date

    def getSize(self) -> int:
        return len(self.content.raw)

    def getUID(self) -> int:
        return self.uid

    def getFlags(self) -> list[str]:
        return sorted(self.flags)

    def getInternalDate(self) -> str:
        return format_datetime(self.date)

    def open(self) -> IO[bytes]:
        return BytesIO(self.content.raw)


class Folder:
    """The messages under one name, shared by all sessions that look at them."""

    def __init__(self, validity: int) -> None:
        self.validity = validity
        self.next_uid = 1
        self.messages: list[Message] = []
        self.listeners: list[Any] = []

    def add(self, raw: bytes, flags: Iterable[str], date: datetime) -> int:
        uid, self.next_uid = self.next_uid, self.next_uid + 1
        self.messages.append(Message(uid, raw, {*flags, "\\Recent"}, date))
        for listener in list(self.listeners):
            listener.newMessages(len(self.messages), None)
        return uid


@implementer(IMailboxIMAP, ISearchableIMAPMailbox)
class Mailbox:
    """One session's view of a folder."""

    def __init__(self, folder: Folder, writeable: bool, now: Callable[[], datetime]) -> None:
        self.folder = folder
        self._writeable = writeable
        self._now = now
        self._listeners: list[object] = []

    def getFlags(self) -> list[str]:
        return list(FLAGS)

    def getHierarchicalDelimiter(self) -> str:
        return DELIMITER

    def getUIDValidity(self) -> int:
        return self.folder.validity

    def getUIDNext(self) -> int:
        return self.folder.next_uid

    def getUID(self, message: int) -> int:
        return self.folder.messages[message - 1].uid

    def getMessageCount(self) -> int:
        return len(self.folder.messages)

    def getRecentCount(self) -> int:
        return sum("\\Recent" in message.flags for message in self.folder.messages)

    def getUnseenCount(self) -> int:
        return sum("\\Seen" not in message.flags for message in self.folder.messages)

    def isWriteable(self) -> bool:
        return self._writeable

    def destroy(self) -> None:
        self.folder.messages.clear()

    def requestStatus(self, names: Iterable[str]) -> dict[str, int]:
        status: dict[str, int] = imap4.statusRequestHelper(self, [name.upper() for name in names])
        return status

    def addListener(self, listener: IMailboxIMAPListener) -> None:
        self._listeners.append(listener)
        self.folder.listeners.append(listener)

    def removeListener(self, listener: IMailboxIMAPListener) -> None:
        self._listeners.remove(listener)
        self.folder.listeners.remove(listener)

    def addMessage(
        self, message: IO[bytes], flags: Iterable[str] = (), date: bytes | str | None = None
    ) -> Deferred[int]:
        when = date.decode("ascii", "replace") if isinstance(date, bytes) else date
        return succeed(self.folder.add(message.read(), flags, _instant(when) or self._now()))

    def expunge(self) -> list[int]:
        self._must_write()
        messages = self.folder.messages
        gone = [number for number, message in enumerate(messages, 1) if "\\Deleted" in message.flags]
        for number in reversed(gone):
            del messages[number - 1]
            for listener in self._others():
                listener.expunged(number)
        return gone[::-1]

    def fetch(self, messages: imap4.MessageSet, uid: bool) -> list[tuple[int, Message]]:
        if messages.last is messages._empty:
            messages.last = (self.folder.next_uid - 1) if uid else len(self.folder.messages)
        return [
            (number, message)
            for number, message in enumerate(self.folder.messages, 1)
            if (message.uid if uid else number) in messages
        ]

    def store(self, messages: imap4.MessageSet, flags: Iterable[str], mode: int, uid: bool) -> dict[int, list[str]]:
        self._must_write()
        named, changed = set(flags), {}
        for number, message in self.fetch(messages, uid):
            match mode:
                case 1:
                    message.flags |= named
                case -1:
                    message.flags -= named
                case _:
                    message.flags = named | (message.flags & {"\\Recent"})
            changed[number] = message.getFlags()
        for listener in self._others():
            listener.flagsChanged(changed)
        return changed

    def search(self, query: search.Query, uid: bool) -> list[int]:
        matches = search.compile(query, len(self.folder.messages), self.folder.next_uid - 1)
        return [number for number, message in enumerate(self.folder.messages, 1) if matches(number, message)]

    def _must_write(self) -> None:
        if not self._writeable:
            raise imap4.ReadOnlyMailbox("read-only")

    def _others(self) -> list[Any]:
        return [listener for listener in self.folder.listeners if listener not in self._listeners]


def _instant(text: str | None) -> datetime | None:
    try:
        found = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


@implementer(IAccountIMAP, INamespacePresenter)
class Account:
    """One user's mailboxes."""

    def __init__(self, messages: Iterable[bytes], now: Callable[[], datetime]) -> None:
        self._now = now
        self._validity = count(int(now().timestamp()))
        self.folders = {name: Folder(next(self._validity)) for name in FOLDERS}
        self.subscribed = set(FOLDERS)
        for message in messages:
            self.folders[FOLDERS[0]].add(message, (), _instant(Entity(message).field("date")) or now())

    def addMailbox(self, name: str, mbox: Mailbox | None = None) -> bool:
        if _inbox(name) in self.folders:
            raise imap4.MailboxException("a mailbox of that name is there already")
        self.folders[name] = mbox.folder if mbox else Folder(next(self._validity))
        return True

    def create(self, pathspec: str) -> bool:
        name = pathspec.rstrip(DELIMITER)
        path = name.split(DELIMITER)
        for end in range(1, len(path)):
            parent = DELIMITER.join(path[:end])
            if _inbox(parent) not in self.folders:
                self.addMailbox(parent)
        return self.addMailbox(name)

    def select(self, name: str, rw: bool = True) -> Mailbox | None:
        folder = self.folders.get(_inbox(name))
        return Mailbox(folder, bool(rw), self._now) if folder else None

    def delete(self, name: str) -> bool:
        self._must_have(name)
        if self.has_children(name):
            raise imap4.MailboxException("there are mailboxes below it")
        del self.folders[name]
        return True

    def rename(self, oldname: str, newname: str) -> bool:
        self._must_have(oldname)
        self.addMailbox(newname)
        below = oldname + DELIMITER
        for name in [name for name in self.folders if name == oldname or name.startswith(below)]:
            self.folders[newname + name.removeprefix(oldname)] = self.folders.pop(name)
        return True

    def isSubscribed(self, name: str) -> bool:
        return _inbox(name) in self.subscribed

    def subscribe(self, name: str) -> bool:
        self._must_have(name)
        self.subscribed.add(_inbox(name))
        return True

    def unsubscribe(self, name: str) -> bool:
        self.subscribed.discard(_inbox(name))
        return True

    def listMailboxes(self, ref: str, wildcard: str) -> list[tuple[str, Mailbox]]:
        pattern = imap4.wildcardToRegexp(ref + wildcard, DELIMITER)
        return [
            (name, Mailbox(self.folders[name], False, self._now)) for name in self.folders if pattern.fullmatch(name)
        ]

    def has_children(self, name: str) -> bool:
        """Whether there are mailboxes below it."""
        return any(other.startswith(name + DELIMITER) for other in self.folders)

    def getPersonalNamespaces(self) -> list[list[bytes]]:
        return [[b"", DELIMITER.encode()]]

    def getSharedNamespaces(self) -> None:
        return None

    def getUserNamespaces(self) -> None:
        return None

    def _must_have(self, name: str) -> None:
        if _inbox(name) not in self.folders:
            raise imap4.MailboxException("no such mailbox")


def _inbox(name: str) -> str:
    return "INBOX" if name.upper() == "INBOX" else name

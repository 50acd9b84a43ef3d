"""A small IMAP server with its mail in memory: for the demo, and for tests that want a mail server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import IO, Any

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.mail import imap4
from twisted.mail.interfaces import IAccountIMAP
from zope.interface import Interface, implementer

from tproxy.testing.mailboxes import DELIMITER, FLAGS, Account, Mailbox, Message
from tproxy.testing.messages import SAMPLES, Entity, envelope, structure


class Session(imap4.IMAP4Server):
    """One connection.

    Twisted's server with what mail clients need beyond it: exact sections and structures, parts of
    a section, `\\Seen`, ID, and the names of RFC 3501 where Twisted's answers differ from it.
    """

    IDENT = b"ready"
    portal: Any
    account: Any

    def __init__(self, challengers: Mapping[bytes, Any], portal: Portal) -> None:
        super().__init__(challengers)
        self.portal = portal

    def capabilities(self) -> dict[bytes, list[bytes] | None]:
        return {**super().capabilities(), b"ID": None, b"CHILDREN": None}

    def do_ID(self, tag: bytes, _: bytes) -> None:
        self.sendUntaggedResponse(b'ID ("name" "tproxy demo")')
        self.sendPositiveResponse(tag, b"ID completed")

    unauth_ID = auth_ID = select_ID = (do_ID, imap4.IMAP4Server.arg_line)

    def _cbListWork(self, mailboxes: list[tuple[str, Mailbox]], tag: bytes, sub: bool, command: bytes) -> None:
        for name, _ in mailboxes:
            if not sub or self.account.isSubscribed(name):
                children = b"\\HasChildren" if self.account.has_children(name) else b"\\HasNoChildren"
                quoted = imap4._quote(name.encode("imap4-utf-7"))
                self.sendUntaggedResponse(b'%b (%b) "%b" %b' % (command, children, DELIMITER.encode(), quoted))
        self.sendPositiveResponse(tag, command + b" completed")

    def _listWork(self, tag: bytes, reference: bytes, name: bytes, sub: bool, command: bytes) -> None:
        if name:
            super()._listWork(tag, reference, name, sub, command)
        else:
            self.sendUntaggedResponse(b'%b (\\Noselect) "%b" ""' % (command, DELIMITER.encode()))
            self.sendPositiveResponse(tag, command + b" completed")

    auth_LIST: Any = (_listWork, *imap4.IMAP4Server.auth_LIST[1:])
    auth_LSUB: Any = (_listWork, *imap4.IMAP4Server.auth_LSUB[1:])
    select_LIST, select_LSUB = auth_LIST, auth_LSUB

    def _cbSelectWork(self, mailbox: Mailbox | None, command: bytes, tag: bytes) -> None:
        if mailbox is not None:
            permanent = " ".join(FLAGS).encode() if mailbox.isWriteable() else b""
            self.sendPositiveResponse(None, b"[PERMANENTFLAGS (%b)] limited" % permanent)
            self.sendPositiveResponse(None, b"[UIDNEXT %d] predicted" % mailbox.getUIDNext())
        super()._cbSelectWork(mailbox, command, tag)

    def _cbAppendGotMailbox(
        self, mailbox: Mailbox | None, tag: bytes, flags: list[bytes] | None, date: bytes | None, message: IO[bytes]
    ) -> None:
        if mailbox is None:
            self.sendNegativeResponse(tag, b"[TRYCREATE] no such mailbox")
            return
        mailbox.addMessage(message, [flag.decode() for flag in flags or ()], date)
        self.sendPositiveResponse(tag, b"APPEND completed")

    def _cbCopySelectedMailbox(
        self, mbox: Mailbox | None, tag: bytes, messages: imap4.MessageSet, mailbox: str, uid: bool
    ) -> None:
        if mbox is None:
            self.sendNegativeResponse(tag, b"[TRYCREATE] no such mailbox")
        else:
            super()._cbCopySelectedMailbox(mbox, tag, messages, mailbox, uid)

    def expunged(self, number: int) -> None:
        """Another session removed the message of this number."""
        self.sendUntaggedResponse(b"%d EXPUNGE" % number, isAsync=True)

    def spew_envelope(self, id: int, msg: Message, _w: Any = None, _f: Any = None) -> None:
        _w(b"ENVELOPE " + imap4.collapseNestedLists([envelope(msg.content)]))

    def spew_bodystructure(self, id: int, msg: Message, _w: Any = None, _f: Any = None) -> None:
        _w(b"BODYSTRUCTURE " + imap4.collapseNestedLists([structure(msg.content, extended=True)]))

    def spew_rfc822header(self, id: int, msg: Message, _w: Any = None, _f: Any = None) -> None:
        _w(b"RFC822.HEADER " + imap4._literal(msg.content.header))

    def spew_rfc822text(self, id: int, msg: Message, _w: Any = None, _f: Any = None) -> None:
        self._seen(msg)
        _w(b"RFC822.TEXT " + imap4._literal(msg.content.body))

    def spew_rfc822(self, id: int, msg: Message, _w: Any = None, _f: Any = None) -> None:
        self._seen(msg)
        _w(b"RFC822 " + imap4._literal(msg.content.raw))

    def spew_body(self, part: Any, id: int, msg: Message, _w: Any = None, _f: Any = None) -> None:
        if not (part.header or part.text or part.mime or part.empty):
            _w(b"BODY " + imap4.collapseNestedLists([structure(msg.content, extended=False)]))
            return
        if not part.peek:
            self._seen(msg)
        name = bytes(part).partition(b"<")[0]
        octets = _section(msg.content, part)
        if octets is None:
            _w(name + b" NIL")
        elif part.partialBegin is None:
            _w(name + b" " + imap4._literal(octets))
        else:
            piece = octets[part.partialBegin :][: part.partialLength]
            _w(b"%b<%d> %b" % (name, part.partialBegin, imap4._literal(piece)))

    def _seen(self, message: Message) -> None:
        if self.mbox is not None and self.mbox.isWriteable():
            message.flags.add("\\Seen")


def _section(message: Entity, wanted: Any) -> bytes | None:
    entity = message.part(wanted.part)
    if entity is None:
        return None
    if wanted.mime:
        return entity.header
    if wanted.empty:
        return entity.body if wanted.part else entity.raw
    if wanted.part:  # the header or text of an enclosed message
        if entity.kind != ("message", "rfc822"):
            return None
        (entity,) = entity.parts
    if wanted.text:
        return entity.body
    return entity.select((name.decode().strip('"') for name in wanted.header.fields), wanted.header.negate)


@implementer(IRealm)
class MailServer(Factory):
    """Makes the sessions of an IMAP server.

    @param users: passwords by user name
    @param messages: what a user finds in the inbox, by the user's name
    @param now: the time for messages that come without one
    """

    noisy = False

    def __init__(
        self,
        users: Mapping[str, str],
        messages: Callable[[str], Iterable[bytes]] = lambda _: SAMPLES,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.accounts = {user.encode(): Account(messages(user), now) for user in users}
        checker = InMemoryUsernamePasswordDatabaseDontUse()
        for user, password in users.items():
            checker.addUser(user.encode(), password.encode())
        self._portal = Portal(self, [checker])

    def requestAvatar(
        self, avatarId: bytes | tuple[()], mind: object, *interfaces: type[Interface]
    ) -> tuple[type[Interface], object, Callable[[], None]]:
        return IAccountIMAP, self.accounts[bytes(avatarId)], lambda: None

    def buildProtocol(self, addr: IAddress | None) -> Session:
        return Session({b"PLAIN": imap4.PLAINCredentials}, self._portal)

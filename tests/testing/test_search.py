"""What SEARCH finds."""

from __future__ import annotations

from datetime import UTC, datetime

from twisted.mail.imap4 import IllegalQueryError, parseNestedParens
from twisted.trial.unittest import SynchronousTestCase

from tproxy.testing import search
from tproxy.testing.mailboxes import Message
from tproxy.testing.messages import SAMPLES

MESSAGES = [
    Message(uid, raw, flags, datetime(2025, 6, day, 12, tzinfo=UTC))
    for uid, raw, flags, day in zip(
        (11, 12, 15, 16),
        SAMPLES,
        ({"\\Seen"}, {"\\Flagged", "\\Recent"}, {"\\Deleted", "urgent"}, {"\\Answered", "\\Seen", "\\Draft"}),
        (2, 3, 4, 5),
        strict=True,
    )
]


def found(query: str) -> list[int]:
    """The sequence numbers that match."""
    test = search.compile(parseNestedParens(query.encode()), len(MESSAGES), MESSAGES[-1].uid)
    return [number for number, message in enumerate(MESSAGES, 1) if test(number, message)]


class SearchTests(SynchronousTestCase):
    """Each key finds what RFC 3501 says, and only that."""

    def test_keys(self) -> None:
        """One query of each kind."""
        for query, expected in {
            "ALL": [1, 2, 3, 4],
            "2:*": [2, 3, 4],
            "*": [4],
            "1,3": [1, 3],
            "UID 12:15": [2, 3],
            "UID *": [4],
            "SEEN": [1, 4],
            "UNSEEN": [2, 3],
            "FLAGGED": [2],
            "UNFLAGGED": [1, 3, 4],
            "ANSWERED": [4],
            "DELETED": [3],
            "DRAFT": [4],
            "RECENT": [2],
            "OLD": [1, 3, 4],
            "NEW": [2],
            "KEYWORD urgent": [3],
            "UNKEYWORD urgent": [1, 2, 4],
            "FROM juergen": [2],
            "FROM jürgen": [2],
            "SUBJECT Größere": [2],
            'SUBJECT "your INVOICE"': [3],
            "TO ada": [1, 2, 3, 4],
            "CC ada": [],
            "BCC ada": [],
            "HEADER Message-ID 20250602": [1],
            'HEADER Subject ""': [1, 2, 3, 4],
            'HEADER X-None ""': [],
            "BODY cheeses": [3],
            "BODY Brötchen": [2],
            "TEXT invoice": [3],
            "TEXT hanako": [4],
            f"LARGER {len(SAMPLES[2]) - 1}": [3],
            f"SMALLER {len(SAMPLES[0])}": [],
            f"SMALLER {len(SAMPLES[3]) + 1}": [1, 4],
            "BEFORE 3-Jun-2025": [1],
            "ON 3-Jun-2025": [2],
            "SINCE 3-Jun-2025": [2, 3, 4],
            "SENTBEFORE 3-Jun-2025": [1],
            "SENTON 4-Jun-2025": [3],
            "SENTSINCE 5-Jun-2025": [4],
            "NOT SEEN": [2, 3],
            "OR SEEN FLAGGED": [1, 2, 4],
            "UNSEEN (FLAGGED)": [2],
            "OR (SEEN DRAFT) (UNSEEN DELETED)": [3, 4],
            "NOT (SEEN 1:2)": [2, 3, 4],
        }.items():
            self.assertEqual(expected, found(query), query)

    def test_not_a_query(self) -> None:
        """What is no query is refused as one, whatever is wrong with it."""
        for query in ("NONSENSE", "FROM", "OR SEEN", "NOT", "SINCE yesterday", "LARGER much", "UID", "SUBJECT (x)"):
            self.assertRaises(IllegalQueryError, found, query)

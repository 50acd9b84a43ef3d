"""A tour of a mailbox with imaplib. usage: python -m tests.testing.with_imaplib PORT"""

import email.policy
import imaplib
import sys

from tproxy.testing.messages import SAMPLES


def tour(port: int) -> None:
    """Log in, look around, write, tidy up; an assertion fails where something is not as it should be."""
    with imaplib.IMAP4("127.0.0.1", port) as session:
        session.login("ada", "enchantress")
        assert session.list()[0] == "OK"
        assert session.select("INBOX") == ("OK", [b"4"])
        assert session.search("UTF-8", "SUBJECT", '"München"'.encode())[1] == [b"2"]
        for number, sample in enumerate(SAMPLES, 1):
            _, [(_, raw), _] = session.fetch(str(number), "(BODY.PEEK[])")
            assert raw == sample
        invoice = email.message_from_bytes(SAMPLES[2], policy=email.policy.default)
        assert [part.get_filename() for part in invoice.iter_attachments()] == ["invoice-2025-0042.txt", "goods.png"]
        assert session.append("Sent", "(\\Seen)", None, SAMPLES[0])[0] == "OK"
        assert session.copy("1", "Sent")[0] == "OK"
        assert session.select("Sent") == ("OK", [b"2"])
        assert session.store("1", "+FLAGS", "(\\Deleted)")[0] == "OK"
        assert session.expunge() == ("OK", [b"1"])
        assert session.status("Sent", "(MESSAGES)")[1] == [b"Sent (MESSAGES 1)"]
    print("done")


if __name__ == "__main__":
    tour(int(sys.argv[1]))

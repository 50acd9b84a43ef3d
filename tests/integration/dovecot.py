"""A real Dovecot on free ports, in a folder of its own: started once, when first asked for, ended with the test run."""

from __future__ import annotations

import atexit
import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import randrange

from attrs import frozen
from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.integration import canaries
from tproxy.testing.certificates import Authority

PROGRAM = shutil.which("dovecot", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
MISSING = None if PROGRAM else "there is no Dovecot: apt-get install dovecot-imapd"

MECHANISMS = "plain login scram-sha-256 xoauth2 oauthbearer"
USERS = tuple(f"user-{number}" for number in range(1, 101))
ODD = "odd"
ODD_PASSWORD = canaries.also('Canary "quoted" back\\slash pässwörd {5} %u')

CONFIGURATION = """
base_dir = {folder}/run
state_dir = {folder}/state
instance_name = tests
log_path = {folder}/dovecot.log
protocols = imap
listen = 127.0.0.1
default_internal_user = {internal}
default_internal_group = {group}
default_login_user = {login}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service imap-login {{
  chroot =
  process_min_avail = 1
  service_count = 0
  inet_listener imap {{
    port = {plain}
  }}
  inet_listener imaps {{
    port = {tls}
  }}
}}
service stats {{
  chroot =
}}
ssl = yes
ssl_cert = <{folder}/certificate.pem
ssl_key = <{folder}/certificate.key
disable_plaintext_auth = no
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
auth_verbose = yes
mail_max_userip_connections = 1000
mail_location = maildir:{folder}/mail/%u
mail_plugins = zlib
first_valid_uid = 1
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {folder}/users
}}
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {folder}/oauth2.conf
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={folder}/mail/%u
}}
protocol imap {{
  mail_plugins = zlib imap_zlib
}}
"""

OAUTH2 = """
introspection_mode = post
introspection_url = http://127.0.0.1:{introspection}/introspect
username_attribute = username
active_attribute = active
active_value = true
"""


_unused = iter(USERS)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has, and that no outgoing connection will be given."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", randrange(20000, 32768)))
            return probe.getsockname()[1]


@frozen
class Dovecot:
    """A running Dovecot. It asks `introspection` (a port) about OAuth tokens; `authority` is the PEM text of its CA."""

    folder: Path
    authority: str
    plain: int
    tls: int
    introspection: int
    uid: int
    gid: int

    @property
    def log(self) -> str:
        return (self.folder / "dovecot.log").read_text(errors="replace")

    async def logins(self, user: str, least: int, how: str = "") -> int:
        """How often a user logged in (the rest of the line matching `how`), once the log shows so many.

        What Dovecot's processes say comes to the log by way of another of its processes.
        """
        pattern = re.compile(rf"imap-login: Info: Login: user=<{user}>, {how}")
        while (count := len(pattern.findall(self.log))) < least:
            await deferLater(reactor, 0.05)
        return count

    def deliver(self, user: str, message: bytes, number: int) -> None:
        """Put a message into a user's INBOX, as the `number`th."""
        name = f"{1_700_000_000 + number}.M1P1.tests"
        mailbox = self.folder / "mail" / user
        for part in (mailbox, mailbox / "tmp", mailbox / "new", mailbox / "cur"):
            if not part.exists():
                part.mkdir(mode=0o700)
                os.chown(part, self.uid, self.gid)
        draft = mailbox / "tmp" / name
        draft.write_bytes(message)
        os.chown(draft, self.uid, self.gid)
        draft.rename(mailbox / "new" / name)

    def change_password(self, user: str, password: str) -> None:
        """From now on the user logs in with another password."""
        file = self.folder / "users"
        lines = (
            f"{user}:{{PLAIN}}{password}::::::" if line.startswith(f"{user}:") else line
            for line in file.read_text().splitlines()
        )
        draft = file.with_name("users.draft")
        draft.write_text("".join(f"{line}\n" for line in lines))
        later = file.stat().st_mtime + 1  # Dovecot reads it again in another second
        os.utime(draft, (later, later))
        draft.rename(file)

    def failures(self, user: str) -> int:
        """How often a login of the user was refused, as far as the log shows."""
        return len(re.findall(rf"passwd-file\({user},[^\n]*Password mismatch", self.log))

    def mailbox(self, *messages: bytes) -> str:
        """The name of a user whom no other test has, with these messages in the INBOX."""
        user = next(_unused)
        for number, message in enumerate(messages, 1):
            self.deliver(user, message, number)
        return user


@cache
def dovecot(mechanisms: str = MECHANISMS) -> Dovecot:
    """The Dovecot of this test run that offers these SASL mechanisms."""
    folder = Path(tempfile.mkdtemp(prefix="tproxy-dovecot-"))
    folder.chmod(0o755)
    root = os.getuid() == 0
    me = pwd.getpwuid(os.getuid()).pw_name
    mail = pwd.getpwnam("mail" if root else me)
    authority = Authority.create()
    authority.issue("localhost", "127.0.0.1").write(folder, "certificate")
    passwords = {ODD: ODD_PASSWORD, **{user: canaries.secret(user) for user in USERS}}
    (folder / "users").write_text("".join(f"{user}:{{PLAIN}}{each}::::::\n" for user, each in passwords.items()))
    (folder / "state").mkdir()
    (folder / "mail").mkdir()
    os.chown(folder / "mail", mail.pw_uid, mail.pw_gid)
    running = Dovecot(folder, authority.pem, free_port(), free_port(), free_port(), mail.pw_uid, mail.pw_gid)
    (folder / "oauth2.conf").write_text(OAUTH2.format(introspection=running.introspection))
    (folder / "dovecot.conf").write_text(
        CONFIGURATION.format(
            folder=folder,
            mechanisms=mechanisms,
            plain=running.plain,
            tls=running.tls,
            uid=mail.pw_uid,
            gid=mail.pw_gid,
            internal="dovecot" if root else me,
            login="dovenull" if root else me,
            group="dovecot" if root else grp.getgrgid(os.getgid()).gr_name,
        )
    )
    # It listens once the command has returned; master.pid comes a little later.
    subprocess.run([PROGRAM, "-c", folder / "dovecot.conf"], check=True)

    def end() -> None:
        os.kill(int((folder / "run" / "master.pid").read_text()), signal.SIGTERM)
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return running

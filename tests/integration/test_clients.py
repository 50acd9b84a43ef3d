"""Real mail clients: each finds its way on the greeting that suits it, and gets and gives every byte."""

from __future__ import annotations

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from twisted.trial.unittest import SkipTest, TestCase

from tests.integration import canaries
from tests.integration.children import CLIENTS, python, run, start
from tests.integration.dovecot import MISSING, dovecot
from tests.integration.messages import FIRST, LARGE, MESSAGES, digest
from tests.integration.proxy import serving
from tests.integration.wire import connect

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tproxy-tests"
IMAPFLOW = "imapflow@2.10.2"
JARS = [Path("/usr/share/java") / name for name in ("javax.mail.jar", "javax.activation.jar")]

NOBODY = "-"
STEPS = [
    "list INBOX",
    f"select {len(MESSAGES)}",
    f"one {digest(FIRST)}",
    f"all {digest(*MESSAGES)}",
    f"append OK {digest(LARGE)}",
    "idle",
    f"arrived {len(MESSAGES) + 2}",
    "logout BYE",
]


def program(name: str, package: str) -> str:
    """The path of a program, or a skipped test that says what to install."""
    path = shutil.which(name)
    if not path:
        raise SkipTest(f"there is no {name}: apt-get install {package}")
    return path


class ClientTests(TestCase):
    """Clients' own words; the user names and passwords that they give are made up."""

    skip = MISSING
    timeout = 120

    async def walk(self, *command: str | Path, greeting: str, login: bool = True, **env: str) -> None:
        """Run a client script through all its steps; a message arrives while it idles."""
        user = dovecot().mailbox(*MESSAGES)
        proxy, port = await serving(self, user, greeting=greeting)
        large = proxy.folder / "large.eml"
        large.write_bytes(LARGE)
        words = ("anybody", canaries.secret("made-up")) if login else (NOBODY, NOBODY)
        client = start(self, [*command, "127.0.0.1", str(port), *words, large], proxy.folder, env=env)
        await client.output.until(rb"^idle$")
        dovecot().deliver(user, FIRST, len(MESSAGES) + 2)
        self.assertEqual(0, await client.output.closed(), str(client.output))
        self.assertEqual(STEPS, str(client.output).splitlines())

    def test_imaplib_preauth(self):
        """imaplib without a login, greeted with PREAUTH."""
        return self.walk(*python("with_imaplib.py"), greeting="preauth", login=False)

    def test_imaplib_open(self):
        """imaplib with a login, on the open greeting."""
        return self.walk(*python("with_imaplib.py"), greeting="open")

    def test_imapclient_preauth(self):
        """IMAPClient without a login, greeted with PREAUTH."""
        self._need_imapclient()
        return self.walk(*python("with_imapclient.py"), greeting="preauth", login=False)

    def test_imapclient_open(self):
        """IMAPClient with a login, on the open greeting."""
        self._need_imapclient()
        return self.walk(*python("with_imapclient.py"), greeting="open")

    def _need_imapclient(self) -> None:
        if not find_spec("imapclient"):
            raise SkipTest("there is no IMAPClient: pip install imapclient")

    def test_javamail_preauth(self):
        """JavaMail, which connects only with a password, and skips the login after PREAUTH."""
        return self.walk(*self._javamail(), greeting="preauth")

    def test_javamail_open(self):
        """JavaMail with a login, on the open greeting."""
        return self.walk(*self._javamail(), greeting="open")

    def _javamail(self) -> list[str | Path]:
        java = program("java", "default-jdk-headless")
        program("javac", "default-jdk-headless")
        if not all(jar.exists() for jar in JARS):
            raise SkipTest("there is no JavaMail: apt-get install libmail-java")
        # -XX:TieredStopAtLevel=1: it lives for a second.
        return [java, "-XX:TieredStopAtLevel=1", "-cp", ":".join(map(str, JARS)), CLIENTS / "WithJavaMail.java"]

    async def test_imapflow_preauth(self):
        """imapflow, greeted with PREAUTH."""
        await self.walk(*await self._imapflow(), greeting="preauth", NODE_PATH=self.modules)

    async def test_imapflow_open(self):
        """imapflow with a login, on the open greeting."""
        await self.walk(*await self._imapflow(), greeting="open", NODE_PATH=self.modules)

    async def _imapflow(self) -> list[str | Path]:
        node, npm = program("node", "nodejs"), program("npm", "npm")
        folder = CACHE / IMAPFLOW.replace("@", "-")
        self.modules = str(folder / "node_modules")
        if not (folder / "node_modules" / "imapflow" / "package.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            install = start(self, [npm, "install", "--no-audit", "--no-fund", "--prefix", folder, IMAPFLOW], folder)
            if await install.output.closed() != 0:
                raise SkipTest(f"there is no imapflow: npm install --prefix {folder} {IMAPFLOW}")
        return [node, CLIENTS / "with_imapflow.cjs"]

    async def test_curl(self):
        """curl lists, selects, fetches one and all, and appends, with a login and without."""
        curl = program("curl", "curl")
        user = dovecot().mailbox(*MESSAGES)
        proxy, port = await serving(self, user)
        url = f"imap://127.0.0.1:{port}"
        large = proxy.folder / "large.eml"
        large.write_bytes(LARGE)

        async def curled(*words: str | Path) -> bytes:
            return await run(self, [curl, "--silent", "--show-error", *words], proxy.folder)

        for login in ([], ["--user", f"anybody:{canaries.secret('made-up')}"]):
            self.assertEqual(b'* LIST (\\HasNoChildren) "." INBOX\r\n', await curled(*login, f"{url}/"))
            self.assertIn(b"* 3 EXISTS", await curled(*login, "--request", "EXAMINE INBOX", f"{url}/"))
            for number, message in enumerate(MESSAGES, 1):
                fetched = await curled(*login, f"{url}/INBOX;MAILINDEX={number}")
                self.assertEqual(digest(message), digest(fetched))
        await curled("--upload-file", large, f"{url}/INBOX")
        await curled("--output", proxy.folder / "fetched.eml", f"{url}/INBOX;MAILINDEX=4")
        self.assertEqual(digest(LARGE), digest((proxy.folder / "fetched.eml").read_bytes()))

    async def test_mbsync(self):
        """mbsync mirrors the mailbox, and a message of 5 MB the other way."""
        mbsync = program("mbsync", "isync")
        user = dovecot().mailbox(*MESSAGES)
        proxy, port = await serving(self, user)
        near = proxy.folder / "near"
        near.mkdir()
        configuration = proxy.folder / "mbsyncrc"
        configuration.write_text(f"""
            IMAPStore far
            Host 127.0.0.1
            Port {port}
            User anybody
            Pass "{canaries.secret("made-up")}"
            SSLType None
            AuthMechs PLAIN

            MaildirStore near
            Path {near}/
            Inbox {near}/INBOX

            Channel mail
            Far :far:
            Near :near:
            Create Both
            SyncState {proxy.folder}/state
        """)

        def plain(message: bytes) -> str:
            """The message with line feeds, as a Maildir has it, without mbsync's own mark."""
            return digest(re.sub(rb"^X-TUID: .*\n", b"", message.replace(b"\r\n", b"\n"), flags=re.MULTILINE))

        def mirrored() -> list[str]:
            files = [path for part in ("new", "cur") for path in (near / "INBOX" / part).iterdir()]
            return sorted(plain(file.read_bytes()) for file in files)

        await run(self, [mbsync, "--config", configuration, "mail"], proxy.folder)
        self.assertEqual(sorted(map(plain, MESSAGES)), mirrored())

        (near / "INBOX" / "new" / "1700000009.large.tests").write_bytes(LARGE.replace(b"\r\n", b"\n"))
        await run(self, [mbsync, "--config", configuration, "mail"], proxy.folder)
        pushed = await run(self, [*python("fetch_last.py"), "127.0.0.1", str(port)], proxy.folder)
        self.assertEqual(plain(LARGE), plain(pushed))

    async def test_compress(self):
        """COMPRESS=DEFLATE is the application's and the mail server's own affair."""
        _, port = await serving(self, dovecot().mailbox(*MESSAGES))
        output = (await run(self, [*python("with_compress.py"), "127.0.0.1", str(port)], dovecot().folder)).decode()
        expected = ["offered True", "OK", "list 1", "select True", f"one {digest(FIRST)}", "logout True"]
        self.assertEqual(expected, output.splitlines())

    async def test_pipelined(self):
        """Commands of all kinds in one segment are answered in order, once each, though sent before the greeting."""
        user = dovecot().mailbox(*MESSAGES)
        _, port = await serving(self, user)
        wire = await connect(self, port)
        wire.say(
            b"a CAPABILITY\r\nb LOGIN {3+}\r\nann {8}\r\npassword\r\nc NOOP\r\nd AUTHENTICATE PLAIN AGEAYg==\r\n"
            b'e ID NIL\r\nf LIST "" "*"\r\ng SELECT INBOX\r\nh FETCH 1:* BODY.PEEK[]\r\n'
            b"i APPEND INBOX {5+}\r\nx\r\n\r\n\r\nj SEARCH ALL\r\nk LOGOUT\r\n"
        )
        await wire.received.closed()
        received = bytes(wire.received)
        for message in MESSAGES:
            received = received.replace(message, b"")
        tagged = re.findall(rb"^([a-z]) (OK|NO|BAD) ", received, re.MULTILINE)
        self.assertEqual([(bytes([tag]), b"OK") for tag in b"abcdefgh"], tagged[:8])
        # Dovecot itself may answer a SEARCH before the APPEND in front of it is done.
        self.assertEqual([(b"i", b"OK"), (b"j", b"OK"), (b"k", b"OK")], sorted(tagged[8:]))
        self.assertEqual(1, received.count(b"\r\n+ "))
        self.assertIn(b"* 4 EXISTS\r\n", received)

    async def test_hundred_commands_before_the_greeting(self):
        """A hundred commands that arrive before the greeting cost one login and get a hundred answers, in order."""
        user = dovecot().mailbox(*MESSAGES)
        _, port = await serving(self, user)
        wire = await connect(self, port)
        wire.say(b"".join(b"t%d NOOP\r\n" % number for number in range(50)))
        wire.say(b"".join(b"t%d STATUS INBOX (MESSAGES)\r\n" % number for number in range(50, 100)))
        received = await wire.hears(rb"^t99 OK .*\r\n")
        tagged = [int(number) for number in re.findall(rb"^t(\d+) OK ", received, re.MULTILINE)]
        self.assertEqual(list(range(100)), tagged)
        self.assertEqual(1, await dovecot().logins(user, 1))

"""The status page of the real proxy in a real browser."""

from __future__ import annotations

from urllib.parse import urlencode

from twisted.trial.unittest import TestCase

from tests.integration import canaries
from tests.integration.browser import MISSING, Browser
from tests.integration.dovecot import free_port
from tests.integration.mailserver import MailServer, listen
from tests.integration.proxy import Proxy, basic
from tests.integration.wire import Wire, connect
from tproxy.testing.certificates import Authority

HOSTILE = "\"><img src=x onerror=alert(1)><script>alert(2)</script>'"
PHONE = 360
LISTENERS, REFUSALS = (f"section[aria-labelledby={name}]" for name in ("listeners", "refusals"))


class StatusPageTests(TestCase):
    """One mailbox that is served, one whose server is down, and one whose destination has a name that means no good."""

    timeout = 120
    skip = MISSING

    async def setUp(self) -> None:
        authority = Authority.create()
        mail = await listen(self, MailServer(), authority.issue("127.0.0.1"))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/"
        self.proxy = Proxy(self, config={"health": {"port": port}})
        self.proxy.trust(authority.pem)
        self.proxy.offer("mail", basic(mail, "ann"))
        self.proxy.offer("down", basic(free_port(), "ann"))
        self.proxy.resource("lost", destination=HOSTILE)
        self.proxy.start()
        await self.proxy.logged(event="listener.refused", listener="tests/lost")
        self.mail, self.down = await self.proxy.port("mail"), await self.proxy.port("down")
        self.browser = Browser(self)
        await self.browser.begin()
        while "not ready" in await self.open():
            pass

    async def open(self, query: str = "") -> str:
        """Open the page; all that is to be read there. It loads without a complaint, and without a secret."""
        await self.browser.open(self.url + query)
        self.assertEqual([], await self.browser.console())
        self.assertEqual(
            [], canaries.found((await self.browser.run("return document.documentElement.outerHTML")).encode())
        )
        (text,) = await self.browser.text("body")
        return text

    async def arrived(self, query: str) -> None:
        """Wait until the page with this query is there."""
        while await self.browser.run("return document.readyState + location.search") != f"complete{query}":
            pass

    async def session(self) -> Wire:
        """A session that goes on."""
        wire = await connect(self, self.mail)
        await wire.ask(b"1 SELECT INBOX\r\n", rb"^1 OK")
        return wire

    async def refused(self) -> dict[str, str]:
        """A session that is refused; what the log says of it."""
        after = len(self.proxy.events)
        wire = await connect(self, self.down)
        await wire.received.closed()
        return await self.proxy.logged(after, event="session.refused")

    async def row(self, name: str) -> str:
        """What the row of a listener says."""
        (row,) = [each for each in await self.browser.text(f"{LISTENERS} tbody tr") if f"tests/{name}" in each]
        return row

    async def test_refused(self):
        """Whoever is refused is found there with the reason and the remedy, as in the log, and how often that was."""
        self.assertIn("No application was refused.", await self.open())
        await self.refused()
        event = await self.refused()
        await self.open()
        (row,) = await self.browser.text(f"{REFUSALS} tbody tr")
        for words in (
            "tests/down",
            event["stage"],
            event["reason"],
            event["message"],
            f"What to do: {event['remedy']}",
        ):
            self.assertIn(words, row)
        self.assertEqual(["2"], await self.browser.text(f"{REFUSALS} td:last-child"))

    async def test_sessions(self):
        """A session is counted while it is open, and stays counted when it is over."""
        wire = await self.session()
        await self.open()
        line = rf"^tests/mail mail – 127\.0\.0\.1:{self.mail} {self.mail} 1 1 available$"
        self.assertRegex(await self.row("mail"), line)
        wire.say(b"2 LOGOUT\r\n")
        await self.proxy.logged(event="session.ended")
        await self.open()
        self.assertRegex(await self.row("mail"), r" 0 1 available$")

    async def test_hostile_name(self):
        """A name that would be markup is text, also where it was looked for; the condition says what to do."""
        text = await self.open()
        self.assertIn(HOSTILE, text)
        row = await self.row("lost")
        self.assertIn("unavailable ConfigurationError-ReferencedDestination-NotFound", row)
        self.assertIn("correct spec.destinationRef", row)
        self.assertLess(text.index("tests/lost"), text.index("tests/mail"))
        await self.browser.write("#q", f"{HOSTILE}\n")
        await self.arrived("?" + urlencode({"q": HOSTILE, "state": ""}))
        self.assertEqual(1, len(await self.browser.text(f"{LISTENERS} tbody tr")))
        self.assertEqual(HOSTILE, await self.browser.run("return document.getElementById('q').value"))
        self.assertEqual(0, await self.browser.run("return document.querySelectorAll('img, script').length"))
        self.assertEqual([], await self.browser.console())

    async def test_policy(self):
        """Even markup that had got onto the page would not run, and the browser would complain of it."""
        await self.open()
        await self.browser.run(
            "const it = document.createElement('script');it.textContent = 'document.title = 1';document.body.append(it)"
        )
        self.assertEqual("tproxy", await self.browser.run("return document.title"))
        (complaint,) = await self.browser.console()
        self.assertIn("Content Security Policy", complaint)

    async def test_filter(self):
        """The form shows some listeners, a link all of them."""
        self.assertIn("2 available of 3", await self.open())
        await self.browser.click("option[value=unavailable]")
        await self.browser.click("button")
        await self.arrived("?q=&state=unavailable")
        self.assertEqual([await self.row("lost")], await self.browser.text(f"{LISTENERS} tbody tr"))
        await self.browser.click("form a")
        await self.arrived("")
        self.assertEqual(3, len(await self.browser.text(f"{LISTENERS} tbody tr")))

    async def test_devices(self):
        """On a phone nothing is cut off and each value has its name; in the dark the page is dark."""
        await self.refused()
        light = await self.background()
        phone = {"width": PHONE, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        await self.browser.emulate("setDeviceMetricsOverride", **phone)
        await self.browser.emulate("setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        dark = await self.background()
        self.assertGreater(min(light), 200)
        self.assertLess(max(dark), 60)
        self.assertEqual(PHONE, await self.browser.run("return document.documentElement.scrollWidth"))
        named = "return getComputedStyle(document.querySelector('td'), '::before').content"
        self.assertEqual('"Destination: "', await self.browser.run(named))

    async def background(self) -> list[int]:
        """Red, green and blue behind the page, opened anew."""
        await self.open()
        color = await self.browser.run("return getComputedStyle(document.body).backgroundColor")
        return [int(each) for each in color.removeprefix("rgb(").removesuffix(")").split(",")]

"""The status page of the real proxy in a real browser."""

from __future__ import annotations

from urllib.parse import urlencode

from twisted.trial.unittest import TestCase

from tests.integration.browser import MISSING
from tests.integration.dovecot import free_port
from tests.integration.mailserver import MailServer, listen
from tests.integration.proxy import Proxy, basic
from tests.integration.statuspage import REFUSALS, StatusPage
from tests.integration.wire import Wire, connect
from tproxy.testing.certificates import Authority

HOSTILE = "\"><img src=x onerror=alert(1)><script>alert(2)</script>'"
PHONE = 360


class StatusPageTests(TestCase):
    """One mailbox that is served, one whose server is down, and one whose destination has a name that means no good."""

    timeout = 120
    skip = MISSING

    async def setUp(self) -> None:
        authority = Authority.create()
        mail = await listen(self, MailServer(), authority.issue("127.0.0.1"))
        port = free_port()
        self.proxy = Proxy(self, config={"health": {"port": port}})
        self.proxy.trust(authority.pem)
        self.proxy.offer("mail", basic(mail, "ann"))
        self.proxy.offer("down", basic(free_port(), "ann"))
        self.proxy.resource("lost", destination=HOSTILE)
        self.proxy.start()
        await self.proxy.logged(event="listener.refused", listener="tests/lost")
        self.mail, self.down = await self.proxy.port("mail"), await self.proxy.port("down")
        self.page = StatusPage(self, f"http://127.0.0.1:{port}/")
        await self.page.begin()
        self.browser = self.page.browser

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

    async def test_refused(self):
        """Whoever is refused is found there with the reason and the remedy, as in the log, and how often that was."""
        self.assertIn("No application was refused.", await self.page.open())
        await self.refused()
        event = await self.refused()
        await self.page.open()
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
        await self.page.open()
        line = rf"^tests/mail mail – 127\.0\.0\.1:{self.mail} {self.mail} 1 1 available$"
        self.assertRegex(await self.page.row("tests/mail"), line)
        wire.say(b"2 LOGOUT\r\n")
        await self.proxy.logged(event="session.ended")
        await self.page.open()
        self.assertRegex(await self.page.row("tests/mail"), r" 0 1 available$")

    async def test_hostile_name(self):
        """A name that would be markup is text, also where it was looked for; the condition says what to do."""
        text = await self.page.open()
        self.assertIn(HOSTILE, text)
        row = await self.page.row("tests/lost")
        self.assertIn("unavailable ConfigurationError-ReferencedDestination-NotFound", row)
        self.assertIn("correct spec.destinationRef", row)
        self.assertLess(text.index("tests/lost"), text.index("tests/mail"))
        await self.browser.write("#q", f"{HOSTILE}\n")
        await self.page.arrived("?" + urlencode({"q": HOSTILE, "state": ""}))
        self.assertEqual(1, len(await self.page.rows()))
        self.assertEqual(HOSTILE, await self.browser.run("return document.getElementById('q').value"))
        self.assertEqual(0, await self.browser.run("return document.querySelectorAll('img, script').length"))
        self.assertEqual([], await self.browser.console())

    async def test_policy(self):
        """Even markup that had got onto the page would not run, and the browser would complain of it."""
        await self.page.open()
        await self.browser.run(
            "const it = document.createElement('script');it.textContent = 'document.title = 1';document.body.append(it)"
        )
        self.assertEqual("tproxy", await self.browser.run("return document.title"))
        (complaint,) = await self.browser.console()
        self.assertIn("Content Security Policy", complaint)

    async def test_filter(self):
        """The form shows some listeners, a link all of them."""
        self.assertIn("2 available of 3", await self.page.open())
        await self.browser.click("option[value=unavailable]")
        await self.browser.click("button")
        await self.page.arrived("?q=&state=unavailable")
        self.assertEqual([await self.page.row("tests/lost")], await self.page.rows())
        await self.browser.click("form a")
        await self.page.arrived("")
        self.assertEqual(3, len(await self.page.rows()))

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
        await self.page.open()
        color = await self.browser.run("return getComputedStyle(document.body).backgroundColor")
        return [int(each) for each in color.removeprefix("rgb(").removesuffix(")").split(",")]

"""A real browser without a window, driven by WebDriver: what it shows is what people see.

See https://www.w3.org/TR/webdriver2/.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from typing import Any

from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.web.client import Agent

from tests.integration.children import start

BROWSER = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
MISSING = None if BROWSER and DRIVER else "there is no Chromium: apt-get install chromium chromium-driver"

OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
]
PATIENCE_SECONDS = 60
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""What WebDriver calls an element in its answers."""


class BrowserError(Exception):
    """The browser could not do what it was told."""


class StaleError(BrowserError):
    """What was found is not in the page any more."""


class Browser:
    """One window, from `begin` to the end of the test."""

    def __init__(self, test) -> None:
        self._test = test
        self._client = HTTPClient(Agent(reactor))
        self._port = 0
        self._session = ""

    async def begin(self) -> None:
        """Start it, with nothing of anybody's in it."""
        folder = tempfile.mkdtemp(prefix="tproxy-browser-")
        self._test.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        driver = start(self._test, [DRIVER, "--port=0"], folder)
        port = await driver.output.until(rb"started successfully on port (\d+)")
        self._port = int(port[1])
        chrome = {"binary": BROWSER, "args": [*OPTIONS, f"--user-data-dir={folder}/user"]}
        wanted = {"goog:chromeOptions": chrome, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = await self._ask("POST", "/session", json={"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{answer['sessionId']}"
        self._test.addCleanup(lambda: Deferred.fromCoroutine(self._ask("DELETE", self._session)))

    async def open(self, url: str) -> None:
        """Go there, as if it had been typed."""
        await self._ask("POST", f"{self._session}/url", json={"url": url})

    async def text(self, selector: str) -> list[str]:
        """What is to be read in the elements that a CSS selector finds, as it is shown."""
        try:
            return [await self._ask("GET", f"{each}/text") for each in await self._find(selector)]
        except StaleError:  # the page was loaded anew in the meantime
            return await self.text(selector)

    async def click(self, selector: str) -> None:
        """Click on the first such element."""
        await self._ask("POST", f"{(await self._find(selector))[0]}/click", json={})

    async def write(self, selector: str, text: str) -> None:
        """Write into the first such element."""
        await self._ask("POST", f"{(await self._find(selector))[0]}/value", json={"text": text})

    async def run(self, script: str) -> Any:
        """What a script says that is run in the page."""
        return await self._ask("POST", f"{self._session}/execute/sync", json={"script": script, "args": []})

    async def emulate(self, command: str, **parameters: object) -> None:
        """Be another device: a command of Chromium's domain `Emulation`."""
        told = {"cmd": f"Emulation.{command}", "params": parameters}
        await self._ask("POST", f"{self._session}/goog/cdp/execute", json=told)

    async def console(self) -> list[str]:
        """What went wrong since it was asked last: errors, and what a policy forbids."""
        entries = await self._ask("POST", f"{self._session}/se/log", json={"type": "browser"})
        return [each["message"] for each in entries]

    async def _find(self, selector: str) -> list[str]:
        told = {"using": "css selector", "value": selector}
        found = await self._ask("POST", f"{self._session}/elements", json=told)
        return [f"{self._session}/element/{each[ELEMENT]}" for each in found]

    async def _ask(self, method: str, path: str, **told: object) -> Any:
        """Tell it something, as `json`; what it answers."""
        url = f"http://127.0.0.1:{self._port}{path}"
        response = await self._client.request(method, url, timeout=PATIENCE_SECONDS, **told)
        value = json.loads(await response.content())["value"]
        if response.code != 200:
            stale = value["error"] == "stale element reference"
            raise (StaleError if stale else BrowserError)(f"{value['error']}: {value['message']}")
        return value

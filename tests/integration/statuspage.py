"""The status page as people see it: in a real browser, which has nothing to complain of."""

from __future__ import annotations

from tests.integration import canaries
from tests.integration.browser import Browser

LISTENERS, REFUSALS = (f"section[aria-labelledby={name}]" for name in ("listeners", "refusals"))


class StatusPage:
    """The page at a URL, in a browser of its own from `begin` on."""

    def __init__(self, test, url: str) -> None:
        self._test, self._url = test, url
        self.browser = Browser(test)

    async def begin(self) -> None:
        """Start the browser; returns once the page says that the process is ready."""
        await self.browser.begin()
        while "not ready" in await self.open():
            pass

    async def open(self, query: str = "") -> str:
        """Open the page; all that is to be read there. It loads without a complaint, and without a secret."""
        await self.browser.open(self._url + query)
        self._test.assertEqual([], await self.browser.console())
        source = await self.browser.run("return document.documentElement.outerHTML")
        self._test.assertEqual([], canaries.found(source.encode()))
        (text,) = await self.browser.text("body")
        return text

    async def arrived(self, query: str) -> None:
        """Wait until the page with this query is there."""
        while await self.browser.run("return document.readyState + location.search") != f"complete{query}":
            pass

    async def rows(self) -> list[str]:
        """What the rows of listeners say."""
        return await self.browser.text(f"{LISTENERS} tbody tr")

    async def row(self, name: str) -> str:
        """What the row of a listener says."""
        (row,) = [each for each in await self.rows() if name in each]
        return row

"""The status page as it is sent: what it says, that nothing in it acts, and what a browser is told to keep to."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.error import FlattenerError

from tests.operator.worlds import World, key, resource
from tests.ops.measured import Carried
from tests.ops.requests import Answer, Visited
from tests.ops.test_overview import EXPIRED, known
from tproxy.model import Binding, DestinationRequest, ListenerKey, Reason, Refusal, Stage, Tenant, spare
from tproxy.operator.manifests import ListenerStatus, Status
from tproxy.operator.objects import Installation, Objects, Replica
from tproxy.operator.plan import Listening, Snapshot
from tproxy.ops.overview import ROWS, Facts
from tproxy.ops.statuspage import AT_ONCE, POLICY, STYLE, StatusPage
from tproxy.relay.refusals import Refused
from tproxy.relay.tally import Tallies

SCOPES = {("col", "columnheader"), ("row", "rowheader")}
ELEMENTS = set(
    re.findall(
        r"\w+",
        "html head meta title link style body header main section h1 h2 p a span strong dl dt dd div time "
        "form label input select option button table caption thead tbody tr th td",
    )
)
VOID = {"input", "link", "meta"}
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "</style><script>alert(1)</script>",
    "<!--",
    "]]>",
    "&lt;b&gt;",
    "{{7*7}}",
    "\x1b[2J\u202e\x00",
)


class Page(HTMLParser):
    """A page that was read: its elements, in order and well nested, and its text."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(body.decode())
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(f"{text} " for text in self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


class Turns(Clock):
    """A clock whose turns can be taken one by one."""

    def turn(self) -> None:
        (call,) = self.calls
        self.calls.clear()
        call.func(*call.args, **call.kw)


class StatusPageTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.facts: dict[str, Any] = {}
        self.changes: dict[str, Any] = {}
        self.clock = Turns()

    def look(self) -> Facts:
        usual = {"listening": self.world.listening} | self.facts
        return evolve(known(self.world.observed().cluster, **usual), **self.changes)

    def visited(self) -> Visited:
        """A port with the page, whose time is this test's."""
        visited = Visited(**{"": StatusPage(self.look, self.clock)})
        visited.reactor.advance = self.clock.advance
        return visited

    def ask(self, path: str = "/", method: str = "GET") -> Answer:
        return self.visited().ask(method, path)

    def page(self, path: str = "/") -> Page:
        answer = self.ask(path)
        self.assertEqual(answer.code, 200)
        return Page(answer.body)


class Sent(StatusPageTestCase):
    """How a browser gets it."""

    def test_headers(self) -> None:
        """Nothing may be loaded, run, framed, sniffed or kept; the one style is known by its hash."""
        answer = self.ask()
        self.assertEqual((answer.code, answer.kind), (200, "text/html; charset=utf-8"))
        self.assertEqual(int(answer.headers["content-length"]), len(answer.body))
        (style,) = re.findall(rb"<style>(.*?)</style>", answer.body, re.DOTALL)
        self.assertEqual(style.decode(), STYLE)
        digest = b64encode(sha256(style).digest()).decode()
        policy = dict(each.strip().partition(" ")[::2] for each in answer.headers["content-security-policy"].split(";"))
        self.assertEqual(
            policy,
            {
                "default-src": "'none'",
                "img-src": "data:",
                "style-src": f"'sha256-{digest}'",
                "form-action": "'self'",
                "base-uri": "'none'",
                "frame-ancestors": "'none'",
            },
        )
        for name, value in (
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ):
            self.assertEqual(answer.headers[name], value)

    def test_head(self) -> None:
        """The same without the body."""
        answer = self.ask(method="HEAD")
        self.assertEqual((answer.code, answer.body, answer.headers["content-security-policy"]), (200, b"", POLICY))
        self.assertGreater(int(answer.headers["content-length"]), 1000)

    def test_nothing_to_change(self) -> None:
        """It can be looked at, and no more."""
        for method in ("POST", "PUT", "DELETE"):
            self.assertEqual(self.ask(method=method).code, 405)

    def test_turns(self) -> None:
        """A long page is written in pieces, with others' turn between; who left meanwhile gets nothing."""
        self.world.resources = [resource(f"m{number}") for number in range(ROWS)]
        self.world.settle()
        transport = self.visited().connect()
        transport.protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(ROWS // AT_ONCE):
            self.assertEqual((len(self.clock.getDelayedCalls()), transport.value()), (1, b""))
            self.clock.turn()
        self.assertIn(b"m99", transport.value())
        visited = Visited(**{"": StatusPage(self.look, self.clock)})
        transport = visited.connect()
        transport.protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        transport.abortConnection()
        visited.reactor.advance(0)
        self.clock.advance(0)
        self.assertEqual((self.clock.getDelayedCalls(), transport.value()), ([], b""))

    def test_broken(self) -> None:
        """What goes wrong is told in the log, and to nobody who asks."""
        for facts, error in (({"uptime": ""}, FlattenerError), ({"snapshot": 1}, AttributeError)):
            self.changes = facts
            answer = self.ask()
            self.assertEqual(answer.code, 500)
            self.assertNotIn(b"Error", answer.body)
            self.assertEqual(len(self.flushLoggedErrors(error)), 1)


class Said(StatusPageTestCase):
    """What people read."""

    def test_health(self) -> None:
        """Whether it is ready, and whether all is served."""
        self.assertIn("tproxy ready", self.page().text)
        self.world.resources = [resource("a")]
        self.assertIn("tproxy ready, not all is served", self.page().text)
        self.changes = {"ready": False}
        self.assertIn("tproxy not ready", self.page().text)

    def test_process(self) -> None:
        """Version, time, connections, ports with spares, and the level of the log where it was changed."""
        tallies = Tallies()
        kept = [tallies.of(key(name)) for name in "ab"]
        for tally in kept:
            tally.began(Carried())
            tallies.number()
        listening = {spare(port).key: Listening(spare(port), port) for port in range(1000)}
        self.facts = {"tallies": tallies, "listening": listening}
        self.changes = {"version": "7.8", "uptime": 7260.0, "level": "debug", "now": 0.0}
        text = self.page().text
        for words in (
            "7.8, as this process sees it at 1970-01-01 00:00:00 UTC",
            "Connections 2 open 2 in all",
            "Ports open here 1,000 1,000 of them spare",
            "Running for 2 h 1 min",
            "Log level debug configured: info",
        ):
            self.assertIn(words, text)
        self.assertNotIn("leads", text)

    def test_replicas(self) -> None:
        """In a cluster it is said who leads."""
        replicas = (Replica("a", "1", (), True), Replica("b", "2", (), False))
        for leading, words in ((True, "This replica leads"), (False, "This replica follows")):
            objects = Objects(Installation("tproxy"), replicas=replicas, leading=leading)
            self.changes = {"snapshot": Snapshot(objects=objects)}
            self.assertIn(f"{words} Replicas 1 ready of 2", self.page().text)

    def test_no_listeners(self) -> None:
        """It is said why there are none."""
        self.assertIn("There is no Destination yet.", self.page().text)
        self.changes = {"snapshot": None}
        self.assertIn("Nothing is known of Destinations yet.", self.page().text)
        self.changes = {}
        self.world.resources = [resource("a")]
        self.assertIn("No listener is like that.", self.page("/?q=z").text)

    def test_listener(self) -> None:
        """Where it leads, for whom, and its figures; or the reason and what to do."""
        self.world.resources = [resource("mail", "acme", destination="box"), resource("lost", destination="nowhere")]
        request = DestinationRequest("local", "nowhere")
        self.world.described[request] = Refusal(
            Stage.RESOLVE, Reason.DESTINATION_NOT_FOUND, "there is none", "create it"
        )
        self.world.settle()
        tallies = Tallies()
        kept = tallies.of(key("mail", "acme"))
        kept.began(Carried())
        self.facts = {"tallies": tallies}
        text = self.page().text
        self.assertIn("shop/mail-acme box acme 127.0.0.1:993 993 1 1 available", text)
        lost = "unavailable ConfigurationError-ReferencedDestination-NotFound there is none: create it"
        self.assertIn(f"shop/lost nowhere – – – – – {lost}", text)
        self.assertIn("Listeners 1 available of 2", text)

    def test_others(self) -> None:
        """Listeners that are counted together are so on the page, too; an address of IPv6 is in brackets."""
        tallies = Tallies(0)
        tallies.of(key("a")).began(Carried())
        row = ListenerStatus(key("a"), "::1", 993, True, "ConfigurationSuccessful")
        self.facts = {"tallies": tallies}
        snapshot = Snapshot((resource("a"),), statuses={("shop", "a"): Status(True, "", "", (row,))})
        self.changes = {"snapshot": snapshot}
        text = self.page().text
        self.assertIn("shop/a mailbox – [::1]:993 – – – available", text)
        self.assertIn("counted together: 1 connections open, 1 in all", text)

    def test_refusals(self) -> None:
        """When, where, why, and what to do; newest first, and how long ago that was."""
        self.assertIn("No application was refused.", self.page().text)
        binding = Binding(key("mail", "acme"), DestinationRequest("local", "box"))
        nobody = Refusal(Stage.ACCEPT, Reason.REVOKED, "nobody is there")
        self.facts = {"refusals": (Refused(binding, EXPIRED, 45.0, 3), Refused(spare(10000), nobody, 10.0))}
        self.changes = {"now": 100.0}
        text = self.page().text
        self.assertIn("Last refusal 5 s ago", text)
        when = "1970-01-01 00:01:35 UTC 5 s ago"
        self.assertIn(f"shop/mail-acme {when} tls certificate-expired it expired What to do: renew it 3", text)
        self.assertIn("a spare, p10000 1970-01-01 00:01:00 UTC 40 s ago accept revoked nobody is there 1", text)
        self.assertIn("None is like that.", self.page("/?q=nobody-else").text)

    def test_filter(self) -> None:
        """The form says what was asked for, and the links keep it."""
        self.world.resources = [resource(f"m{number}") for number in range(2 * ROWS + 1)]
        self.world.settle()
        page = self.page(f"/?q=M&state=available&from={ROWS}")
        self.assertIn(f"{ROWS + 1} to {2 * ROWS} of {2 * ROWS + 1}", page.text)
        self.assertEqual([each["value"] for each in page.all("input")], ["M"])
        self.assertEqual([each["value"] for each in page.all("option") if "selected" in each], ["available"])
        links = {each.get("rel"): each["href"] for each in page.all("a")}
        self.assertEqual((links["prev"], links["next"]), ("/?q=M&state=available", "/?q=M&state=available&from=200"))
        self.assertEqual(links[None], "/")
        self.assertEqual(len(page.all("tr")), 1 + ROWS)

    def test_accessible(self) -> None:
        """Language, headings in order, labels, and tables that say what their cells are, on narrow screens too."""
        self.world.resources = [resource("a")]
        self.facts = {"refusals": (Refused(spare(10000), EXPIRED, 10.0),)}
        page = self.page()
        self.assertEqual(page.all("html"), [{"lang": "en"}])
        self.assertEqual([name for name, _ in page.elements if re.fullmatch("h[1-6]", name)], ["h1", "h2", "h2"])
        fields = {each["id"] for each in (*page.all("input"), *page.all("select"))}
        self.assertEqual({each["for"] for each in page.all("label")}, fields)
        self.assertEqual((len(page.all("table")), len(page.all("caption"))), (2, 2))
        roles = {"table": "table", "thead": "rowgroup", "tbody": "rowgroup", "tr": "row", "td": "cell"}
        for tag, role in roles.items():
            self.assertEqual({each["role"] for each in page.all(tag)}, {role})
        self.assertEqual({(each["scope"], each["role"]) for each in page.all("th")}, SCOPES)
        self.assertTrue(all(each["data-label"] for each in page.all("td")))


class Harmless(StatusPageTestCase):
    """Whoever names a Destination, a tenant or a filter puts text on the page, and nothing else."""

    def hostile(self, text: str) -> None:
        tenant = Tenant(text)
        whose = ListenerKey(text, text, tenant)
        binding = Binding(whose, DestinationRequest(text, text, tenant))
        row = ListenerStatus(whose, text, 1, False, text, text)
        refusal = Refusal(Stage.LOGIN, Reason.LOGIN_REFUSED, text, text)
        self.changes = {
            "version": text,
            "level": text,
            "snapshot": Snapshot(
                (evolve(resource("a"), namespace=text, name=text, bindings=(binding,)),),
                statuses={(text, text): Status(False, text, text, (row,))},
            ),
            "refusals": (Refused(binding, refusal, 1.0),),
        }

    def look_at(self, text: str, path: str) -> Page:
        """The page with a text everywhere, which has the elements that it has with a harmless one."""
        self.hostile("x")
        harmless = self.page("/?q=x").elements
        self.hostile(text)
        page = self.page(path)
        self.assertEqual([name for name, _ in page.elements], [name for name, _ in harmless])
        self.assertEqual([set(each) for _, each in page.elements], [set(each) for _, each in harmless])
        self.assertEqual(page.all("script"), [])
        for tag, attributes in page.elements:
            if "href" in attributes and tag != "link":
                self.assertRegex(attributes["href"], r"\A(/(\?[-\w=&%.+~]*)?|#refusals)\Z")
            self.assertFalse([name for name in attributes if name.startswith("on") or name == "style"])
        return page

    def test_hostile_names(self) -> None:
        """What would be markup elsewhere is text here, in every place."""
        for text in HOSTILE:
            page = self.look_at(text, "/?" + urlencode({"q": text.strip()}))
            self.assertEqual([each["value"] for each in page.all("input")], [text.strip()])
            if text.isprintable():
                self.assertGreater(page.text.count(" ".join(text.split())), 8)

    def test_invisible(self) -> None:
        """What a screen would act upon, or not show, is spelled out."""
        self.hostile("a\x1b\u202e\x00b")
        page = self.page()
        self.assertIn("a\\x1b\\u202e\\x00b", page.text)
        self.assertTrue(all(text.isprintable() or text.isspace() for text in page.texts))

    def test_endless(self) -> None:
        """No message makes the page endless."""
        self.hostile("x" * 1_000_000)
        self.assertLess(len(self.ask().body), 30_000)

    @settings(deadline=None, max_examples=50)
    @given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
    def test_any(self, text: str, words: str) -> None:
        """Whatever is named, and whatever is looked for: the page stays what it is."""
        self.hostile(text)
        page = self.page("/?" + urlencode({"q": words, "state": words, "from": words}))
        self.assertLessEqual({name for name, _ in page.elements}, ELEMENTS)

"""The status page: an overview as HTML, for people. It runs no scripts, takes nothing in, and loads nothing else.

All text is escaped where it becomes HTML, by `twisted.web.template`; what a screen would not show is spelled out.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request
from twisted.web.template import Tag, flatten, tags

from tproxy.ops.logs import plain
from tproxy.ops.overview import ROWS, STATES, WORDS, Facts, Overview, Query, Row, asked, overview, spelled
from tproxy.relay.refusals import Refused

STYLE = """
:root {
  color-scheme: light dark;
  --back: #f6f7f9; --card: #fff; --text: #1d2430; --quiet: #5a6475; --line: #dde1e8; --link: #0b57c2;
  --good: #17663a; --good-back: #e2f3e8; --bad: #a3231c; --bad-back: #fce9e7; --note: #7a4d00; --note-back: #fdf2d9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #12161d; --card: #1a2029; --text: #e4e8ee; --quiet: #9ba6b6; --line: #303947; --link: #8ab6ff;
    --good: #8fdcaf; --good-back: #173524; --bad: #ffaba4; --bad-back: #4a1d1b; --note: #f3cf85; --note-back: #413112;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
header, main { max-width: 76rem; margin: 0 auto; padding: 1.25rem 1.25rem 0; }
main { padding-bottom: 3rem; }
h1 { font-size: 1.4rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 1.6rem 0 .6rem; }
section:first-child h2 { margin-top: .4rem; }
p { margin: .4rem 0; }
a { color: var(--link); }
.quiet { color: var(--quiet); }
.state { display: inline-block; padding: 0 .55em; border-radius: 1em; font-size: .85rem; white-space: nowrap; }
.good { color: var(--good); background: var(--good-back); }
.bad { color: var(--bad); background: var(--bad-back); }
.note { color: var(--note); background: var(--note-back); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .75rem; margin: 1rem 0 0; }
dl div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem; }
dt { color: var(--quiet); font-size: .85rem; }
dd { margin: 0; font-weight: 600; }
dd .quiet { font-weight: 400; }
form { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: end; margin: 0 0 .8rem; }
label { display: block; color: var(--quiet); font-size: .85rem; }
input, select, button { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--quiet);
  border-radius: .35rem; padding: 0 .6rem; height: 2.2rem; max-width: 100%; }
input { width: 17rem; }
button { cursor: pointer; }
table { width: 100%; border-collapse: collapse; background: var(--card); border: 1px solid var(--line); }
caption { text-align: left; color: var(--quiet); padding: 0 0 .4rem; }
th, td { text-align: left; vertical-align: top; padding: .45rem .7rem; border-top: 1px solid var(--line);
  overflow-wrap: break-word; }
td:last-child, td.words { overflow-wrap: anywhere; }
thead th { font-size: .85rem; font-weight: 600; color: var(--quiet); white-space: nowrap; }
tbody th { font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td p { margin: .1rem 0 0; }
td .state + .quiet { font-size: .85rem; }
nav { display: flex; gap: 1.5rem; margin: .8rem 0; }
@media (max-width: 50rem) {
  header, main { padding: 1rem .75rem 0; }
  table, caption, tbody, tr, th, td { display: block; }
  .none { display: none; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table { border: 0; background: none; }
  tr { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; margin: 0 0 .6rem;
    padding: .4rem 0; }
  th, td { border: 0; padding: .15rem .8rem; }
  .number { text-align: left; }
  td[data-label]::before { content: attr(data-label) ": "; color: var(--quiet); font-weight: 400; }
}
"""
"""Without what HTML would escape, so that its hash is that of the page."""

POLICY = (
    "default-src 'none'; img-src data:; "
    f"style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    b"Content-Type": b"text/html; charset=utf-8",
    b"Content-Security-Policy": POLICY.encode("ascii"),
    b"X-Content-Type-Options": b"nosniff",
    b"Referrer-Policy": b"no-referrer",
    b"Cross-Origin-Resource-Policy": b"same-origin",
    b"Cache-Control": b"no-store",
}

AT_ONCE = 20
"""After so many rows it is the sessions' turn: some milliseconds."""

NOTHING = "–"

Pause = Callable[[], Deferred[str]]
Tags = Generator[Tag, None, None]
Lines = Generator[Tag | Deferred[str], None, None]
Columns = Sequence[tuple[str, str]]
"""Of each column its name, and its class."""

_LISTENER_COLUMNS = (
    ("Listener", ""),
    ("Destination", ""),
    ("Tenant", ""),
    ("Address", ""),
    ("Port here", "number"),
    ("Open", "number"),
    ("In all", "number"),
    ("State", ""),
)
_REFUSAL_COLUMNS = (
    ("Listener", ""),
    ("When", ""),
    ("Stage", ""),
    ("Reason", ""),
    ("What happened, and what to do", "words"),
    ("Times", "number"),
)


@frozen
class StatusPage:
    """Shows what goes on; each time anew.

    @param look: gives the facts
    """

    _look: Callable[[], Facts]
    _clock: IReactorTime

    def render(self, request: Request) -> int:
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        shown = overview(self._look(), asked(request.args or {}))
        Deferred.fromCoroutine(self._write(request, shown)).addErrback(_failed, request)
        return NOT_DONE_YET

    async def _write(self, request: Request, shown: Overview) -> None:
        over = request.notifyFinish().addErrback(lambda _: None)
        body = bytearray(b"<!DOCTYPE html>\n")
        await flatten(request, document(shown, lambda: deferLater(self._clock, 0, str)), body.extend)
        if not over.called:
            request.setHeader(b"Content-Length", b"%d" % len(body))
            request.write(bytes(body))
            request.finish()


def _failed(failure: Failure, request: Request) -> None:
    request.processingFailed(failure)


def document(shown: Overview, pause: Pause) -> Tag:
    """The whole page; `pause` gives others their turn, once in a while."""
    return tags.html(lang="en")(
        tags.head(
            tags.meta(charset="utf-8"),
            tags.meta(name="viewport", content="width=device-width, initial-scale=1"),
            tags.title("tproxy"),
            tags.link(rel="icon", href="data:,"),
            tags.style(STYLE),
        ),
        tags.body(
            tags.header(
                tags.h1("tproxy ", _badge(*_health(shown))),
                tags.p(
                    "Version ",
                    plain(shown.facts.version),
                    ", as this process sees it at ",
                    _moment(shown.facts.now),
                    ".",
                    class_="quiet",
                ),
                tags.dl(_summary(shown)),
            ),
            Tag("main")(
                tags.section(_listeners(shown, pause), **{"aria-labelledby": "listeners"}),
                tags.section(_refusals(shown), **{"aria-labelledby": "refusals"}),
            ),
        ),
    )


def _health(shown: Overview) -> tuple[str, str]:
    if not shown.facts.ready:
        return "bad", "not ready"
    if shown.available < shown.listeners:
        return "note", "ready, not all is served"
    return "good", "ready"


def _badge(kind: str, words: str) -> Tag:
    return tags.span(words, class_=f"state {kind}")


def _summary(shown: Overview) -> Tags:
    facts, replicas = shown.facts, shown.replicas
    if replicas is not None:
        yield _fact("This replica", "leads" if replicas.leading else "follows")
        yield _fact("Replicas", f"{replicas.ready} ready", f"of {replicas.count}")
    yield _fact("Listeners", f"{shown.available:,} available", f"of {shown.listeners:,}")
    yield _fact(
        "Ports open here", f"{len(facts.listening):,}", f"{shown.spares:,} of them spare" if shown.spares else ""
    )
    yield _fact("Connections", f"{facts.tallies.open:,} open", f"{facts.tallies.connections:,} in all")
    yield _fact("Running for", spelled(facts.uptime))
    if facts.refusals:
        last = tags.a(f"{_ago(facts.refusals[0], facts)} ago", href="#refusals")
        yield _fact("Last refusal", last)
    changed = facts.level != facts.configured
    yield _fact("Log level", plain(facts.level), f"configured: {facts.configured}" if changed else "")


def _fact(name: str, value: str | Tag, more: str = "") -> Tag:
    return tags.div(tags.dt(name), tags.dd(value, " ", tags.span(more, class_="quiet") if more else ""))


# Listeners


def _listeners(shown: Overview, pause: Pause) -> Tags:
    query = shown.query
    yield tags.h2("Listeners", id="listeners")
    yield _form(query)
    if not shown.rows:
        yield tags.p(_why_none(shown), class_="quiet")
        return
    end = query.start + len(shown.rows)
    words = f"{query.start + 1:,} to {end:,} of {shown.matching:,}, first those that are unavailable"
    yield _table(words, _LISTENER_COLUMNS, _rows(shown, pause))
    others = shown.facts.tallies.others
    if others.accepted:
        words = f"{len(others.live):,} connections open, {others.accepted:,} in all"
        yield tags.p(f"Listeners without figures are counted together: {words}.", class_="quiet")
    yield from _pager(shown)


def _why_none(shown: Overview) -> str:
    if not shown.known:
        return "Nothing is known of Destinations yet."
    if shown.listeners:
        return "No listener is like that."
    return "There is no Destination yet."


def _form(query: Query) -> Tag:
    choices = [("", "all"), *((state, state) for state in STATES)]
    options = (
        tags.option(words, value=state, **({"selected": "selected"} if state == query.state else {}))
        for state, words in choices
    )
    return tags.form(method="get", action="/", role="search")(
        tags.div(
            tags.label("Name, tenant, destination or reason", for_="q"),
            tags.input(type="search", id="q", name="q", maxlength=str(WORDS), value=query.words),
        ),
        tags.div(tags.label("State", for_="state"), tags.select(id="state", name="state")(*options)),
        tags.button("Show", type="submit"),
        tags.a("Show all", href="/") if query.words or query.state else "",
    )


def _pager(shown: Overview) -> Tags:
    links = [
        tags.a(words, href=_address(query), rel=relation)
        for words, relation, query in (
            (f"← {ROWS} before", "prev", shown.before),
            ("the rest →", "next", shown.after),
        )
        if query is not None
    ]
    if links:
        yield tags.nav(*links, **{"aria-label": "More listeners"})


def _address(query: Query) -> str:
    said = {"q": query.words, "state": query.state, "from": query.start}
    return "/?" + urlencode({name: value for name, value in said.items() if value})


def _rows(shown: Overview, pause: Pause) -> Lines:
    for number, row in enumerate(shown.rows):
        if number % AT_ONCE == AT_ONCE - 1:
            yield pause()
        yield _row(row)


def _row(row: Row) -> Tag:
    status, key = row.status, row.status.key
    address = f"[{status.address}]" if ":" in status.address else status.address
    state: list[Tag | str] = [_badge("good", "available") if status.available else _badge("bad", "unavailable")]
    if not status.available:
        state += [" ", tags.span(plain(status.reason), class_="quiet")]
    if status.message:
        state.append(tags.p(plain(status.message)))
    return _line(
        _LISTENER_COLUMNS,
        plain(str(key)),
        plain(row.destination),
        plain(key.tenant),
        plain(f"{address}:{status.port}") if status.port else "",
        str(row.here or ""),
        "" if row.open is None else f"{row.open:,}",
        "" if row.total is None else f"{row.total:,}",
        state,
    )


# Refusals


def _refusals(shown: Overview) -> Tags:
    yield tags.h2("Last refusals", id="refusals")
    if not shown.refusals:
        yield tags.p("No application was refused." if not shown.query.words else "None is like that.", class_="quiet")
        return
    caption = "Newest first, one for each listener and reason; all of them are in the log"
    yield _table(caption, _REFUSAL_COLUMNS, (_refused(each, shown.facts) for each in shown.refusals))


def _refused(each: Refused, facts: Facts) -> Tag:
    refusal, key = each.refusal, each.binding.key
    said = [tags.p(plain(refusal.message))]
    if refusal.remedy:
        said.append(tags.p(tags.strong("What to do: "), plain(refusal.remedy)))
    return _line(
        _REFUSAL_COLUMNS,
        plain(str(key) if each.binding.claimed else f"a spare, {key.name}"),
        [_moment(facts.now + each.at - facts.seconds), tags.p(f"{_ago(each, facts)} ago", class_="quiet")],
        refusal.stage.value,
        refusal.reason.value,
        said,
        f"{each.times:,}",
    )


def _ago(each: Refused, facts: Facts) -> str:
    return spelled(facts.seconds - each.at)


# What both are made of


def _table(caption: str, columns: Columns, lines: Lines) -> Tag:
    """A table that stays one for screen readers where a narrow screen shows it as cards: hence the roles."""
    heads = (tags.th(name, scope="col", role="columnheader", class_=kind) for name, kind in columns)
    return tags.table(role="table")(
        tags.caption(caption),
        tags.thead(tags.tr(*heads, role="row"), role="rowgroup"),
        tags.tbody(lines, role="rowgroup"),
    )


def _line(columns: Columns, head: str, *contents: Any) -> Tag:
    cells = (
        tags.td(content or NOTHING, role="cell", class_=kind if content else f"{kind} none", **{"data-label": name})
        for (name, kind), content in zip(columns[1:], contents, strict=True)
    )
    return tags.tr(tags.th(head, scope="row", role="rowheader"), *cells, role="row")


def _moment(seconds: float) -> Tag:
    moment = datetime.fromtimestamp(seconds, UTC)
    return tags.time(f"{moment:%Y-%m-%d %H:%M:%S} UTC", datetime=f"{moment:%Y-%m-%dT%H:%M:%SZ}")

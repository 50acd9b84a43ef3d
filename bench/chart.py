"""The chart: a few telling figures of all proxies as bars, drawn as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from attrs import frozen

from bench.peers import OURS, PEERS
from bench.report import number
from bench.results import Results

WIDTH, COLUMNS = 880, 2
PANEL, LABEL, VALUE, BAR, GAP, HEAD = 420, 130, 60, 16, 5, 38
CLIPPED = 2.5
"""A bar is drawn at most this many times as long as the next shorter one."""


@frozen
class Panel:
    """One figure: less is better."""

    title: str
    unit: str
    scenario: str
    figure: str


PANELS = (
    Panel("A command (64 connections)", "µs of CPU", "noop-64", "cpu"),
    Panel("A command's way and back (1 connection)", "µs, median", "noop-1", "p50"),
    Panel("Download of 10 MiB messages", "s of CPU per GB", "download-8", "cpu"),
    Panel("Upload of 10 MiB messages", "s of CPU per GB", "upload-8", "cpu"),
    Panel("A new session", "µs of CPU; tproxy and Dovecot log in", "setup-32-resumed", "cpu"),
    Panel("An idle session", "kB of memory", "memory-1000", "memory"),
)

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #57606a }
.title { font-size: 13px; font-weight: 600; fill: #24292f }
.ours { fill: #0969da } .bar { fill: #afb8c1 } text.ours { font-weight: 600 } .cut { stroke: #fff; stroke-width: 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 } .title { fill: #f0f6fc } .bar { fill: #59636e }
  .ours { fill: #4493f8 } .cut { stroke: #0d1117 }
}
"""


def chart(results: Results) -> str:
    """The chart of what was found, as an SVG document."""
    panels = []
    for panel in PANELS:
        bars = [(peer.title, results.figure(panel.scenario, peer.name, panel.figure), peer.name) for peer in PEERS]
        found = [(title, value, name) for title, value, name in bars if value is not None]
        if found:
            panels.append(_panel(panel, found))
    height = HEAD + len(PEERS) * (BAR + GAP) + 14
    parts = [
        f'<g transform="translate({place % COLUMNS * (PANEL + 30) + 5},{place // COLUMNS * height + 5})">{drawn}</g>'
        for place, drawn in enumerate(panels)
    ]
    total = (len(panels) + COLUMNS - 1) // COLUMNS * height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}" '
        f'role="img"><title>What tproxy costs beside other proxies; shorter is better</title>'
        f"<style>{STYLE}</style>{''.join(parts)}</svg>\n"
    )


def longest(values: Sequence[float]) -> float:
    """The value that a full bar stands for: the greatest, unless it dwarfs the others."""
    ordered = sorted(values)
    return min(ordered[-1], ordered[-2] * CLIPPED) if len(ordered) > 1 else ordered[-1]


def _panel(panel: Panel, bars: Sequence[tuple[str, float, str]]) -> str:
    top = longest([value for _, value, _ in bars]) or 1.0
    room = PANEL - LABEL - VALUE
    parts = [
        f'<text class="title" x="0" y="14">{escape(panel.title)}</text>',
        f'<text x="0" y="29">{escape(panel.unit)}</text>',
    ]
    for place, (title, value, name) in enumerate(bars):
        y = HEAD + place * (BAR + GAP)
        length = max(1.0, min(value, top) / top * room)
        kind = "ours" if name == OURS else "bar"
        text = "ours" if name == OURS else "other"
        parts.append(f'<text class="{text}" x="{LABEL - 8}" y="{y + 12}" text-anchor="end">{escape(title)}</text>')
        parts.append(f'<rect class="{kind}" x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>')
        if value > top:
            cut = LABEL + length - 22
            parts.append(f'<line class="cut" x1="{cut - 4}" y1="{y + BAR + 2}" x2="{cut + 4}" y2="{y - 2}"/>')
        parts.append(f'<text class="{text}" x="{LABEL + length + 6:.1f}" y="{y + 12}">{number(value)}</text>')
    return "".join(parts)

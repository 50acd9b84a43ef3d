"""A machine as a table: what each state makes of each event."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tproxy.lines import Over
from tproxy.session import Event, ProtocolError, State, Step


def table(
    step: Step, states: Mapping[str, State], events: Mapping[str, Event], name: Callable[[State], str]
) -> list[list[str]]:
    """A column a state, a row an event: `.` stays, `!` is a ProtocolError, else the next state or the last effect."""

    def cell(state: State, event: Event) -> str:
        try:
            after, effects = step(state, event)
        except ProtocolError:
            return "!"
        if isinstance(after, Over):
            return type(effects[-1]).__name__
        return "." if name(after) == name(state) else name(after)

    rows = ([shown, *(cell(state, event) for state in states.values())] for shown, event in events.items())
    return [["event", *states], *rows]


def read(text: str) -> list[list[str]]:
    """A table as it is written in a test."""
    return [line.split() for line in text.strip().splitlines()]


def written(cells: list[list[str]]) -> str:
    """A table to be read by people."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)

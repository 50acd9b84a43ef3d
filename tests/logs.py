"""What a module logs, as it was logged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.logger import Logger


@contextmanager
def logged(*loggers: Logger) -> Iterator[list[dict[str, Any]]]:
    """The events of some loggers, instead of where they would go: trial's own observer empties the field `message`."""
    events: list[dict[str, Any]] = []
    before = [logger.observer for logger in loggers]
    for logger in loggers:
        logger.observer = events.append
    try:
        yield events
    finally:
        for logger, observer in zip(loggers, before, strict=True):
            logger.observer = observer

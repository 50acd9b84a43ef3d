"""What is odd about a document is said once, until it changes."""

from __future__ import annotations

from collections import OrderedDict

from twisted.logger import Logger

from tproxy.model import Destination, DestinationRequest

REMEMBERED = 10_000

log = Logger()


class Warnings:
    """The warnings of documents that were logged."""

    def __init__(self) -> None:
        self._said: OrderedDict[DestinationRequest, tuple[str, ...]] = OrderedDict()

    def say(self, destination: Destination, request: DestinationRequest) -> None:
        """Log each warning of a document, unless those were its warnings the last time."""
        if destination.warnings == self._said.get(request, ()):
            return
        self._said[request] = destination.warnings
        if len(self._said) > REMEMBERED:
            self._said.popitem(last=False)
        for warning in destination.warnings:
            log.warn(
                "destination {destination}: {message}",
                event="document.warning",
                destination=destination.name,
                tenant=request.tenant,
                message=warning,
            )

"""Requests, and what becomes of them; what a real server does, too, stands in the contract."""

from __future__ import annotations

import json
from typing import Any

from tests.apiserver.server import CONFIG_MAPS, Cut, Say, Silence
from tests.apiserver.storage import Status
from tests.cluster.api.harness import StandInTestCase
from tproxy.cluster.api.client import ANSWER_LIMIT, ATTEMPTS, DEADLINE
from tproxy.cluster.api.objects import Change, Query, Why
from tproxy.config import ConfigError
from tproxy.model import Secret

EVERYTHING = Query(CONFIG_MAPS)
LIST = ("list", "configmaps")
LARGE = Say(200, b" " * (ANSWER_LIMIT + 1))


class RequestTests(StandInTestCase):
    """One request."""

    def get(self, name: str = "one") -> Any:
        return self.client.get(CONFIG_MAPS, ("default", name))

    def test_home(self) -> None:
        """The namespace of the credentials, for whoever wants it; closing needs nothing here."""
        self.assertEqual(self.client.namespace, "home")
        self.successResultOf(self.client.close())

    def test_headers(self) -> None:
        """What goes with each request."""
        heard = []
        render = self.server.render
        self.server.render = lambda request: (heard.append(request.requestHeaders.copy()), render(request))[1]
        thing = self.given()
        self.successResultOf(self.client.patch(CONFIG_MAPS, thing, {"data": {"a": "b"}}))
        read, patch = heard
        for headers in heard:
            self.assertEqual(headers.getRawHeaders(b"authorization"), [b"Bearer good"])
            self.assertEqual(headers.getRawHeaders(b"accept"), [b"application/json"])
            self.assertEqual(headers.getRawHeaders(b"user-agent"), [b"tproxy"])
            self.assertFalse(headers.hasHeader(b"accept-encoding"))
        self.assertFalse(read.hasHeader(b"content-type"))
        self.assertEqual(patch.getRawHeaders(b"content-type"), [b"application/merge-patch+json"])

    def test_patch(self) -> None:
        """A change of metadata keeps the preconditions; what the caller gave is not altered."""
        thing = self.given()
        change = {"metadata": {"labels": {"a": "b"}, "uid": "another"}}
        patched = self.successResultOf(self.client.patch(CONFIG_MAPS, thing, change))
        self.assertEqual(patched["metadata"]["labels"], {"a": "b"})
        self.assertEqual(change, {"metadata": {"labels": {"a": "b"}, "uid": "another"}})

    def test_token_rotated(self) -> None:
        """After a refused token, once with the new one; without another there is no use."""
        self.given()
        self.server.tokens = {"newer"}
        self.tokens.append("newer")
        self.successResultOf(self.get())
        self.assertEqual(self.refusals, 1)
        self.server.tokens = {"newest"}
        error = self.error(self.get(), Why.UNAUTHORIZED)
        self.assertEqual((error.status, self.refusals), (401, 2))
        del self.tokens[:]
        self.error(self.get(), Why.UNAUTHORIZED)

    def test_no_token(self) -> None:
        """Whoever has no token sends none; one that cannot be had is an error as any other."""
        del self.tokens[:]
        self.given()

        def fail(refused: bool) -> Secret:
            raise ConfigError("no token")

        self.token = fail
        error = self.error(self.connect().get(CONFIG_MAPS, ("default", "one")), Why.UNAUTHORIZED)
        self.assertEqual((error.status, error.message), (0, "no token"))

    def test_watch_with_rotated_token(self) -> None:
        """A watch begins with the new token as well."""
        self.server.tokens = {"newer"}
        self.tokens.append("newer")
        changes: list[Change] = []
        version = str(self.server.storage.version)
        stream = self.successResultOf(self.client.watch(EVERYTHING, version, 60, changes.append))
        self.server.create(CONFIG_MAPS, "default", "one")
        self.flush()
        self.assertEqual(len(changes), 1)
        stream.ended.cancel()
        self.failureResultOf(stream.ended)

    def test_secret_words(self) -> None:
        """The server's words do not bring the token into an exception, in a stream neither."""
        self.server.faults["get", "configmaps"].append(Status(400, "BadRequest", "good or bad"))
        self.assertEqual(self.error(self.get(), Why.BAD_REQUEST).message, "*** or bad")
        version = str(self.server.storage.version)
        stream = self.successResultOf(self.client.watch(EVERYTHING, version, 60, lambda _: None))
        status = {"kind": "Status", "code": 500, "message": "good or bad"}
        self.server.say(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
        self.flush()
        self.assertEqual(self.error(stream.ended, Why.INTERNAL_ERROR).message, "*** or bad")

    def test_deadline(self) -> None:
        """No answer, no beginning of a watch."""
        self.server.faults["get", "configmaps"].append(Silence())
        self.server.faults["watch", "configmaps"].append(Silence())
        for ask in (self.get, lambda: self.client.watch(EVERYTHING, "1000", 60, lambda _: None)):
            asked = ask()
            self.clock.advance(DEADLINE - 0.1)
            self.assertNoResult(asked)
            self.clock.advance(0.2)
            self.assertEqual(self.error(asked, Why.TOO_SLOW).status, 0)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cut(self) -> None:
        """A connection that breaks before the answer."""
        self.server.faults["get", "configmaps"].append(Cut())
        asked = self.get()
        self.flush()
        error = self.error(asked, Why.UNREACHABLE)
        self.assertEqual(error.status, 0)
        self.assertIn("broke off", error.message)

    def test_no_watch(self) -> None:
        """A watch that is refused at once."""
        self.server.forbidden.add(("watch", "configmaps"))
        self.error(self.client.watch(EVERYTHING, "1000", 60, lambda _: None), Why.FORBIDDEN)

    def test_take_fails(self) -> None:
        """What the listener raises ends the watch, whatever else comes."""

        def take(change: Change) -> None:
            raise ValueError

        version = str(self.server.storage.version)
        stream = self.successResultOf(self.client.watch(EVERYTHING, version, 60, take))
        for name in ("one", "two"):
            self.server.create(CONFIG_MAPS, "default", name)
        self.flush()
        self.failureResultOf(stream.ended, ValueError)
        self.assertEqual(self.server.watches, [])

    def test_namespaces(self) -> None:
        """A key without its namespace is the caller's mistake."""
        self.assertRaises(ValueError, self.client.get, CONFIG_MAPS, ("", "one"))


class ListTests(StandInTestCase):
    """Lists."""

    def setUp(self) -> None:
        super().setUp()
        for number in range(250):
            self.server.create(CONFIG_MAPS, "default", f"n{number:03}")

    def limits(self) -> list[str]:
        return [asked.queries["limit"] for asked in self.server.asked]

    def test_pages(self) -> None:
        """Three pages make a whole, of one version."""
        listing = self.successResultOf(self.client.list(EVERYTHING))
        self.assertEqual(len({each["metadata"]["name"] for each in listing.objects}), 250)
        self.assertEqual(listing.version, str(self.server.storage.version))
        self.assertEqual(len(self.server.asked), 3)

    def test_selected(self) -> None:
        """The selectors go with each page."""
        self.successResultOf(self.client.list(Query(CONFIG_MAPS, labels="!a")))
        self.assertEqual({asked.queries["labelSelector"] for asked in self.server.asked}, {"!a"})
        self.assertEqual(len(self.server.asked), 3)

    def test_expired(self) -> None:
        """Pages that expire: again from the start, a few times."""
        gone = Status(410, "Expired", "continue is too old")
        self.server.faults[LIST].extend([None, None, gone])
        listing = self.successResultOf(self.client.list(EVERYTHING))
        self.assertEqual((len(listing.objects), len(self.server.asked)), (250, 6))
        self.server.faults[LIST].extend([None, gone] * ATTEMPTS)
        self.error(self.client.list(EVERYTHING), Why.EXPIRED)

    def test_second_page(self) -> None:
        """Half a list is none."""
        self.server.faults[LIST].extend([None, Status(500, "InternalError", "oops")])
        self.error(self.client.list(EVERYTHING), Why.INTERNAL_ERROR)

    def test_two_versions(self) -> None:
        """Pages of two versions are no list."""
        other = {"kind": "ConfigMapList", "metadata": {"resourceVersion": "7"}, "items": []}
        self.server.faults[LIST].extend([None, Say(200, json.dumps(other).encode())])
        listing = self.successResultOf(self.client.list(EVERYTHING))
        self.assertEqual((len(listing.objects), len(self.server.asked)), (250, 5))

    def test_large_objects(self) -> None:
        """Where a page would be too long, smaller ones are asked for."""
        self.server.faults[LIST].extend([None, LARGE, LARGE])
        listing = self.successResultOf(self.client.list(EVERYTHING))
        self.assertEqual(len(listing.objects), 250)
        self.assertEqual(self.limits(), ["100", "100", "50"] + ["25"] * 6)

    def test_too_large(self) -> None:
        """An object that is too large even alone."""
        self.server.faults[LIST].extend([LARGE] * 7)
        self.error(self.client.list(EVERYTHING), Why.TOO_LARGE)
        self.assertEqual(self.limits(), ["100", "50", "25", "12", "6", "3", "1"])

    def test_endless(self) -> None:
        """A list without an end is given up."""
        client = self.connect(list_limit=249)
        self.error(client.list(EVERYTHING), Why.TOO_LARGE)
        empty = {"kind": "ConfigMapList", "metadata": {"resourceVersion": "7", "continue": "more"}, "items": []}
        self.server.faults[LIST].extend([Say(200, json.dumps(empty).encode())] * 300)
        self.error(client.list(EVERYTHING), Why.TOO_LARGE)

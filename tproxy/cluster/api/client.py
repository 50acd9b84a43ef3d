"""Requests to an API server: one object, a whole list, a stream of changes.

Whatever goes wrong is an `APIError`. Nothing is repeated here but a request whose token was refused
when there is another token, and a list whose pages expired; all else is the caller's to decide.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, cast

from attrs import frozen
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from tproxy.cluster.api.access import Access
from tproxy.cluster.api.objects import APIError, Change, Key, Kind, Listing, Object, Query, Why, key, preconditions
from tproxy.cluster.api.transport import Body, pooled
from tproxy.cluster.api.wire import Lines, read_change, read_object, read_page, read_refusal
from tproxy.config import ConfigError
from tproxy.model import RefusedError, Secret
from tproxy.net.http import Answer, bare
from tproxy.net.sockets import Reactor

DEADLINE = 30.0
"""The longest time for one request, in seconds; for a watch, until it begins."""

SILENCE = 75.0
"""How long a watch may be silent, in seconds: bookmarks come about once a minute."""

ANSWER_LIMIT = 16 * 1024 * 1024
"""The longest answer that is taken, in bytes."""

PAGE = 100
"""How many objects are asked for at once; less where they are so large that an answer would be too long."""

LIST_LIMIT = 100_000
"""How many objects a list may have."""

ATTEMPTS = 3
"""How often a list is begun whose next page has expired."""

USER_AGENT = "tproxy"
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"


@frozen
class Stream:
    """A watch that has begun: `ended` fires when the server ends it; cancelling it ends it from here."""

    ended: Deferred[None]


class Client:
    """One API server, asked as one user.

    @param clock: gives deadlines their time
    @param close: closes connections that are kept
    @param list_limit: how many objects a list may have
    """

    def __init__(
        self,
        agent: IAgent,
        clock: IReactorTime,
        access: Access,
        close: Callable[[], Deferred[None]] = lambda: succeed(None),
        list_limit: int = LIST_LIMIT,
    ) -> None:
        self.namespace = access.namespace
        self.close = close
        self._http: HTTPClient = bare(agent)
        self._clock = clock
        self._access = access
        self._list_limit = list_limit

    def get(self, kind: Kind, key: Key) -> Deferred[Object]:
        """One object as it is now."""
        return self._object(kind, "GET", kind.path(key))

    def list(self, query: Query) -> Deferred[Listing]:
        """All objects that a query means: the whole list as it is now, or an error."""
        return Deferred.fromCoroutine(self._list(query))

    def create(self, kind: Kind, thing: Object) -> Deferred[Object]:
        """A new object, as it then is. Fails with ALREADY_EXISTS where the name is taken."""
        body = {**thing, "apiVersion": kind.api_version, "kind": kind.name}
        return self._object(kind, "POST", kind.collection(thing["metadata"].get("namespace", "")), JSON, body)

    def patch(self, kind: Kind, read: Object, change: Object, subresource: str = "") -> Deferred[Object]:
        """An object changed by a merge patch (RFC 7396): None removes a field.

        Fails with CONFLICT where it is no longer the very object and version that was `read`.
        """
        body = {**change, "metadata": {**change.get("metadata", {}), **preconditions(read)}}
        return self._object(kind, "PATCH", kind.path(key(read), subresource), MERGE_PATCH, body)

    def patch_status(self, kind: Kind, read: Object, status: Mapping[str, Any]) -> Deferred[Object]:
        """The same for the status, which only this changes."""
        return self.patch(kind, read, {"status": status}, "status")

    def delete(self, kind: Kind, read: Object) -> Deferred[None]:
        """Removes the very object and version that was `read`; fails with CONFLICT if it is another by now."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions(read)}
        asked = self._answer("DELETE", kind.path(key(read)), (), JSON, body)
        return asked.addCallback(lambda _: None)

    def watch(self, query: Query, version: str, seconds: int, take: Callable[[Change], None]) -> Deferred[Stream]:
        """Changes after a version, from now on; fires when the watch has begun.

        @param seconds: after which the server is to end it
        @param take: gets one change after the other; what it raises ends the watch
        """
        return Deferred.fromCoroutine(self._watch(query, version, seconds, take))

    async def _list(self, query: Query) -> Listing:
        attempts = ATTEMPTS
        while True:
            try:
                return await self._pages(query)
            except APIError as error:
                attempts -= 1
                if error.reason is not Why.EXPIRED or not attempts:
                    raise

    async def _pages(self, query: Query) -> Listing:
        objects: list[Object] = []
        version, token, size, room = "", "", PAGE, self._list_limit
        while True:
            queries = (*query.selectors, ("limit", str(size)), *((("continue", token),) if token else ()))
            try:
                answer = await self._answer("GET", query.kind.collection(query.namespace), queries)
            except APIError as error:
                if error.reason is not Why.TOO_LARGE or size == 1:
                    raise
                size //= 2
                continue
            page = read_page(answer.body, query.kind)
            if version not in ("", page.version):
                raise APIError(410, Why.EXPIRED, f"the list of {query} changed between two pages")
            room -= max(1, len(page.objects))
            if room < 0:
                raise APIError(200, Why.TOO_LARGE, f"there are more than {self._list_limit} {query.kind.plural}")
            objects += page.objects
            version, token = page.version, page.token
            if not token:
                return Listing(tuple(objects), version)

    async def _watch(self, query: Query, version: str, seconds: int, take: Callable[[Change], None]) -> Stream:
        queries = (
            *query.selectors,
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version),
            ("timeoutSeconds", str(seconds)),
        )
        path = query.kind.collection(query.namespace)
        response, token = await self._in_time(self._begin("GET", path, queries, "", None))
        secrets = () if token is None else (token,)
        if response.code != 200:
            raise read_refusal(await self._in_time(self._rest(response)), *secrets)
        lines = Lines()

        def heard(data: bytes) -> None:
            for line in lines.feed(data):
                take(read_change(line, query.kind, *secrets))

        body = Body(heard, self._clock, SILENCE)
        response.deliverBody(body)
        return Stream(body.ended)

    def _object(
        self, kind: Kind, method: str, path: str, media: str = "", body: Object | None = None
    ) -> Deferred[Object]:
        asked = self._answer(method, path, (), media, body)
        return asked.addCallback(lambda answer: read_object(answer.body, kind))

    def _answer(
        self,
        method: str,
        path: str,
        queries: Sequence[tuple[str, str]] = (),
        media: str = "",
        body: Object | None = None,
    ) -> Deferred[Answer]:
        """A whole answer that is a success, within the deadline."""

        async def exchange() -> Answer:
            response, token = await self._begin(method, path, queries, media, body)
            answer = await self._rest(response)
            if answer.status not in (200, 201, 202):
                raise read_refusal(answer, *(() if token is None else (token,)))
            return answer

        return self._in_time(exchange())

    async def _begin(
        self, method: str, path: str, queries: Sequence[tuple[str, str]], media: str, body: Object | None
    ) -> tuple[IResponse, Secret | None]:
        """The beginning of an answer, and the token that it was given for."""
        token = self._token(refused=False)
        response = await self._send(method, path, queries, media, body, token)
        if response.code == 401:
            another = self._token(refused=True)
            if another != token:
                await self._rest(response)
                return await self._send(method, path, queries, media, body, another), another
        return response, token

    async def _send(
        self,
        method: str,
        path: str,
        queries: Sequence[tuple[str, str]],
        media: str,
        body: Object | None,
        token: Secret | None,
    ) -> IResponse:
        headers = {"accept": JSON, "user-agent": USER_AGENT} | ({"content-type": media} if media else {})
        if token is not None:
            headers["authorization"] = f"Bearer {token.reveal()}"
        try:
            return cast(
                IResponse,
                await self._http.request(
                    method,
                    self._access.url + path,
                    params=list(queries),
                    headers=Headers({name.encode(): [value.encode()] for name, value in headers.items()}),
                    data=None if body is None else json.dumps(body).encode(),
                    allow_redirects=False,
                    unbuffered=True,
                    reactor=cast(Any, self._clock),
                ),
            )
        except RefusedError as error:
            raise APIError(0, Why.UNREACHABLE, str(error.refusal)) from None
        except Exception as error:
            causes = [failure.value for failure in getattr(error, "reasons", ())] or [error]
            if any(isinstance(cause, CancelledError) for cause in causes):
                raise CancelledError from None
            words = f"the connection to the API server broke off ({type(causes[0]).__name__})"
            raise APIError(0, Why.UNREACHABLE, words) from None

    async def _rest(self, response: IResponse) -> Answer:
        chunks: list[bytes] = []
        room = ANSWER_LIMIT

        def collect(data: bytes) -> None:
            nonlocal room
            room -= len(data)
            if room < 0:
                raise APIError(response.code, Why.TOO_LARGE, f"the answer is longer than {ANSWER_LIMIT} bytes")
            chunks.append(data)

        body = Body(collect, self._clock, DEADLINE)
        response.deliverBody(body)
        await body.ended
        return Answer(response.code, response.headers, b"".join(chunks))

    def _token(self, refused: bool) -> Secret | None:
        try:
            return self._access.token(refused)
        except ConfigError as error:
            raise APIError(0, Why.UNAUTHORIZED, str(error)) from None

    def _in_time(self, asking: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(asking).addTimeout(DEADLINE, self._clock, _too_slow)


def connect(access: Access, reactor: Any, clock: IReactorTime, sockets: Reactor = None) -> Client:
    """A client whose connections are kept and used again; see `pooled`."""
    agent, pool = pooled(access, reactor, clock, sockets)
    return Client(agent, clock, access, lambda: cast("Deferred[None]", pool.closeCachedConnections()))


def _too_slow(result: object, seconds: float) -> NoReturn:
    raise APIError(0, Why.TOO_SLOW, f"the API server did not answer within {seconds:g} s")

"""The stand-in on HTTP, with faults on demand: a resource for a port on loopback or for `treq.testing`."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from tests.apiserver.storage import LABEL, Happened, Selection, Served, Status, Storage, Thing, told
from tproxy.cluster.api.lease import LEASES
from tproxy.cluster.api.objects import Kind
from tproxy.cluster.api.recorder import EVENTS

NAMESPACES = Kind("", "v1", "Namespace", "namespaces", namespaced=False)
SERVICES = Kind("", "v1", "Service", "services")
SECRETS = Kind("", "v1", "Secret", "secrets")
CONFIG_MAPS = Kind("", "v1", "ConfigMap", "configmaps")

BOOKMARK_SECONDS = 60.0


@frozen
class Say:
    """An answer that is said instead of the right one."""

    code: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)


@frozen
class Silence:
    """Nothing is answered; `done` says whether it is done nevertheless."""

    done: bool = False


@frozen
class Cut:
    """The connection is cut instead of an answer; `done` says whether it is done nevertheless."""

    done: bool = False


Fault = Status | Say | Silence | Cut | None


@frozen
class Asked:
    """A request as it came: the verb in Kubernetes' words, and `services` or `services/status`."""

    verb: str
    resource: str
    namespace: str
    name: str
    queries: dict[str, str]


class APIServer(Resource):
    """An API server with the namespaces `default` and `kube-system` and some kinds; `storage.serve` adds others.

    `tokens` are the bearer tokens that it takes, all where there are none; `forbidden` are pairs of verb and
    resource. `faults[verb, resource]` are what happens to the next such requests, None for the right thing;
    `asked` are the requests so far.

    @param clock: sends bookmarks and ends watches
    """

    isLeaf = True

    def __init__(self, clock: IReactorTime, now: Callable[[], float] = lambda: 1_800_000_000.0) -> None:
        Resource.__init__(self)
        self.clock = clock
        self.storage = Storage(now)
        self.tokens: set[str] = set()
        self.forbidden: set[tuple[str, str]] = set()
        self.faults: dict[tuple[str, str], deque[Fault]] = defaultdict(deque)
        self.asked: list[Asked] = []
        self.watches: list[Watch] = []
        self.storage.serve(
            Served(NAMESPACES, names=LABEL, longest=63),
            Served(SERVICES, status=True, names=LABEL, longest=63),
            Served(SECRETS),
            Served(CONFIG_MAPS),
            Served(LEASES),
            Served(EVENTS, check=_event),
        )
        for name in ("default", "kube-system"):
            self.storage.create(self.served(NAMESPACES), "", {"metadata": {"name": name}})

    def served(self, kind: Kind) -> Served:
        return self.storage.served[kind.group, kind.version, kind.plural]

    def create(self, kind: Kind, namespace: str, name: str, **fields: Any) -> Thing:
        """Somebody else creates an object; `labels` and `annotations` go into its metadata."""
        metadata = {"name": name, **{each: fields.pop(each) for each in ("labels", "annotations") if each in fields}}
        return self.storage.create(self.served(kind), namespace, {"metadata": metadata, **fields})

    def change(self, kind: Kind, namespace: str, name: str, subresource: str = "", **fields: Any) -> Thing:
        """Somebody else changes an object."""
        return self.storage.patch(self.served(kind), (namespace, name), fields, subresource)

    def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """Somebody else deletes an object."""
        self.storage.delete(self.served(kind), (namespace, name), {})

    # what may happen to watches

    def silence(self) -> None:
        """The watches so far tell nothing any more, and their connections stay open."""
        for watch in self.watches:
            watch.deaf = True

    def cut(self) -> None:
        """The connections of all watches break."""
        for watch in list(self.watches):
            watch.cut()

    def end(self) -> None:
        """All watches end as if their time were up."""
        for watch in list(self.watches):
            watch.end()

    def say(self, octets: bytes) -> None:
        """All watches say this."""
        for watch in list(self.watches):
            watch.request.write(octets)

    def expire(self) -> None:
        """History is forgotten: watches are told so, and so is who comes back with an old version."""
        self.storage.compact()
        self.say(_line({"type": "ERROR", "object": _too_old(0).object()}))
        self.end()

    # requests

    def render(self, request: Request) -> bytes | int:
        request.setHeader(b"Content-Type", b"application/json")
        try:
            return self._render(request)
        except Status as status:
            return self._refuse(request, status)

    def _render(self, request: Request) -> bytes | int:
        self._authenticate(request)
        served, namespace, name, subresource = self._find(request)
        queries = {key.decode(): values[-1].decode() for key, values in request.args.items()}
        verb = _verb(request.method, name, queries)
        resource = "/".join(filter(None, (served.kind.plural, subresource)))
        self.asked.append(Asked(verb, resource, namespace, name, queries))
        faults = self.faults[verb, resource]
        fault = faults.popleft() if faults else None
        if isinstance(fault, Status):
            raise fault
        if isinstance(fault, Say):
            request.setResponseCode(fault.code)
            for header, value in fault.headers:
                request.setHeader(header.encode(), value.encode())
            return fault.body
        if fault is None or fault.done:
            if (verb, resource) in self.forbidden:
                raise _forbidden(served, verb, name, namespace)
            answer = self._perform(request, served, namespace, name, subresource, verb, queries)
            if fault is None:
                return answer
        if isinstance(fault, Cut):
            request.transport.abortConnection()
        return NOT_DONE_YET

    def _perform(
        self,
        request: Request,
        served: Served,
        namespace: str,
        name: str,
        subresource: str,
        verb: str,
        queries: dict[str, str],
    ) -> bytes | int:
        each = (namespace, name)
        selection = Selection.read(namespace, queries.get("labelSelector", ""), queries.get("fieldSelector", ""))
        match verb:
            case "watch":
                return Watch(self, request, served, selection, queries).begin()
            case "list":
                limit = int(queries.get("limit", 0))
                return _octets(self.storage.list(served, selection, limit, queries.get("continue", "")))
            case "get":
                return _octets(self.storage.get(served, each))
            case "create":
                request.setResponseCode(201)
                return _octets(self.storage.create(served, namespace, _body(request, b"application/json")))
            case "patch":
                patch = _body(request, b"application/merge-patch+json")
                return _octets(self.storage.patch(served, each, patch, subresource))
            case _:
                options = _body(request, b"application/json")
                self.storage.delete(served, each, options.get("preconditions") or {})
                return _octets({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})

    def _authenticate(self, request: Request) -> None:
        scheme, _, token = (request.getHeader(b"authorization") or b"").decode().partition(" ")
        if self.tokens and not (scheme == "Bearer" and token in self.tokens):
            raise Status(401, "Unauthorized", "Unauthorized")

    def _find(self, request: Request) -> tuple[Served, str, str, str]:
        match [segment.decode() for segment in request.postpath or request.path.strip(b"/").split(b"/")]:
            case ["api", version, *rest]:
                group = ""
            case ["apis", group, version, *rest]:
                pass
            case _:
                raise _unknown()
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        plural, name, subresource = (*rest, "", "", "")[:3]
        served = self.storage.served.get((group, version, plural))
        if served is None or len(rest) > 3:
            raise _unknown()
        return served, namespace, name, subresource

    def _refuse(self, request: Request, status: Status) -> bytes:
        request.setResponseCode(status.code)
        if status.retry_after is not None:
            request.setHeader(b"Retry-After", str(status.retry_after).encode())
        return _octets(status.object())


class Watch:
    """One watch that is under way."""

    def __init__(
        self, server: APIServer, request: Request, served: Served, selection: Selection, queries: dict[str, str]
    ) -> None:
        self.server, self.request, self.served, self.selection = server, request, served, selection
        self.queries = queries
        self.deaf = False
        self._timers: list[IDelayedCall] = []

    def begin(self) -> bytes | int:
        version = self.queries.get("resourceVersion", "")
        if not version.isdigit() or version == "0":
            raise Status(400, "BadRequest", "this stand-in watches from a version only")
        storage = self.server.storage
        if int(version) < storage.oldest:
            return _line({"type": "ERROR", "object": _too_old(int(version)).object()})
        _begin_chunks(self.request)
        self.server.watches.append(self)
        storage.watchers.append(self._told)
        self.request.notifyFinish().addBoth(self._ended)
        self._later(float(self.queries.get("timeoutSeconds", "1800")), self._time_is_up)
        if self._bookmarks:
            self._later(BOOKMARK_SECONDS, self._bookmark_again)
        for happened in storage.history:
            if happened.version > int(version):
                self._told(happened)
        return NOT_DONE_YET

    def end(self) -> None:
        self.request.finish()

    def cut(self) -> None:
        self.request.transport.abortConnection()

    @property
    def _bookmarks(self) -> bool:
        return self.queries.get("allowWatchBookmarks") == "true"

    def _told(self, happened: Happened) -> None:
        event = told(happened, self.selection) if happened.served.kind == self.served.kind else None
        if event is not None:
            self._say(event)

    def _say(self, event: Thing) -> None:
        if not self.deaf:
            self.request.write(_line(event))

    def _bookmark(self) -> None:
        metadata = {"resourceVersion": str(self.server.storage.version)}
        kind = self.served.kind
        thing = {"kind": kind.name, "apiVersion": kind.api_version, "metadata": metadata}
        self._say({"type": "BOOKMARK", "object": thing})

    def _bookmark_again(self) -> None:
        self._bookmark()
        self._later(BOOKMARK_SECONDS, self._bookmark_again)

    def _time_is_up(self) -> None:
        if self._bookmarks:
            self._bookmark()
        if not self.deaf:
            self.end()

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._timers = [timer for timer in self._timers if timer.active()]
        self._timers.append(self.server.clock.callLater(seconds, call))

    def _ended(self, result: object) -> None:
        self.server.watches.remove(self)
        self.server.storage.watchers.remove(self._told)
        for timer in self._timers:
            if timer.active():
                timer.cancel()


def _begin_chunks(request: Request) -> None:
    """Send the head at once. As of itself it would be compared as text with the bytes of a client in this process."""
    request.startedWriting = request.chunked = 1
    request.responseHeaders.setRawHeaders(b"Transfer-Encoding", [b"chunked"])
    request.channel.writeHeaders(b"HTTP/1.1", b"200", b"OK", request.responseHeaders)


def _verb(method: bytes, name: str, queries: dict[str, str]) -> str:
    match method, name:
        case b"GET", "":
            return "watch" if queries.get("watch") in ("true", "1") else "list"
        case b"GET", _:
            return "get"
        case b"POST", "":
            return "create"
        case b"PATCH", str() if name:
            return "patch"
        case b"DELETE", str() if name:
            return "delete"
    raise Status(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def _body(request: Request, media: bytes) -> Thing:
    content = request.content.read()
    if content and (request.getHeader(b"content-type") or b"").partition(b";")[0] != media:
        raise Status(415, "UnsupportedMediaType", "the body of the request was in an unknown format")
    try:
        body = json.loads(content or b"{}")
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Status(400, "BadRequest", "the object provided is unrecognized")
    return body


def _event(thing: Thing) -> str:
    if len(thing.get("note", "").encode()) > 1024:
        return "note: can have at most 1024 characters"
    for name in ("eventTime", "reportingController", "reportingInstance", "reason", "action"):
        if not thing.get(name):
            return f"{name}: Required value"
    if thing.get("regarding", {}).get("namespace", "") not in ("", thing["metadata"].get("namespace")):
        return "regarding.namespace: does not match event.namespace"
    return ""


def _forbidden(served: Served, verb: str, name: str, namespace: str) -> Status:
    which = f' "{name}"' if name else ""
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    words = f'cannot {verb} resource "{served.kind.plural}" in API group "{served.kind.group}" {where}'
    return Status(403, "Forbidden", f'{served.resource}{which} is forbidden: User "stand-in" {words}')


def _too_old(version: int) -> Status:
    return Status(410, "Expired", f"too old resource version: {version}")


def _unknown() -> Status:
    return Status(404, "NotFound", "the server could not find the requested resource")


def _octets(thing: Thing) -> bytes:
    return json.dumps(thing).encode()


def _line(thing: Thing) -> bytes:
    return _octets(thing) + b"\n"

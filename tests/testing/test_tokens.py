"""The stand-in of a token endpoint."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

from treq.testing import RequestTraversalAgent
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

import tproxy
from tproxy.net.http import Answer
from tproxy.net.http import Client as HTTPClient
from tproxy.testing.certificates import Authority
from tproxy.testing.tokens import HUGE, SILENT, Client, TokenEndpoint
from tproxy.testing.tokens import Answer as Said

ROOT = str(Path(tproxy.__file__).absolute().parent.parent)
FORM = [("grant_type", "client_credentials"), ("client_id", "client"), ("client_secret", "secret")]


class TokenEndpointTests(SynchronousTestCase):
    """Over an agent that needs no network."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = TokenEndpoint(self.clock, seconds=60, username="anna")
        self.agent = RequestTraversalAgent(self.endpoint)
        self.client = HTTPClient(self.agent, self.clock)

    def ask(self, form: list[tuple[str, str]], path: str = "token", **headers: str) -> Answer:
        asked = self.client.ask("POST", f"https://tokens.example.com/{path}", headers=headers, form=form)
        answer: Answer = self.successResultOf(asked)
        return answer

    def said(self, answer: Answer) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(answer.body)
        return fields

    def test_issues(self) -> None:
        """A token for the client it knows, good for as long as it says, or until it is revoked."""
        fields = self.said(self.ask(FORM))
        self.assertEqual((fields["token_type"], fields["expires_in"]), ("Bearer", 60))
        token = fields["access_token"]
        self.assertTrue(self.endpoint.valid(token))
        self.clock.advance(60)
        self.assertFalse(self.endpoint.valid(token))
        token = self.endpoint.issue()
        self.assertTrue(self.endpoint.valid(token))
        self.endpoint.revoke()
        self.assertFalse(self.endpoint.valid(token))

    def test_no_life(self) -> None:
        """An endpoint that does not say how long its tokens live."""
        self.endpoint.seconds = None
        fields = self.said(self.ask(FORM))
        self.assertNotIn("expires_in", fields)
        self.clock.advance(1e9)
        self.assertTrue(self.endpoint.valid(fields["access_token"]))

    def test_refuses(self) -> None:
        """Another grant and another client are refused as RFC 6749 has it."""
        wrong = "Basic " + b64encode(b"client:other").decode()
        for form, headers, status, error in (
            ([("grant_type", "password")], {}, 400, "unsupported_grant_type"),
            (FORM[:2], {}, 401, "invalid_client"),
            (FORM[:1], {"Authorization": wrong}, 401, "invalid_client"),
            (FORM[:1], {"Authorization": "Basic ="}, 401, "invalid_client"),
            (FORM[:1], {"Authorization": "Bearer x"}, 401, "invalid_client"),
        ):
            answer = self.ask(form, **headers)
            self.assertEqual((answer.status, self.said(answer)["error"]), (status, error))

    def grant(self, status: int = 200, **form: str) -> dict[str, Any]:
        answer = self.ask([*FORM[1:], *form.items()])
        self.assertEqual(answer.status, status)
        return self.said(answer)

    def username(self, token: str) -> str:
        name: str = self.said(self.ask([("token", token)], "introspect"))["username"]
        return name

    def test_scope(self) -> None:
        """The scope that was asked for is the one that is given."""
        self.assertEqual(self.said(self.ask([*FORM, ("scope", "mail")]))["scope"], "mail")

    def test_clients(self) -> None:
        """Each client's own tokens are its user's."""
        self.endpoint.clients["other"] = Client("o", "bert")
        for form, user in ((FORM, "anna"), ([*FORM[:1], ("client_id", "other"), ("client_secret", "o")], "bert")):
            token = self.said(self.ask(form))["access_token"]
            self.assertEqual(self.username(token), user)
        self.assertEqual(self.said(self.ask([("token", token)], "introspect"))["client_id"], "other")
        self.assertNotIn("'o'", repr(self.endpoint.clients))

    def test_refresh_token(self) -> None:
        """A refresh token gives its user's tokens to its client, as often as it is wanted."""
        for token in (self.endpoint.refresh_token("cleo"), self.endpoint.refresh_token("cleo", "client", "known")):
            for _ in range(2):
                fields = self.grant(grant_type="refresh_token", refresh_token=token)
                self.assertEqual(self.username(fields["access_token"]), "cleo")
                self.assertNotIn("refresh_token", fields)
        for wrong in (self.endpoint.refresh_token("cleo", "another client"), "unknown", ""):
            fields = self.grant(400, grant_type="refresh_token", refresh_token=wrong)
            self.assertEqual(fields["error"], "invalid_grant")

    def test_rotation(self) -> None:
        """Where refresh tokens rotate, each is good once and brings the next."""
        self.endpoint.rotates = True
        first = self.endpoint.refresh_token("cleo")
        second = self.grant(grant_type="refresh_token", refresh_token=first)["refresh_token"]
        self.grant(400, grant_type="refresh_token", refresh_token=first)
        fields = self.grant(grant_type="refresh_token", refresh_token=second)
        self.assertEqual(self.username(fields["access_token"]), "cleo")

    def test_code(self) -> None:
        """A code gives its user's token once, and a refresh token with it."""
        code = self.endpoint.code("cleo", "client", code="known")
        fields = self.grant(grant_type="authorization_code", code=code)
        self.assertEqual(self.username(fields["access_token"]), "cleo")
        fields = self.grant(grant_type="refresh_token", refresh_token=fields["refresh_token"])
        self.assertEqual(self.username(fields["access_token"]), "cleo")
        self.assertEqual(self.grant(400, grant_type="authorization_code", code=code)["error"], "invalid_grant")

    def test_code_of_others(self) -> None:
        """What was said when a code was asked for has to be said again; a code is spent by trying."""
        said = {"redirect_uri": "https://app.example/", "code_verifier": "v" * 43}
        fields = self.grant(grant_type="authorization_code", code=self.endpoint.code("cleo", **said), **said)
        self.assertEqual(self.username(fields["access_token"]), "cleo")
        for wrong in ({}, {"redirect_uri": said["redirect_uri"]}, said | {"code_verifier": "w"}):
            code = self.endpoint.code("cleo", **said)
            self.grant(400, grant_type="authorization_code", code=code, **wrong)
            self.grant(400, grant_type="authorization_code", code=code, **said)
        self.grant(400, grant_type="authorization_code", code=self.endpoint.code("cleo", "another client"))

    def test_introspection(self) -> None:
        """A mail server may ask whose token it is, in both of the usual ways."""
        token = self.endpoint.issue()
        fields = self.said(self.ask([("token", token)], "introspect"))
        self.assertEqual((fields["active"], fields["username"]), (True, "anna"))
        for query, active in ((token, True), ("other", False)):
            answer = self.successResultOf(
                self.client.ask("GET", "https://tokens.example.com/tokeninfo", queries=[("access_token", query)])
            )
            self.assertEqual(self.said(answer)["active"], active)
        self.assertEqual(self.endpoint.asked, [])

    def test_late(self) -> None:
        """An answer may take its time, or never come; who does not wait is forgotten."""
        self.endpoint.answers.extend([Said(body=b"late", after=5.0), Said(after=5.0), SILENT])
        late, left, never = (self.client.ask("POST", "https://tokens.example.com/", form=FORM) for _ in range(3))
        left.cancel()
        self.failureResultOf(left)
        self.clock.advance(5)
        self.agent.flush()
        self.assertEqual(self.successResultOf(late).body, b"late")
        self.assertNoResult(never)
        self.clock.advance(25)
        self.failureResultOf(never)

    def test_huge(self) -> None:
        """There is an answer that is too large for anybody."""
        self.assertGreater(len(HUGE.body), 1024 * 1024)


class Lines(ProcessProtocol):
    """Waits for the first line of a process and for its end."""

    def __init__(self) -> None:
        self.heard = b""
        self.line: Deferred[str] = Deferred()
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.heard += data
        if b"\n" in self.heard and not self.line.called:
            self.line.callback(self.heard.decode().strip())

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(None)
        if not self.line.called:
            self.line.errback(reason)


class CommandTests(TestCase):
    """`python -m tproxy.testing.tokens`."""

    @inlineCallbacks
    def test_command(self) -> Any:
        """It prints where it answers, with or without TLS."""
        directory = Path(self.mktemp())
        directory.mkdir()
        certificate, key = Authority.create().issue("127.0.0.1").write(directory, "server")
        for arguments, scheme in (
            ([], "http"),
            (["--certificate", str(certificate), "--key", str(key)], "https"),
        ):
            process = Lines()
            command = [sys.executable, "-m", "tproxy.testing.tokens", *arguments]
            running = reactor.spawnProcess(process, sys.executable, command, env={"PYTHONPATH": ROOT})
            line = yield process.line
            self.assertRegex(line, rf"^{scheme}://127\.0\.0\.1:[0-9]+/token$")
            running.signalProcess("TERM")
            yield process.ended

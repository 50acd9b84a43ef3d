"""Tokens for mailboxes: from the service or from where the document says, for the destination or for who offers."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import gatherResults

from tests.destinations.services import (
    BASIC,
    CODE,
    MAIL,
    MAIL_SECONDS,
    OAUTH,
    REFRESH,
    STALE,
    ServiceTestCase,
    of,
)
from tproxy.destinations.cache import RENEWAL_PACE
from tproxy.model import Bearer, Offered, Password, Reason, Secret, Stage
from tproxy.testing.btp import Endpoint, Fault
from tproxy.testing.tokens import LOGIN_PAGE, UNAVAILABLE, busy, last, oauth_error

ANNA = Offered("anna", Secret("an-offer"))
REFUSED = Fault(Endpoint.DESTINATION, token_error="it \x1b is mail-secret")


class ClientCredentialsTests(ServiceTestCase):
    """What a destination logs in with by itself."""

    async def setUp(self) -> None:
        await super().setUp()
        self.place(OAUTH)

    async def test_sent_along(self) -> None:
        """The service brings the token with the document; later it is asked for anew, and only then."""
        token = await self.bearer()
        self.assertEqual(self.counts(), (1, 1, 1))
        self.assertEqual(await self.bearer(), token)
        self.assertEqual(self.counts(), (1, 1, 1))
        self.assertEqual(self.asked(Endpoint.MAIL), [])

    async def test_not_sent(self) -> None:
        """A service that sends no tokens, or says why not, leaves the document's own URL to be asked."""
        for fault in ([], [REFUSED]):
            self.btp.setup.auth_tokens = bool(fault)
            self.btp.setup.faults = fault
            self.place(OAUTH, name=f"mail{len(fault)}")
            token = await self.bearer(evolve(MAIL, name=f"mail{len(fault)}"))
            self.assertTrue(self.btp.provider.valid(token))
            self.assertEqual(len(self.asked(Endpoint.MAIL)), 1 + len(fault))

    async def test_neither(self) -> None:
        """Where both fail one refusal names both, and the pause that was asked for is kept."""
        self.btp.setup.faults = [REFUSED, Fault(Endpoint.MAIL, busy("100"))]
        for _ in range(2):
            refusal = await self.refusal(self.store.resolve(MAIL))
            self.assertEqual(refusal.reason, Reason.TOKEN_UNAVAILABLE)
            self.assertIn("the Destination service sends no token: it \\x1b is ***; and the token", refusal.message)
            self.assertIn("endpoint at login.localhost cannot answer now (HTTP 429)", refusal.message)
        asked = self.counts()
        self.clock.advance(99)
        await self.refusal(self.store.resolve(MAIL))
        self.assertEqual((self.counts(), len(self.asked(Endpoint.MAIL))), (asked, 1))

    async def test_service_away(self) -> None:
        """While the service does not answer, a token that ran out is replaced by one from the document's URL."""
        self.btp.setup.mail_seconds = 300
        self.btp.change(self.btp.setup)
        token = await self.bearer()
        self.btp.setup.faults = [Fault(Endpoint.DESTINATION, UNAVAILABLE)]
        self.clock.advance(300)
        other = await self.bearer()
        self.assertNotEqual(other, token)
        self.assertTrue(self.btp.provider.valid(other))
        self.assertEqual(len(self.asked(Endpoint.MAIL)), 1)

    async def test_refused(self) -> None:
        """What the document's URL says is the reason where the service says nothing."""
        self.btp.setup.auth_tokens = False
        self.place(OAUTH, clientSecret="other")
        refusal = await self.refusal(self.store.resolve(MAIL))
        self.assertEqual(refusal.reason, Reason.TOKEN_REFUSED)
        self.assertTrue(refusal.message.startswith("the token endpoint at login.localhost refused"), refusal.message)

    async def test_renewed(self) -> None:
        """A token that the mail server refused is replaced, for all at once; then that rests for a while."""
        first = await self.store.resolve(MAIL)
        renewed = await gatherResults([self.store.renew(MAIL, first.credential) for _ in range(20)])
        (other,) = {each.credential for each in renewed}
        self.assertNotEqual(other, first.credential)
        self.assertEqual(self.counts(), (1, 3, 2))  # the document anew, then with a token
        self.assertIsNone(await self.store.renew(MAIL, other))
        self.assertEqual(self.counts(), (1, 3, 2))
        self.clock.advance(RENEWAL_PACE)
        again = await self.store.renew(MAIL, other)
        self.assertNotEqual(again.credential, other)

    async def test_renewed_after_password(self) -> None:
        """A refused password, and meanwhile the document wants a token; and the other way round."""
        renewed = await self.store.renew(MAIL, Password("anna", Secret("old")))
        assert isinstance(renewed.credential, Bearer)
        self.place(BASIC)
        self.clock.advance(RENEWAL_PACE)
        again = await self.store.renew(MAIL, renewed.credential)
        self.assertEqual(again.credential, Password("anna", Secret("first-password")))

    async def test_in_use(self) -> None:
        """A token in use is renewed in the background before it runs out."""
        token = await self.bearer()
        await self.bearer()
        await self.later(0.9 * MAIL_SECONDS, lambda: len(self.btp.provider.asked) > 1)
        self.btp.setup.faults = [Fault(Endpoint.DESTINATION, UNAVAILABLE)]
        self.assertNotEqual(await self.bearer(), token)


class RefreshTokenTests(ServiceTestCase):
    """Refresh tokens of applications."""

    async def setUp(self) -> None:
        await super().setUp()
        self.place(REFRESH)
        self.btp.provider.refresh_token("anna", token="an-offer")

    async def test_by_the_service(self) -> None:
        """The service exchanges it, once for all who bring the same; the document need not name a URL."""
        self.place({name: value for name, value in REFRESH.items() if name != "tokenServiceURL"}, name="bare")
        self.place(REFRESH)
        resolved = await gatherResults([self.store.resolve(MAIL, ANNA) for _ in range(100)])
        ((user, token),) = {(each.credential.user, each.credential.token) for each in resolved}
        self.assertEqual(user, "anna")
        self.assertTrue(self.btp.provider.valid(token.reveal()))
        self.assertEqual(
            [heard.headers for heard in self.asked(Endpoint.DESTINATION)], [{}, {"x-refresh-token": "an-offer"}]
        )
        self.assertEqual(self.asked(Endpoint.MAIL), [])
        refusal = await self.refusal(self.store.resolve(evolve(MAIL, name="bare"), ANNA))
        self.assertEqual(refusal.reason, Reason.TOKEN_REFUSED)
        self.assertIn("sends no token: the token service", refusal.message)
        self.btp.setup.auth_tokens = False
        refusal = await self.refusal(self.store.resolve(evolve(MAIL, name="bare"), self.offer("other", "anna")))
        self.assertIn("sends no token, and the document no tokenServiceURL", refusal.message)

    async def test_at_the_url(self) -> None:
        """Where the service sends no tokens, the document's URL is asked."""
        self.btp.setup.auth_tokens = False
        self.assertTrue(self.btp.provider.valid(await self.bearer(MAIL, ANNA)))
        self.assertEqual(len(self.asked(Endpoint.MAIL)), 1)

    async def test_not_twice(self) -> None:
        """What the service could not exchange is not tried elsewhere: it may be used up."""
        refusal = await self.refusal(self.store.resolve(MAIL, self.offer("wrong", "anna")))
        self.assertEqual(refusal.reason, Reason.TOKEN_REFUSED)
        self.assertIn("HTTP 400 invalid_grant", refusal.message)
        self.assertEqual((self.asked(Endpoint.MAIL), len(self.btp.provider.asked)), ([], 1))

    async def test_apart(self) -> None:
        """What one application brings opens nothing for another, nor for another tenant."""
        self.place(REFRESH, tenant=of("globex").tenant)
        self.btp.provider.refresh_token("bert", token="another")
        tokens = {
            await self.bearer(request, self.offer(secret, "anna"))
            for request in (MAIL, of("globex"))
            for secret in ("an-offer", "another")
        }
        self.assertEqual(len(tokens), 4)

    async def test_user(self) -> None:
        """Whose mailbox it is, is judged before anything is exchanged."""
        refusal = await self.refusal(self.store.resolve(MAIL, self.offer(user="bert")))
        self.assertEqual((refusal.stage, refusal.reason), (Stage.LOGIN, Reason.CREDENTIAL_INVALID))
        self.assertEqual((self.counts(), self.asked(Endpoint.DESTINATION)[0].headers), ((1, 1, 0), {}))
        for offered in (self.offer(), self.offer(user="ANNA")):
            self.assertEqual((await self.store.resolve(MAIL, offered)).credential.user, "anna")

    async def test_renewed(self) -> None:
        """A refused access token is replaced by another one for the same refresh token."""
        first = await self.store.resolve(MAIL, ANNA)
        second = await self.store.renew(MAIL, first.credential, ANNA)
        self.assertNotEqual(second.credential, first.credential)
        self.assertEqual([last(asked.form, "refresh_token") for asked in self.btp.provider.asked], ["an-offer"] * 2)

    async def test_renewed_for_another_user(self) -> None:
        """Also then whose mailbox it is now is judged first."""
        first = await self.store.resolve(MAIL, ANNA)
        self.place(REFRESH, **{"mail.user": "bert"})
        refusal = await self.refusal(self.store.renew(MAIL, first.credential, ANNA))
        self.assertEqual(refusal.reason, Reason.CREDENTIAL_INVALID)
        self.assertEqual(len(self.btp.provider.asked), 1)

    async def test_in_use(self) -> None:
        """The access token is renewed in the background while it is in use."""
        await self.bearer(MAIL, ANNA)
        await self.bearer(MAIL, ANNA)
        await self.later(0.9 * MAIL_SECONDS, lambda: len(self.btp.provider.asked) > 1)

    async def test_changed(self) -> None:
        """An application that was greeted for another way to log in is told to connect again."""
        for properties, offered in ((REFRESH, None), (BASIC, ANNA), (OAUTH, ANNA)):
            self.place(properties)
            self.clock.advance(STALE)
            for answer in (
                self.store.resolve(MAIL, offered),
                self.store.renew(MAIL, Bearer("anna", Secret("t")), offered),
            ):
                refusal = await self.refusal(answer)
                self.assertEqual((refusal.reason, refusal.remedy), (Reason.DESTINATION_CHANGED, "connect again"))
        self.assertNotIn("x-refresh-token", [name for heard in self.btp.heard for name in heard.headers])

    async def test_changed_meanwhile(self) -> None:
        """So is one that finds out when its login is refused."""
        first = await self.store.resolve(MAIL, ANNA)
        self.place(BASIC)
        refusal = await self.refusal(self.store.renew(MAIL, first.credential, ANNA))
        self.assertEqual(refusal.reason, Reason.DESTINATION_CHANGED)


class CodeTests(ServiceTestCase):
    """Authorization codes of applications."""

    async def setUp(self) -> None:
        await super().setUp()
        self.place(CODE)
        self.btp.provider.code("anna", redirect_uri=CODE["redirectUri"], code="an-offer")

    async def test_by_the_service(self) -> None:
        """The service exchanges it, with the URL that it was asked for with."""
        self.assertTrue(self.btp.provider.valid(await self.bearer(MAIL, ANNA)))
        headers = {"x-code": "an-offer", "x-redirect-uri": CODE["redirectUri"]}
        self.assertEqual([heard.headers for heard in self.asked(Endpoint.DESTINATION)], [{}, headers])

    async def test_at_the_url(self) -> None:
        """So does the document's URL, where the service sends no tokens."""
        self.btp.setup.auth_tokens = False
        self.assertTrue(self.btp.provider.valid(await self.bearer(MAIL, ANNA)))
        self.assertEqual(len(self.asked(Endpoint.MAIL)), 1)

    async def test_once(self) -> None:
        """It is exchanged once, and not again in the background or for a refused login, however it is used."""
        for auth_tokens in (True, False):
            self.btp.setup.auth_tokens = auth_tokens
            code = f"code-{auth_tokens}"
            self.btp.provider.code("anna", redirect_uri=CODE["redirectUri"], code=code)
            offered = self.offer(code, "anna")
            exchanged = len(self.btp.provider.asked) + 1
            first = await self.store.resolve(MAIL, offered)
            self.assertIsNone(await self.store.renew(MAIL, first.credential, offered))
            again = await gatherResults([self.store.resolve(MAIL, offered) for _ in range(10)])
            self.assertEqual({each.credential for each in again}, {first.credential})
            looks = len(self.asked(Endpoint.DESTINATION)) + 1
            await self.later(0.9 * MAIL_SECONDS - 1, lambda looks=looks: len(self.asked(Endpoint.DESTINATION)) == looks)
            self.assertEqual((await self.store.resolve(MAIL, offered)).credential, first.credential)
            self.assertEqual(len(self.btp.provider.asked), exchanged)
            self.clock.advance(1)
            refusal = await self.refusal(self.store.resolve(MAIL, offered))
            self.assertEqual(refusal.reason, Reason.TOKEN_REFUSED)
            self.assertIn("invalid_grant", refusal.message)

    async def test_faults(self) -> None:
        """What goes wrong at the document's URL is told, and an outage is no refusal."""
        self.btp.setup.auth_tokens = False
        for wrong, reason in (
            (LOGIN_PAGE, Reason.TOKEN_UNAVAILABLE),
            (oauth_error(400, "invalid_grant", "an-offer is spent"), Reason.TOKEN_REFUSED),
        ):
            self.btp.setup.faults = [Fault(Endpoint.MAIL, wrong, requests=1)]
            self.assertEqual((await self.refusal(self.store.resolve(MAIL, ANNA))).reason, reason)
            self.clock.advance(STALE)
        self.assertTrue(self.btp.provider.valid(await self.bearer(MAIL, ANNA)))

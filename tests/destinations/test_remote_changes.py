"""What changes while sessions come and go: documents, the service's health, and the key to it."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve, frozen
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.destinations.services import FRESH, MAIL, OAUTH, STALE, ServiceTestCase, of
from tests.logs import logged
from tests.testing.btp.standin import until
from tproxy.config import ConfigError
from tproxy.destinations import remote
from tproxy.destinations.cache import RENEWAL_PACE
from tproxy.destinations.keys import ServiceKey
from tproxy.destinations.pauses import LONGEST_PAUSE
from tproxy.destinations.remote import KeyRing
from tproxy.destinations.store import POLL_SECONDS
from tproxy.instances import KeyInFile, KeyInFolder, KeyInSecret, KeyPlace
from tproxy.interfaces import IKeySource
from tproxy.model import Password, Reason, Refusal, RefusedError, Secret, Stage
from tproxy.testing.btp import Endpoint, Fault
from tproxy.testing.tokens import UNAVAILABLE, Answer

FIRST, SECOND = (Password("anna", Secret(f"{word}-password")) for word in ("first", "second"))


class ChangeTests(ServiceTestCase):
    """Documents that change, and services that fail, while a destination is in use."""

    async def setUp(self) -> None:
        await super().setUp()
        self.told: list[float] = []
        self.store.watch(lambda: self.told.append(self.clock.seconds()))
        self.first = await self.store.resolve(MAIL)
        self.assertEqual(self.first.credential, FIRST)

    async def credential(self) -> object:
        return (await self.store.resolve(MAIL)).credential

    async def test_noticed(self) -> None:
        """A changed document is noticed in the background, and told of once; sessions do not wait for it."""
        self.place(**{"mail.password": "second-password"})
        self.assertEqual(self.successResultOf(self.store.resolve(MAIL)).credential, FIRST)
        await self.later(FRESH, lambda: self.told)
        self.assertEqual(self.successResultOf(self.store.resolve(MAIL)).credential, SECOND)
        await self.later(FRESH, lambda: len(self.asked(Endpoint.DESTINATION)) == 3)
        self.assertEqual((await self.store.describe(MAIL)).login, SECOND)
        self.assertEqual(len(self.told), 1)

    async def test_unused(self) -> None:
        """What nobody uses is not asked for, until somebody does."""
        self.place(**{"mail.password": "second-password"})
        self.clock.advance(STALE)
        self.assertEqual(len(self.asked(Endpoint.DESTINATION)), 1)
        self.assertEqual(await self.credential(), SECOND)
        await until(lambda: self.told)

    async def test_gone(self) -> None:
        """401, 403 and 404 are answers: they end the use of what was known, and are told of."""
        for number, wrong in enumerate((Answer(401), Answer(403), None)):
            name = f"mail{number}"
            request = evolve(MAIL, name=name)
            self.place(name=name)
            await self.store.describe(request)
            self.successResultOf(self.store.describe(request))
            if wrong is None:
                del self.acme.destinations["subaccount"][name]
            else:
                self.btp.setup.faults = [Fault(Endpoint.DESTINATION, wrong)]
            await self.later(FRESH, lambda number=number: len(self.told) > number)
            self.btp.setup.faults = []
            refusal = await self.refusal(self.store.describe(request))
            self.assertEqual(
                refusal.reason, Reason.STORE_REFUSED if wrong is not None else Reason.DESTINATION_NOT_FOUND
            )

    async def test_outage(self) -> None:
        """While the service cannot be reached what is known serves on, as long as it may, and is told of to nobody."""
        await self.btp.stop()
        self.clock.advance(FRESH)
        for _ in range(3):
            resolution = await self.store.resolve(MAIL)
            self.assertEqual((resolution.credential, resolution.cached), (FIRST, True))
        self.clock.advance(STALE - FRESH - 1)
        self.assertEqual(await self.credential(), FIRST)
        self.clock.advance(1)
        refusal = await self.refusal(self.store.resolve(MAIL))
        self.assertEqual(refusal.reason, Reason.STORE_UNAVAILABLE)
        self.assertIn("the instance btp for the tenant 'acme': ", refusal.message)
        self.assertEqual(self.told, [])
        await self.btp.start(port=self.btp.port)
        self.clock.advance(LONGEST_PAUSE)
        self.assertEqual(await self.credential(), FIRST)

    async def test_token_outage(self) -> None:
        """That there is no token for the service is as much of an outage."""
        self.btp.revoke()
        self.btp.setup.faults = [Fault(Endpoint.TOKEN, UNAVAILABLE)]
        self.clock.advance(FRESH)
        self.assertEqual(await self.credential(), FIRST)
        refusal = await self.refusal(self.store.describe(of("globex")))
        self.assertEqual(refusal.reason, Reason.STORE_UNAVAILABLE)

    async def test_revoked(self) -> None:
        """A token that the service does not accept any more is replaced, without anybody noticing."""
        self.btp.revoke()
        self.clock.advance(FRESH)
        self.assertEqual(await self.credential(), FIRST)
        self.assertEqual(self.counts(), (2, 3, 0))

    async def test_renewed(self) -> None:
        """After a refused login: the same document is nothing new; a changed one is tried, and asked for once."""
        self.assertIsNone(await self.store.renew(MAIL, FIRST))
        self.place(**{"mail.password": "second-password"})
        self.assertIsNone(await self.store.renew(MAIL, FIRST))  # too soon to ask again
        self.clock.advance(RENEWAL_PACE)
        renewed = await gatherResults([self.store.renew(MAIL, FIRST) for _ in range(100)])
        self.assertEqual({each.credential for each in renewed}, {SECOND})
        self.assertEqual(self.counts(), (1, 3, 0))
        self.assertEqual(self.successResultOf(self.store.resolve(MAIL)).credential, SECOND)

    async def test_renewal_is_told(self) -> None:
        """What a refused login brings to light is told of like any other change."""
        self.place(OAUTH)
        await self.store.renew(MAIL, FIRST)
        await until(lambda: self.told)
        del self.acme.destinations["subaccount"]["mail"]
        self.clock.advance(RENEWAL_PACE)
        refusal = await self.refusal(self.store.renew(MAIL, (await self.store.resolve(MAIL)).credential))
        self.assertEqual(refusal.reason, Reason.DESTINATION_NOT_FOUND)
        await until(lambda: len(self.told) == 2)

    async def test_renewed_in_an_outage(self) -> None:
        """One refused login does not take the destination away from those who may still use it."""
        await self.btp.stop()
        self.assertIsNone(await self.store.renew(MAIL, FIRST))
        self.assertEqual(await self.credential(), FIRST)
        self.clock.advance(STALE)
        self.assertEqual((await self.refusal(self.store.resolve(MAIL))).reason, Reason.STORE_UNAVAILABLE)


class StopTests(ServiceTestCase):
    async def test_stopped(self) -> None:
        """Who waits is told, and nothing is left."""
        self.btp.setup.faults = [Fault(Endpoint.DESTINATION, Answer(after=None), tenant="globex")]
        await self.store.resolve(MAIL)
        waiting = self.store.resolve(of("globex"))
        await until(lambda: len(self.asked(Endpoint.DESTINATION)) == 2)
        self.store.stopService()
        await self.assertFailure(waiting, RefusedError)
        self.assertEqual(self.clock.getDelayedCalls(), [])


@implementer(IKeySource)
@frozen
class Kept:
    """A Kubernetes Secret."""

    entries: Mapping[str, bytes]

    def read(self) -> Mapping[str, bytes]:
        return self.entries


class RotationTests(ServiceTestCase):
    """The service key, wherever it is kept, is another one after a while."""

    async def asks(self, name: str = "mail") -> None:
        """What is not known yet is asked for with the key that there is."""
        self.place(name=name)
        self.assertEqual((await self.store.describe(evolve(MAIL, name=name))).name, name)

    async def test_rotated(self) -> None:
        """Another key is in use soon after it is there, with tokens of its own; a broken one changes nothing."""
        await self.asks("one")
        self.btp.setup.client_id, self.btp.setup.client_secret = "sb-other", "0ther"
        refusal = await self.refusal(self.store.describe(MAIL))
        self.assertEqual(refusal.reason, Reason.SERVICE_KEY_INVALID)
        with logged(remote.log) as events:
            self.write_key()
            self.clock.advance(1)
            await self.asks("two")
            (self.folder / "key.json").write_text('{"clientid": "s3cret"')
            self.clock.pump([1, 1, 1])
            self.btp.revoke()
            await self.asks("three")
            (self.folder / "key.json").unlink()
            self.clock.pump([1, 1, 1])
            await self.asks("four")
            self.write_key()
            self.clock.advance(1)
        self.assertEqual([event["event"] for event in events], ["key.changed", "key.broken", "key.broken"])
        self.assertIn("stays in force", events[1]["log_format"])
        self.assertEqual([event.get("reason") for event in events[1:]], ["service-key-invalid", "store-unavailable"])
        self.assertNotIn("s3cret", str(events))

    async def test_old_key(self) -> None:
        """Once there is another key, the tokens of the one before are not renewed."""
        await self.asks("one")
        await self.asks("two")
        heard = self.counts()
        self.btp.setup.client_secret = "0ther"
        self.write_key()
        self.clock.advance(1)
        self.clock.advance(self.btp.setup.token_seconds)
        await self.asks("three")
        self.assertEqual((heard, self.counts()), ((1, 2, 0), (2, 3, 0)))

    async def test_not_there_yet(self) -> None:
        """Without a key that is what is said, until there is one."""
        (self.folder / "key.json").unlink()
        self.store = self.make()
        refusal = await self.refusal(self.store.describe(MAIL))
        self.assertEqual(refusal.reason, Reason.STORE_UNAVAILABLE)
        self.assertIn("cannot be read (No such file or directory)", refusal.message)
        self.write_key()
        self.clock.advance(LONGEST_PAUSE)
        await self.asks()

    async def test_told(self) -> None:
        """Who watches is told of the first key and of each other one, and may ask again at once; else nobody is."""
        key = self.folder / "key.json"
        key.unlink()
        self.store = self.make()
        told: list[int] = []
        self.store.watch(lambda: told.append(1))
        self.place()
        await self.refusal(self.store.describe(MAIL))
        self.clock.advance(POLL_SECONDS)
        self.assertEqual(told, [])
        self.write_key()
        self.store.poll()
        self.assertEqual((await self.store.describe(MAIL)).name, MAIL.name)
        self.clock.advance(POLL_SECONDS)
        self.assertEqual(told, [1])
        self.btp.setup.client_secret = "0ther"
        self.write_key()
        self.clock.advance(POLL_SECONDS)
        self.assertEqual(told, [1, 1])

    async def certified(self, private: KeyPlace | None, service: KeyPlace, **more: object) -> None:
        """Whoever shows a certificate gets tokens, and after a rotation with the next one."""
        self.store = self.make(evolve(self.instance, service_key=service, private_key=private), **more)
        await self.asks()

    async def test_certificates(self) -> None:
        """A key with a certificate, its private key in it or apart: in a file, a folder or a Secret."""
        self.btp.setup.client_secret = ""
        self.btp.renew_certificate()
        whole = self.folder / "key.json"
        self.write_key()
        await self.certified(None, KeyInFile(whole))
        self.btp.renew_certificate()
        self.btp.revoke()
        self.write_key()
        self.clock.advance(1)
        await self.asks("rotated")

        fields = self.btp.service_key()
        private = self.folder / "private.pem"
        private.write_text(fields.pop("key"))
        binding = self.folder / "binding"
        binding.mkdir()
        for name, value in fields.items():
            (binding / name).write_text(value)
        await self.certified(KeyInFile(private), KeyInFolder(binding))
        secrets = {
            "binding": Kept({name: value.encode() for name, value in fields.items()}),
            "private": Kept({"tls.key": private.read_bytes(), "tls.crt": b""}),
        }
        verifyObject(IKeySource, secrets["private"])

        def read(place: KeyInSecret) -> Kept:
            return secrets[place.name]

        await self.certified(KeyInSecret("private", key="tls.key"), KeyInSecret("binding"), secrets=read)

    async def test_no_cluster(self) -> None:
        """A Secret cannot be read without a cluster, and the message says what to do."""
        secret = KeyInSecret("binding")
        for changed, path in (
            ({"service_key": secret}, "serviceCredentials"),
            ({"private_key": secret}, "serviceCredentials.privateKey"),
        ):
            error = self.assertRaises(ConfigError, self.make, evolve(self.instance, **changed))
            self.assertIn(f"the instance btp: {path}.secretName: the Secret binding can be read in a", str(error))
            self.assertIn(f"name its folder with {path}.folder", str(error))


class KeyRingTests(SynchronousTestCase):
    """The key as it is kept, and what is said of it."""

    def setUp(self) -> None:
        self.kept: ServiceKey | Refusal = Refusal(Stage.RESOLVE, Reason.SERVICE_KEY_INVALID, "broken", "mend it")
        self.one = ServiceKey("one", Secret("s3cret"), None, "https://a.example", "https://b.example")

    def read(self) -> ServiceKey:
        if isinstance(self.kept, Refusal):
            raise RefusedError(self.kept)
        return self.kept

    def test_said_once(self) -> None:
        """What is wrong is said when it is new; the first key is no change, and the same again neither."""
        broken = self.kept
        with logged(remote.log) as events:
            keys = KeyRing("btp", self.read)
            keys.refresh()
            self.assertEqual(self.assertRaises(RefusedError, lambda: keys.key).refusal, broken)
            for kept in (self.one, self.one, broken, broken, self.one, broken):
                self.kept = kept
                keys.refresh()
                self.assertEqual(keys.key, self.one)
            self.kept = evolve(self.one, client_id="two")
            keys.refresh()
            self.assertEqual(keys.key, self.kept)
        said = [(event["event"], "stays in force" in event["log_format"]) for event in events]
        self.assertEqual(
            said, [("key.broken", False), ("key.broken", True), ("key.broken", True), ("key.changed", False)]
        )
        self.assertEqual((events[0]["key"], events[0]["message"], events[0]["remedy"]), ("btp", "broken", "mend it"))
        self.assertNotIn("s3cret", str(events))

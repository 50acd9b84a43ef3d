"""What manifests mean, and what is said about those that mean nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tproxy.config import Config, Local, Security
from tproxy.instances import DirectoryInstance
from tproxy.model import PROVIDER, Binding, DestinationRequest, GreetingMode, ListenerKey, Reason, RefusedError, Tenant
from tproxy.operator.manifests import (
    API_VERSION,
    GREETING,
    TENANTS,
    ListenerStatus,
    Rejected,
    Resource,
    Status,
    condition_reason,
    conditions,
    parse,
)

DEDICATED = Config(
    "dedicated",
    (DirectoryInstance("local", Path("/destinations")), DirectoryInstance("other", Path("/others"))),
    "local",
    Local(Path("/resources"), Path("/state.json")),
)
SHARED = evolve(DEDICATED, tenant_mode="shared")


def manifest(name: object = "mail", annotations: object = None, metadata: dict[str, Any] | None = None, **spec: Any):
    """A Destination resource of the namespace shop."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Destination",
        "metadata": {"name": name, "namespace": "shop", "annotations": annotations, **(metadata or {})},
        "spec": {"destinationRef": {"name": "mailbox"}, **spec},
    }


class GoodManifests(SynchronousTestCase):
    def test_least(self):
        """A destination's name is enough: the default instance, the provider, PREAUTH, the configured scope."""
        self.assertEqual(
            parse(manifest(), DEDICATED),
            Resource(
                "shop",
                "mail",
                (Binding(ListenerKey("shop", "mail"), DestinationRequest("local", "mailbox")),),
            ),
        )

    def test_most(self):
        """Everything that a resource may say is carried on."""
        resource = parse(
            manifest(
                annotations={GREETING: "open", TENANTS: '["globex", "acme"]'},
                destinationServiceInstanceName="other",
                destinationRef={"name": "mailbox", "level": "subaccount"},
                fragmentRef={"name": "part", "level": "provider_instance", "optional": True},
                chainRef={"name": "chain", "variables": [{"name": "a", "value": "1"}, {"name": "b", "value": "2"}]},
                service={"port": 1993},
                accessControl={"scope": "clusterWide"},
            ),
            SHARED,
        )
        request = DestinationRequest(
            "other",
            "mailbox",
            level="subaccount",
            fragment="part",
            fragment_level="provider_instance",
            fragment_optional=True,
            chain="chain",
            chain_variables=(("a", "1"), ("b", "2")),
        )
        self.assertEqual(
            resource,
            Resource(
                "shop",
                "mail",
                tuple(
                    Binding(ListenerKey("shop", "mail", tenant), evolve(request, tenant=tenant), GreetingMode.OPEN)
                    for tenant in (Tenant("acme"), Tenant("globex"))
                ),
                1993,
                "clusterWide",
            ),
        )

    def test_shared_without_annotation(self):
        """In shared mode, a resource that names no tenants serves the provider's own."""
        self.assertEqual([each.key.tenant for each in parse(manifest(), SHARED).bindings], [PROVIDER])

    def test_defaults(self):
        """The namespace is `default` where none is given; the scope is the configured one."""
        content = manifest()
        del content["metadata"]["namespace"]
        resource = parse(content, evolve(DEDICATED, security=Security(default_scope="clusterWide")))
        self.assertEqual((resource.namespace, resource.scope), ("default", "clusterWide"))

    def test_nothing_is_as_absent(self):
        """A key without a value is a key that is not there, as in Kubernetes."""
        content = manifest(fragmentRef=None, chainRef={"name": "c", "variables": None}, service={"port": None})
        content["spec"] |= {"accessControl": None, "destinationServiceInstanceName": None}
        resource = parse(content, DEDICATED)
        self.assertEqual((resource.port, resource.bindings[0].request.chain), (0, "c"))

    def test_created(self):
        """When a cluster made it, quoted or not; a time that no cluster writes is none."""
        for written, created in (
            ("2022-08-26T11:05:30Z", "2022-08-26T11:05:30Z"),
            (datetime(2022, 8, 26, 11, 5, 30, tzinfo=UTC), "2022-08-26T11:05:30Z"),
            (datetime(2022, 8, 26, 11, 5, 30), "2022-08-26T11:05:30Z"),
            (datetime(2022, 8, 26, 11, 5, 30, tzinfo=timezone(timedelta(hours=2))), ""),
            ("yesterday", ""),
            ("2022-08-26T11:05:30Z\n", ""),
            (["x"], ""),
            (None, ""),
        ):
            for port, kind in ((993, Resource), ("993", Rejected)):
                with self.subTest(written=written, port=port):
                    metadata = {"creationTimestamp": written}
                    made = parse(manifest(metadata=metadata, service={"port": port}), DEDICATED)
                    self.assertEqual((type(made), made.created), (kind, created))

    def test_other_kinds(self):
        """Objects of another kind are none of ours."""
        self.assertIsNone(parse({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}, DEDICATED))


class BadManifests(SynchronousTestCase):
    """Each mistake is one refusal that names the field, and keeps what was open before."""

    def rejected(self, content: object, *words: str, config: Config = DEDICATED) -> Rejected:
        rejected = parse(content, config)
        self.assertIsInstance(rejected, Rejected)
        for word in words:
            self.assertIn(word, str(rejected.refusal))
        return rejected

    def test_no_object(self):
        """What has no kind or no name to file an answer under is refused outright."""
        for content, word in (
            (["a"], "the document"),
            ("a", "the document"),
            ({}, "kind"),
            ({"kind": 5}, "kind"),
            ({"kind": "Destination"}, "metadata"),
            ({"kind": "Destination", "metadata": []}, "metadata"),
            (manifest(None), "metadata.name"),
            (manifest(""), "metadata.name"),
            (manifest(7), "metadata.name"),
            (manifest("UPPER"), "metadata.name"),
            (manifest("a..b"), "metadata.name"),
            (manifest("../a"), "metadata.name"),
            (manifest("a" * 254), "metadata.name"),
            (manifest("a\nb"), "metadata.name"),
            (manifest(metadata={"namespace": "a.b"}), "metadata.namespace"),
            (manifest(metadata={"namespace": "a" * 64}), "metadata.namespace"),
        ):
            with self.subTest(content=content):
                error = self.assertRaises(RefusedError, parse, content, DEDICATED)
                self.assertIn(word, error.refusal.message)

    def test_fields(self):
        """A wrong value is named by its path."""
        long = "n" * 201
        for content, word in (
            ({**manifest(), "apiVersion": "v1"}, "apiVersion"),
            ({**manifest(), "apiVersion": None}, API_VERSION),
            ({**manifest(), "spec": None}, "spec is missing"),
            ({**manifest(), "spec": "x"}, "spec is no mapping"),
            (manifest(annotations="x"), "metadata.annotations"),
            (manifest(annotations={GREETING: "hello"}), "'hello'"),
            (manifest(annotations={GREETING: "login"}), "use one of: preauth, open"),
            (manifest(annotations={GREETING: {}}), GREETING),
            (manifest(destinationRef=None), "spec.destinationRef is missing"),
            (manifest(destinationRef={}), "spec.destinationRef.name is missing"),
            (manifest(destinationRef={"name": 5}), "put it in quotes"),
            (manifest(destinationRef={"name": "a\r\nb"}), "cannot be printed"),
            (manifest(destinationRef={"name": long}), "201 characters"),
            (manifest(destinationRef={"name": "x", "level": "moon"}), "spec.destinationRef.level is 'moon'"),
            (manifest(fragmentRef={"level": "instance"}), "spec.fragmentRef.name is missing"),
            (manifest(fragmentRef={"name": "f", "level": 1}), "spec.fragmentRef.level"),
            (manifest(fragmentRef={"name": "f", "optional": "yes"}), "spec.fragmentRef.optional is 'yes'"),
            (manifest(chainRef={"variables": []}), "spec.chainRef.name"),
            (manifest(chainRef={"name": "c", "variables": {}}), "spec.chainRef.variables is no list"),
            (manifest(chainRef={"name": "c", "variables": ["x"]}), "spec.chainRef.variables[0]"),
            (manifest(chainRef={"name": "c", "variables": [{"name": "x"}]}), "variables[0].value is missing"),
            (manifest(destinationServiceInstanceName="third"), "local, other"),
            (manifest(destinationServiceInstanceName=3), "spec.destinationServiceInstanceName"),
            (manifest(service=[]), "spec.service is no mapping"),
            (manifest(accessControl={"scope": "world"}), "spec.accessControl.scope is 'world'"),
            *((manifest(service={"port": port}), "spec.service.port") for port in (0, -1, 65536, "993", True, 9.5, {})),
        ):
            with self.subTest(content=content):
                rejected = self.rejected(content, word)
                self.assertEqual(rejected.refusal.reason, Reason.RESOURCE_INVALID)

    def test_no_instance(self):
        """Without a default instance, the resource has to name one."""
        self.rejected(
            manifest(), "spec.destinationServiceInstanceName is missing", config=evolve(DEDICATED, default_instance="")
        )

    def test_reference_under_metadata(self):
        """The published sample lacks its `spec:` line: the message says where the field belongs."""
        content = manifest(metadata={"destinationRef": {"name": "mailbox"}})
        del content["spec"]
        self.rejected(content, "under metadata", "belongs under spec")

    def test_annotation(self):
        """Tenants are a JSON array of different subdomains, and not too many."""
        for value in (
            "[]",
            "",
            "acme",
            '{"acme": 1}',
            '"acme"',
            "null",
            "[",
            '["acme", "acme"]',
            '["acme", 5]',
            '["acme", null]',
            '["acme", ["x"]]',
            '["Acme"]',
            '["-a"]',
            '["a-"]',
            '["a.b"]',
            '["../a"]',
            '[""]',
            json.dumps(["a" * 64]),
            json.dumps([f"t{number}" for number in range(501)]),
            "[" * 100_000,
            "[1" + "0" * 5000 + "]",
            5,
            ["acme"],
        ):
            with self.subTest(value=value):
                rejected = self.rejected(manifest(annotations={TENANTS: value}), TENANTS, config=SHARED)
                self.assertEqual(rejected.refusal.reason, Reason.TENANT_ANNOTATION_INVALID)

    def test_most_tenants(self):
        """As many tenants as are allowed are served."""
        value = json.dumps([f"t{number}" for number in range(500)])
        self.assertEqual(len(parse(manifest(annotations={TENANTS: value}), SHARED).bindings), 500)

    def test_mode(self):
        """In dedicated mode nobody names tenants."""
        rejected = self.rejected(manifest(annotations={TENANTS: '["acme"]'}), "config.tenantMode")
        self.assertEqual(rejected.refusal.reason, Reason.TENANT_MODE_MISMATCH)

    def test_who_stays(self):
        """A tenant that a wrong annotation no longer names is gone; where that can't be told, all stay."""
        for value, stays, goes in (
            (None, (PROVIDER,), ("acme",)),
            ({TENANTS: "[]"}, (), (PROVIDER, "acme")),
            ({TENANTS: '["acme", "acme", 5]'}, ("acme",), (PROVIDER, "globex")),
            ({TENANTS: '["acme"'}, (PROVIDER, "acme"), ()),
            ({TENANTS: 5}, (PROVIDER, "acme"), ()),
            (["x"], (PROVIDER, "acme"), ()),
        ):
            with self.subTest(value=value):
                rejected = self.rejected(manifest(annotations=value, service={"port": 0}), config=SHARED)
                self.assertEqual([rejected.keeps(Tenant(each)) for each in stays], [True] * len(stays))
                self.assertEqual([rejected.keeps(Tenant(each)) for each in goes], [False] * len(goes))

    def test_names_that_no_service_has(self):
        """A name that fits no Service is refused for that tenant; the other tenants are served."""
        for name, value, served, refused in (
            ("a.b", None, [], [""]),
            ("1a", None, [], [""]),
            ("a" * 63, None, [""], []),
            ("a" * 64, None, [], [""]),
            ("a" * 60, {TENANTS: '["bb", "ccc"]'}, ["bb"], ["ccc"]),
            ("1a", {TENANTS: '["bb"]'}, [], ["bb"]),
        ):
            with self.subTest(name=name):
                resource = parse(manifest(name, value), SHARED)
                self.assertEqual([each.key.tenant for each in resource.bindings], served)
                self.assertEqual([tenant for tenant, _ in resource.refused], refused)
                for _, refusal in resource.refused:
                    self.assertEqual(refusal.reason, Reason.RESOURCE_INVALID)
                    self.assertIn("cannot be the name of a Service", refusal.message)

    def test_short_messages(self):
        """No value makes a message long, or costs time or memory to show."""
        bomb: object = "x"
        for _ in range(60):
            bomb = [bomb, bomb]
        for value in ("x" * 100_000, 1 << 100_000, bomb, 3.5, None):
            rejected = self.rejected(manifest(destinationRef={"name": "m", "level": "x"}, service={"port": value or 0}))
            self.assertLess(len(str(rejected.refusal)), 512)

    @settings(deadline=None, max_examples=200)
    @given(st.data())
    def test_anything(self, data: st.DataObject):
        """Whatever stands in a manifest, the answer is a resource, a refusal, or nothing."""
        junk = st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.none(), inner, max_size=3)
            ),
            max_leaves=6,
        )
        content = manifest(annotations={TENANTS: '["acme"]'}, fragmentRef={"name": "f"}, chainRef={"name": "c"})
        place: Any = content
        while isinstance(place, dict):
            parent, key = place, data.draw(st.sampled_from(sorted(place)))
            place = parent[key]
            if data.draw(st.booleans()):
                break
        parent[key] = data.draw(junk)
        try:
            self.assertIsInstance(parse(content, SHARED), Resource | Rejected | None)
        except RefusedError as error:
            self.assertTrue(error.refusal.message)


class Conditions(SynchronousTestCase):
    def test_reasons(self):
        """Reasons are those that users' alerts match on; the rest is one reason."""
        self.assertEqual(
            {condition_reason(reason) for reason in Reason},
            {
                "ConfigurationError-ReferencedDestination-NotFound",
                "ConfigurationError-ReferencedFragment-NotFound",
                "ConfigurationError-ReferencedDestination-TypeNotSupported",
                "ConfigurationError-ReferencedDestination-ProxyTypeNotSupported",
                "ConfigurationError-ReferencedDestination-LoopbackUrlNotSupported",
                "ConfigurationError-MultitenancyAnnotation-Invalid",
                "ConfigurationError-K8sResourceWithNameAlreadyPresent",
                "ConfigurationError-DuplicateDestinationCustomResource",
                "ConfigurationError-ProxyTenantModeMismatch",
                "ServiceCreationFailed",
                "FailedToApplyConfiguration",
            },
        )
        self.assertEqual(condition_reason(Reason.TOKEN_REFUSED), "FailedToApplyConfiguration")
        self.assertEqual(
            condition_reason(Reason.DESTINATION_NOT_FOUND), "ConfigurationError-ReferencedDestination-NotFound"
        )

    def test_first(self):
        """A resource that was told nothing yet gets both conditions."""
        row = ListenerStatus(ListenerKey("shop", "mail"), "127.0.0.1", 993, True, "ConfigurationSuccessful")
        status = Status(True, "ConfigurationSuccessful", "", (row,))
        condition = {
            "status": "True",
            "reason": "ConfigurationSuccessful",
            "message": "",
            "lastUpdateTime": "now",
            "lastTransitionTime": "now",
            "observedGeneration": 7,
        }
        self.assertEqual(
            conditions(status, "now", 7), [{"type": "Available", **condition}, {"type": "Ready", **condition}]
        )

    def test_transition(self):
        """The time of transition moves with the status alone."""
        up, down = Status(True, "ConfigurationSuccessful"), Status(False, "FailedToApplyConfiguration", "m" * 600)
        first = conditions(up, "1")
        again = conditions(up, "2", before=first)
        fallen = conditions(down, "3", before=again)
        self.assertEqual([each["lastTransitionTime"] for each in again + fallen], ["1", "1", "3", "3"])
        self.assertEqual([each["lastUpdateTime"] for each in again + fallen], ["2", "2", "3", "3"])
        self.assertEqual({each["status"] for each in fallen}, {"False"})
        self.assertEqual({len(str(each["message"])) for each in fallen}, {512})

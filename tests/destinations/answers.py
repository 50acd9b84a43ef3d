"""Answers of the Destination service and of token endpoints, good and bad."""

from __future__ import annotations

import json

from hypothesis import strategies as st
from twisted.web.http_headers import Headers

from tproxy.destinations.keys import ServiceKey
from tproxy.model import DestinationRequest, Secret, Tenant
from tproxy.net.http import Answer

JSON = "application/json"
ACME = Tenant("acme")
KEY = ServiceKey("client", Secret("s3cret"), None, "https://provider.auth.example", "https://dest.example")
REQUEST = DestinationRequest("dest", "mail", ACME)
DOCUMENT = {"Name": "mail", "Type": "MAIL", "mail.password": "pw-canary", "clientSecret": "cs-canary"}
BODY = {"owner": {"SubaccountId": "1", "InstanceId": None}, "destinationConfiguration": DOCUMENT}


def answer(status: int, body: object = b"", kind: str = JSON, **headers: str) -> Answer:
    """What a server says; `Retry_After` is the header Retry-After."""
    octets = body if isinstance(body, bytes) else json.dumps(body).encode()
    values = {b"Content-Type": [kind.encode()]} | {
        name.replace("_", "-").encode(): [value.encode()] for name, value in headers.items()
    }
    return Answer(status, Headers(values), octets)


def said(message: str) -> dict[str, str]:
    """The body of an error."""
    return {"ErrorMessage": message}


FOUND = answer(200, BODY)
NOT_FOUND = answer(404, said("no such destination"))
NOT_ACCEPTED = answer(401, said("token is invalid"))

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)

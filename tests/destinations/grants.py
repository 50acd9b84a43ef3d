"""Grants of OAuth 2.0 as destinations hold them."""

from __future__ import annotations

from attrs import evolve

from tproxy.model import Grant, GrantKind, Secret

URL = "https://login.example.com/token?v=2"
SECRET = "pässw/rd+&=%canary"
GRANT = Grant(URL, "client", Secret("secret"))
REFRESH = evolve(GRANT, kind=GrantKind.REFRESH_TOKEN, offered=Secret("offered"))
CODE = evolve(GRANT, kind=GrantKind.AUTHORIZATION_CODE, offered=Secret("offered"))
PUBLIC = Secret("")

"""Logins to try, and how they end."""

from __future__ import annotations

from attrs import evolve

from tproxy.lines import Dialogue
from tproxy.model import Bearer, NoCredential, Password, Refusal, Secret
from tproxy.session import Login, Machine, Refuse

PASSWORD = Login(Password("u", Secret("pw")), "mail.example", 993, True, False, "t", "nonce")
BEARER = evolve(PASSWORD, credential=Bearer("u@x", Secret("tok")))
NOBODY = evolve(PASSWORD, credential=NoCredential())

GREETED = b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=XOAUTH2] ready\r\n"


def on_plain_port(login: Login, allowed: bool = False) -> Login:
    """The same without TLS from the first byte."""
    return evolve(login, encrypted=False, plaintext_allowed=allowed)


def refusal(machine: Machine, *received: bytes) -> Refusal:
    """How a dialogue is refused."""
    dialogue = Dialogue(machine)
    effects = [effect for data in received for effect in dialogue.receive(data)]
    [refusal] = [effect.refusal for effect in effects if isinstance(effect, Refuse)]
    return refusal

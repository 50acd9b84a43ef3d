"""A stand-in of SAP BTP's authorization server and Destination service, and of a mail provider's token endpoint.

It serves https on loopback until it is told to stop. The configuration file is read again when it
changes, once a second; tokens that were issued live on, and a wrong file leaves the last good one in force.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import LoopingCall, react

from tproxy.places import ConfigError
from tproxy.testing.btp import BTP
from tproxy.testing.btp.setup import parse

EPILOG = """
The configuration (YAML); only provider and clientId have to be there:

  provider: main              # the provider's own subdomain
  clientId: sb-tproxy
  clientSecret: s3cret        # leave it out, and the service key is an X.509 key
  tokenSeconds: 43200         # the life of the authorization server's tokens
  authTokens: true            # whether MAIL destinations come with tokens
  tenants:                    # the provider may be among them
    acme:
      subscribed: true
      destinations:           # subaccount and instance: properties by name
        subaccount:
          mail:
            Type: MAIL
            Authentication: OAuth2ClientCredentials
            tokenServiceURL: https://login.localhost:{port}/token   # {port}: the stand-in's own
            clientId: mail-client
            clientSecret: mail-secret
            mail.user: anna@acme.example
      fragments:
        instance:
          other-user: {mail.user: bert@acme.example}
  mailProvider:
    tokenSeconds: 3600
    clients:                  # username: whose tokens the client credentials give
      mail-client: {secret: mail-secret, username: anna@acme.example}
    refreshTokens: {a-refresh-token: anna@acme.example}
    codes: {a-code: anna@acme.example}
  faults:                     # the first that fits counts
    - endpoint: destination   # or token (authorization server), mail (mail provider)
      answer: busy            # or broken, unavailable, silent, slow, truncated, login-page, huge, redirect, token-error
      seconds: 7              # of busy: Retry-After; of slow: the delay
      tenant: acme            # default: all
      requests: 3             # default: until the file is changed
"""


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop; returns 1 where the configuration is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tproxy.testing.btp",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="what it knows (YAML), see below")
    parser.add_argument("--listen", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--ca-out", type=Path, required=True, metavar="FILE", help="where its CA certificate is put")
    parser.add_argument("--key-out", type=Path, metavar="FILE", help="where the service key is put; kept up to date")
    options = parser.parse_args(arguments)
    try:
        text = read(options.config)
        setup = parse(text, options.config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    react(lambda reactor: Deferred.fromCoroutine(serve(reactor, options, BTP(reactor, setup), text)))
    return 0


async def serve(reactor: Any, options: argparse.Namespace, btp: BTP, text: str) -> None:
    """Open the port, write the files, and follow the configuration, whose text was read."""
    try:
        await btp.start(options.listen, options.port)
        options.ca_out.write_text(btp.authority.pem)
        write_key(btp, options.key_out)
    except (CannotListenError, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    print(f"authorization server: {btp.url(f'{btp.setup.provider}.authentication')}")
    print(f"Destination service: {btp.url('destination')}")
    print(f"mail provider: {btp.url('login', '/token')}", flush=True)
    following = Following(btp, options.config, options.key_out, text)
    await LoopingCall(following.look).start(1.0, now=False)


class Following:
    """Keeps a stand-in as its configuration file says; `text` is what it was when that was read last."""

    def __init__(self, btp: BTP, config: Path, key_out: Path | None, text: str) -> None:
        self._btp = btp
        self._config = config
        self._key_out = key_out
        self._text = text
        self._complaint = ""

    def look(self) -> None:
        """Take over what has changed; say once what is wrong with it."""
        complaint = ""
        try:
            text = read(self._config)
            if text == self._text:
                return
            self._btp.change(parse(text, self._config))
            self._text = text
            write_key(self._btp, self._key_out)
        except (ConfigError, OSError) as error:
            complaint = str(error)
        if complaint not in ("", self._complaint):
            print(complaint, file=sys.stderr, flush=True)
        self._complaint = complaint


def read(config: Path) -> str:
    """The text of the configuration file. Raises ConfigError."""
    try:
        return config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{config}: cannot be read: {why}") from None


def write_key(btp: BTP, path: Path | None) -> None:
    """Put the service key there at one blow, for its owner's eyes only."""
    if path is None:
        return
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(json.dumps(btp.service_key(), indent=2))
    new.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

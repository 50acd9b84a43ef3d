"""Access by a kubeconfig, read by the official client's loader, which is an optional extra of the installation."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tproxy.cluster.api.access import Access, bearer, trusting
from tproxy.config import ConfigError
from tproxy.model import Identity, Secret, Trust


def kubeconfig(file: str | None = None, context: str | None = None) -> Access:
    """The API server and the user of a context.

    A program that the kubeconfig names to fetch a token runs within this call, and within a
    request when the token has run out: meant for commands, not for servers.

    @param file: None for what KUBECONFIG names, or the usual place
    @param context: None for the current one
    @raise ConfigError: the loader is not installed, or what the context says cannot be used here
    """
    source = _Source(file, context)
    server = source.server()
    identity = source.identity()
    trust = source.trust(identity)
    if identity is None and source.token(False) is None:
        raise source.unusable("its user brings neither a token nor a certificate with its key; does its program run?")
    path, port = server.path.rstrip("/"), server.port or 443
    return Access(server.hostname or "", port, lambda: trust, source.token, source.namespace, path)


class _Source:
    def __init__(self, file: str | None, context: str | None) -> None:
        self._file, self._context = file, context
        self._load()

    def server(self) -> Any:
        server = urlsplit(self._loaded.host or "")
        try:
            server.port  # noqa: B018
        except ValueError:
            raise self.unusable("its server is no URL") from None
        if server.scheme != "https" or not server.hostname:
            raise self.unusable("its server is no https URL")
        if self._loaded.tls_server_name:
            raise self.unusable("tls-server-name is not supported: name the server as its certificate does")
        if self._loaded.proxy:
            raise self.unusable("proxy-url is not supported: name a server that can be reached directly")
        return server

    def trust(self, identity: Identity | None) -> Trust:
        if not self._loaded.verify_ssl:
            return Trust(verify=False, identity=identity)
        if not self._loaded.ssl_ca_cert:
            return Trust(identity=identity)
        try:
            return Trust(trusting(Path(self._loaded.ssl_ca_cert).read_bytes()).authorities, identity=identity)
        except (OSError, ValueError):
            raise self.unusable("its certificate-authority cannot be read") from None

    def identity(self) -> Identity | None:
        if not (self._loaded.cert_file and self._loaded.key_file):
            return None
        try:
            return Identity(
                Path(self._loaded.cert_file).read_text(encoding="ascii"),
                Secret(Path(self._loaded.key_file).read_text(encoding="ascii")),
            )
        except (OSError, ValueError):
            raise self.unusable("its client-certificate or client-key cannot be read") from None

    def token(self, refused: bool) -> Secret | None:
        """The token to use now; after one was refused, all is read again."""
        if refused:
            self._load()
        elif self._loaded.refresh_api_key_hook is not None:
            try:
                self._loaded.refresh_api_key_hook(self._loaded)
            except Exception as error:  # whatever a third party's loader and its programs raise
                raise self._unreadable(error) from None
        keys = self._loaded.api_key
        scheme, _, token = (keys.get("BearerToken") or keys.get("authorization") or "").partition(" ")
        if not token:
            return None
        if scheme.lower() != "bearer":
            raise self.unusable("it has a user name and a password, which API servers do not take: give a token")
        try:
            return bearer(token.encode())
        except ValueError:
            raise self.unusable("its token is none") from None

    def unusable(self, problem: str) -> ConfigError:
        where = f"{self._file}: " if self._file else ""
        which = f"the context {self._context}" if self._context else "the current context"
        return ConfigError(f"{where}{which} of the kubeconfig cannot be used: {problem}")

    def _load(self) -> None:
        try:
            from kubernetes.client import Configuration
            from kubernetes.config import kube_config
        except ImportError:
            raise ConfigError("a kubeconfig can be read once tproxy[kubeconfig] is installed") from None
        loaded = Configuration()
        loaded.api_key, loaded.proxy = {}, None
        try:
            contexts, current = kube_config.list_kube_config_contexts(self._file)
            if self._context and self._context not in (each["name"] for each in contexts):
                raise self.unusable("it has no context of that name")
            kube_config.load_kube_config(self._file, self._context, loaded, persist_config=False)
            chosen = next((each for each in contexts if each["name"] == self._context), current)
            self.namespace = str(chosen["context"].get("namespace") or "default")
        except ConfigError:
            raise
        except Exception as error:  # whatever a third party's loader and its programs raise
            raise self._unreadable(error) from None
        self._loaded: Any = loaded

    def _unreadable(self, error: Exception) -> ConfigError:
        return self.unusable(f"it cannot be read ({type(error).__name__})")

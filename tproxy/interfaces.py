"""Every seam of the program, once: what a protocol, a store of destinations and a cluster have to offer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from twisted.internet.defer import Deferred

    from tproxy.model import Credential, Destination, DestinationRequest, Offered, Refusal, Resolution
    from tproxy.operator.plan import Snapshot
    from tproxy.session import Event, Greeting, Login, Machine


class IProtocolPlugin(Interface):
    """A mail protocol: found with `twisted.plugin` in the package `tproxy.protocols`.

    All of its machines are pure: see `tproxy.session`.
    """

    name = Attribute("The value of `mail.transport.protocol` that it serves, such as 'imap4s' (str).")
    default_port = Attribute("The port of the mail server and of the Service where none is given (int).")
    encrypted = Attribute("Whether TLS comes before the first byte (bool).")

    def log_in(login: Login) -> Machine:
        """The client half: from the mail server's greeting to `LoggedIn`, `HandOver` or `Refuse`."""

    def greet(greeting: Greeting) -> Machine:
        """The server half: waits for `LoggedIn` or `Refuse`, greets, answers until `HandOver` or `Close`.

        In mode `LOGIN` it begins with `Accepted`, greets at once, and asks with `CredentialOffered`;
        a `Refuse` then is the answer to one attempt, after which the application may try again, unless
        the reason is `REVOKED`. `Expired` says that nobody offered anything in time.
        """

    def probe(login: Login, capabilities: tuple[str, ...]) -> Machine:
        """One harmless command after the login: begins with the event `LoggedIn`, ends with `Verified` or `Refuse`.

        `capabilities` are those of `LoggedIn`.
        """


class ICommentary(Interface):
    """What a protocol plug-in may offer as well: words for `tproxy check` about what goes over the wire.

    Both are pure, and neither repeats a credential.
    """

    def heard(event: Event) -> str:
        """What the mail server tells of itself with this; empty for nothing worth telling."""

    def said(octets: bytes) -> tuple[str, str]:
        """The step that begins where the client half sends this, and what it asks for; empty for nothing new."""


class IDestinationStore(Interface):
    """Where destinations come from."""

    def describe(request: DestinationRequest) -> Deferred[Destination]:
        """The destination alone: no token is fetched. Fails with `RefusedError`."""

    def resolve(request: DestinationRequest, offered: Offered | None = None) -> Deferred[Resolution]:
        """The destination and the credential to use now. Fails with `RefusedError`.

        `offered` is what the application brought, where the destination asks for that.
        """

    def renew(
        request: DestinationRequest, refused: Credential, offered: Offered | None = None
    ) -> Deferred[Resolution | None]:
        """After a refused login: what a fresh look gives, or None where it would be the same credential again.

        `refused` is the credential that the mail server refused.
        """


class IKeySource(Interface):
    """Where the key of a Destination service instance is kept: a file, a mounted folder, a Kubernetes Secret."""

    def read() -> Mapping[str, bytes]:
        """What is kept now, by file name or key of the Secret. Raises `RefusedError`."""


class ICluster(Interface):
    """Where Destination resources come from and are told how they fare, and where stands whose each port is."""

    def observe() -> Snapshot | None:
        """What is there now, with what was claimed; None while nothing is known yet.

        An error or a missing answer is never an empty snapshot.
        """

    def watch(changed: Callable[[], None]) -> None:
        """Call `changed()` after each change, until the cluster is stopped."""

    def perform(action: Any) -> Deferred[None]:
        """Carry out an action of a plan that was made for this kind of cluster; fires when it is written.

        For a folder it is a L{Claim}, L{Release} or L{SetStatus}, for Kubernetes a look or a write of
        L{tproxy.operator.steps}. Fails with `RefusedError`, whose reason is `PORT_NOT_AVAILABLE` where a claim may
        do with another port.
        """


class IInstallation(ICluster):
    """A cluster in which there are other replicas, and one of them leads."""

    def report(refusal: Refusal) -> None:
        """Tell those who look after this replica what it cannot do; the others may be able to."""

    def leave() -> None:
        """From now on this replica is to be named nowhere, as long as there is another one that is ready."""

    def named() -> bool:
        """Whether this replica is named anywhere, though there is another one that is ready."""

    def resign() -> Deferred[None]:
        """Lead no more: another replica may do so at once."""

"""Every seam of the program, once: what a protocol, a store of destinations and a cluster have to offer."""

from __future__ import annotations

from zope.interface import Attribute, Interface


class IProtocolPlugin(Interface):
    """A mail protocol: found with `twisted.plugin` in the package `tproxy.protocols`.

    All of its machines are pure: see `tproxy.session`.
    """

    name = Attribute("The value of `mail.transport.protocol` that it serves, such as 'imap4s' (str).")
    default_port = Attribute("The port of the mail server and of the Service where none is given (int).")
    encrypted = Attribute("Whether TLS comes before the first byte (bool).")

    def log_in(login):
        """The client half: from the mail server's greeting to `LoggedIn`, `HandOver` or `Refuse`.

        @type login: L{tproxy.session.Login}
        @rtype: L{tproxy.session.Machine}
        """

    def greet(greeting):
        """The server half: waits for `LoggedIn` or `Refuse`, greets, answers until `HandOver` or `Close`.

        @type greeting: L{tproxy.session.Greeting}
        @rtype: L{tproxy.session.Machine}
        """

    def probe(login, capabilities):
        """One harmless command after the login: ends with `Verified` or `Refuse`.

        @type login: L{tproxy.session.Login}
        @param capabilities: those of `LoggedIn` (tuple of str)
        @rtype: L{tproxy.session.Machine}
        """


class IDestinationStore(Interface):
    """Where destinations come from."""

    def describe(request):
        """The destination alone: no token is fetched.

        @type request: L{tproxy.model.DestinationRequest}
        @return: a Deferred of a L{tproxy.model.Destination}; fails with L{tproxy.model.RefusedError}
        """

    def resolve(request):
        """The destination and the credential to use now.

        @type request: L{tproxy.model.DestinationRequest}
        @return: a Deferred of a L{tproxy.model.Resolution}; fails with L{tproxy.model.RefusedError}
        """

    def renew(request, refused):
        """After a refused login: what a fresh look gives, if that is another credential.

        @param refused: the credential that the mail server refused
        @return: a Deferred of a L{tproxy.model.Resolution}, or of None where it would be the same again
        """


class ICluster(Interface):
    """Where Destination resources come from and where the answer about them goes."""

    def observe():
        """What is there now.

        @return: a L{tproxy.operator.plan.Observed}
        """

    def watch(changed):
        """Call `changed()` after each change, until the cluster is stopped."""

    def perform(action):
        """Carry one action of a plan out.

        @return: a Deferred that fires when it is done
        """

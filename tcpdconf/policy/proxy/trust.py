"""Decides how a listener uses the PROXY protocol: who must send a header, and which addresses apply.

`header` parses a header; this module applies it to the connection.
"""

from collections.abc import Iterable
from typing import Final, Literal

from tcpdconf.config.model import tables, values
from tcpdconf.policy import connection
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.access.table import Networks, Rule
from tcpdconf.policy.proxy.header import Header

# elsewhere, exempt: connects directly, without a header, because of the local address or of the peer's;
# trusted: must send a header; stranger: is refused at once
Standing = Literal["elsewhere", "exempt", "trusted", "stranger"]

_MEMBER: Final = Rule("allow")


class Terms:
    """Holds the PROXY settings of one listener, ready for lookup."""

    def __init__(self, settings: tables.HAProxy) -> None:
        self._closes = settings.local == "close"
        self._trusted = _networks(["*"] if settings.trusted == "any" else settings.trusted)
        self._exempt = _networks(settings.exempt)
        self._here = _networks(settings.local_addresses or ["*"])

    def standing(self, link: connection.Link) -> Standing:
        """Return what a listener expects of the peer of a socket; `link` has the socket's own ends."""
        if self._here.find(link.local, link) is None:
            return "elsewhere"
        if self._exempt.find(link.peer, link) is not None:
            return "exempt"
        return "stranger" if self._trusted.find(link.peer, link) is None else "trusted"

    def take(self, link: connection.Link, header: Header) -> connection.Link | connection.Refused:
        """Return the link that the header describes; LOCAL and UNKNOWN keep the socket's ends, or refuse."""
        if header.local and self._closes:
            return OWN
        if header.source is None or header.destination is None:
            return link
        proxy = connection.Proxy(link.peer, link.local)
        return connection.Link(header.source, header.destination, proxy)


def refused(error: str) -> connection.Refused:
    """Return the refusal of a peer that broke the PROXY protocol."""
    return connection.Refused("proxy", (("error", error),))


STRANGER: Final = refused("not a trusted proxy")
OWN: Final = refused("the proxy's own connection")  # with local = "close"


def _networks(which: Iterable[values.IPNetwork | str]) -> Networks:
    found = Networks()
    for network in which:
        for prefix in access_table.prefixes(network):
            found.add(prefix, _MEMBER)
    return found

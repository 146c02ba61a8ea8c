"""Translates couriertcpd's port list, -address, -listen and -haproxy into listeners.

Source: couriertcpd(8), MULTIPLE PORT LIST and Enabling HAProxy.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from tcpdconf.config import collisions, host
from tcpdconf.config.couriertcpd import addresses, grammar
from tcpdconf.config.couriertcpd import ports as port_list

_ALL: Final = "*"
_IPV4: Final = "0.0.0.0"  # noqa: S104 (the address of a listener, as configured)
_TIMEOUT: Final = 15  # seconds
_LONGEST: Final = 86400


class _Item(NamedTuple):
    """Holds one item of -haproxy: the port (0: any) and local address ("*": any) to which it applies."""

    text: str
    timeout: int
    address: str
    port: int

    def covers(self, address: str, port: int) -> bool:
        """Return whether it applies to all connections of a listener."""
        return self.port in {0, port} and self.address in {_ALL, address}

    def touches(self, address: str, port: int) -> bool:
        """Return whether it applies to some connections of a listener that has several addresses."""
        inside = address == _ALL or (address == _IPV4 and ":" not in self.address)
        return self.port in {0, port} and inside


def tables(draft: grammar.Draft) -> list[dict[str, Any]]:
    """Return the `listeners` of a command line.

    Raises:
        CommandLineError: a port or an address is invalid, or two items cannot be bound together.
    """
    found = list(_listed(draft))
    bound = [
        collisions.Bound("", place, table.get("address", _ALL), _number(table))
        for place, table in enumerate(found)
    ]
    if any(collisions.pairs(bound)):
        raise grammar.CommandLineError("bind: Address already in use")
    if (backlog := draft.positive("listen", "listen")) is not None:
        why = "couriertcpd checks the number and ignores it, tcpdconf uses it as the length of the queue"
        draft.note_option("changed", "listen", why, "listeners", 0, "backlog")
        for table in found:
            table["backlog"] = backlog
    if "haproxy" in draft.given.values:
        _add_haproxy(draft, found)
    return found


def _listed(draft: grammar.Draft) -> Iterator[dict[str, Any]]:
    given = draft.given
    for place, (item, written, port) in enumerate(port_list.items(given.ports)):
        address = _address(written or given.values.get("address", "0"))
        table: dict[str, Any] = {} if address == _ALL else {"address": address}
        table["port"] = port
        if address not in {_ALL, _IPV4} and not collisions.is_loopback(address):
            table["freebind"] = True  # couriertcpd binds addresses that this host may lack
        if isinstance(port, int) and str(port) != item.rpartition(".")[2]:
            draft.note("changed", item, f"is read as port {port}", "listeners", place)
        yield table


def _address(text: str) -> str:
    return _ALL if text == "0" else addresses.address(text)


def _number(table: dict[str, Any]) -> int:
    return host.port_number(table["port"])


def _add_haproxy(draft: grammar.Draft, listeners: Sequence[dict[str, Any]]) -> None:
    written = draft.given.values["haproxy"]
    items = [_item(text) for text in written.split(",") if text] or [_item("")]
    if not written:
        why = "means every port, as the manual says, while couriertcpd ignores it"
        draft.note_option("changed", "haproxy", why)
    if not draft.exact:
        why = "version 2 of the protocol is read as well as version 1"
        draft.note_option("changed", "haproxy", why)
    for place, table in enumerate(listeners):
        if timeouts := _timeouts(items, table):
            table["haproxy"] = _haproxy(draft, timeouts, place)
    for item in items:
        if not any(_timeouts([item], table) for table in listeners):
            draft.note_option("ignored", "haproxy", f"{item.text} matches no listener")


def _item(text: str) -> _Item:
    """Parse SECONDS/port=PORT or SECONDS/port=ADDRESS.PORT.

    Of several ports the first counts; other settings are ignored.
    """
    seconds, *settings = text.split("/")
    timeout = grammar.atoi(seconds)
    ports = [setting[5:] for setting in settings if setting.startswith("port=")]
    address, dot, port = (ports[0] if ports else "").rpartition(".")
    where = _address(address if dot else "0")
    return _Item(
        text,
        min(timeout, _LONGEST) if timeout > 0 else _TIMEOUT,
        _ALL if where == _IPV4 else where,
        max(0, grammar.atoi(port)),
    )


def _timeouts(items: Iterable[_Item], table: dict[str, Any]) -> dict[str, int]:
    """Return a listener's seconds by local address ("*" for others); later items override earlier ones."""
    address, port = table.get("address", _ALL), _number(table)
    found: dict[str, int] = {}
    for item in items:
        if item.covers(address, port):
            found = {_ALL: item.timeout}
        elif item.touches(address, port):
            found[item.address] = item.timeout
    return found


def _haproxy(draft: grammar.Draft, timeouts: dict[str, int], place: int) -> dict[str, Any]:
    key = ("listeners", place, "haproxy")
    why = 'any client of this port can claim any address: list your proxies instead of "any"'
    draft.note_option("risk", "haproxy", why, *key)
    timeout = max(timeouts.values())
    if timeout != min(timeouts.values()):
        why = "a listener has one timeout for all its addresses, here the longest"
        draft.note_option("changed", "haproxy", why, *key)
    table: dict[str, Any] = {"trusted": "any"}
    if timeout != _TIMEOUT:
        table["timeout"] = timeout
    if draft.exact:
        table["versions"] = ["v1"]
    if _ALL not in timeouts:
        table["local_addresses"] = list(timeouts)
    return table

"""couriertcpd's port list, -address, -listen and -haproxy as listeners.

Source: couriertcpd(8), MULTIPLE PORT LIST and Enabling HAProxy.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from tcpdconf.config import argvaddress, argvoptions, collisions, host

_ALL: Final = "*"
_IPV4: Final = "0.0.0.0"  # noqa: S104 (the address of a listener, as configured)
_TIMEOUT: Final = 15  # seconds
_LONGEST: Final = 86400


class _Item(NamedTuple):
    """One item of -haproxy: the port (0: every one) and local address ("*": every one) that it is for."""

    text: str
    timeout: int
    address: str
    port: int

    def covers(self, address: str, port: int) -> bool:
        """Whether it is for all connections of a listener."""
        return self.port in {0, port} and self.address in {_ALL, address}

    def touches(self, address: str, port: int) -> bool:
        """Whether it is for some connections of a listener that has several addresses."""
        inside = address == _ALL or (address == _IPV4 and ":" not in self.address)
        return self.port in {0, port} and inside


def tables(given: argvoptions.Given, notes: list[argvoptions.Note], *, exact: bool) -> list[dict[str, Any]]:
    """The `listeners` of a command line; adds to `notes`.

    Raises:
        CommandLineError: a port or an address is none, or two items cannot be bound beside each other.
    """
    found = list(_listed(given, notes))
    if not found:
        raise argvoptions.CommandLineError(f"Invalid port: {given.ports}")
    _refuse_collisions(found)
    backlog = argvoptions.count(given, "listen", "listen")
    if backlog is not None:
        why = "couriertcpd checks the number and does not use it; here it is the length of the queue"
        notes.append(argvoptions.Note("changed", given.written("listen"), why, ("listeners", 0, "backlog")))
    items = _items(given)
    for place, table in enumerate(found):
        if backlog is not None:
            table["backlog"] = min(backlog, 10_000_000)
        if haproxy := _haproxy(items, table, ("listeners", place), notes):
            table["haproxy"] = haproxy | ({"versions": ["v1"]} if exact else {})
    if items:
        notes += _about_haproxy(given, items, found, exact=exact)
    return found


def _listed(given: argvoptions.Given, notes: list[argvoptions.Note]) -> Iterator[dict[str, Any]]:
    for place, item in enumerate(filter(None, given.ports.split(","))):
        written, dot, text = item.rpartition(".")
        port = argvaddress.port(text)
        address = _address(written if dot and written != "0" else given.values.get("address", "0"))
        table: dict[str, Any] = {} if address == _ALL else {"address": address}
        table["port"] = port
        if _is_foreign(address):
            table["freebind"] = True
        if isinstance(port, int) and str(port) != text:
            notes.append(argvoptions.Note("changed", item, f"is read as port {port}", ("listeners", place)))
        yield table


def _address(text: str) -> str:
    return _ALL if text == "0" else argvaddress.address(text)


def _is_foreign(address: str) -> bool:
    """Whether this host may lack the address: couriertcpd binds it all the same."""
    return address not in {_ALL, _IPV4} and not collisions.is_loopback(address)


def _number(table: dict[str, Any]) -> int:
    return host.port_number(table["port"])


def _refuse_collisions(listeners: Sequence[dict[str, Any]]) -> None:
    bound = [
        collisions.Bound("", place, table.get("address", _ALL), _number(table))
        for place, table in enumerate(listeners)
    ]
    if any(collisions.pairs(bound)):
        raise argvoptions.CommandLineError("bind: Address already in use")


def _items(given: argvoptions.Given) -> list[_Item]:
    if "haproxy" not in given.values:
        return []
    return [_item(text) for text in given.values["haproxy"].split(",") if text] or [_item("")]


def _item(text: str) -> _Item:
    """SECONDS/port=PORT or SECONDS/port=ADDRESS.PORT; of several ports the first counts, no other setting."""
    seconds, *settings = text.split("/")
    timeout = argvoptions.atoi(seconds)
    ports = [setting[5:] for setting in settings if setting.startswith("port=")]
    address, dot, port = (ports[0] if ports else "").rpartition(".")
    where = _address(address if dot else "0")
    return _Item(
        text,
        min(timeout, _LONGEST) if timeout > 0 else _TIMEOUT,
        _ALL if where == _IPV4 else where,
        max(0, argvoptions.atoi(port)),
    )


def _haproxy(
    items: Sequence[_Item],
    table: dict[str, Any],
    key: tuple[str, int],
    notes: list[argvoptions.Note],
) -> dict[str, Any] | None:
    """What the items say of one listener, a later one before an earlier one."""
    address, port = table.get("address", _ALL), _number(table)
    timeouts: dict[str, int] = {}  # by local address; "*" is the others
    for item in items:
        if item.covers(address, port):
            timeouts = {_ALL: item.timeout}
        elif item.touches(address, port):
            timeouts[item.address] = item.timeout
    if not timeouts:
        return None
    timeout = max(timeouts.values())
    if timeout != min(timeouts.values()):
        why = "a listener has one timeout for all its addresses, here the longest"
        notes.append(argvoptions.Note("changed", "-haproxy", why, (*key, "haproxy")))
    haproxy: dict[str, Any] = {"trusted": "any"}
    if timeout != _TIMEOUT:
        haproxy["timeout"] = timeout
    if _ALL not in timeouts:
        haproxy["local_addresses"] = list(timeouts)
    return haproxy


def _about_haproxy(
    given: argvoptions.Given, items: Sequence[_Item], listeners: Sequence[dict[str, Any]], *, exact: bool
) -> Iterator[argvoptions.Note]:
    option = given.written("haproxy")
    for place, table in enumerate(listeners):
        if "haproxy" in table:
            yield argvoptions.Note(
                "risk",
                option,
                'everybody who reaches this port can claim any address: name your proxies instead of "any"',
                ("listeners", place, "haproxy"),
            )
    if not given.values["haproxy"]:
        yield argvoptions.Note(
            "changed", option, "means every port, as the manual says; couriertcpd does nothing then"
        )
    if not exact:
        yield argvoptions.Note("changed", option, "version 2 of the protocol is read as well as version 1")
    for item in items:
        if not any(
            item.covers(table.get("address", _ALL), _number(table))
            or item.touches(table.get("address", _ALL), _number(table))
            for table in listeners
        ):
            yield argvoptions.Note("ignored", option, f"no listener is meant by {item.text}")

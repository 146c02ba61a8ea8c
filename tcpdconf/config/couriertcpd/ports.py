"""Parses couriertcpd's list of ports: PORT or ADDRESS.PORT, separated by commas.

It imports little (see `config.ports`). Source: couriertcpd(8), MULTIPLE PORT LIST.
"""

from collections.abc import Iterator

from tcpdconf.config import ports
from tcpdconf.config.couriertcpd import grammar
from tcpdconf.config.model import values


def items(written: str) -> Iterator[tuple[str, str, int | str]]:
    """Yield each item with its address, empty if it has none, and its port.

    Raises:
        CommandLineError: a port is invalid, or there is no item.
    """
    found = list(filter(None, written.split(",")))
    if not found:
        raise grammar.CommandLineError(f"Invalid port: {written}")
    for item in found:
        address, dot, text = item.rpartition(".")
        yield item, address if dot and address != "0" else "", _port(text)


def _port(text: str) -> int | str:
    """Return a port: a number as atoi reads it, or a name that the host knows."""
    number = grammar.atoi(text)
    try:
        known = number or ports.number(text)
    except LookupError:
        known = 0
    if not 0 < known <= values.MAX_PORT:
        raise grammar.CommandLineError(f"Invalid port: {text}")
    return number or text

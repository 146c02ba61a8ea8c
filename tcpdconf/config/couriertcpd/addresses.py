"""Parses addresses as couriertcpd's command line writes them. Pure."""

import ipaddress
import re
from typing import Final

from tcpdconf.config import collisions
from tcpdconf.config.couriertcpd import grammar

_PART: Final = re.compile(r"0[0-7]*|[1-9][0-9]*")


def ipv4(text: str) -> str | None:
    """Return an IPv4 address from any inet_aton(3) form except hexadecimal, or None if it is none.

    >>> ipv4("127.1"), ipv4("2130706433"), ipv4("0177.0.0.1"), ipv4("127.0.0.256")
    ('127.0.0.1', '127.0.0.1', '127.0.0.1', None)
    """
    parts = text.split(".")
    if len(parts) > 4 or not all(_PART.fullmatch(part) for part in parts):
        return None
    *front, last = (int(part, 8 if part.startswith("0") else 10) for part in parts)
    bits = 8 * (4 - len(front))
    if not front:
        last %= 2**bits
    if last >= 2**bits or any(part > 255 for part in front):
        return None
    number = last + sum(part << 24 - 8 * place for place, part in enumerate(front))
    return str(ipaddress.IPv4Address(number))


def address(text: str) -> str:
    """Return a local address in canonical form; `::` means all of both families, "*".

    Raises:
        CommandLineError: the text is not an address.
    """
    if found := ipv4(text):
        return found
    try:
        six = ipaddress.IPv6Address("" if "%" in text else text)
    except ValueError:
        raise grammar.CommandLineError(f"Invalid IP address: {text}") from None
    return "*" if not int(six) else collisions.unmapped(str(six))

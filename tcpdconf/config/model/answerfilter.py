"""Parses filters of a DNS list's answers, which decide which addresses count.

A filter is four dotted octets, each a number or, in brackets, numbers and ranges separated by semicolons:
127.0.0.2, 127.0.0.[2..11], 127.0.[0;1].[2;4;10..12] (the notation of Postfix, postconf(5),
postscreen_dnsbl_sites). Or it is a network: 127.0.0.0/28. A network is four octets with a range each, so one
form serves both.
"""

import ipaddress
import re
from typing import Final, NamedTuple

from tcpdconf.config.model import values

_BYTE: Final = 255
_NUMBER: Final = re.compile(r"0|[1-9]\d{0,2}")
_OCTET: Final = re.compile(r"\[([^\[\]]*)\]|([^.\[\]]+)")


class Filter(NamedTuple):
    """Holds the numbers that each octet may have, from the left."""

    first: frozenset[int]
    second: frozenset[int]
    third: frozenset[int]
    fourth: frozenset[int]

    def is_believable(self) -> bool:
        """Return whether it admits an address that means a listing.

        Such an address is in 127.0.0.0/8, is no error code, and is not 127.0.0.1.
        """
        code = all(octet <= {_BYTE} for octet in (self.second, self.third))
        loopback = all(octet == {number} for octet, number in zip(self, (127, 0, 0, 1), strict=True))
        return 127 in self.first and not code and not loopback

    def admits(self, octets: tuple[int, ...]) -> bool:
        """Return whether an address, as its four numbers, passes."""
        return all(number in octet for number, octet in zip(octets, self, strict=True))


def read(value: object) -> Filter:
    """Parse a filter.

    Raises:
        ValueError: the value is no filter; the message names the wrong octet.
    """
    if not isinstance(value, str):
        raise ValueError(  # noqa: TRY004 (every reader fails with ValueError)
            f'must be an address or a pattern such as "127.0.0.[2..11]", not {values.shown(value)}'
        )
    if "/" in value:
        return _network(value)
    octets, rest = [], value
    while found := _OCTET.match(rest):
        octets.append((found[1], found[2]))
        rest = rest[found.end() :]
        if not rest.startswith("."):
            break
        rest = rest[1:]
    if rest or len(octets) != 4 or value.endswith("."):
        text = f'must be four octets such as "127.0.0.2" or "127.0.0.[2..11]", not {values.shown(value)}'
        raise ValueError(text + _meant(value))
    first, second, third, fourth = (
        _bracket(value, place, inside) if inside is not None else frozenset({_number(value, place, plain)})
        for place, (inside, plain) in enumerate(octets, 1)
    )
    return Filter(first, second, third, fourth)


def octets(address: str) -> tuple[int, ...]:
    """Return an IPv4 address as four numbers."""
    return tuple(map(int, address.split(".")))


def _network(value: str) -> Filter:
    found = values.network(value)
    if not isinstance(found, ipaddress.IPv4Network):
        raise ValueError(f"must be IPv4, as all answers of DNS lists (RFC 5782), not {values.shown(value)}")  # noqa: TRY004 (every reader fails with ValueError)
    low, high = found.network_address.packed, found.broadcast_address.packed
    return Filter(*(frozenset(range(a, b + 1)) for a, b in zip(low, high, strict=True)))


def _bracket(value: str, place: int, inside: str) -> frozenset[int]:
    numbers: set[int] = set()
    for part in inside.split(";"):
        low, dots, high = part.partition("..")
        first = _number(value, place, low)
        last = _number(value, place, high) if dots else first
        if last < first:
            meant = f'; did you mean "{value.replace(part, f"{last}..{first}")}"?'
            raise ValueError(
                f"octet {place} of {values.shown(value)}: the range {part} runs backwards{meant}"
            )
        numbers.update(range(first, last + 1))
    return frozenset(numbers)


def _number(value: str, place: int, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        said = f"{values.shown(text)} is no number" if text else "a number is missing"
        raise ValueError(f"octet {place} of {values.shown(value)}: {said}{_meant(value)}")
    if int(text) > _BYTE:
        raise ValueError(f"octet {place} of {values.shown(value)}: {text} is above {_BYTE}")
    return int(text)


def _meant(value: str) -> str:
    """Return a suggestion for a near miss, or "".

    Near misses have other signs for a range, no brackets, or too few octets.
    """
    guess = re.sub(r"(?<=\d) ?(?:-|:|\.{3}) ?(?=\d)", "..", value.strip())
    guess = re.sub(r"(?<=\d) ?, ?(?=\d)", ";", guess).replace("(", "[").replace(")", "]").replace(" ", "")
    guess = re.sub(r"(?<![\[;.\d])((?:\d+\.){3})(\d+\.\.\d+|\d+(?:;\d+)+)$", r"\1[\2]", guess)
    short = re.fullmatch(r"(127)\.(\d+)", guess)
    if short:
        guess = f"{short[1]}.0.0.{short[2]}"
    if guess == value:
        return ""
    try:
        read(guess)
    except ValueError:
        return ""
    return f'; did you mean "{guess}"?'

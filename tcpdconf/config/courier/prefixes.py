"""Parses networks in the notation of Courier's access files into prefixes. Pure."""

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from tcpdconf.config.model import values

Prefix = tuple[int, int, int]  # version, length, first bits
Span = tuple[int, int, int]  # version, first and last address

BITS: Final = {4: 32, 6: 128}
OCTET: Final = rb"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_SHORT_IPV4: Final = re.compile(rb"%b(?:\.%b){0,3}" % (OCTET, OCTET))
_ADDRESSES: Final = re.compile(rb"([0-9a-fA-F:.]+)([-/])([0-9a-fA-F:.]+)")
_LENGTH: Final = re.compile(rb"0|[1-9]\d{0,2}")


def networks(written: bytes) -> Iterator[Prefix]:
    """Return the prefixes of `NETWORK/LENGTH` (bits after the prefix are ignored) or `FIRST-LAST`.

    As for Net::CIDR, which makedat -cidr uses, an IPv4 address may be short: 10/8, 10.0-10.3.

    Raises:
        ValueError: the text is neither.
    """
    parts = _ADDRESSES.fullmatch(written)
    span = parts and (_network if parts[2] == b"/" else _range)(parts[1], parts[3])
    if not span:
        raise ValueError(f"{shown(written)} is neither a network nor a range of addresses")
    return _prefixes(*span)


def _network(address: bytes, length: bytes) -> Span | None:
    span = _address(address)
    if span is None or not _LENGTH.fullmatch(length) or int(length) > BITS[span[0]]:
        return None
    version, value, _ = span
    shift = BITS[version] - int(length)
    first = value >> shift << shift
    return version, first, first + (1 << shift) - 1


def _range(low: bytes, high: bytes) -> Span | None:
    first, last = _address(low), _address(high)
    if first is None or last is None or first[0] != last[0] or first[1] > last[1]:
        return None
    if first[0] == 4 and low.count(b".") != high.count(b"."):
        return None
    return first[0], first[1], last[2]


def _address(written: bytes) -> Span | None:
    """Return an address as a span; a short IPv4 address spans all that begin with its octets."""
    if b":" in written:
        try:
            value = int(ipaddress.IPv6Address(written.decode()))
        except ValueError:
            return None
        return 6, value, value
    if not _SHORT_IPV4.fullmatch(written):
        return None
    _, length, bits = ipv4(written)
    shift = 32 - length
    return 4, bits << shift, (bits + 1 << shift) - 1


def ipv4(octets: bytes) -> Prefix:
    """Return the prefix of one to four dotted octets."""
    numbers = octets.split(b".")
    bits = 0
    for number in numbers:
        bits = bits << 8 | int(number)
    return 4, 8 * len(numbers), bits


def _prefixes(version: int, first: int, last: int) -> Iterator[Prefix]:
    """Yield the fewest prefixes for a range; a whole family becomes two halves, since `*` has length 0."""
    bits = BITS[version]
    while first <= last:
        aligned = (first & -first).bit_length() - 1 if first else bits
        shift = min(aligned, (last - first + 1).bit_length() - 1, bits - 1)
        yield version, bits - shift, first >> shift
        first += 1 << shift


def shown(written: bytes) -> str:
    """Return bytes of an access file as text for a message."""
    return values.shown(written.decode("utf-8", "backslashreplace"))

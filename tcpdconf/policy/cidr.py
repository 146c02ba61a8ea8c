"""Networks as access files write them, and lists of nothing but networks.

A CIDR list is one network a line: 192.0.2.0/24, 2001:db8::/32, or an address. `#` and `;` begin a comment,
also behind a network; blank lines are nothing. All networks mean the same, so one that comes twice is
harmless. Bits set after the prefix are an error: whoever writes 192.0.2.7/24 has meant either the address
or the network, and a list of either kind is machine-made.
"""

import io
import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from tcpdconf.config import values
from tcpdconf.policy import access

Prefix = tuple[int, int, int]  # version, length, first bits
Span = tuple[int, int, int]  # version, first and last address

OCTET: Final = rb"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_SHORT_IPV4: Final = re.compile(rb"%b(?:\.%b){0,3}" % (OCTET, OCTET))
_ADDRESSES: Final = re.compile(rb"([0-9a-fA-F:.]+)([-/])([0-9a-fA-F:.]+)")
_LENGTH: Final = re.compile(rb"0|[1-9]\d{0,2}")
_COMMENT: Final = re.compile(rb"[#;]")
_OCTETS: Final = tuple({b"%d" % n: n << shift for n in range(256)} for shift in (24, 16, 8, 0))


class LineError(ValueError):
    """A line of an access file that cannot be used; `line` counts from 1."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def read(data: bytes, rule: access.Rule, networks: access.Networks) -> None:
    """Add every network of a CIDR list with this rule.

    Raises:
        LineError: a line is not a network.
    """
    first, second, third, fourth = _OCTETS
    known: dict[bytes, tuple[int, dict[int, access.Rule | access.Choice]]] = {}
    for number, line in enumerate(io.BytesIO(data), 1):
        if b"#" in line or b";" in line:
            line = _COMMENT.split(line, 1)[0]  # noqa: PLW2901 (what is left of it)
        written = line.strip()
        address, slash, digits = written.partition(b"/")
        length = slash + digits
        try:  # a million lines take this path: IPv4, of a length that has come before
            a, b, c, d = address.split(b".")
            bits = first[a] | second[b] | third[c] | fourth[d]
            shift, table = known[length]
        except (KeyError, ValueError):
            pass
        else:
            if bits >> shift << shift == bits:
                table[bits >> shift] = rule
                continue
        if written:
            version, size, bits = _one(number, written)
            table = networks.table(version, size)
            table[bits] = rule
            if version == 4 and b":" not in written:
                known[length] = (32 - size, table)


def _one(number: int, written: bytes) -> Prefix:
    try:
        network = values.network(written.decode("utf-8", "backslashreplace"))
    except ValueError as error:
        raise LineError(number, str(error)) from None
    if isinstance(network, str):
        raise LineError(number, 'a CIDR list cannot have "*"; 0.0.0.0/0 and ::/0 are all addresses')
    return next(access.prefixes(network))


def networks(written: bytes) -> Iterator[Prefix]:
    """The prefixes of `NETWORK/LENGTH` (bits set after the prefix do not count) or `FIRST-LAST`.

    As for Net::CIDR, which makedat -cidr uses, an IPv4 address may be short: 10/8, 10.0-10.3.

    Raises:
        ValueError: it is neither.
    """
    parts = _ADDRESSES.fullmatch(written)
    span = parts and (_network if parts[2] == b"/" else _range)(parts[1], parts[3])
    if not span:
        raise ValueError(f"{shown(written)} is neither a network nor a range of addresses")
    return _prefixes(*span)


def _network(address: bytes, length: bytes) -> Span | None:
    span = _address(address)
    if span is None or not _LENGTH.fullmatch(length) or int(length) > access.BITS[span[0]]:
        return None
    version, value, _ = span
    shift = access.BITS[version] - int(length)
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
    """The one address; of a short IPv4 address, all that begin with its octets."""
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
    """The prefix of one to four octets with dots."""
    numbers = octets.split(b".")
    bits = 0
    for number in numbers:
        bits = bits << 8 | int(number)
    return 4, 8 * len(numbers), bits


def _prefixes(version: int, first: int, last: int) -> Iterator[Prefix]:
    """The fewest prefixes for a range of addresses; a whole family is two halves, as `*` has length 0."""
    bits = access.BITS[version]
    while first <= last:
        aligned = (first & -first).bit_length() - 1 if first else bits
        shift = min(aligned, (last - first + 1).bit_length() - 1, bits - 1)
        yield version, bits - shift, first >> shift
        first += 1 << shift


def shown(written: bytes) -> str:
    """Bytes of an access file in a message."""
    return values.shown(written.decode("utf-8", "backslashreplace"))

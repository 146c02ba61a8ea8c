"""Parses the keys and values of Courier's access records, from a database or a line of text. Pure.

The meaning is couriertcpd's (manual, ACCESS FILE), as observed where the manual is silent. A record's key is
a network: `*`, one to four octets (`192.168`), one to eight words (`:2001:0db8`); with -accesslocal also
`1.2.3.4.25`, `:2001:...:0001.25` and `*.25` for a local address and port. In text, a network may also be in
CIDR notation or a range (`192.168.0.0/22`, `10/8`, `10.0.0.1-10.0.0.9`, `2001:db8::/33`): makedat -cidr
expands these; here they are kept as prefixes.
"""

import ipaddress
import re
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from tcpdconf.config.courier import prefixes
from tcpdconf.config.model import values

_KEY: Final = re.compile(
    rb"(?:\*|(?P<ipv4>%b(?:\.%b){0,3})|:(?P<ipv6>[0-9a-f]{4}(?::[0-9a-f]{4}){0,7}))(?:\.(?P<port>[1-9]\d{0,4}))?"
    % (prefixes.OCTET, prefixes.OCTET)
)
_EVERYBODY: Final = ((4, 0, 0), (6, 0, 0))
_CIDR_LINE: Final = re.compile(rb"([0-9a-fA-F:.]+[-/][0-9a-fA-F:.]+)[ \t]+(.*)", re.DOTALL)
_PIECES: Final = re.compile(rb"""[^,"']+|"[^"]*"?|'[^']*'?|,""")
_NO_VALUE: Final = b"1"  # stored by makedat for an empty value
_NAME: Final = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")  # POSIX.1-2024, XBD 3.216
_NEVER: Final = re.compile(rb"[\0\n]")  # in a variable


class RecordKey(NamedTuple):
    """Holds the addresses of a record; a `port` makes it a record for the local end only."""

    prefixes: tuple[prefixes.Prefix, ...]
    port: int | None = None


class Value(NamedTuple):
    """Holds the action of a record and the variables that it sets."""

    action: Literal["allow", "deny"]
    environment: tuple[tuple[str, str], ...] = ()


def record(line: bytes) -> tuple[RecordKey, bytes]:
    """Return key and value of a line of text.

    Raises:
        ValueError: makedat would make no record of it, or one that is never looked up.
    """
    expanded = _CIDR_LINE.fullmatch(line)  # makedat -cidr accepts blanks as separators here
    if expanded:
        return RecordKey(tuple(prefixes.networks(expanded[1]))), expanded[2] or _NO_VALUE
    written, tab, value = line.partition(b"\t")
    if not tab:
        raise ValueError("there must be a TAB between the network and its value")
    if value.startswith(b"\t"):
        raise ValueError("there must be exactly one TAB between the network and its value")
    found = key(written)
    if found is None:
        raise ValueError(f"{prefixes.shown(written)} is not a network{_meant(written)}")
    return found, value or _NO_VALUE


def key(written: bytes) -> RecordKey | None:
    """Return the addresses for which couriertcpd finds a record; None if it never looks up this key."""
    found = _KEY.fullmatch(written)
    if found is None:
        return None
    digits = found["port"]
    port = int(digits) if digits else None
    if port is not None and port > values.MAX_PORT:
        return None
    if found["ipv4"]:
        prefix = prefixes.ipv4(found["ipv4"])
    elif found["ipv6"]:
        words = found["ipv6"].split(b":")
        prefix = (6, 16 * len(words), int(b"".join(words), 16))
    else:
        return RecordKey(_EVERYBODY, port)
    if port is not None and prefix[1] < prefixes.BITS[prefix[0]]:
        return None
    return RecordKey((prefix,), port)


def _meant(written: bytes) -> str:
    """Return a hint for text that is nearly a key, or ""."""
    near = written.strip().lower()
    for candidate in (near, _spelled_out(near), _spelled_out(near[1:])):
        if key(candidate) is not None:
            return f"; did you mean {prefixes.shown(candidate)}?"
    return ""


def _spelled_out(written: bytes) -> bytes:
    try:
        return b":" + ipaddress.IPv6Address(written.decode("ascii", "replace")).exploded.encode()
    except ValueError:
        return b""


def value(written: bytes) -> Value:
    """Return the action and variables of a record's value.

    A value that begins with `deny` refuses; any other allows. After `allow`, or from the beginning without
    it, items separated by commas set variables: NAME=TEXT, or NAME for an empty one. Quotes, single or
    double, protect commas and are removed everywhere; so are blanks before the name and after the text. An
    item without a name sets nothing; the last of several with one name counts.

    Raises:
        ValueError: a variable would contain a line end or a NUL.
    """
    if written.startswith(b"deny"):
        return Value("deny")
    variables = {}
    for _, _, item in _items(written, len(b"allow") if written.startswith(b"allow") else 0):
        name, _, text = item.partition(b"=")
        if _NEVER.search(item):
            raise ValueError(f"the variable {prefixes.shown(name)} has a line end or a NUL in it")
        if name:
            variables[_decoded(name)] = _decoded(text.rstrip())
    return Value("allow", tuple(variables.items()))


class Doubt(NamedTuple):
    """Marks a part of a value that probably means something else; `start` and `end` are offsets in it."""

    start: int
    end: int
    text: str


def doubt(written: bytes) -> Doubt | None:
    """Return the first doubt about a value, or None.

    couriertcpd accepts every value. Each that does not begin with `deny` admits, even `DENY` and `reject`.
    """
    if not written or written == _NO_VALUE:
        return None
    word = written.partition(b",")[0].rstrip()
    if word == b"deny":
        rest = written[len(word) :].strip()
        return Doubt(len(word), len(written), "deny takes no variables") if rest else None
    if word != b"allow":
        return Doubt(0, len(word) or 1, _not_an_action(word, written))
    for start, end, item in _items(written, len(word)):
        name, _, text = item.partition(b"=")
        if item and not _NAME.fullmatch(name):
            return Doubt(start, end, f"{prefixes.shown(name)} is not the name of a variable")
        if name == b"MAXCPERIP" and not text.strip().isdigit():
            return Doubt(start, end, f"MAXCPERIP must be a number, not {prefixes.shown(text)}")
    return None


def _not_an_action(word: bytes, written: bytes) -> str:
    """Explain the effect of a value that begins with neither action."""
    effect = "refuses" if written.startswith(b"deny") else "admits"
    meant = "deny"
    if word.lower().startswith(b"allow"):
        meant = "allow, with a comma before each variable"
    elif b"=" in word or (_NAME.fullmatch(word) and word.isupper() and word != b"DENY"):
        meant = "allow and a comma before the variables"
    text = f"{prefixes.shown(word)} is neither allow nor deny, and couriertcpd {effect} this network"
    return f"{text}: write {meant}"


def _items(value: bytes, begin: int = 0) -> Iterator[tuple[int, int, bytes]]:
    """Yield each item between commas with its place, from `begin` on.

    Quotes, and blanks before an item, are removed; an open quote takes the rest.
    """
    item: list[bytes] = []
    start = end = begin
    for found in _PIECES.finditer(value, begin):
        piece, end = found[0], found.end()
        if piece == b",":
            yield start, found.start(), b"".join(item).lstrip()
            item, start = [], end
        elif piece[:1] in {b'"', b"'"}:
            item.append(piece[1:].removesuffix(piece[:1]))
        else:
            item.append(piece)
    yield start, end, b"".join(item).lstrip()


def _decoded(text: bytes) -> str:
    """Decode bytes as os.fsdecode does, so that the program gets the same bytes."""
    return text.decode("utf-8", "surrogateescape")

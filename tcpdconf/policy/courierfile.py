"""Courier's access records: what a key and a value mean, and the text that they are written in.

The meaning is couriertcpd's (manual, ACCESS FILE), as observed where the manual is silent. A record's key is
a network: `*`, one to four octets (`192.168`), one to eight words (`:2001:0db8`); with -accesslocal also
`1.2.3.4.25`, `:2001:...:0001.25` and `*.25` for a local address and port. In text, a network may also be
in CIDR notation or a range (`192.168.0.0/22`, `10/8`, `10.0.0.1-10.0.0.9`, `2001:db8::/33`): makedat -cidr
expands these, here they are kept as prefixes.

Text gives the answers of the database that makedat -cidr makes of it. It is read more strictly: a line from
which makedat would make a key that nobody looks up (no TAB, capital hex digits, `::`) is an error. It is
read more widely where makedat stops: a network may come twice with the same value, and networks may overlap
in any way, as the longest prefix decides. (makedat knows whole octets and words only: 192.168.0.0/22 beside
192.168.1 is a duplicate for it.) 0.0.0.0/0 and ::/0 are more specific than `*`.
"""

import ipaddress
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from tcpdconf.config import values
from tcpdconf.policy import access, cidr

_KEY: Final = re.compile(
    rb"(?:\*|(?P<ipv4>%b(?:\.%b){0,3})|:(?P<ipv6>[0-9a-f]{4}(?::[0-9a-f]{4}){0,7}))(?:\.(?P<port>[1-9]\d{0,4}))?"
    % (cidr.OCTET, cidr.OCTET)
)
_CIDR_LINE: Final = re.compile(rb"([0-9a-fA-F:.]+[-/][0-9a-fA-F:.]+)[ \t]+(.*)", re.DOTALL)
_PIECES: Final = re.compile(rb"""[^,"']+|"[^"]*"?|'[^']*'?|,""")
_NO_VALUE: Final = b"1"  # what makedat stores for it
_NEVER: Final = re.compile(rb"[\0\n]")  # in a variable


class Key(NamedTuple):
    """The addresses of a record; a `port` makes it a record for the local end only."""

    prefixes: tuple[cidr.Prefix, ...]
    port: int | None = None


class Records:
    """The table that records make: for peers, and for the local end where the source is looked up for it."""

    def __init__(self, *, local: bool) -> None:
        self.table = access.AccessTable()
        self._local = local
        self._rules: dict[bytes, access.Rule] = {}  # few values, many networks

    def add(self, key: Key, value: bytes) -> None:
        """Add one record.

        Raises:
            ValueError: the value cannot become variables, or the network has another value already.
        """
        made = self._rules.get(value)
        if made is None:
            made = self._rules[value] = rule(value)
        for prefix in key.prefixes:
            if key.port is None:
                _put(self.table.peers, prefix, made)
            if self._local:
                _put(self.table.locals, prefix, made, key.port)


def _put(networks: access.Networks, prefix: cidr.Prefix, rule: access.Rule, port: int | None = None) -> None:
    ends = access.ANY if port is None else access.Ends(own=values.Local(None, port))
    if not networks.add(prefix, rule, ends) and networks.get(prefix, ends) != rule:
        raise ValueError("another rule for the same network, with a different value, stands before it")


def read(data: bytes, records: Records) -> None:
    """Add the records of a text: `network<TAB>value` lines, blank lines, comment lines.

    Raises:
        cidr.LineError: a line is neither.
    """
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.lstrip()[:1] in {b"", b"#"}:
            continue
        try:
            records.add(*_record(line))
        except ValueError as error:
            raise cidr.LineError(number, str(error)) from None


def _record(line: bytes) -> tuple[Key, bytes]:
    expanded = _CIDR_LINE.fullmatch(line)  # makedat -cidr lets blanks separate these
    if expanded:
        return Key(tuple(cidr.networks(expanded[1]))), expanded[2] or _NO_VALUE
    written, tab, value = line.partition(b"\t")
    if not tab:
        raise ValueError("there must be a TAB between the network and its value")
    if value.startswith(b"\t"):
        raise ValueError("there must be exactly one TAB between the network and its value")
    found = key(written)
    if found is None:
        raise ValueError(f"{cidr.shown(written)} is not a network{_meant(written)}")
    return found, value or _NO_VALUE


def key(written: bytes) -> Key | None:
    """The addresses that couriertcpd finds a database record for; None when it never looks for this key."""
    found = _KEY.fullmatch(written)
    if found is None:
        return None
    digits = found["port"]
    port = int(digits) if digits else None
    if port is not None and port > values.MAX_PORT:
        return None
    if found["ipv4"]:
        prefix = cidr.ipv4(found["ipv4"])
    elif found["ipv6"]:
        words = found["ipv6"].split(b":")
        prefix = (6, 16 * len(words), int(b"".join(words), 16))
    else:
        return Key(tuple(access.prefixes("*")), port)
    if port is not None and prefix[1] < access.BITS[prefix[0]]:
        return None
    return Key((prefix,), port)


def _meant(written: bytes) -> str:
    """A hint for what is nearly a key."""
    near = written.strip().lower()
    for candidate in (near, _spelled_out(near), _spelled_out(near[1:])):
        if key(candidate) is not None:
            return f"; did you mean {cidr.shown(candidate)}?"
    return ""


def _spelled_out(written: bytes) -> bytes:
    try:
        return b":" + ipaddress.IPv6Address(written.decode("ascii", "replace")).exploded.encode()
    except ValueError:
        return b""


def rule(value: bytes) -> access.Rule:
    """What a record's value says.

    What begins with `deny` refuses; anything else allows. After `allow`, or from the beginning where that
    is missing, items separated by commas set variables: NAME=TEXT, or NAME for an empty one. Quotes, single
    or double, keep commas together and are removed wherever they stand; then blanks before the name and
    behind the text are. An item without a name sets nothing; the last of several with one name counts.

    Raises:
        ValueError: a variable would contain a line end or a NUL.
    """
    if value.startswith(b"deny"):
        return access.Rule("deny")
    variables = {}
    for item in _items(value.removeprefix(b"allow")):
        name, _, text = item.partition(b"=")
        if _NEVER.search(item):
            raise ValueError(f"the variable {cidr.shown(name)} has a line end or a NUL in it")
        if name:
            variables[_decoded(name)] = _decoded(text.rstrip())
    environment = tuple(variables.items())
    return access.Rule("allow", environment, access.per_ip_override(environment))


def _items(value: bytes) -> Iterator[bytes]:
    """The items between commas, without quotes and blanks before; an open quote takes the rest."""
    item: list[bytes] = []
    for piece in _PIECES.findall(value):
        if piece == b",":
            yield b"".join(item).lstrip()
            item = []
        elif piece[:1] in {b'"', b"'"}:
            item.append(piece[1:].removesuffix(piece[:1]))
        else:
            item.append(piece)
    yield b"".join(item).lstrip()


def _decoded(text: bytes) -> str:
    """As os.fsdecode does it, so that the program gets the same bytes."""
    return text.decode("utf-8", "surrogateescape")

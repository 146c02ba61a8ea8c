"""Reads lists that hold networks only.

A CIDR list has one network on each line: 192.0.2.0/24, 2001:db8::/32, or an address. `#` and `;` begin a
comment, also after a network. Blank lines are ignored. All networks get the same rule, so a duplicate is
harmless. Bits set after the prefix are an error: 192.0.2.7/24 may mean the address or the network.
"""

import io
import re
from typing import Final

from tcpdconf.config.courier import prefixes
from tcpdconf.config.model import values
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.access.table import Choice, Networks, Rule

_COMMENT: Final = re.compile(rb"[#;]")
_OCTETS: Final = tuple({b"%d" % n: n << shift for n in range(256)} for shift in (24, 16, 8, 0))


class CidrLineError(ValueError):
    """Reports an unusable line of an access file; `line` and `column` (in bytes) count from 1."""

    def __init__(self, line: int, text: str, column: int = 1) -> None:
        super().__init__(text)
        self.line = line
        self.column = column


def read(data: bytes, rule: Rule, networks: Networks) -> None:
    """Add every network of a CIDR list with this rule.

    Raises:
        CidrLineError: a line is not a network.
    """
    first, second, third, fourth = _OCTETS
    known: dict[bytes, tuple[int, dict[int, Rule | Choice]]] = {}
    for number, line in enumerate(io.BytesIO(data), 1):
        if b"#" in line or b";" in line:
            line = _COMMENT.split(line, 1)[0]  # noqa: PLW2901 (the part before the comment)
        written = line.strip()
        address, slash, digits = written.partition(b"/")
        length = slash + digits
        try:  # a million lines take this path: IPv4, with a prefix length seen before
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


def _one(number: int, written: bytes) -> prefixes.Prefix:
    try:
        network = values.network(written.decode("utf-8", "backslashreplace"))
    except ValueError as error:
        raise CidrLineError(number, str(error)) from None
    if isinstance(network, str):
        raise CidrLineError(number, 'a CIDR list cannot have "*"; 0.0.0.0/0 and ::/0 are all addresses')
    return next(access_table.prefixes(network))

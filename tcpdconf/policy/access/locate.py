"""Finds where a rule is written in its source's files, by reading parts of them again (binary search).

Tables therefore need not remember where their rules came from: a million networks share one rule. A search
takes about as long as reading the files.
"""

import ipaddress
import tomllib
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from tcpdconf.config.courier import databases
from tcpdconf.config.courier import records as courier_records
from tcpdconf.config.load.source import SourceFile
from tcpdconf.config.model import tables, values
from tcpdconf.policy import connection
from tcpdconf.policy.access import cidr
from tcpdconf.policy.access import courier as courier_access
from tcpdconf.policy.access import file as access_file
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.access.courier import Records
from tcpdconf.policy.access.table import AccessTable, Ends, Rule, Stage

Item = TypeVar("Item")
Prefix = tuple[int, int, int]


class RulePlace(NamedTuple):
    """Holds a place and its text: a line of a text file (from 1), or a database record (line 0)."""

    path: str
    line: int
    text: str


class Sought(NamedTuple):
    """Identifies a rule in a table: the stage that finds it, its network and its local ends."""

    stage: Stage
    prefix: Prefix
    ends: Ends

    def __str__(self) -> str:
        """Return text such as `192.168.0.0/16` or `local end * at port 25`."""
        version, length, bits = self.prefix
        size = access_table.BITS[version]
        network = ipaddress.ip_network(((bits << size - length).to_bytes(size // 8), length))
        text = str(network.network_address if length == size else network)
        if self.stage != "peer":
            text = f"{self.stage.replace('_', ' ')} end {text if length else '*'}"
        own, proxied = self.ends
        text += "" if own is None else f" at {_shown(own)}"
        text += "" if proxied is None else f" behind a proxy's {_shown(proxied)}"
        return text

    def is_in(self, table: AccessTable) -> bool:
        """Return whether the table has such a rule."""
        networks = {"local": table.locals, "proxied_local": table.proxied, "peer": table.peers}
        return networks[self.stage].get(self.prefix, self.ends) is not None


def _shown(local: values.Local) -> str:
    where = "" if local.network is None else str(local.network)
    return where if local.port is None else f"{where} port {local.port}".lstrip()


def sought(table: AccessTable, stage: Stage, link: connection.Link) -> Sought | None:
    """Return the identity of the rule that a stage finds for a connection, or None if there is no rule."""
    networks, end = table.searched(stage, link)
    found = networks.where(end, link)
    return None if found is None else Sought(stage, *found)


def in_rules(rules: Sequence[tables.AccessRule], wanted: Sought) -> int:
    """Return the index, from 0, of the rule that `wanted` identifies; it must be one of `rules`."""
    return _first(rules, lambda part: wanted.is_in(access_table.build(part)))


def in_files(
    files: Sequence[tuple[str, bytes]], source: tables.AccessSource, wanted: Sought
) -> RulePlace | None:
    """Return the place of a rule that was read from one of these files, or None if no file has it.

    Raises:
        AccessFileError: the format of a file is no longer recognised.
    """
    for path, data in files:
        form = "courier" if len(files) > 1 else source.format or access_file.recognise(path, data)
        place = _FORMS[form](path, data, source, wanted)
        if place is not None:
            return place
    return None


def _toml(path: str, data: bytes, _: tables.AccessSource, wanted: Sought) -> RulePlace | None:
    text = data.decode("utf-8-sig").replace("\r\n", "\n")
    file = SourceFile(path, text, {})
    rules = tables.AccessFile.model_validate(tomllib.loads(text)).rules
    if not wanted.is_in(access_table.build(rules)):
        return None
    span = file.span(("rules", in_rules(rules, wanted)))
    line = span.line if span else 0
    return RulePlace(path, line, file.places.line(line).strip())


def _cidr(path: str, data: bytes, source: tables.AccessSource, wanted: Sought) -> RulePlace | None:
    rule = Rule(source.action or "deny")

    def has(lines: Sequence[bytes]) -> bool:
        table = AccessTable()
        cidr.read(b"\n".join(lines), rule, table.peers)
        return wanted.is_in(table)

    return _line(path, data, has)


def _courier(path: str, data: bytes, source: tables.AccessSource, wanted: Sought) -> RulePlace | None:
    def has(lines: Sequence[bytes]) -> bool:
        records = Records(local=source.local)
        courier_access.read(b"\n".join(lines), records)
        return wanted.is_in(records.table)

    return _line(path, data, has)


def _line(path: str, data: bytes, has: Callable[[Sequence[bytes]], bool]) -> RulePlace | None:
    lines = data.split(b"\n")
    if not has(lines):
        return None
    index = _first(lines, has)
    return RulePlace(path, index + 1, lines[index].strip().decode(errors="backslashreplace"))


def _database(path: str, data: bytes, source: tables.AccessSource, wanted: Sought) -> RulePlace | None:
    form = databases.recognise(data)
    for written, value in databases.records(data, form) if form else ():
        key = courier_records.key(written)
        if key is not None:
            records = Records(local=source.local)
            records.add(key, value)
            if wanted.is_in(records.table):
                return RulePlace(path, 0, written.decode())
    return None


def _first(items: Sequence[Item], has: Callable[[Sequence[Item]], bool]) -> int:
    """Return the index of the first item for which `has` is true; there must be one."""
    low, high = 0, len(items)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if has(items[low:middle]) else (middle, high)
    return low


_FORMS = {"toml": _toml, "cidr": _cidr, "courier": _courier, "gdbm": _database, "db": _database}

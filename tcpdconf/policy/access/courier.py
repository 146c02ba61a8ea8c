"""Builds a table from Courier's access records, read from text or added one by one.

Text gives the same answers as the database that makedat -cidr builds from it, with two differences:

It is stricter: a line from which makedat would make a key that is never looked up (no TAB, capital hex
digits, `::`) is an error.

It is wider where makedat stops: a network may come twice with the same value, and networks may overlap in any
way, since the longest prefix decides. makedat knows whole octets and words only: to it, 192.168.0.0/22 next
to 192.168.1 is a duplicate. 0.0.0.0/0 and ::/0 are more specific than `*`.
"""

from tcpdconf.config.courier import prefixes
from tcpdconf.config.courier import records as courier_records
from tcpdconf.config.model import values
from tcpdconf.policy.access import cidr
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.access.table import AccessTable, Ends, Networks, Rule


class DoubtError(ValueError):
    """Reports a value that couriertcpd probably reads differently; `start` is the offset of the doubt."""

    def __init__(self, doubt: courier_records.Doubt) -> None:
        super().__init__(doubt.text)
        self.start = doubt.start


class Records:
    """Collects records into a table: for peers and, if the source is used for them, for local ends.

    A doubtful value (`config.courier.records.doubt`) in a database is kept, as by couriertcpd, and listed in
    `AccessTable.doubts`. With `strict` it raises an error: people write text by hand and can correct it.
    """

    def __init__(self, *, local: bool, strict: bool = False) -> None:
        self.table = AccessTable()
        self._local = local
        self._strict = strict
        self._rules: dict[bytes, Rule] = {}  # few values, many networks

    def add(self, key: courier_records.RecordKey, value: bytes) -> None:
        """Add one record.

        Raises:
            ValueError: the value cannot become variables, or the network already has another value.
            DoubtError: the value is doubtful, and `strict` is set.
        """
        made = self._rules.get(value)
        if made is None:
            doubt = courier_records.doubt(value)
            if doubt is not None and self._strict:
                raise DoubtError(doubt)
            if doubt is not None:
                self.table.doubts.append(doubt.text)
            made = self._rules[value] = rule(value)
        for prefix in key.prefixes:
            if key.port is None:
                _put(self.table.peers, prefix, made)
            if self._local:
                _put(self.table.locals, prefix, made, key.port)


def _put(networks: Networks, prefix: prefixes.Prefix, rule: Rule, port: int | None = None) -> None:
    ends = access_table.ANY if port is None else Ends(own=values.Local(None, port))
    if not networks.add(prefix, rule, ends) and networks.get(prefix, ends) != rule:
        raise ValueError("another rule for the same network, with a different value, stands before it")


def read(data: bytes, records: Records) -> None:
    """Add the records of a text: `network<TAB>value` lines, blank lines and comment lines.

    Raises:
        cidr.CidrLineError: a line is none of these, or its value is doubtful and `records` is strict.
    """
    for number, ended in enumerate(data.split(b"\n"), 1):
        line = ended.removesuffix(b"\r")
        if line.lstrip()[:1] in {b"", b"#"}:
            continue
        try:
            key, value = courier_records.record(line)
            records.add(key, value)
        except DoubtError as error:
            raise cidr.CidrLineError(number, str(error), len(line) - len(value) + error.start + 1) from None
        except ValueError as error:
            raise cidr.CidrLineError(number, str(error)) from None


def rule(value: bytes) -> Rule:
    """Return the rule that a record's value describes.

    Raises:
        ValueError: a variable would contain a line end or a NUL.
    """
    action, environment = courier_records.value(value)
    if action == "deny":
        return Rule(action)
    return Rule(action, environment, access_table.per_ip_override(environment))

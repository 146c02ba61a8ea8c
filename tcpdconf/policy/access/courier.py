"""Courier's access records as a table, from the text that they are written in or one by one.

Text gives the answers of the database that makedat -cidr makes of it. It is read more strictly: a line from
which makedat would make a key that nobody looks up (no TAB, capital hex digits, `::`) is an error. It is
read more widely where makedat stops: a network may come twice with the same value, and networks may overlap
in any way, as the longest prefix decides. (makedat knows whole octets and words only: 192.168.0.0/22 beside
192.168.1 is a duplicate for it.) 0.0.0.0/0 and ::/0 are more specific than `*`.
"""

from tcpdconf.config.courier import prefixes
from tcpdconf.config.courier import records as courier_records
from tcpdconf.config.model import values
from tcpdconf.policy.access import cidr
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.access.table import AccessTable, Ends, Networks, Rule


class DoubtError(ValueError):
    """A value that hardly means what couriertcpd makes of it; `start` is the place of the doubt in it."""

    def __init__(self, doubt: courier_records.Doubt) -> None:
        super().__init__(doubt.text)
        self.start = doubt.start


class Records:
    """The table that records make: for peers, and for the local end where the source is looked up for it.

    A doubtful value (`config.courier.records.doubt`) of a database is kept, as couriertcpd would, and counted
    in `AccessTable.doubts`. `strict` refuses it: text is written by hand, and can be written anew.
    """

    def __init__(self, *, local: bool, strict: bool = False) -> None:
        self.table = AccessTable()
        self._local = local
        self._strict = strict
        self._rules: dict[bytes, Rule] = {}  # few values, many networks

    def add(self, key: courier_records.RecordKey, value: bytes) -> None:
        """Add one record.

        Raises:
            ValueError: the value cannot become variables, or the network has another value already.
            DoubtError: the value is doubtful, and this is `strict`.
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
    """Add the records of a text: `network<TAB>value` lines, blank lines, comment lines.

    Raises:
        cidr.LineError: a line is neither, or its value is doubtful and `records` are strict.
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
    """The rule of a record's value.

    Raises:
        ValueError: a variable would contain a line end or a NUL.
    """
    action, environment = courier_records.value(value)
    if action == "deny":
        return Rule(action)
    return Rule(action, environment, access_table.per_ip_override(environment))

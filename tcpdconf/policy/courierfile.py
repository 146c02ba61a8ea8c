"""Courier's access records as a table, from the text that they are written in or one by one.

Text gives the answers of the database that makedat -cidr makes of it. It is read more strictly: a line from
which makedat would make a key that nobody looks up (no TAB, capital hex digits, `::`) is an error. It is
read more widely where makedat stops: a network may come twice with the same value, and networks may overlap
in any way, as the longest prefix decides. (makedat knows whole octets and words only: 192.168.0.0/22 beside
192.168.1 is a duplicate for it.) 0.0.0.0/0 and ::/0 are more specific than `*`.
"""

from tcpdconf.config import courierrecords, prefixes, values
from tcpdconf.policy import access, cidr


class DoubtError(ValueError):
    """A value that hardly means what couriertcpd makes of it; `start` is the place of the doubt in it."""

    def __init__(self, doubt: courierrecords.Doubt) -> None:
        super().__init__(doubt.text)
        self.start = doubt.start


class Records:
    """The table that records make: for peers, and for the local end where the source is looked up for it.

    A doubtful value (`courierrecords.doubt`) of a database is kept, as couriertcpd would, and counted in
    `AccessTable.doubts`. `strict` refuses it: text is written by hand, and can be written anew.
    """

    def __init__(self, *, local: bool, strict: bool = False) -> None:
        self.table = access.AccessTable()
        self._local = local
        self._strict = strict
        self._rules: dict[bytes, access.Rule] = {}  # few values, many networks

    def add(self, key: courierrecords.Key, value: bytes) -> None:
        """Add one record.

        Raises:
            ValueError: the value cannot become variables, or the network has another value already.
            DoubtError: the value is doubtful, and this is `strict`.
        """
        made = self._rules.get(value)
        if made is None:
            doubt = courierrecords.doubt(value)
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


def _put(
    networks: access.Networks, prefix: prefixes.Prefix, rule: access.Rule, port: int | None = None
) -> None:
    ends = access.ANY if port is None else access.Ends(own=values.Local(None, port))
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
            key, value = courierrecords.record(line)
            records.add(key, value)
        except DoubtError as error:
            raise cidr.LineError(number, str(error), len(line) - len(value) + error.start + 1) from None
        except ValueError as error:
            raise cidr.LineError(number, str(error)) from None


def rule(value: bytes) -> access.Rule:
    """The rule of a record's value.

    Raises:
        ValueError: a variable would contain a line end or a NUL.
    """
    action, environment = courierrecords.value(value)
    if action == "deny":
        return access.Rule(action)
    return access.Rule(action, environment, access.per_ip_override(environment))

"""Compiles the access rules of one source for lookup: the longest matching prefix decides.

A table is a dict per prefix length and family. For a million IPv4 networks this is as fast as a radix tree
and takes a tenth of its memory. Networks share their `Rule` objects.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, NamedTuple

from tcpdconf.config.couriertcpd import grammar
from tcpdconf.config.model import tables, values
from tcpdconf.policy import connection

BITS: Final = {4: 32, 6: 128}


class Rule(NamedTuple):
    """Holds what a source decides for an address; `environment` has (name, value) pairs in written order."""

    action: Literal["allow", "deny"]
    environment: tuple[tuple[str, str], ...] = ()
    max_per_ip: int | None = None


class Ends(NamedTuple):
    """Holds the local ends that a rule names: this host's own and a PROXY header's. None matches any end."""

    own: values.Local | None = None
    proxied: values.Local | None = None

    def are_of(self, link: connection.Link) -> bool:
        """Return whether the connection has these ends."""
        own = self.own is None or _is_at(self.own, link.own_end)
        return own and (self.proxied is None or (link.proxy is not None and _is_at(self.proxied, link.local)))


class Choice(NamedTuple):
    """Holds the rules of one network by local ends, the most specific ends first, any ends last."""

    rules: tuple[tuple[Ends, Rule], ...]

    def pick(self, link: connection.Link) -> Rule | None:
        """Return the first rule whose local ends match the connection's."""
        return next((rule for ends, rule in self.rules if ends.are_of(link)), None)


ANY: Final = Ends()
Stage = Literal["local", "proxied_local", "peer"]  # whose address finds a rule
Level = tuple[int, Callable[[int], Rule | Choice | None]]  # bits to shift right, look-up in that length


class Networks:
    """Maps networks of both families to rules."""

    def __init__(self) -> None:
        self._by_length: dict[int, dict[int, dict[int, Rule | Choice]]] = {4: {}, 6: {}}
        self._levels: dict[int, list[Level]] = {}  # the same, longest prefix first; built at the first search
        self.used = False  # True once there may be networks

    def __len__(self) -> int:
        return sum(len(table) for lengths in self._by_length.values() for table in lengths.values())

    def table(self, version: int, length: int) -> dict[int, Rule | Choice]:
        """Return the dict of one prefix length for a reader to fill: an address's first bits -> rule.

        Compiled levels are discarded.
        """
        self._levels = {}
        self.used = True
        return self._by_length[version].setdefault(length, {})

    def add(self, prefix: tuple[int, int, int], rule: Rule, ends: Ends = ANY) -> bool:
        """Add a rule for (version, length, first bits) and local ends; return False if there is one."""
        version, length, bits = prefix
        if self.get(prefix, ends) is not None:
            return False
        table = self.table(version, length)
        known = table.get(bits)
        if known is None:
            table[bits] = rule if ends == ANY else Choice(((ends, rule),))
        else:
            rules = known.rules if isinstance(known, Choice) else ((ANY, known),)
            table[bits] = Choice(tuple(sorted((*rules, (ends, rule)), key=_specificity, reverse=True)))
        return True

    def get(self, prefix: tuple[int, int, int], ends: Ends = ANY) -> Rule | None:
        """Return the rule added for exactly this (version, length, first bits) and these local ends."""
        version, length, bits = prefix
        known = self._by_length[version].get(length, {}).get(bits)
        if isinstance(known, Choice):
            return dict(known.rules).get(ends)
        return known if ends == ANY else None

    def find(self, end: connection.Endpoint, link: connection.Link) -> Rule | None:
        """Return the rule of the longest network that holds `end` and fits the connection's local ends."""
        levels = self._levels or self._compile()
        value = end.value
        for shift, get in levels[end.version]:
            found = get(value >> shift)
            if found is None:
                continue
            rule = found.pick(link) if isinstance(found, Choice) else found
            if rule is not None:
                return rule
        return None

    def where(
        self, end: connection.Endpoint, link: connection.Link
    ) -> tuple[tuple[int, int, int], Ends] | None:
        """Return the (version, length, first bits) and local ends of the rule that `find` returns."""
        lengths = self._by_length[end.version]
        for length in sorted(lengths, reverse=True):
            bits = end.value >> (BITS[end.version] - length)
            known = lengths[length].get(bits)
            rules = known.rules if isinstance(known, Choice) else ((ANY, known),) if known else ()
            for ends, _ in rules:
                if ends.are_of(link):
                    return (end.version, length, bits), ends
        return None

    def _compile(self) -> dict[int, list[Level]]:
        self._levels = {
            version: [
                (BITS[version] - length, lengths[length].get) for length in sorted(lengths, reverse=True)
            ]
            for version, lengths in self._by_length.items()
        }
        return self._levels


class AccessTable:
    """Holds the rules of one source, by the address that they apply to.

    `peers` is for the client, `locals` for this host's own end of the connection, `proxied` for the local end
    that a PROXY header names. `dead` lists database keys that can match no client: they are no rules, but
    worth a warning. So are `doubts`, which describe strange values of records that apply.
    """

    def __init__(self) -> None:
        self.peers = Networks()
        self.locals = Networks()
        self.proxied = Networks()
        self.dead: list[str] = []
        self.doubts: list[str] = []

    def find(self, link: connection.Link) -> Rule | None:
        """Return the rule for the client, or None if the source has none."""
        return self.peers.find(link.peer, link)

    def find_local(self, link: connection.Link) -> Rule | None:
        """Return the rule for this host's own end, or None if the source has none.

        The most specific rule decides: address and port, address, its networks, port, everything.
        """
        return self.locals.find(link.own_end, link) if self.locals.used else None

    def find_proxied(self, link: connection.Link) -> Rule | None:
        """Return the rule for the local end in the PROXY header, or None if there is no rule or no header."""
        return None if link.proxy is None else self.proxied.find(link.local, link)

    def searched(self, stage: Stage, link: connection.Link) -> tuple[Networks, connection.Endpoint]:
        """Return the networks in which a stage looks for a rule, and the end that it looks up."""
        if stage == "local":
            return self.locals, link.own_end
        return (self.peers, link.peer) if stage == "peer" else (self.proxied, link.local)


Find = Callable[[AccessTable, connection.Link], Rule | None]


class DuplicateRuleError(ValueError):
    """Reports two rules for the same addresses; `index` is that of the second, from 0."""

    def __init__(self, index: int) -> None:
        super().__init__("a rule for the same network and local end stands above")
        self.index = index


def build(rules: Iterable[tables.AccessRule]) -> AccessTable:
    """Return the table of rules written in TOML.

    Raises:
        DuplicateRuleError: two rules have the same network and local end.
    """
    table = AccessTable()
    for index, written in enumerate(rules):
        environment = tuple(written.environment.items())
        rule = Rule(written.action, environment, written.max_per_ip or per_ip_override(environment))
        if not _add(table, written, rule):
            raise DuplicateRuleError(index)
    return table


def _add(table: AccessTable, written: tables.AccessRule, rule: Rule) -> bool:
    """Add a rule where its first address is looked up: the client's, this host's or the proxied end's."""
    own = None if written.local is None else values.local(written.local)
    proxied = None if written.proxied_local is None else values.local(written.proxied_local)
    if written.network is not None:
        ends = Ends(own, proxied)
        return all(table.peers.add(prefix, rule, ends) for prefix in prefixes(written.network))
    if own is not None:
        return _add_end(table.locals, own, rule, Ends(_port(own), proxied))
    assert proxied is not None  # noqa: S101 (the model requires one of the three)
    return _add_end(table.proxied, proxied, rule, Ends(proxied=_port(proxied)))


def _add_end(networks: Networks, where: values.Local, rule: Rule, ends: Ends) -> bool:
    return all(networks.add(prefix, rule, ends) for prefix in prefixes(where.network or "*"))


def _port(where: values.Local) -> values.Local | None:
    """Return the port condition that remains once the address has been looked up, or None."""
    return None if where.port is None else values.Local(None, where.port)


def prefixes(network: values.IPNetwork | str) -> Iterator[tuple[int, int, int]]:
    """Yield (version, length, first bits) of a network; for "*", of both families."""
    if isinstance(network, str):
        yield 4, 0, 0
        yield 6, 0, 0
    else:
        length = network.prefixlen
        yield network.version, length, int(network.network_address) >> (network.max_prefixlen - length)


def per_ip_override(environment: Iterable[tuple[str, str]]) -> int | None:
    """Return the limit that MAXCPERIP sets, as atoi reads it (manual, ACCESS FILE); None below 1."""
    number = grammar.atoi(dict(environment).get("MAXCPERIP", ""))
    return number if number > 0 else None


def _is_at(where: values.Local, end: connection.Endpoint) -> bool:
    if where.port is not None and where.port != end.port:
        return False
    network = where.network
    if network is None:
        return True
    shift = network.max_prefixlen - network.prefixlen
    return network.version == end.version and int(network.network_address) >> shift == end.value >> shift


def _specificity(pair: tuple[Ends, Rule]) -> tuple[tuple[int, bool], ...]:
    return tuple(
        (
            -1 if end is None or end.network is None else end.network.prefixlen,
            end is not None and end.port is not None,
        )
        for end in pair[0]
    )

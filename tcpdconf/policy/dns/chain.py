"""The DNS lists of a service, those of named chains among them, made ready for judging.

A zone may be a secret: entries print what is shown in its place.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from tcpdconf.config.model import answerfilter, values
from tcpdconf.config.model.dns import DnsChain, DnsList, Judging, Probe
from tcpdconf.config.model.service import ServiceSettings
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.dns.answer import Reading

Chains = Mapping[str, DnsChain]
Zones = Mapping[str, str]  # path of a zone_file -> the zone in it


class Scope(NamedTuple):
    """What the lists of one chain share; `exempt` are (version, bits to shift right, first bits)."""

    exempt: tuple[tuple[int, int, int], ...]


class Tally(NamedTuple):
    """The score of a variable in one chain, judged behind the entry at `last`."""

    variable: str
    threshold: int
    last: int


class Entry(NamedTuple):
    """One list at its place."""

    zone: str  # as it is asked: lower case, no last dot
    shown: str
    action: Literal["allow", "block"]
    variable: str
    filters: tuple[answerfilter.Filter, ...]
    message: str | None
    txt: bool
    reading: Reading
    probe: bool | Probe
    scope: int  # its place in Chain.scopes
    deadline: float  # seconds that its questions may take
    pause: float  # seconds for which it is left alone when it fails, at first
    weight: int = 0  # in the tally, if it has one
    tally: int | None = None  # its place in Chain.tallies

    def __repr__(self) -> str:
        """Without the zone."""
        return f"<{self.action} list {self.shown}>"


class Chain(NamedTuple):
    """All lists of a service. A value: it serves any number of connections."""

    entries: tuple[Entry, ...]
    scopes: tuple[Scope, ...]
    tallies: tuple[Tally, ...]
    mapped: bool  # IPv4 addresses are written ::ffff:192.0.2.1


def zone_files(settings: ServiceSettings, chains: Chains) -> list[str]:
    """The paths of the zone files that the lists of a service need, each once."""
    lists = [item for _, items in _groups(settings, chains) for item in items]
    return list(dict.fromkeys(item.zone_file for item in lists if item.zone_file is not None))


def zone(content: bytes) -> str:
    """The zone that a zone file holds, on one line.

    Raises:
        ValueError: it holds none; the message does not repeat the content.
    """
    try:
        return values.zone(content.decode("ascii").strip())
    except ValueError:
        raise ValueError("holds no domain name") from None


def build(settings: ServiceSettings, chains: Chains, zones: Zones) -> Chain:
    """The lists of a service, those of named chains among them, ready to be judged.

    Raises:
        KeyError: `zones` lacks a zone file.
    """
    entries: list[Entry] = []
    scopes: list[Scope] = []
    places: dict[int, int] = {}  # a service's own lists are one chain, wherever they stand
    tallies: dict[tuple[int, str], Tally] = {}
    for judging, items in _groups(settings, chains):
        scope = places.setdefault(id(judging), len(scopes))
        if scope == len(scopes):
            scopes.append(Scope(tuple(_exempt(judging))))
        for item in items:
            tally = None
            if item.variable in judging.threshold and (item.action == "block" or item.weight is not None):
                threshold = judging.threshold[item.variable]
                tallies[scope, item.variable] = Tally(item.variable, threshold, len(entries))
                tally = list(tallies).index((scope, item.variable))
            entries.append(_entry(item, scope, judging, tally, zones))
    return Chain(tuple(entries), tuple(scopes), tuple(tallies.values()), settings.address_format == "mapped")


def _groups(settings: ServiceSettings, chains: Chains) -> Iterator[tuple[Judging, tuple[DnsList, ...]]]:
    """The lists of a service in order, each with what says how it is judged."""
    for item in settings.dns_lists:
        if isinstance(item, str):
            yield chains[item], chains[item].lists
        else:
            yield settings.dns, (item,)


def _entry(item: DnsList, scope: int, judging: Judging, tally: int | None, zones: Zones) -> Entry:
    written = item.zone if item.zone_file is None else zones[item.zone_file]
    return Entry(
        zone=(written or "").lower().removesuffix("."),
        shown=item.shown,
        action=item.action,
        variable=item.variable,
        filters=tuple(answerfilter.read(text) for text in item.match),
        message=item.message,
        txt=item.txt,
        reading=item.answers,
        probe=item.probe,
        scope=scope,
        deadline=judging.deadline,
        pause=judging.pause,
        weight=1 if item.weight is None else item.weight,
        tally=tally,
    )


def _exempt(judging: Judging) -> Iterator[tuple[int, int, int]]:
    for network in judging.exempt:
        for version, length, bits in access_table.prefixes(network):
            yield version, access_table.BITS[version] - length, bits

"""Prepares the DNS lists of a service, including those of named chains, for judging.

A zone may be a secret, so the text form of an entry shows a substitute.
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
    """Holds what the lists of one chain share: the exempt clients.

    Each item of `exempt` is (version, bits to shift right, first bits).
    """

    exempt: tuple[tuple[int, int, int], ...]


class Tally(NamedTuple):
    """Describes the score of a variable in one chain; the score is judged after the entry at index `last`."""

    variable: str
    threshold: int
    last: int


class Entry(NamedTuple):
    """Holds one list, ready to be asked and judged."""

    zone: str  # in the form used in questions: lower case, no final dot
    shown: str
    action: Literal["allow", "block"]
    variable: str
    filters: tuple[answerfilter.Filter, ...]
    message: str | None
    txt: bool
    reading: Reading
    probe: bool | Probe
    scope: int  # index in Chain.scopes
    deadline: float  # seconds allowed for its questions
    pause: float  # seconds of the first pause when it fails
    weight: int = 0  # added to the tally, if it has one
    tally: int | None = None  # index in Chain.tallies

    def __repr__(self) -> str:
        """Return a text form without the zone, which may be secret."""
        return f"<{self.action} list {self.shown}>"


class Chain(NamedTuple):
    """Holds all lists of a service. Immutable, so any number of connections can share it."""

    entries: tuple[Entry, ...]
    scopes: tuple[Scope, ...]
    tallies: tuple[Tally, ...]
    mapped: bool  # IPv4 addresses are written ::ffff:192.0.2.1


def zone_files(settings: ServiceSettings, chains: Chains) -> list[str]:
    """Return the paths of the zone files that the lists of a service need, each once."""
    lists = [item for _, items in _groups(settings, chains) for item in items]
    return list(dict.fromkeys(item.zone_file for item in lists if item.zone_file is not None))


def zone(content: bytes) -> str:
    """Return the zone that the one line of a zone file holds.

    Raises:
        ValueError: the content is not a domain name; the message does not repeat it.
    """
    try:
        return values.zone(content.decode("ascii").strip())
    except ValueError:
        raise ValueError("holds no domain name") from None


def build(settings: ServiceSettings, chains: Chains, zones: Zones) -> Chain:
    """Return the lists of a service, including those of named chains, ready to be judged.

    Raises:
        KeyError: `zones` lacks a zone file.
    """
    entries: list[Entry] = []
    scopes: list[Scope] = []
    places: dict[int, int] = {}  # a service's own lists form one chain, whatever stands between them
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
    """Yield the lists of a service in order, each group with the settings by which it is judged."""
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

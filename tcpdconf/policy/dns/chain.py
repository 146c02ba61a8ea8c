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
Zones = Mapping[str, str]  # path of a zone_file or key_file -> the zone or key in it


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
    """Return the paths of the zone and key files that the lists of a service need, each once."""
    lists = [item for _, items in _groups(settings, chains) for item in items]
    paths = (item.zone_file or item.key_file for item in lists)
    return list(dict.fromkeys(path for path in paths if path is not None))


def zone(content: bytes) -> str:
    """Return the zone that the one line of a zone file holds.

    Raises:
        ValueError: the content is not a domain name; the message does not repeat it.
    """
    try:
        return values.zone(content.decode("ascii").strip())
    except ValueError:
        raise ValueError("holds no domain name") from None


def wrong_keys(settings: ServiceSettings, chains: Chains, zones: Zones) -> list[str]:
    """Return the paths of the key files that hold no key: more than one label, or one too long for a zone."""
    keyed = [item for _, items in _groups(settings, chains) for item in items if item.key_file is not None]
    return list(dict.fromkeys(item.key_file or "" for item in keyed if not _is_key(item, zones)))


def build(settings: ServiceSettings, chains: Chains, zones: Zones) -> Chain:
    """Return the lists of a service, including those of named chains, ready to be judged.

    Raises:
        KeyError: `zones` lacks a zone file or key file.
    """
    entries: list[Entry] = []
    scopes: list[Scope] = []
    places: dict[int, int] = {}  # a service's own lists form one chain, whatever stands between them
    tallies: dict[tuple[int, str], Tally] = {}
    for judging, items in _groups(settings, chains):
        scope = places.setdefault(id(judging), len(scopes))
        if scope == len(scopes):
            exempt = (prefix for network in judging.exempt for prefix in access_table.prefixes(network))
            shifts = (
                (version, access_table.BITS[version] - length, bits) for version, length, bits in exempt
            )
            scopes.append(Scope(tuple(shifts)))
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
    return Entry(
        zone=_asked(item, zones).lower().removesuffix("."),
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


def _asked(item: DnsList, zones: Zones) -> str:
    """Return the zone in which a list is asked."""
    if item.zone_file is not None:
        return zones[item.zone_file]
    zone = item.zone or ""
    return zone if item.key_file is None else f"{zones[item.key_file]}.{zone}"


def _is_key(item: DnsList, zones: Zones) -> bool:
    """Return whether the key file of a list holds one label that its zone has room for."""
    asked = _asked(item, zones).removesuffix(".")
    return "." not in zones[item.key_file or ""] and len(asked) <= values.LONGEST_ZONE

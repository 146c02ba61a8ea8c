"""Models the tables about DNS: lists and chains of them, how they are judged, and the resolver."""

from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Discriminator, Field, Strict, Tag

from tcpdconf.config.model import answerfilter, fields, presets, tables


class Probe(tables.Model):
    """Answers that a DNS list gives for its test points (RFC 5782, 5), if they differ from the standard."""

    listed: fields.Expected = Field(
        default=True,
        description="Answer required for 127.0.0.2: true, any listing; an array, one of these; false, "
        "do not ask.",
        examples=[["127.0.0.99"]],
    )
    unlisted: fields.Expected = Field(
        default=True,
        description="Answer required for 127.0.0.1: true, none; an array, none or one of these; "
        "false, do not ask.",
        examples=[False],
    )


def _probe_shape(value: object) -> str:
    return "<table>" if isinstance(value, dict | Probe) else "<switch>"


ProbeOrSwitch = Annotated[
    Annotated[bool, Tag("<switch>")] | Annotated[Probe, Tag("<table>")], Discriminator(_probe_shape)
]


class DnsList(tables.Model):
    """One DNS block or allow list (RFC 5782)."""

    preset: Annotated[str, presets.Preset()] | None = Field(
        default=None,
        description="Name of a list that tcpdconf knows. It fills in the keys that are left out. "
        '"tcpdconf show" prints them.',
        examples=["spamhaus-zen"],
    )
    zone: fields.Zone | None = Field(
        default=None, description="Domain of the list.", examples=["dnsbl.example.org"]
    )
    zone_file: fields.Path | None = Field(
        default=None,
        description="Path of a file with the zone, for a zone that is secret. Needs display_zone.",
        examples=["/etc/tcpdconf/zone.secret"],
    )
    key_file: fields.Path | None = Field(
        default=None,
        description="Path of a file with the customer's key, a secret label that precedes the zone in "
        "queries. The key is never shown.",
        examples=["/etc/tcpdconf/dqs.key"],
    )
    display_zone: fields.Line | None = Field(
        default=None,
        description='Name shown instead of the zone in all output. "tcpdconf show" prints the zone as '
        '"<hidden>".',
        min_length=1,
        examples=["our.list.example"],
    )
    action: Literal["allow", "block"] = Field(
        default="block",
        description='Meaning of a listing: "block" sets the variable to a text, "allow" sets it to an '
        "empty value.",
    )
    variable: fields.Variable = Field(
        default="BLOCK",
        description="Variable that a listing sets.",
        examples=["BLOCK"],
    )
    match: Annotated[tuple[fields.Filter, ...], Strict(False)] = Field(
        default=(),
        description="Answers that are listings, among those that the key answers admits. When left out, all.",
        examples=[["127.0.0.2", "127.0.0.[4..11]"]],
    )
    message: fields.Line | None = Field(
        default=None,
        description="Value of the variable. The first @ stands for the address. When left out, "
        '"Blacklisted by ZONE".',
        examples=["Blocked: https://list.example/?ip=@"],
    )
    txt: bool = Field(
        default=False, description="Asks for the TXT record too. Its text replaces the message."
    )
    answers: Literal["safe", "any"] = Field(
        default="safe",
        description='Range of answers that may be listings: "safe", 127.0.0.0/8 without 127.0.0.1 and '
        '127.255.255.0/24; "any", all addresses.',
    )
    weight: fields.Weight | None = Field(
        default=None,
        description="Number that a listing adds to the score of its variable, for the threshold of "
        "the chain. Below 0 for an allow list. When left out, 1 for a block list.",
        examples=[2],
    )
    probe: ProbeOrSwitch = Field(
        default=True,
        description="Tests the list at the start and every half hour after that (RFC 5782).",
        examples=[False, {"listed": ["127.0.0.99"]}],
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _is_preset(cls, data: Any) -> Any:  # noqa: ANN401 (TOML gives any type)
        return presets.expanded(data) if isinstance(data, dict) else data

    @pydantic.model_validator(mode="after")
    def _has_one_zone(self) -> Self:
        if (self.zone is None) == (self.zone_file is None):
            raise fields.wrong("must have either zone or zone_file, or a preset", code="missing-key")
        if self.key_file is not None and self.zone is None:
            raise fields.wrong("goes with zone, not with zone_file", ("key_file",), "conflict")
        if self.zone_file is not None and self.display_zone is None:
            text = "must be set beside zone_file, because the zone itself is never shown"
            raise fields.wrong(text, ("display_zone",), "missing-key")
        return self

    @pydantic.model_validator(mode="after")
    def _has_the_key_of_its_preset(self) -> Self:
        if self.preset is None or self.zone != presets.known()[self.preset]["settings"]["zone"]:
            return self
        if self.key_file is None and presets.needs_key(self.preset):
            text = f"must be set for the preset {self.preset}"
            raise fields.wrong(
                text, ("key_file",), "missing-key", hint='for example: key_file = "/etc/tcpdconf/dqs.key"'
            )
        if self.key_file is not None and not presets.needs_key(self.preset):
            other = presets.by_key(self.preset)
            hint = f'write preset = "{other}"' if other else "delete it"
            text = f"does not go with the preset {self.preset}, whose zone has no key"
            raise fields.wrong(text, ("key_file",), "wrong-place", hint=hint)
        return self

    @pydantic.model_validator(mode="after")
    def _means_one_thing(self) -> Self:
        allows = self.action == "allow"
        if allows and self.message is not None:
            raise fields.wrong("goes with block lists only", ("message",), "wrong-place")
        for index, written in enumerate(self.match):
            if self.answers == "safe" and not answerfilter.read(written).is_believable():
                text = 'never counts (RFC 5782, 2.1); answers = "any" would count it'
                raise fields.wrong(text, ("match", index))
        if self.weight is not None and (self.weight == 0 or (self.weight < 0) != allows):
            must = "below 0 for an allow list" if allows else "above 0 for a block list"
            raise fields.wrong(f"must be {must}, not {self.weight}", ("weight",))
        return self

    @property
    def shown(self) -> str:
        """Return the text that stands for the zone in all output."""
        return self.display_zone or self.zone or ""


def _list_shape(value: object) -> str:
    return "<name>" if isinstance(value, str) else "<table>"


ListOrChain = Annotated[
    Annotated[str, Tag("<name>")] | Annotated[DnsList, Tag("<table>")], Discriminator(_list_shape)
]


class Judging(tables.Model):
    """Rules for judging the answers of DNS lists."""

    deadline: fields.Seconds = Field(
        default=10,
        description="Time for all answers to arrive, in seconds. A list that has not answered by then "
        "does not count.",
        examples=[5],
    )
    pause: fields.Seconds = Field(
        default=10,
        description="Time, in seconds, for which a list is not asked after three failures in a row. "
        "It doubles with each further failure, up to ten minutes. Name lookups pause "
        "alike while no name server answers.",
        examples=[30],
    )
    exempt: Annotated[tuple[fields.Network, ...], Strict(False)] = Field(
        default=(), description="Clients for which the lists are not asked.", examples=[["192.0.2.0/24"]]
    )
    threshold: dict[fields.Variable, fields.Threshold] = Field(
        default={},
        description="Score from which a variable is set. Without a threshold, the first listing sets it.",
        examples=[{"BLOCK": 3}],
    )


def require_threshold(dns_list: DnsList, judging: Judging, at: tuple[str | int, ...], key: str) -> None:
    """Refuse a weight without a threshold; `at` is the list, `key` the key of the thresholds."""
    if dns_list.weight is not None and dns_list.variable not in judging.threshold:
        text = f"needs {key}.{dns_list.variable}, the score from which the variable is set"
        raise fields.wrong(text, (*at, "weight"), "missing-key")


class DnsChain(Judging):
    """A named chain of DNS lists, which services share."""

    lists: Annotated[tuple[DnsList, ...], Strict(False), Field(min_length=1)] = Field(
        description="Lists of the chain, in order.", examples=[[{"zone": "dnsbl.example.org"}]]
    )

    @pydantic.model_validator(mode="after")
    def _weighs_against_something(self) -> Self:
        for index, dns_list in enumerate(self.lists):
            require_threshold(dns_list, self, ("lists", index), "threshold")
        return self


class Dns(tables.Model):
    """The resolver. Keys that are left out come from resolv.conf."""

    servers: Annotated[tuple[fields.Server, ...], Strict(False), Field(min_length=1)] | None = Field(
        default=None,
        description="Addresses of name servers, with port 53 unless one is given. When left out, "
        "those of resolv.conf.",
        examples=[["127.0.0.1:5353", "::1"]],
    )
    timeout: fields.Seconds | None = Field(
        default=None,
        description="Time, in seconds, after which the next server is asked. When left out, that of "
        "resolv.conf, or 5.",
        examples=[2],
    )
    attempts: fields.Count | None = Field(
        default=None,
        description="Number of rounds over all servers. When left out, that of resolv.conf, or 2.",
        examples=[2],
    )
    rotate: bool | None = Field(
        default=None, description="Begins each query with another server. When left out, as resolv.conf says."
    )
    cache_entries: fields.Count = Field(
        default=100_000, description="Maximum number of answers in the cache.", examples=[10000]
    )
    min_ttl: fields.Ttl = Field(
        default=0, description="Shortest time for which an answer is cached, in seconds.", examples=[30]
    )
    max_ttl: fields.Ttl = Field(
        default=3600, description="Longest time for which an answer is cached, in seconds.", examples=[600]
    )

    @pydantic.model_validator(mode="after")
    def _keeps_in_order(self) -> Self:
        if self.min_ttl > self.max_ttl:
            text = f"must be at most max_ttl ({self.max_ttl:g}), not {self.min_ttl:g}"
            raise fields.wrong(text, ("min_ttl",), "conflict")
        return self

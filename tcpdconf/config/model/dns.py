"""Models the tables about DNS: lists and chains of them, how they are judged, and the resolver."""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Discriminator, Field, Strict, Tag

from tcpdconf.config.model import answerfilter, fields, tables


class Probe(tables.Model):
    """The answers that a DNS list must give for its test points (RFC 5782, 5), if they are not the usual."""

    listed: fields.Expected = Field(
        default=True,
        description="For 127.0.0.2: true, any answer that counts; an array, one of these; false, not asked.",
        examples=[["127.0.0.99"]],
    )
    unlisted: fields.Expected = Field(
        default=True,
        description="For 127.0.0.1: true, none; an array, none or one of these; false, not asked.",
        examples=[False],
    )


def _probe_shape(value: object) -> str:
    return "<table>" if isinstance(value, dict | Probe) else "<switch>"


ProbeOrSwitch = Annotated[
    Annotated[bool, Tag("<switch>")] | Annotated[Probe, Tag("<table>")], Discriminator(_probe_shape)
]


class DnsList(tables.Model):
    """One DNS block or allow list (RFC 5782)."""

    zone: fields.Zone | None = Field(
        default=None, description="Domain of the list.", examples=["dnsbl.example.org"]
    )
    zone_file: fields.Path | None = Field(
        default=None,
        description="A file that holds the zone, where the zone is a secret; needs display_zone.",
        examples=["/etc/tcpdconf/zone.secret"],
    )
    display_zone: fields.Line | None = Field(
        default=None,
        description='Shown in place of the zone, everywhere; "tcpdconf show" prints the zone as "<hidden>".',
        min_length=1,
        examples=["our.list.example"],
    )
    action: Literal["allow", "block"] = Field(default="block", description="What a listing means.")
    variable: fields.Variable = Field(
        default="BLOCK",
        description="Variable that a listing sets: to a text by a block list, empty by an allow list.",
        examples=["BLOCK"],
    )
    match: Annotated[tuple[fields.Filter, ...], Strict(False)] = Field(
        default=(),
        description="Answers that count, of those that answers admits; all when left out.",
        examples=[["127.0.0.2", "127.0.0.[4..11]"]],
    )
    message: fields.Line | None = Field(
        default=None,
        description='Value of the variable, the first @ is the address; "Blacklisted by ZONE" when left out.',
        examples=["Blocked: https://list.example/?ip=@"],
    )
    txt: bool = Field(
        default=False, description="Ask for the list's text as well; it then goes before the message."
    )
    answers: Literal["safe", "any"] = Field(
        default="safe",
        description='Which answers are listings: "safe", those in 127.0.0.0/8 but 127.0.0.1 and '
        '127.255.255.0/24; "any", whatever the list says.',
    )
    weight: fields.Weight | None = Field(
        default=None,
        description="What a listing adds to the score of its variable, against the threshold of the chain; "
        "negative for an allow list. 1 for a block list when left out.",
        examples=[2],
    )
    probe: ProbeOrSwitch = Field(
        default=True,
        description="Whether to test the list at start and then every half an hour (RFC 5782).",
        examples=[False, {"listed": ["127.0.0.99"]}],
    )

    @pydantic.model_validator(mode="after")
    def _has_one_zone(self) -> Self:
        if (self.zone is None) == (self.zone_file is None):
            raise fields.wrong("must have either zone or zone_file", code="missing-key")
        if self.zone_file is not None and self.display_zone is None:
            text = "must be set with zone_file: the zone itself is never shown"
            raise fields.wrong(text, ("display_zone",), "missing-key")
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
    """How the answers of DNS lists are judged."""

    deadline: fields.Seconds = Field(
        default=10,
        description="Time after which a list that has not answered does not count.",
        examples=[5],
    )
    pause: fields.Seconds = Field(
        default=10,
        description="Time for which a list that fails three times in a row is not asked, or name servers "
        "that do not answer for names; twice as many each time that it then fails again, up to ten minutes.",
        examples=[30],
    )
    exempt: Annotated[tuple[fields.Network, ...], Strict(False)] = Field(
        default=(), description="Clients that the lists are not asked about.", examples=[["192.0.2.0/24"]]
    )
    threshold: dict[fields.Variable, fields.Threshold] = Field(
        default={},
        description="Score from which a variable is set; without one the first listing sets it.",
        examples=[{"BLOCK": 3}],
    )


def require_threshold(dns_list: DnsList, judging: Judging, at: tuple[str | int, ...], key: str) -> None:
    """Refuse a weight without a threshold; `at` is the list, `key` the key of the thresholds."""
    if dns_list.weight is not None and dns_list.variable not in judging.threshold:
        text = f"needs {key}.{dns_list.variable}, which says how much is enough"
        raise fields.wrong(text, (*at, "weight"), "missing-key")


class DnsChain(Judging):
    """A chain of DNS lists with a name, for services to use."""

    lists: Annotated[tuple[DnsList, ...], Strict(False), Field(min_length=1)] = Field(
        description="The lists, in order.", examples=[[{"zone": "dnsbl.example.org"}]]
    )

    @pydantic.model_validator(mode="after")
    def _weighs_against_something(self) -> Self:
        for index, dns_list in enumerate(self.lists):
            require_threshold(dns_list, self, ("lists", index), "threshold")
        return self


class Dns(tables.Model):
    """The resolver; what is left out comes from resolv.conf."""

    servers: Annotated[tuple[fields.Server, ...], Strict(False), Field(min_length=1)] | None = Field(
        default=None,
        description="Name servers; port 53 where none is named.",
        examples=[["127.0.0.1:5353", "::1"]],
    )
    timeout: fields.Seconds | None = Field(
        default=None, description="Time before the next server is asked.", examples=[2]
    )
    attempts: fields.Count | None = Field(default=None, description="Rounds over the servers.", examples=[2])
    rotate: bool | None = Field(
        default=None, description="Whether to begin with another server at each question."
    )
    cache_entries: fields.Count = Field(
        default=100_000, description="Answers kept at most.", examples=[10000]
    )
    min_ttl: fields.Ttl = Field(
        default=0, description="Time for which an answer is kept at least.", examples=[30]
    )
    max_ttl: fields.Ttl = Field(
        default=3600, description="Time for which an answer is kept at most.", examples=[600]
    )

    @pydantic.model_validator(mode="after")
    def _keeps_in_order(self) -> Self:
        if self.min_ttl > self.max_ttl:
            text = f"must be at most max_ttl ({self.max_ttl:g}), not {self.min_ttl:g}"
            raise fields.wrong(text, ("min_ttl",), "conflict")
        return self

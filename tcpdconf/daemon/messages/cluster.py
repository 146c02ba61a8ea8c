"""Defines the messages between the supervisor or a worker and the cluster process.

Records about single connections are in `cluster.records`.
"""

import ipaddress
from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import AfterValidator, Field, TypeAdapter

from tcpdconf.config.model.fields import NAME
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages.measures import CLUSTER_BOUNDS
from tcpdconf.daemon.messages.worker import Offence
from tcpdconf.policy.access import table as access_table

MOST_PENALTIES: Final = 100
"""Penalties in a message."""
MOST_BANS: Final = 30
"""Bans in a message, each of a kilobyte at most."""
MOST_LIFTED: Final = 200
"""Lifted bans in a message."""
MOST_LIMITS: Final = 64
"""Limits of a service that the engine may count."""

_TIMES: Final = len(CLUSTER_BOUNDS) + 1
_Number = Annotated[int, Field(ge=0, lt=1 << 64)]
_Seconds = Annotated[float, Field(ge=0, le=1e12)]
_Service = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Space = Annotated[str, Field(pattern=f"^@?{NAME.pattern}$")]
"""Names what counts together: a service, or after @ a group of services."""
_Text = Annotated[str, Field(max_length=200)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Limit(NamedTuple):
    """Describes a limit of a service: of connections at once, or, with `seconds`, of new ones in that time.

    A family without a prefix length is not limited. A `most` of 0 limits nothing by itself.
    """

    ipv4: Annotated[int, Field(ge=0, le=32)] | None
    ipv6: Annotated[int, Field(ge=0, le=128)] | None
    most: Annotated[int, Field(ge=0, le=10_000_000)]
    seconds: Annotated[float, Field(gt=0, le=1e9)] | None
    enforced: bool

    def prefix(self, version: int) -> int | None:
        """Return the prefix length for an IP version."""
        return self.ipv4 if version == 4 else self.ipv6


def _counts_addresses(limits: tuple[Limit, ...]) -> tuple[Limit, ...]:
    first = limits[0]
    if (first.ipv4, first.ipv6, first.seconds) != (32, 128, None):
        raise ValueError("the first limit does not count addresses")
    if any(each.seconds is not None and not each.most for each in limits):
        raise ValueError("a rate of nothing")
    return limits


def _network(text: str) -> str:
    ipaddress.ip_network(text)
    return text


Network = Annotated[str, Field(max_length=50), AfterValidator(_network)]
"""An address or a network as text, without bits beyond its prefix."""

# From a worker.


@dataclass(frozen=True, slots=True)
class Layout(wire.Parsed):
    """Tells the limits that a worker's connections count for. The first is the one of single addresses.

    It is sent first, and again when the limits change.
    """

    limits: Annotated[
        tuple[Limit, ...], Field(min_length=1, max_length=MOST_LIMITS), AfterValidator(_counts_addresses)
    ]
    kind: Literal["layout"] = "layout"


# In both directions between a worker and the process.


class NetworkPenalty(NamedTuple):
    """Describes a penalty that is enforced; its network is given by the first bits of its addresses."""

    version: Literal[4, 6]
    bits: Annotated[int, Field(ge=0)]
    length: Annotated[int, Field(ge=0, le=128)]
    seconds: Annotated[float, Field(gt=0, le=604800)]
    offence: Offence


def _of_networks(penalties: tuple[NetworkPenalty, ...]) -> tuple[NetworkPenalty, ...]:
    for each in penalties:
        if each.length > access_table.BITS[each.version] or each.bits >> each.length:
            raise ValueError("no network")
    return penalties


_Penalties = Annotated[
    tuple[NetworkPenalty, ...],
    Field(min_length=1, max_length=MOST_PENALTIES),
    AfterValidator(_of_networks),
]


@dataclass(frozen=True, slots=True)
class Penalised(wire.Parsed):
    """Tells the process of penalties of a worker's service."""

    penalties: _Penalties
    kind: Literal["penalised"] = "penalised"


@dataclass(frozen=True, slots=True)
class PenalisedElsewhere(wire.Parsed):
    """Tells a worker of penalties of the same service on another host."""

    penalties: _Penalties
    kind: Literal["penalised-elsewhere"] = "penalised-elsewhere"


# From the supervisor.


@dataclass(frozen=True, slots=True)
class Attach(wire.Parsed):
    """Gives the process a worker's channel, in the descriptor beside it.

    Services with the same `space` count an address together. `brokered` is True if they have several users,
    so that only this process knows the connections of all of them.
    """

    service: _Service
    space: Space
    brokered: bool
    kind: Literal["attach"] = "attach"


@dataclass(frozen=True, slots=True)
class Ask(wire.Parsed):
    """Asks how many connections of an address's networks the other hosts have, by prefix length."""

    number: int
    space: Space
    version: Literal[4, 6]
    value: int
    prefixes: Annotated[tuple[Annotated[int, Field(ge=0, le=128)], ...], Field(max_length=MOST_LIMITS)]
    kind: Literal["ask"] = "ask"

    def __post_init__(self) -> None:
        """Refuse a value that is no address of this version, and a prefix length that it has not."""
        bits = access_table.BITS[self.version]
        if not 0 <= self.value < 1 << bits or any(prefix > bits for prefix in self.prefixes):
            raise ValueError("no address")


class SharedBan(NamedTuple):
    """Describes a ban that hosts share; `seconds` are those that are left, None for ever.

    `host` is the name of the host that has made it, None for this one.
    """

    network: Network
    service: _Service | None
    seconds: Annotated[float, Field(gt=0, le=1e10)] | None
    by: _Text
    reason: _Text
    host: Name | None


@dataclass(frozen=True, slots=True)
class BanPage(wire.Parsed):
    """Answers a `WantBans`: some bans, up to which place of which file, and whether there are more."""

    bans: Annotated[tuple[SharedBan, ...], Field(max_length=MOST_BANS)]
    end: _Number
    file: _Number
    more: bool
    kind: Literal["ban-page"] = "ban-page"


@dataclass(frozen=True, slots=True)
class BansChanged(wire.Parsed):
    """Tells that there are more bans."""

    kind: Literal["bans-changed"] = "bans-changed"


@dataclass(frozen=True, slots=True)
class Taken(wire.Parsed):
    """Tells that a `Mirrored` was taken on, so that another one may come."""

    kind: Literal["taken"] = "taken"


@dataclass(frozen=True, slots=True)
class Lift(wire.Parsed):
    """Asks to lift bans on all hosts."""

    bans: Annotated[tuple[tuple[Network, _Service | None], ...], Field(max_length=MOST_LIFTED)]
    kind: Literal["lift"] = "lift"


@dataclass(frozen=True, slots=True)
class GiveUp(wire.Parsed):
    """Asks the process to give up its lease and to end."""

    kind: Literal["give-up"] = "give-up"


# From the cluster process to the supervisor.


@dataclass(frozen=True, slots=True)
class WantBans(wire.Parsed):
    """Asks for bans from a place of the supervisor's file on."""

    start: _Number
    kind: Literal["want-bans"] = "want-bans"


@dataclass(frozen=True, slots=True)
class Mirrored(wire.Parsed):
    """Tells bans of other hosts."""

    bans: Annotated[tuple[SharedBan, ...], Field(min_length=1, max_length=MOST_BANS)]
    kind: Literal["mirrored"] = "mirrored"


@dataclass(frozen=True, slots=True)
class Lifted(wire.Parsed):
    """Tells which bans were lifted: on another host, or because their host no longer has them."""

    bans: Annotated[tuple[tuple[Network, _Service | None], ...], Field(min_length=1, max_length=MOST_LIFTED)]
    kind: Literal["lifted"] = "lifted"


State = Literal["connecting", "up", "slow", "down"]


class HostStatus(NamedTuple):
    """Shows one daemon of the cluster: its host's name and id, and how long ago it renewed its lease."""

    name: Name
    host: Id
    renewed: _Seconds
    alive: bool
    own: bool


@dataclass(frozen=True, slots=True)
class Status(wire.Parsed):
    """Reports the state of the engine and why, the hosts, and what was asked so far.

    `times` counts the answers by their time, in the buckets of `measures.CLUSTER_BOUNDS`.
    """

    state: State
    why: _Text
    engine: _Text
    asked: _Number
    admitted: _Number
    refused: _Number
    unanswered: _Number
    connections: _Number
    addresses: _Number
    hosts: Annotated[tuple[HostStatus, ...], Field(max_length=200)]
    times: Annotated[tuple[_Number, ...], Field(min_length=_TIMES, max_length=_TIMES)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    kind: Literal["status"] = "status"


@dataclass(frozen=True, slots=True)
class Told(wire.Parsed):
    """Answers an `Ask`: for each prefix length the connections of other hosts, by the hosts' names.

    None means that the engine does not answer.
    """

    number: int
    counts: (
        Annotated[
            tuple[Annotated[dict[Name, _Number], Field(max_length=200)], ...], Field(max_length=MOST_LIMITS)
        ]
        | None
    )
    kind: Literal["told"] = "told"


FromWorker = Layout | Penalised
ToCluster = Attach | Ask | BanPage | BansChanged | Taken | Lift | GiveUp
FromCluster = Status | Told | WantBans | Mirrored | Lifted
FROM_WORKER: Final = TypeAdapter[FromWorker](Annotated[FromWorker, Field(discriminator="kind")])
TO_WORKER: Final = TypeAdapter(PenalisedElsewhere)
TO_CLUSTER: Final = TypeAdapter[ToCluster](Annotated[ToCluster, Field(discriminator="kind")])
TO_BROKER: Final = TypeAdapter(Attach)
FROM_CLUSTER: Final = TypeAdapter[FromCluster](Annotated[FromCluster, Field(discriminator="kind")])

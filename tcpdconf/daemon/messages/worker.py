"""Defines the messages between the supervisor and a worker, in both directions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import AfterValidator, Field, TypeAdapter

from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages.assignment import Failure
from tcpdconf.daemon.messages.measures import LIST_BOUNDS, Measure
from tcpdconf.policy import connection, penalties
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.dns import health as list_health
from tcpdconf.policy.dns import name_health

_Number = Annotated[int, Field(ge=0, lt=1 << 64)]  # a counter of the ledger has 64 bits
_Pid = Annotated[int, Field(gt=1, le=1 << 22)]  # PID_MAX_LIMIT (proc(5)); 1 is never a program
_Seconds = Annotated[float, Field(ge=0)]
_TIMES: Final = len(LIST_BOUNDS) + 1

Address = tuple[Literal[4, 6], int]  # a version, and the address as a number
Offence = Annotated[str, Field(pattern=r"^(refused|proxy|early_talker|killed|status [0-9]{1,3})$")]
_LONGEST_PENALTY: Final = 604800.0  # seconds; the largest value of `max`
MOST_PENALTIES: Final = 100  # in a report, which has to fit into a message and costs its worker units of work
MOST_ASKED: Final = 10  # addresses whose penalties are asked for at once
MOST_REFUSED: Final = 50  # addresses in a report

Counter = Literal[
    "accepted",
    "connections",
    "expired",
    "left",
    "penalties",
    "early_talker",
    connection.Reason,
    "would_access",
    "would_per_ip",
    "would_per_network",
    "would_rate",
    "would_penalty",
]
"""Names a counter of a worker's ledger; those with `would_` count connections that were not refused."""
WOULD: Final[Mapping[connection.Reason, Counter]] = {
    "access": "would_access",
    "per_ip": "would_per_ip",
    "per_network": "would_per_network",
    "rate": "would_rate",
    "penalty": "would_penalty",
}
"""Maps the reasons that `enforce = false` may set aside to their counters."""


def _names_list(row: dict[str, str]) -> dict[str, str]:
    if "list" not in row:
        raise ValueError("names no list")
    return row


# From the supervisor to a worker.


@dataclass(frozen=True, slots=True)
class Prepare(wire.Parsed):
    """Asks a worker to prepare; beside it come an `Assignment` (memfd) and the descriptors of its roles."""

    number: int
    kind: Literal["prepare"] = "prepare"


@dataclass(frozen=True, slots=True)
class Commit(wire.Parsed):
    """Asks a worker to serve what it has prepared; `workers` are earlier ones whose programs may live on."""

    workers: tuple[int, ...]
    kind: Literal["commit"] = "commit"


@dataclass(frozen=True, slots=True)
class Discard(wire.Parsed):
    """Asks a worker to drop what it has prepared."""

    kind: Literal["discard"] = "discard"


@dataclass(frozen=True, slots=True)
class Try(wire.Parsed):
    """Asks a worker to report whether it could serve, and to end; descriptors as for `Prepare`."""

    number: int
    kind: Literal["try"] = "try"


@dataclass(frozen=True, slots=True)
class Ping(wire.Parsed):
    """Asks a worker for a `Pong`."""

    kind: Literal["ping"] = "ping"


@dataclass(frozen=True, slots=True)
class Report(wire.Parsed):
    """Asks a worker for the health of its DNS lists and name lookups, its penalties, and whom it refuses.

    `about` are addresses whose penalties it reports in any case.
    """

    about: tuple[Address, ...]
    kind: Literal["report"] = "report"


@dataclass(frozen=True, slots=True)
class Retire(wire.Parsed):
    """Asks a worker to stop accepting; `kept` are the inodes of the listeners that its successor has."""

    kept: tuple[int, ...]
    kind: Literal["retire"] = "retire"


@dataclass(frozen=True, slots=True)
class Leave(wire.Parsed):
    """Asks a worker to accept no more, since others do, and to end with its last program."""

    kind: Literal["leave"] = "leave"


@dataclass(frozen=True, slots=True)
class Stop(wire.Parsed):
    """Asks a worker to accept no more, terminate programs after `drain` seconds, and end `seconds` later."""

    drain: float
    seconds: float
    kind: Literal["stop"] = "stop"


class Ended(NamedTuple):
    """Identifies a process that has ended: `start` in clock ticks since boot, `status` from waitpid(2)."""

    pid: int
    start: int
    status: int


@dataclass(frozen=True, slots=True)
class Gone(wire.Parsed):
    """Tells a worker which processes have ended; programs that it has adopted may be among them."""

    ended: tuple[Ended, ...]
    kind: Literal["gone"] = "gone"


@dataclass(frozen=True, slots=True)
class Recount(wire.Parsed):
    """Tells a worker that a retired one has ended, and asks it to check its adopted programs."""

    kind: Literal["recount"] = "recount"


@dataclass(frozen=True, slots=True)
class Retell(wire.Parsed):
    """Asks a retired worker to report its running programs again, since its successor was restarted."""

    kind: Literal["retell"] = "retell"


@dataclass(frozen=True, slots=True)
class BanTable(wire.Parsed):
    """Gives a worker the table of banned networks, in the descriptor beside it (`guard.ban_table`)."""

    kind: Literal["ban-table"] = "ban-table"


@dataclass(frozen=True, slots=True)
class LogFile(wire.Parsed):
    """Gives a worker another standard error, in the descriptor beside it, because the log was rotated."""

    kind: Literal["log-file"] = "log-file"


@dataclass(frozen=True, slots=True)
class ClusterLink(wire.Parsed):
    """Gives a worker its channel to the cluster process, in the descriptor beside it (`cluster.share`)."""

    kind: Literal["cluster-link"] = "cluster-link"


# From a retired worker, through the supervisor, to its successor.


@dataclass(frozen=True, slots=True)
class Claim(wire.Parsed):
    """Claims that a program runs for this client, recorded when it was `started` (seconds since boot).

    `until` is the moment at which it must end, if there is one.
    """

    pid: _Pid
    version: Literal[4, 6]
    value: int
    port: Annotated[int, Field(ge=0, lt=1 << 16)]
    started: _Seconds
    until: _Seconds | None = None
    kind: Literal["claim"] = "claim"

    def __post_init__(self) -> None:
        """Refuse a value that is no address of this version."""
        if not 0 <= self.value < 1 << access_table.BITS[self.version]:
            raise ValueError("no address")


@dataclass(frozen=True, slots=True)
class Adopt(wire.Parsed):
    """Passes on a claim that /proc proves; `start` is the program's own, in clock ticks since boot."""

    program: Claim
    start: int
    kind: Literal["adopt"] = "adopt"


@dataclass(frozen=True, slots=True)
class Released(wire.Parsed):
    """Reports that the program with this pid, recorded at `started`, has ended."""

    pid: _Pid
    started: _Seconds
    kind: Literal["released"] = "released"


@dataclass(frozen=True, slots=True)
class Counted(wire.Parsed):
    """Reports an event to count under this name."""

    name: Counter
    kind: Literal["counted"] = "counted"


@dataclass(frozen=True, slots=True)
class Observed(wire.Parsed):
    """Reports a time to add to the histogram with this name."""

    name: Measure
    seconds: _Seconds
    kind: Literal["observed"] = "observed"


@dataclass(frozen=True, slots=True)
class Relay(wire.Parsed):
    """Carries a retired worker's entries to the supervisor, in order."""

    entries: tuple[Annotated[Claim | Released | Counted | Observed, Field(discriminator="kind")], ...]
    kind: Literal["relay"] = "relay"


@dataclass(frozen=True, slots=True)
class Relayed(wire.Parsed):
    """Carries the entries that the supervisor has verified to the successor."""

    entries: tuple[Annotated[Adopt | Released | Counted | Observed, Field(discriminator="kind")], ...]
    kind: Literal["relayed"] = "relayed"


# From a worker to the supervisor.


@dataclass(frozen=True, slots=True)
class Prepared(wire.Parsed):
    """Reports that the worker can serve what it has prepared under this number."""

    number: int
    kind: Literal["prepared"] = "prepared"


@dataclass(frozen=True, slots=True)
class Failed(wire.Parsed):
    """Reports that the worker cannot serve the assignment with this number, and why."""

    number: int
    failures: Annotated[tuple[Failure, ...], Field(min_length=1)]
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Committed(wire.Parsed):
    """Reports that the worker serves what it has prepared under this number."""

    number: int
    kind: Literal["committed"] = "committed"


@dataclass(frozen=True, slots=True)
class TryResult(wire.Parsed):
    """Reports the result of a `Try`: failures, and for each DNS list a row of text for people.

    Each row has the key "list".
    """

    number: int
    failures: tuple[Failure, ...]
    lists: tuple[Annotated[dict[str, str], AfterValidator(_names_list)], ...]
    kind: Literal["tried"] = "tried"


@dataclass(frozen=True, slots=True)
class ListStatus(wire.Parsed):
    """Shows a DNS list's health: its state and why, the number of questions, and of answers by class.

    `times` are the counts of the answer times in each bucket, and `seconds` is their sum.
    """

    state: list_health.State
    why: str
    asked: _Number
    listed: _Number
    not_listed: _Number
    error_code: _Number
    outside_127: _Number
    servfail: _Number
    refused: _Number
    timeout: _Number
    unreachable: _Number
    malformed: _Number
    times: Annotated[tuple[_Number, ...], Field(min_length=_TIMES, max_length=_TIMES)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class NamesStatus(wire.Parsed):
    """Shows the health of host name lookups in the same way."""

    state: name_health.State
    why: str
    asked: _Number
    answered: _Number
    no_such_name: _Number
    servfail: _Number
    refused: _Number
    timeout: _Number
    unreachable: _Number
    malformed: _Number


class PenaltyStatus(NamedTuple):
    """Shows the penalty of one network, given by the first bits of its addresses and their number.

    `active` is True if it is enforced, and `seconds` is its remaining time.
    """

    version: Literal[4, 6]
    bits: Annotated[int, Field(ge=0)]
    length: Annotated[int, Field(ge=0, le=128)]
    offence: Offence
    seconds: Annotated[float, Field(ge=0, le=_LONGEST_PENALTY)]
    active: bool


def _of_a_network(row: PenaltyStatus) -> PenaltyStatus:
    if row.length > access_table.BITS[row.version] or row.bits >> row.length:
        raise ValueError("no network")
    return row


@dataclass(frozen=True, slots=True)
class PenaltiesStatus(wire.Parsed):
    """Shows how many penalties are enforced, and some of all penalties, enforced or not."""

    active: Annotated[int, Field(ge=0, le=2 * penalties.SOURCES)]
    sources: Annotated[
        tuple[Annotated[PenaltyStatus, AfterValidator(_of_a_network)], ...],
        Field(max_length=MOST_PENALTIES + MOST_ASKED),
    ]


class RefusedAddress(NamedTuple):
    """Shows how often an address was refused in the last ten minutes (`guard.refused_addresses`)."""

    version: Literal[4, 6]
    value: Annotated[int, Field(ge=0)]
    refused: _Number


def _of_an_address(row: RefusedAddress) -> RefusedAddress:
    if row.value >> access_table.BITS[row.version]:
        raise ValueError("no address")
    return row


@dataclass(frozen=True, slots=True)
class Reported(wire.Parsed):
    """Reports the health of DNS lists by displayed name, and of host names (None if not looked up).

    `penalties` is None for a service without them. `refused` has the addresses that are refused most.
    """

    lists: Mapping[str, ListStatus]
    names: NamesStatus | None
    penalties: PenaltiesStatus | None
    refused: Annotated[
        tuple[Annotated[RefusedAddress, AfterValidator(_of_an_address)], ...], Field(max_length=MOST_REFUSED)
    ]
    kind: Literal["reported"] = "reported"


@dataclass(frozen=True, slots=True)
class Retired(wire.Parsed):
    """Reports that the worker has stopped accepting after a `Retire`."""

    kind: Literal["retired"] = "retired"


@dataclass(frozen=True, slots=True)
class ClusterLost(wire.Parsed):
    """Reports that the worker's channel to the cluster process is of no use any more."""

    kind: Literal["cluster-lost"] = "cluster-lost"


@dataclass(frozen=True, slots=True)
class Stopped(wire.Parsed):
    """Reports that the worker has stopped accepting after a `Stop`, and will end."""

    kind: Literal["stopped"] = "stopped"


@dataclass(frozen=True, slots=True)
class Pong(wire.Parsed):
    """Answers a `Ping`."""

    kind: Literal["pong"] = "pong"


ToWorker = (
    Prepare
    | Commit
    | Discard
    | Try
    | Ping
    | Report
    | Retire
    | Leave
    | Stop
    | Gone
    | Recount
    | Retell
    | Relayed
    | BanTable
    | LogFile
    | ClusterLink
)
FromWorker = (
    Prepared | Failed | Committed | TryResult | Reported | Retired | Relay | Stopped | Pong | ClusterLost
)
TO_WORKER: Final = TypeAdapter[ToWorker](Annotated[ToWorker, Field(discriminator="kind")])
FROM_WORKER: Final = TypeAdapter[FromWorker](Annotated[FromWorker, Field(discriminator="kind")])

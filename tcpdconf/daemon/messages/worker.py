"""Defines the messages between the supervisor and a worker, in both directions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import AfterValidator, Field, TypeAdapter

from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages.assignment import Failure
from tcpdconf.policy import connection
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.dns import health as list_health
from tcpdconf.policy.dns import name_health

_Number = Annotated[int, Field(ge=0, lt=1 << 64)]  # a counter of the ledger has 64 bits
_Pid = Annotated[int, Field(gt=1, le=1 << 22)]  # PID_MAX_LIMIT (proc(5)); 1 is never a program
_Seconds = Annotated[float, Field(ge=0)]

Counter = Literal["accepted", "connections", "left", connection.Reason]
"""Names a counter of a worker's ledger."""


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
    """Asks a worker for the health of its DNS lists and of host name lookups."""

    kind: Literal["report"] = "report"


@dataclass(frozen=True, slots=True)
class Retire(wire.Parsed):
    """Asks a worker to stop accepting; `kept` are the inodes of the listeners that its successor has."""

    kept: tuple[int, ...]
    kind: Literal["retire"] = "retire"


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


# From a retired worker, through the supervisor, to its successor.


@dataclass(frozen=True, slots=True)
class Claim(wire.Parsed):
    """Claims that a program runs for this client, recorded when it was `started` (seconds since boot)."""

    pid: _Pid
    version: Literal[4, 6]
    value: int
    port: Annotated[int, Field(ge=0, lt=1 << 16)]
    started: _Seconds
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
class Relay(wire.Parsed):
    """Carries a retired worker's entries to the supervisor, in order."""

    entries: tuple[Annotated[Claim | Released | Counted, Field(discriminator="kind")], ...]
    kind: Literal["relay"] = "relay"


@dataclass(frozen=True, slots=True)
class Relayed(wire.Parsed):
    """Carries the entries that the supervisor has verified to the successor."""

    entries: tuple[Annotated[Adopt | Released | Counted, Field(discriminator="kind")], ...]
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
    """Shows a DNS list's health: its state and why, the number of questions, and of answers by class."""

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


@dataclass(frozen=True, slots=True)
class Reported(wire.Parsed):
    """Reports the health of DNS lists by displayed name, and of host names (None if not looked up)."""

    lists: Mapping[str, ListStatus]
    names: NamesStatus | None
    kind: Literal["reported"] = "reported"


@dataclass(frozen=True, slots=True)
class Retired(wire.Parsed):
    """Reports that the worker has stopped accepting after a `Retire`."""

    kind: Literal["retired"] = "retired"


@dataclass(frozen=True, slots=True)
class Stopped(wire.Parsed):
    """Reports that the worker has stopped accepting after a `Stop`, and will end."""

    kind: Literal["stopped"] = "stopped"


@dataclass(frozen=True, slots=True)
class Pong(wire.Parsed):
    """Answers a `Ping`."""

    kind: Literal["pong"] = "pong"


ToWorker = (
    Prepare | Commit | Discard | Try | Ping | Report | Retire | Stop | Gone | Recount | Retell | Relayed
)
FromWorker = Prepared | Failed | Committed | TryResult | Reported | Retired | Relay | Stopped | Pong
TO_WORKER: Final = TypeAdapter[ToWorker](Annotated[ToWorker, Field(discriminator="kind")])
FROM_WORKER: Final = TypeAdapter[FromWorker](Annotated[FromWorker, Field(discriminator="kind")])

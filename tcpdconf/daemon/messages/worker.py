"""The messages between the supervisor and a worker, in both directions."""

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

_Number = Annotated[int, Field(ge=0, lt=1 << 64)]  # more than anything can be counted up to
_Pid = Annotated[int, Field(gt=1, le=1 << 22)]  # PID_MAX_LIMIT (proc(5)); 1 is nobody's program
_Seconds = Annotated[float, Field(ge=0)]

Counter = Literal["accepted", "connections", "left", connection.Reason]
"""What a worker counts of its connections."""


def _names_list(row: dict[str, str]) -> dict[str, str]:
    if "list" not in row:
        raise ValueError("names no list")
    return row


# From the supervisor to a worker.


@dataclass(frozen=True, slots=True)
class Prepare(wire.Parsed):
    """Prepare to serve; beside it an `Assignment` in a memfd, and the descriptors of its roles."""

    number: int
    kind: Literal["prepare"] = "prepare"


@dataclass(frozen=True, slots=True)
class Commit(wire.Parsed):
    """Serve with what was prepared; `workers` are earlier ones whose programs live on."""

    workers: tuple[int, ...]
    kind: Literal["commit"] = "commit"


@dataclass(frozen=True, slots=True)
class Discard(wire.Parsed):
    """Forget what was prepared."""

    kind: Literal["discard"] = "discard"


@dataclass(frozen=True, slots=True)
class Try(wire.Parsed):
    """Say whether the service could be served, and end; beside it what is beside `Prepare`."""

    number: int
    kind: Literal["try"] = "try"


@dataclass(frozen=True, slots=True)
class Ping(wire.Parsed):
    """Say that you are well."""

    kind: Literal["ping"] = "ping"


@dataclass(frozen=True, slots=True)
class Report(wire.Parsed):
    """Say how the lists and the names are."""

    kind: Literal["report"] = "report"


@dataclass(frozen=True, slots=True)
class Retire(wire.Parsed):
    """Leave new connections to another worker; `kept` are the inodes of sockets that go on being used."""

    kept: tuple[int, ...]
    kind: Literal["retire"] = "retire"


@dataclass(frozen=True, slots=True)
class Stop(wire.Parsed):
    """Accept no more; after `drain` seconds end the programs, which have so many `seconds` for it."""

    drain: float
    seconds: float
    kind: Literal["stop"] = "stop"


class Ended(NamedTuple):
    """A process that has ended: `start` in clock ticks since boot, `status` as of waitpid(2)."""

    pid: int
    start: int
    status: int


@dataclass(frozen=True, slots=True)
class Gone(wire.Parsed):
    """These have ended: programs of an earlier worker may be among them."""

    ended: tuple[Ended, ...]
    kind: Literal["gone"] = "gone"


@dataclass(frozen=True, slots=True)
class Recount(wire.Parsed):
    """A retired worker has ended: see which of its programs still run."""

    kind: Literal["recount"] = "recount"


@dataclass(frozen=True, slots=True)
class Retell(wire.Parsed):
    """To a retired worker: name your running programs again, since your successor has been started again."""

    kind: Literal["retell"] = "retell"


# From a retired worker, by way of the supervisor, to its successor.


@dataclass(frozen=True, slots=True)
class Claim(wire.Parsed):
    """A program of this client runs, and was recorded when it was `started` (seconds since boot)."""

    pid: _Pid
    version: Literal[4, 6]
    value: int
    port: Annotated[int, Field(ge=0, lt=1 << 16)]
    started: _Seconds
    kind: Literal["claim"] = "claim"

    def __post_init__(self) -> None:
        """Refuse an address that is none."""
        if not 0 <= self.value < 1 << access_table.BITS[self.version]:
            raise ValueError("no address")


@dataclass(frozen=True, slots=True)
class Adopt(wire.Parsed):
    """A claim that is true: /proc shows the program, with its own `start` in clock ticks since boot."""

    program: Claim
    start: int
    kind: Literal["adopt"] = "adopt"


@dataclass(frozen=True, slots=True)
class Released(wire.Parsed):
    """The program that was recorded then has ended."""

    pid: _Pid
    started: _Seconds
    kind: Literal["released"] = "released"


@dataclass(frozen=True, slots=True)
class Counted(wire.Parsed):
    """Something has happened that is counted under this name."""

    name: Counter
    kind: Literal["counted"] = "counted"


@dataclass(frozen=True, slots=True)
class Relay(wire.Parsed):
    """What a retired worker would have written into its books, in this order."""

    entries: tuple[Annotated[Claim | Released | Counted, Field(discriminator="kind")], ...]
    kind: Literal["relay"] = "relay"


@dataclass(frozen=True, slots=True)
class Relayed(wire.Parsed):
    """What of it the supervisor believes."""

    entries: tuple[Annotated[Adopt | Released | Counted, Field(discriminator="kind")], ...]
    kind: Literal["relayed"] = "relayed"


# From a worker to the supervisor.


@dataclass(frozen=True, slots=True)
class Prepared(wire.Parsed):
    """It can be served with what was prepared under this number."""

    number: int
    kind: Literal["prepared"] = "prepared"


@dataclass(frozen=True, slots=True)
class Failed(wire.Parsed):
    """It cannot, and why."""

    number: int
    failures: Annotated[tuple[Failure, ...], Field(min_length=1)]
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Committed(wire.Parsed):
    """It serves with what was prepared."""

    number: int
    kind: Literal["committed"] = "committed"


@dataclass(frozen=True, slots=True)
class TryResult(wire.Parsed):
    """What is wrong with the service, and of each DNS list a row of words for people, "list" among them."""

    number: int
    failures: tuple[Failure, ...]
    lists: tuple[Annotated[dict[str, str], AfterValidator(_names_list)], ...]
    kind: Literal["tried"] = "tried"


@dataclass(frozen=True, slots=True)
class ListStatus(wire.Parsed):
    """How a DNS list is: its state, why, how often it was asked, and what it said, by class."""

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
    """How name servers answer questions for names, in the same way."""

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
    """How the lists are, by what is shown for each, and the names (None: they are not wanted)."""

    lists: Mapping[str, ListStatus]
    names: NamesStatus | None
    kind: Literal["reported"] = "reported"


@dataclass(frozen=True, slots=True)
class Retired(wire.Parsed):
    """It accepts no more."""

    kind: Literal["retired"] = "retired"


@dataclass(frozen=True, slots=True)
class Stopped(wire.Parsed):
    """It accepts no more, and will end."""

    kind: Literal["stopped"] = "stopped"


@dataclass(frozen=True, slots=True)
class Pong(wire.Parsed):
    """It is well."""

    kind: Literal["pong"] = "pong"


ToWorker = (
    Prepare | Commit | Discard | Try | Ping | Report | Retire | Stop | Gone | Recount | Retell | Relayed
)
FromWorker = Prepared | Failed | Committed | TryResult | Reported | Retired | Relay | Stopped | Pong
TO_WORKER: Final = TypeAdapter[ToWorker](Annotated[ToWorker, Field(discriminator="kind")])
FROM_WORKER: Final = TypeAdapter[FromWorker](Annotated[FromWorker, Field(discriminator="kind")])

"""The course of a reload as a table: what each event means at each stage, and what is to be done then. Pure.

    preparing   ports are bound, services are asked to prepare, workers answer
    releasing   the service manager closes its copies of sockets that are not wanted any more
    beginning   the configuration counts; workers begin to serve, or stop
    over        committed or undone: nothing that is still to come has a meaning

`step` gives the next state and the actions, which `transaction` carries out.
"""

import enum
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

Stage = Literal["preparing", "releasing", "beginning", "over"]
Answer = Literal["prepared", "serving", "stopped"]


class Do(enum.Enum):
    """What a reload does next."""

    RELEASE = "let the service manager close its copies of sockets"
    COMMIT = "listen, and tell the workers to begin"
    UNDO = "close all that was opened; report the problems"
    FINISH = "report what has changed"
    FINISH_BROKEN = "report what has changed, and that something broke on the way"
    REPORT_LATE = "note a problem for each service that has not prepared in time"
    KILL = "kill the workers that do not begin in time: they are started again"


class Action(NamedTuple):
    """One thing to do, for these services where it concerns some."""

    do: Do
    services: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a reload has come.

    Attributes:
        asked: every service has been asked to prepare, or later told to begin.
        failed: there is a problem, so that nothing of it may count.
        awaited: services whose answer is still to come.
    """

    stage: Stage = "preparing"
    asked: bool = False
    failed: bool = False
    awaited: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Awaits:
    """A service has been asked to prepare, and will answer."""

    service: str


@dataclass(frozen=True, slots=True)
class Asked:
    """All services have been asked."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A worker has done its part: "prepared" before the commit, "serving" or "stopped" after it."""

    service: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Impossible:
    """Something cannot be prepared. The others are still asked, to have all problems at once."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker cannot prepare, or has ended: one is enough, and nobody else is waited for."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The daemon stops, or the reload is not wanted any more."""


@dataclass(frozen=True, slots=True)
class Released:
    """The service manager has closed its copies."""


@dataclass(frozen=True, slots=True)
class CannotListen:
    """A socket cannot listen: the last step that may fail."""


@dataclass(frozen=True, slots=True)
class Listens:
    """All sockets listen: from now on the configuration counts, whatever breaks."""


@dataclass(frozen=True, slots=True)
class Told:
    """All services have been told to begin or to stop; these will answer."""

    awaited: frozenset[str]


@dataclass(frozen=True, slots=True)
class Late:
    """The time for the answers is over."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A defect of tcpdconf has interrupted the reload."""


Event = (
    Awaits
    | Asked
    | Answered
    | Impossible
    | Failed
    | GivenUp
    | Released
    | CannotListen
    | Listens
    | Told
    | Late
    | Broken
)
_EXPECTED: Final = {"preparing": {"prepared"}, "beginning": {"serving", "stopped"}}


def step(now: Progress, event: Event) -> tuple[Progress, list[Action]]:  # noqa: C901, PLR0911, PLR0912 (a table)
    """Return the state after an event, and what is to be done.

    An event that has no meaning at this stage changes nothing.
    """
    match now.stage, event:
        case "preparing", Awaits(service):
            return replace(now, awaited=now.awaited | {service}), []
        case "preparing", Asked():
            return _next(replace(now, asked=True))
        case ("preparing" | "beginning") as stage, Answered(service, answer) if answer in _EXPECTED[stage]:
            return _next(replace(now, awaited=now.awaited - {service}))
        case "preparing", Impossible():
            return replace(now, failed=True), []
        case "preparing" | "releasing", Failed():
            return _next(replace(now, failed=True, awaited=frozenset()))
        case "preparing" | "releasing", GivenUp():
            return _next(replace(now, asked=True, failed=True, awaited=frozenset()))
        case "releasing", Released():
            return now, [Action(Do.COMMIT)]
        case "releasing", CannotListen():
            return _next(replace(now, failed=True))
        case "releasing", Listens():
            return replace(now, stage="beginning", asked=False), []
        case "beginning", Told(awaited):
            return _next(replace(now, asked=True, awaited=awaited))
        case "preparing", Late():
            after, actions = _next(replace(now, failed=True, awaited=frozenset()))
            return after, [Action(Do.REPORT_LATE, now.awaited), *actions]
        case "beginning", Late():
            after, actions = _next(replace(now, awaited=frozenset()))
            return after, [Action(Do.KILL, now.awaited), *actions]
        case "beginning", Broken():
            return replace(now, stage="over", awaited=frozenset()), [Action(Do.FINISH_BROKEN)]
        case "preparing" | "releasing", Broken():
            return _next(replace(now, asked=True, failed=True, awaited=frozenset()))
        case _:
            return now, []


def _next(now: Progress) -> tuple[Progress, list[Action]]:
    """Go on to the next stage if nothing is awaited any more."""
    if not now.asked or now.awaited:
        return now, []
    if now.stage == "beginning":
        return replace(now, stage="over"), [Action(Do.FINISH)]
    if now.failed:
        return replace(now, stage="over"), [Action(Do.UNDO)]
    return replace(now, stage="releasing"), [Action(Do.RELEASE)]

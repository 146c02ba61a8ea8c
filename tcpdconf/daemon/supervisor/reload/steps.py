"""Defines the transition table of a reload: the next state and the actions for each event and stage. Pure.

    preparing   the supervisor binds ports and asks services to prepare; workers answer
    releasing   the service manager closes its copies of sockets that are no longer needed
    beginning   the configuration is in effect; workers begin to serve, or stop
    over        the reload is committed or undone; only a defect in its last action has an effect

`step` returns the next state and the actions, which `transaction` carries out.
"""

import enum
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

Stage = Literal["preparing", "releasing", "beginning", "over"]
Answer = Literal["prepared", "serving", "stopped"]


class Do(enum.Enum):
    """Names the actions of a reload."""

    RELEASE = "let the service manager close its copies of sockets"
    COMMIT = "listen, and tell the workers to begin"
    UNDO = "close all that was opened; report the problems"
    FINISH = "report what has changed"
    FINISH_BROKEN = "report what has changed, and that something broke on the way"
    REPORT_LATE = "note a problem for each service that has not prepared in time"
    KILL = "kill the workers that do not begin in time: they are started again"


class Action(NamedTuple):
    """Pairs an action with the services that it concerns, if any."""

    do: Do
    services: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Progress:
    """Describes how far a reload has come.

    Attributes:
        asked: True once every service has been asked to prepare, or later told to begin.
        failed: True if there is a problem, so that the reload must be undone.
        awaited: services that have not answered yet.
    """

    stage: Stage = "preparing"
    asked: bool = False
    failed: bool = False
    awaited: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Awaits:
    """Reports that a service has been asked to prepare, and will answer."""

    service: str


@dataclass(frozen=True, slots=True)
class Asked:
    """Reports that all services have been asked."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Reports a worker's answer: "prepared" before the commit, "serving" or "stopped" after it."""

    service: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Impossible:
    """Reports a problem of the preparation. The other services are still asked, to report all problems."""


@dataclass(frozen=True, slots=True)
class PrepareFailed:
    """Reports that a worker cannot prepare, or has ended: the reload waits for no other worker."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Reports that the daemon stops, or that the reload is obsolete."""


@dataclass(frozen=True, slots=True)
class SocketsReleased:
    """Reports that the service manager has closed its copies of sockets."""


@dataclass(frozen=True, slots=True)
class CannotListen:
    """Reports that a socket cannot listen, which is the last step that may fail."""


@dataclass(frozen=True, slots=True)
class Listens:
    """Reports that all sockets listen: the configuration is in effect, even if a later step fails."""


@dataclass(frozen=True, slots=True)
class Told:
    """Reports that all services have been told to begin or to stop; those in `awaited` will answer."""

    awaited: frozenset[str]


@dataclass(frozen=True, slots=True)
class Late:
    """Reports that the time for the answers is over."""


@dataclass(frozen=True, slots=True)
class Broken:
    """Reports that a defect of tcpdconf has interrupted the reload."""


Event = (
    Awaits
    | Asked
    | Answered
    | Impossible
    | PrepareFailed
    | GivenUp
    | SocketsReleased
    | CannotListen
    | Listens
    | Told
    | Late
    | Broken
)
_EXPECTED: Final = {"preparing": {"prepared"}, "beginning": {"serving", "stopped"}}


def step(now: Progress, event: Event) -> tuple[Progress, list[Action]]:  # noqa: C901, PLR0911, PLR0912 (a table)
    """Return the state after an event, and the actions to carry out, in order.

    An event that does not belong to this stage changes nothing.
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
        case "preparing" | "releasing", PrepareFailed():
            return _next(replace(now, failed=True, awaited=frozenset()))
        case "preparing" | "releasing", GivenUp():
            return _next(replace(now, asked=True, failed=True, awaited=frozenset()))
        case "releasing", SocketsReleased():
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
        case "over", Broken():  # the last action itself has met a defect
            return now, [Action(Do.UNDO if now.failed else Do.FINISH_BROKEN)]
        case _:
            return now, []


def _next(now: Progress) -> tuple[Progress, list[Action]]:
    """Enter the next stage if no answer is missing."""
    if not now.asked or now.awaited:
        return now, []
    if now.stage == "beginning":
        return replace(now, stage="over"), [Action(Do.FINISH)]
    if now.failed:
        return replace(now, stage="over"), [Action(Do.UNDO)]
    return replace(now, stage="releasing"), [Action(Do.RELEASE)]

"""What workers say of DNS lists and names, as far as it is believed: what has another form is left out."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, get_args

from tcpdconf.policy.dns import health as list_health
from tcpdconf.policy.dns import name_health

_WORDS: Final = ("state", "why")
_LARGEST: Final = 1 << 64  # more than anything can be counted up to


class Report(NamedTuple):
    """What a worker has said of one service: its lists by zone, and its names (None: nothing)."""

    lists: Mapping[str, dict[str, Any]]
    names: dict[str, Any] | None


NOTHING: Final = Report({}, None)


def report(message: dict[str, Any]) -> Report:
    """What a worker's message says (`lookups.Lookups.status` and `names_status`)."""
    return Report(checked(message.get("lists")), names(message.get("names")))


def checked(said: object) -> dict[str, dict[str, Any]]:
    """By zone: the state, why, and counts by class (`lists.Lists.status`)."""
    return {
        zone: each
        for zone, each in (said.items() if isinstance(said, dict) else ())
        if isinstance(each, dict) and _is_status(each, get_args(list_health.State), "listed")
    }


def names(said: object) -> dict[str, Any] | None:
    """The state, why, and counts by class (`hostnames.Hostnames.status`)."""
    states = get_args(name_health.State)
    return said if isinstance(said, dict) and _is_status(said, states, "timeout", "unreachable") else None


def rows(said: object) -> list[dict[str, str]]:
    """For people: of each list a row of words, "list" among them (`lists.Lists.report`)."""
    return [
        row
        for row in (said if isinstance(said, list) else ())
        if isinstance(row, dict) and "list" in row and all(isinstance(word, str) for word in row.values())
    ]


def _is_status(each: dict[str, Any], states: tuple[str, ...], *counted: str) -> bool:
    counts = [value for name, value in each.items() if name not in _WORDS]
    return (
        each.get("state") in states
        and isinstance(each.get("why"), str)
        and {"asked", *counted} <= each.keys()
        and all(isinstance(count, int) and 0 <= count < _LARGEST for count in counts)
    )

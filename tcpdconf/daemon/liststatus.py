"""What workers say of their DNS lists, and how far it is believed: what is of another form is left out."""

from typing import Any, Final, get_args

from tcpdconf.policy import listhealth

_WORDS: Final = ("state", "why")
_LARGEST: Final = 1 << 64  # more than anything can be counted up to


def checked(said: object) -> dict[str, dict[str, Any]]:
    """By zone: the state, why, and counts by class (`lists.Lists.status`)."""
    return {
        zone: each
        for zone, each in (said.items() if isinstance(said, dict) else ())
        if isinstance(each, dict) and _is_status(each)
    }


def rows(said: object) -> list[dict[str, str]]:
    """For people: of each list a row of words, "list" among them (`lists.Lists.report`)."""
    return [
        row
        for row in (said if isinstance(said, list) else ())
        if isinstance(row, dict) and "list" in row and all(isinstance(word, str) for word in row.values())
    ]


def _is_status(each: dict[str, Any]) -> bool:
    counts = [value for name, value in each.items() if name not in _WORDS]
    return (
        each.get("state") in get_args(listhealth.State)
        and isinstance(each.get("why"), str)
        and {"asked", "listed"} <= each.keys()
        and all(isinstance(count, int) and 0 <= count < _LARGEST for count in counts)
    )

"""Merges the reports of a service's workers into one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Final, TypeVar

from tcpdconf.daemon.messages.worker import (
    MOST_PENALTIES,
    MOST_REFUSED,
    ListStatus,
    NamesStatus,
    PenaltiesStatus,
    PenaltyStatus,
    RefusedAddress,
    Reported,
)

NOTHING: Final = Reported({}, None, None, ())
_WORDS: Final = frozenset({"state", "why"})
_Status = TypeVar("_Status", ListStatus, NamesStatus)


def merged(found: Sequence[Reported]) -> Reported:
    """Return one report for all workers.

    Numbers are added. The state of a DNS list, or of names, is the first state other than "up", if any.
    """
    if len(found) < 2:
        return found[0] if found else NOTHING
    lists = {
        name: _merged_lists([each.lists[name] for each in found if name in each.lists])
        for name in _names(found)
    }
    names = [each.names for each in found if each.names is not None]
    penalties = [each.penalties for each in found if each.penalties is not None]
    refused: Counter[tuple[int, int]] = Counter()
    for report in found:
        for version, value, count in report.refused:
            refused[version, value] += count
    rows = refused.most_common(MOST_REFUSED)
    return Reported(
        lists,
        _added(names) if names else None,
        _merged_penalties(penalties) if penalties else None,
        tuple(RefusedAddress(4 if version == 4 else 6, value, count) for (version, value), count in rows),
    )


def _names(found: Sequence[Reported]) -> dict[str, None]:
    return dict.fromkeys(name for each in found for name in each.lists)


def _merged_lists(rows: Sequence[ListStatus]) -> ListStatus:
    times = tuple(map(sum, zip(*(row.times for row in rows), strict=True)))
    return replace(_added(rows), times=times)


def _added(rows: Sequence[_Status]) -> _Status:
    """Return a row with the sums of all numbers."""
    worst = next((row for row in rows if row.state != "up"), rows[0])
    numbers = {
        field.name: sum(getattr(row, field.name) for row in rows)
        for field in fields(worst)
        if field.name not in _WORDS and isinstance(getattr(worst, field.name), int | float)
    }
    return replace(worst, **numbers)


def _merged_penalties(found: Sequence[PenaltiesStatus]) -> PenaltiesStatus:
    """Return the penalties of all workers; for each network the one that ends last.

    Workers also know penalties of each other. If they know more than a report can have, `active` is the
    largest number that one of them knows.
    """
    longest: dict[tuple[int, int, int], PenaltyStatus] = {}
    for report in found:
        for row in report.sources:
            key = row.version, row.bits, row.length
            if key not in longest or longest[key].seconds < row.seconds:
                longest[key] = row
    rows = sorted(longest.values(), key=lambda row: row.seconds, reverse=True)
    active = max(*(each.active for each in found), sum(row.active for row in rows))
    return PenaltiesStatus(active, tuple(rows[:MOST_PENALTIES]))

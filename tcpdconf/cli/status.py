"""Formats the daemon's answers for `tcpdconf status` and `tcpdconf connections`. Pure."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tcpdconf.cli import columns

_BAR: Final = 20  # characters
_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"))


def status(answer: Mapping[str, Any], now: float) -> str:
    """Return the page for one answer to `status`; `now` is in seconds since the epoch."""
    parts = [
        columns.table((), _head(answer, now)),
        columns.table(("SERVICE", "SLOTS", "ACCEPTED", "REFUSED", "LISTENERS"), _services(answer)),
        columns.table(("LIST", "SERVICE", "STATE", "ASKED", "LISTED"), _lists(answer)),
        columns.table(("NAMES", "STATE", "ASKED", "UNANSWERED", "WHY"), _names(answer)),
        columns.table(("BUSIEST ADDRESSES", "CONNECTIONS"), _busiest(answer)),
    ]
    return "\n".join(part for part in parts if part)


def connections(answer: Mapping[str, Any]) -> str:
    """Return the table for one answer to `connections`."""
    rows = [
        [str(each["pid"]), each["peer"], each["service"], duration(each["age"])]
        for each in answer["connections"]
    ]
    return columns.table(("PID", "PEER", "SERVICE", "AGE"), rows) or "no connections\n"


def bar(used: int, of: int) -> str:
    """Draw how full a service is: one sign as soon as a slot is used, full only if none is free.

    >>> bar(0, 40), bar(1, 1000), bar(999, 1000)
    ('[....................]', '[#...................]', '[###################.]')
    """
    full = min(_BAR, used * _BAR // max(1, of)) or (1 if used else 0)
    return f"[{'#' * full}{'.' * (_BAR - full)}]"


def duration(seconds: float) -> str:
    """Format a time in its two largest units.

    >>> duration(7.9), duration(200), duration(7260), duration(3 * 86400)
    ('7 s', '3 min 20 s', '2 h 1 min', '3 d')
    """
    left = max(0, int(seconds))
    found = []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        found.append((count, unit))
    found.append((left, "s"))
    while len(found) > 1 and not found[0][0]:
        del found[0]
    return " ".join(f"{count} {unit}" for count, unit in found[:2] if count) or "0 s"


def _head(answer: Mapping[str, Any], now: float) -> Iterator[tuple[str, str]]:
    config, reload = answer["config"], answer["last_reload"]
    yield "tcpdconf", f"{answer['version']}, pid {answer['pid']}"
    yield "configuration", f"{config['dir']}, loaded {_moment(config['loaded_at'], now)}"
    if reload is None:
        return
    when = _moment(reload["at"], now)
    if reload["ok"]:
        yield "last reload", f"{when}: {', '.join(reload['changed']) or 'nothing'} changed"
        return
    yield "last reload", f"{when}: REJECTED, what was loaded before goes on"
    for problem in reload["problems"]:
        place = f"{problem['file']}:{problem['line']}" if problem["line"] else problem["file"]
        key = f"{problem['key']}: " if problem["key"] else ""
        yield "", f"{place}: {key}{problem['message']}"


def _services(answer: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, service in answer["services"].items():
        used, of = service["connections"], service["max_connections"]
        slots = f"{bar(used, of)} {used}/{of}"
        if service["pid"] is None:
            slots += " no worker"
        elif not service.get("accepts", True):
            slots += " not accepting"
        refused = [f"{reason} {count}" for reason, count in service["refused"].items() if count]
        accepted = str(service["accepted"])
        yield [name, slots, accepted, ", ".join(refused) or "-", ", ".join(service["listeners"]) or "-"]


def _lists(answer: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, service in answer["services"].items():
        for zone, each in service["dns_lists"].items():
            yield [zone, name, each["state"], str(each["asked"]), str(each["listed"])]


def _names(answer: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, service in answer["services"].items():
        each = service.get("names")
        if each is not None:
            unanswered = each["timeout"] + each["unreachable"]
            yield [name, each["state"], str(each["asked"]), str(unanswered), each["why"] or "-"]


def _busiest(answer: Mapping[str, Any]) -> Iterator[list[str]]:
    for each in answer.get("connections_by_address", ()):
        yield [each["address"], str(each["connections"])]


def _moment(at: float, now: float) -> str:
    there, here = time.localtime(at), time.localtime(now)
    form = "%H:%M:%S" if there[:3] == here[:3] else "%Y-%m-%d %H:%M:%S"
    return f"{time.strftime(form, there)} ({duration(now - at)} ago)"

"""Formats the daemon's answers for `tcpdconf status` and `tcpdconf connections`. Pure."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from tcpdconf.cli import columns
from tcpdconf.cli.columns import Cell, Painted
from tcpdconf.config import printable

_WIDE: Final = 120  # least columns for a long bar
_LISTED: Final = 10  # most penalties shown for each service
_PROBLEMS: Final = 10  # most problems shown of a rejected reload
_ANY_ADDRESS: Final = re.compile(r"^(?:0\.0\.0\.0|\[::\])(?=:)")


def status(
    answer: Mapping[str, Any],
    now: float,
    *,
    width: int | None = None,
    colour: bool = False,
    end: bool = False,
) -> str:
    """Return the page for one answer to `status`; `now` is in seconds since the epoch.

    No line is longer than `width`, if it is given. A rejected reload comes first; with `end` the last line
    shows it too, for a reader who sees only the end of the page.
    """

    def table(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
        return columns.table(header, rows, width=width, colour=colour)

    bar_length = 20 if width is None or width >= _WIDE else 10
    reject = rejection(answer, now, width=width, colour=colour)
    parts = [
        reject + table((), _problems(answer)),
        table((), _head(answer, now)),
        table(("SERVICE", "SLOTS", "ACCEPTED", "REFUSED", "LISTENERS"), _services(answer, bar_length)),
        table(("REFUSED", "REASONS"), _refused(answer)),
        table(("OBSERVES", "NOT ENFORCED", "WOULD REFUSE"), _observed(answer)),
        table(("LIST", "SERVICE", "STATE", "ASKED", "LISTED"), _lists(answer)),
        table(("NAMES", "STATE", "ASKED", "UNANSWERED", "WHY"), _names(answer)),
        table(("HOST", "LEASE", "CONNECTIONS", "ID"), _hosts(answer)),
        table(("MOST REFUSED IN TEN MINUTES", "REFUSALS"), _addresses(answer, "refused")),
        table(("BUSIEST ADDRESSES", "CONNECTIONS"), _addresses(answer, "connections")),
        table(("PENALTIES", "SERVICE", "OFFENCE", "LEFT"), _penalties(answer)),
        reject if end else "",
    ]
    return "\n".join(part for part in parts if part)


def rejection(
    answer: Mapping[str, Any], now: float, *, width: int | None = None, colour: bool = False
) -> str:
    """Return the sentence about a rejected reload, or "" if the latest reload was not rejected."""
    last = answer["last_reload"]
    if last is None or last["ok"]:
        return ""
    text = f"RELOAD REJECTED {_moment(last['at'], now)}: previous configuration in effect"
    return columns.table((), [[Painted(text, columns.RED)]], width=width, colour=colour)


def connections(answer: Mapping[str, Any]) -> str:
    """Return the table for one answer to `connections`."""
    rows = [
        [str(each["pid"]), each["peer"], each["service"], printable.duration(each["age"])]
        for each in answer["connections"]
    ]
    return columns.table(("PID", "PEER", "SERVICE", "AGE"), rows) or "no connections\n"


def bar(used: int, of: int, length: int = 20) -> str:
    """Draw the used share of the slots: at least one sign if any is used, full only if none is free.

    >>> bar(0, 40, 5), bar(1, 1000, 5), bar(999, 1000, 5)
    ('[.....]', '[#....]', '[####.]')
    """
    full = min(length, used * length // max(1, of)) or (1 if used else 0)
    return f"[{'#' * full}{'.' * (length - full)}]"


def _head(answer: Mapping[str, Any], now: float) -> Iterator[tuple[str, str]]:
    config, reload, bans = answer["config"], answer["last_reload"], answer.get("bans")
    started = answer.get("started_at")  # an older daemon does not report it
    up = "" if started is None else f", up {printable.duration(now - started)}"
    yield "tcpdconf", f"{answer['version']}, pid {answer['pid']}{up}"
    yield "configuration", f"{config['dir']}, loaded {_moment(config['loaded_at'], now)}"
    if bans:
        yield "bans", str(bans)
    cluster = answer.get("cluster")
    if cluster is not None:
        yield "cluster", _engine(cluster, now)
    if sum(answer.get("reloads", {}).values()) == 1:  # the start counts as one
        yield "last reload", "none since the start"
    elif reload is not None and reload["ok"]:
        changed = ", ".join(reload["changed"]) or "nothing"
        yield "last reload", f"{_moment(reload['at'], now)}: {changed} changed"


def _problems(answer: Mapping[str, Any]) -> Iterator[tuple[Cell, Cell]]:
    """Yield the errors of a rejected reload, each indented."""
    last = answer["last_reload"]
    found = () if last is None or last["ok"] else last["problems"]
    errors = [problem for problem in found if problem["severity"] == "error"]
    for problem in errors[:_PROBLEMS]:
        place = f"{problem['file']}:{problem['line']}" if problem["line"] else problem["file"]
        key = f"{problem['key']}: " if problem["key"] else ""
        yield "", Painted(f"{place}: {key}{problem['message']}", columns.RED)
    if len(errors) > _PROBLEMS:
        yield "", Painted(f"and {len(errors) - _PROBLEMS} more: see tcpdconf check", columns.RED)


def _engine(cluster: Mapping[str, Any], now: float) -> str:
    if cluster["state"] == "up":
        return f"{cluster['engine']}: limits hold over all hosts"
    since = cluster.get("since")  # an older daemon does not report it
    lasts = "" if since is None else f" for {printable.duration(now - since)}"
    without = {"local": "limits hold on this host alone", "refuse": "clients are refused"}
    why = f" ({cluster['why']})" if cluster["why"] else ""
    return f"{cluster['engine']}: {cluster['state'].upper()}{lasts}{why}, {without[cluster['on_failure']]}"


def _hosts(answer: Mapping[str, Any]) -> Iterator[list[Cell]]:
    """Yield the hosts that share the engine, with the age and the connections of each lease."""
    cluster = answer.get("cluster") or {"hosts": ()}
    for each in cluster["hosts"]:
        held = each.get("connections", "")  # an older daemon does not report it
        yield [*printable.lease(each), str(held), each["id"]]


def _services(answer: Mapping[str, Any], bar_length: int) -> Iterator[list[Cell]]:
    for name, service in answer["services"].items():
        accepted, refused = str(service["accepted"]), str(sum(service["refused"].values()))
        yield [name, _slots(service, bar_length), accepted, refused, _listeners(service["listeners"])]


def _refused(answer: Mapping[str, Any]) -> Iterator[list[Cell]]:
    for name, service in answer["services"].items():
        if any(service["refused"].values()):
            yield [name, _counts(service["refused"])]


def _slots(service: Mapping[str, Any], bar_length: int) -> Cell:
    """Return the use of a service's slots, and its state if it does not accept."""
    used, of = service["connections"], service["max_connections"]
    text = f"{bar(used, of, bar_length)} {used}/{of}"
    if not service.get("stays_up", True):  # an older daemon reports neither this nor `accepts` and `waiting`
        return Painted([text, "its worker does not stay up"], columns.RED)
    if service["pid"] is None:
        return Painted([text, "no worker"], columns.RED)
    if not service.get("accepts", True):
        return Painted([text, "not accepting"], columns.RED)
    if service.get("draining"):
        return Painted([text, "draining"], columns.YELLOW)
    there, wanted, waiting = len(service.get("pids", ())), service.get("workers", 1), service.get("waiting")
    more = [f"{there} of {wanted} workers"] if 0 < there < wanted else []
    if used < of:
        return Painted([text, *more], columns.YELLOW) if more else [text]
    return Painted([text, *more, f"{waiting} waiting"] if waiting else [text, *more], columns.YELLOW)


def _listeners(found: Iterable[str]) -> Cell:
    """Return addresses as in the configuration; the sockets for `*` of both families become one address."""
    return list(dict.fromkeys(_ANY_ADDRESS.sub("*", each) for each in found))


def _observed(answer: Mapping[str, Any]) -> Iterator[list[Cell]]:
    for name, service in answer["services"].items():
        if service.get("observes"):  # an older daemon does not report it
            yield [name, list(service["observes"]), _counts(service["would_refuse"])]


def _counts(by_reason: Mapping[str, int]) -> list[str]:
    return [f"{reason} {count}" for reason, count in by_reason.items() if count]


def _lists(answer: Mapping[str, Any]) -> Iterator[list[Cell]]:
    for name, service in answer["services"].items():
        for zone, each in service["dns_lists"].items():
            state: Cell = each["state"]
            if state == "suspended":
                state = Painted(state, columns.RED)
            yield [zone, name, state, str(each["asked"]), str(each["listed"])]


def _names(answer: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, service in answer["services"].items():
        each = service.get("names")
        if each is not None:
            unanswered = each["timeout"] + each["unreachable"]
            yield [name, each["state"], str(each["asked"]), str(unanswered), each["why"] or "-"]


def _penalties(answer: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the first enforced penalties of each service, and the number of further ones."""
    for name, service in answer["services"].items():
        found = service.get("penalties") or {"active": 0, "sources": ()}
        shown = [each for each in found["sources"] if each["active"]][:_LISTED]
        for each in shown:
            yield [each["network"], name, each["offence"], printable.duration(each["seconds"])]
        if found["active"] > len(shown):
            yield [f"and {found['active'] - len(shown)} more", name, "", ""]


def _addresses(answer: Mapping[str, Any], counted: str) -> Iterator[list[str]]:
    for each in answer.get(f"{counted}_by_address", ()):  # an older daemon does not report it
        yield [each["address"], str(each[counted])]


def _moment(at: float, now: float) -> str:
    there, here = time.localtime(at), time.localtime(now)
    form = "%H:%M:%S" if there[:3] == here[:3] else "%Y-%m-%d %H:%M:%S"
    return f"{time.strftime(form, there)} ({printable.duration(now - at)} ago)"

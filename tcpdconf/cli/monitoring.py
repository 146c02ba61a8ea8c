"""Formats the daemon's status for `tcpdconf status --check`. Pure.

The result is one line and an exit status by the Monitoring Plugins Development Guidelines: a word, the
troubles, and after a bar the performance data.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tcpdconf.config import printable

OK: Final = 0
WARNING: Final = 1
CRITICAL: Final = 2
UNKNOWN: Final = 3
_WORDS: Final = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
_TOLD: Final = 3  # troubles that fit into a line
_FULL: Final = 90  # percent of the slots

_Trouble = tuple[int, str]


def check(answer: Mapping[str, Any]) -> tuple[int, str]:
    """Judge an answer to `status`; return the exit status and the line."""
    found = sorted(_troubles(answer), key=lambda trouble: -trouble[0])
    services = answer["services"].values()
    texts = [text for _, text in found[:_TOLD]]
    if len(found) > _TOLD:
        texts.append(f"and {len(found) - _TOLD} more")
    taken = sum(service["connections"] for service in services)
    count = len(services)
    texts = texts or [
        f"{count} service{'' if count == 1 else 's'}, {taken} slot{'' if taken == 1 else 's'} taken"
    ]
    level = found[0][0] if found else OK
    return level, f"{_line(level, ', '.join(texts))} | {' '.join(_performance(answer))}"


def unknown(why: str) -> str:
    """Return the line of a check that is not possible."""
    return _line(UNKNOWN, why)


def _line(level: int, text: str) -> str:
    """Return a status line; a bar in the text is replaced, since performance data follow a bar."""
    return f"TCPDCONF {_WORDS[level]}: {printable.replaced(text.replace('|', '/'))}"


def _troubles(answer: Mapping[str, Any]) -> Iterator[_Trouble]:
    reload = answer["last_reload"]
    if reload is None:
        yield WARNING, "the daemon is starting"
    elif not reload["ok"]:
        yield WARNING, f"the last reload was rejected{_place(reload['problems'])}"
    cluster = answer.get("cluster")
    if cluster is not None and cluster["state"] != "up":
        level = CRITICAL if cluster["on_failure"] == "refuse" else WARNING
        yield level, f"the engine of the cluster is {cluster['state']}: {cluster['why']}"
    for name, service in answer["services"].items():
        yield from _troubles_of(name, service)


def _place(problems: list[Mapping[str, Any]]) -> str:
    first = next((each for each in problems if each["severity"] == "error"), None)
    if first is None:
        return ""
    return f" ({first['file']}:{first['line']})" if first["line"] else f" ({first['file']})"


def _troubles_of(name: str, service: Mapping[str, Any]) -> Iterator[_Trouble]:
    if not service.get("stays_up", True):  # an older daemon does not report it
        yield CRITICAL, f"the worker of {name} does not stay up"
    elif not service.get("accepts", service["pid"] is not None):
        yield CRITICAL, f"{name} does not accept"
    elif 0 < len(service.get("pids", ())) < service.get("workers", 1):
        yield WARNING, f"{name} has {len(service['pids'])} of {service['workers']} workers"
    used, of = service["connections"], service["max_connections"]
    if used * 100 >= of * _FULL:
        yield WARNING, f"{name} has {used} of {of} slots taken"
    for zone, each in service["dns_lists"].items():
        if each["state"] == "suspended":
            yield WARNING, f"list {zone} of {name} is suspended"


def _performance(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield the performance data: slots by service, then the totals of all services.

    The warning threshold is the largest number of slots without a warning.
    """
    services = answer["services"]
    for name, service in services.items():
        of = service["max_connections"]
        yield f"{name}={service['connections']};{(of * _FULL + 99) // 100 - 1};;0;{of}"
    yield f"accepted={sum(service['accepted'] for service in services.values())}c"
    yield f"refused={sum(sum(service['refused'].values()) for service in services.values())}c"

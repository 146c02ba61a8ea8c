"""Log lines as a script reads them: the event, then key=value, a value in double quotes where needed.

A daemon that logs to a file, a pipe or a terminal writes the time before each line.
"""

import re
from typing import Final, NamedTuple

_PAIR: Final = re.compile(r' ([a-z0-9_]+)=("(?:[^"\\]|\\.)*"|[^ "=]*)')
TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}[+-][0-9]{2}:[0-9]{2}"
)
_STAMP: Final = re.compile(f"^{TIME.pattern} ", re.MULTILINE)
_LEVELS: Final = ("alert: ", "error: ", "warning: ")


class Line(NamedTuple):
    """One line."""

    event: str
    fields: dict[str, str]


def read(line: str) -> Line:
    """A line of events with fields; ValueError when it is none, or has one key twice."""
    found = _PAIR.search(line)
    start = len(line) if found is None else found.start()
    event, rest = line[:start], line[start:]
    fields: dict[str, str] = {}
    while rest:
        found = _PAIR.match(rest)
        if found is None or found[1] in fields:
            raise ValueError(line)
        fields[found[1]] = _plain(found[2])
        rest = rest[found.end() :]
    for level in _LEVELS:
        event = event.removeprefix(level)
    return Line(event, fields)


def without_times(text: str) -> str:
    """Lines without the time at their beginning; others as they are."""
    return _STAMP.sub("", text)


def _plain(value: str) -> str:
    return re.sub(r"\\([\\\"])", r"\1", value[1:-1]) if value.startswith('"') else value

"""Turns an event into a line of text, a JSON object or an entry of the journal. Pure, but for the clock.

Every form has the same fields with the same values, and no value can end a line or begin another field:
unprintable characters are escaped (`printable.escaped`).
"""

import json.encoder
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, Protocol

from tcpdconf.config import printable, problems

Level = Literal["alert", "error", "warning", "notice", "info", "debug"]
Fields = Mapping[str, object]
PRIORITIES: Final[dict[str, int]] = {"alert": 1, "error": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7}
LONGEST: Final = 4000  # bytes of a line without its newline: pipes take up to 4096 as a whole
_MARKED: Final = {level: f"{level}: " for level in ("alert", "error", "warning")}
_IDENTIFIER: Final = "tcpdconf"
_quoted: Final[Callable[[str], str]] = json.encoder.encode_basestring
_kept = (-1, "", "")  # a second since the epoch, how its timestamps begin, and how they end


class Form(Protocol):
    """Turns events and problems into bytes, which are written unchanged."""

    def event(self, level: Level, event: str, fields: Fields) -> bytes:
        """Return the line of one event."""

    def problems(self, found: Iterable[problems.Problem]) -> list[bytes]:
        """Return the lines that show problems of a configuration."""


class Text:
    """Writes lines such as `accept service=imap peer=192.0.2.1:40000 slots=3/40`.

    With `levels` each line begins with its level, as journald understands it (sd-daemon(3)). With `times` it
    begins with the time.
    """

    def __init__(self, *, levels: bool, times: bool) -> None:
        self._levels = levels
        self._times = times

    def event(self, level: Level, event: str, fields: Fields) -> bytes:
        """Return the line of one event."""
        return self._line(level, text(level, event, fields))

    def problems(self, found: Iterable[problems.Problem]) -> list[bytes]:
        """Return the lines that `tcpdconf check` prints."""
        written = []
        for number, problem in enumerate(found):
            shown = problems.render([problem]).splitlines()
            if number and not self._times:  # a line with nothing but a time would separate nothing
                shown.insert(0, "")
            written += [self._line(problem.severity, line) for line in shown]
        return written

    def _line(self, level: Level, line: str) -> bytes:
        if self._levels:
            line = f"<{PRIORITIES[level]}>{line}"
        elif self._times:
            line = f"{now()} {line}"
        return line.encode("utf-8", "backslashreplace")[:LONGEST] + b"\n"


class Json:
    """Writes one JSON object a line. With `levels` its level stands before it, as journald understands it."""

    def __init__(self, *, levels: bool) -> None:
        self._levels = levels

    def event(self, level: Level, event: str, fields: Fields) -> bytes:
        """Return the object of one event."""
        start = f"<{PRIORITIES[level]}>" if self._levels else ""
        start += f'{{"time":"{now()}","level":"{level}"'
        line = _object(start, event, fields)
        if len(line) > LONGEST:
            line = _shortened(start, event, fields)
        return line + b"\n"

    def problems(self, found: Iterable[problems.Problem]) -> list[bytes]:
        """Return an object for each problem."""
        return [self.event(problem.severity, *_problem(problem)) for problem in found]


class Entry:
    """Writes entries of the journal's native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

    def event(self, level: Level, event: str, fields: Fields) -> bytes:
        """Return the entry of one event."""
        return _entry(level, text(level, event, fields), event, fields)

    def problems(self, found: Iterable[problems.Problem]) -> list[bytes]:
        """Return an entry for each problem; its message has several lines."""
        return [
            _entry(problem.severity, problems.render([problem]).rstrip("\n"), *_problem(problem))
            for problem in found
        ]


def text(level: Level, event: str, fields: Fields) -> str:
    """Return an event as text: its level if it matters, its name, and key=value pairs."""
    pairs = [f"{key}={value(item)}" for key, item in fields.items()]
    return " ".join((_MARKED.get(level, "") + printable.escaped(event), *pairs))


def value(item: object) -> str:
    """Return a value for a line, quoted if its end would be ambiguous otherwise.

    A value that already contains a backslash before a quote is text like any other.
    """
    shown = str(item)
    if shown and " " not in shown and '"' not in shown and "=" not in shown:
        return printable.escaped(shown)
    return '"' + printable.escaped(shown.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def now() -> str:
    """Return the local time in the form of RFC 3339, with milliseconds and the offset from UTC.

    Only the milliseconds are computed for each line.
    """
    global _kept  # noqa: PLW0603 (threads see either tuple as a whole)
    second, milliseconds = divmod(time.time_ns() // 1_000_000, 1000)
    kept = _kept
    if kept[0] != second:
        local = time.localtime(second)
        zone = time.strftime("%z", local)
        start = time.strftime("%Y-%m-%dT%H:%M:%S.", local)
        _kept = kept = (second, start, f"{zone[:3]}:{zone[3:5]}")
    return f"{kept[1]}{milliseconds:03}{kept[2]}"


def _problem(problem: problems.Problem) -> tuple[str, dict[str, object]]:
    """Return a problem as an event and its fields."""
    place: dict[str, object] = {"file": problem.file}
    if problem.line:
        place |= {"line": problem.line, "column": problem.column}
    more = {"key": problem.key, "code": problem.code, "hint": problem.hint}
    event = f"{problem.key}: {problem.text}" if problem.key else problem.text
    return event, place | {name: item for name, item in more.items() if item}


def _object(start: str, event: str, fields: Fields) -> bytes:
    parts = [start, f'"event":{_quoted(printable.escaped(event))}']
    parts += [f'"{key}":{_json_value(item)}' for key, item in fields.items()]
    return (",".join(parts) + "}").encode()


def _json_value(item: object) -> str:
    if type(item) is int or type(item) is float:  # bool is neither
        return repr(item)
    return "null" if item is None else _quoted(printable.escaped(str(item)))


def _shortened(start: str, event: str, fields: Fields) -> bytes:
    """Return an object whose longest values are cut until it is short enough; `truncated` says so."""
    texts = {"event": event} | {key: str(item) for key, item in fields.items() if isinstance(item, str)}
    while True:
        longest = max(texts, key=lambda key: len(texts[key]))
        texts[longest] = texts[longest][: len(texts[longest]) // 2]
        shorter = {**fields, **{key: item for key, item in texts.items() if key != "event"}}
        line = _object(start, texts["event"], {**shorter, "truncated": "yes"})
        if len(line) <= LONGEST or not texts[longest]:
            return line


def _entry(level: Level, message: str, event: str, fields: Fields) -> bytes:
    start = f"PRIORITY={PRIORITIES[level]}\nSYSLOG_IDENTIFIER={_IDENTIFIER}\n"
    parts = [start, f"TCPDCONF_EVENT={printable.escaped(event)}\n"]
    parts += [f"TCPDCONF_{key.upper()}={printable.escaped(str(item))}\n" for key, item in fields.items()]
    return _field("MESSAGE", message) + "".join(parts).encode("utf-8", "backslashreplace")


def _field(name: str, content: str) -> bytes:
    """Return a field; if it has several lines, in the form with a length before its value."""
    data = content.encode("utf-8", "backslashreplace")
    if b"\n" not in data:
        return b"%b=%b\n" % (name.encode(), data)
    return b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)

"""Defines the problems of a configuration and shows them to a reader, a script or a code review.

A `Problem` is a value that knows its place. `ConfigError` carries all problems of all files, never just the
first. Nothing here reads a file or knows the meaning of a configuration.
"""

import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from tcpdconf.config import codes, printable

Severity = Literal["error", "warning"]
Format = Literal["text", "json", "github"]

_WIDTH: Final = 160  # columns of a source line that are shown around the caret
# for a terminal (ECMA-48, SGR), as compilers have it: everything in bold
_BOLD: Final = "1"
_BLUE: Final = "1;34"
_CYAN: Final = "1;36"
_COLOURS: Final[dict[Severity, str]] = {"error": "1;31", "warning": "1;33"}  # red, yellow
_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Span:
    """Marks a piece of one line: `line` and `column` count from 1, in characters; `length` is at least 1."""

    line: int
    column: int
    length: int = 1


@dataclass(frozen=True, slots=True)
class Edit:
    """Replaces a piece of a file by `text`; lines and columns count from 1.

    The piece ends before `end_line` and `end_column`.
    """

    line: int
    column: int
    end_line: int
    end_column: int
    text: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Describes one error or warning (`severity`) about a configuration.

    `line` and `column` count from 1, in characters; both are 0 if the whole file is meant. `key` is the
    dotted key, empty for a file. `code` is a stable slug for scripts. `source` is the line itself, or the
    part of it after `offset` characters. `length` is the number of characters, from `column`, that are
    marked. `edits`, if any, do what `hint` says.
    """

    file: str
    line: int
    column: int
    key: str
    text: str
    code: codes.Code
    severity: Severity = "error"
    hint: str | None = None
    source: str = ""
    length: int = 1
    edits: tuple[Edit, ...] = ()
    offset: int = 0

    def __str__(self) -> str:
        """Return the problem on one line.

        For example: `conf.d/imap.toml:12:3: error: services.imap.limits.max_per_ip: must be at least 1, not
        0`.
        """
        return ": ".join(self.parts())

    def parts(self) -> list[str]:
        """Return the one-line form in printable pieces: place, severity, the key if there is one, text."""
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return [_printable(part) for part in (place, self.severity, self.key, self.text) if part]


def dotted(key: Iterable[str | int]) -> str:
    """Return a key path as TOML writes it: `services.imap.listeners[0].port`, quoted where needed."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.fullmatch(part) else json.dumps(part))
    return text


class ConfigError(Exception):
    """Reports an unusable configuration; `problems` are all that were found, including warnings."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def render(problems: Iterable[Problem], form: Format = "text", *, colour: bool = False) -> str:
    """Return all problems in one form: text with source lines, a JSON array, or GitHub annotations.

    Only text can have colours, as terminal escape sequences.
    """
    if form == "json":
        return json.dumps(records(problems), indent=2) + "\n"
    if form == "github":
        return "".join(_annotation(problem) for problem in problems)
    return "\n".join(_excerpt(problem, colour) for problem in problems)


def edited(text: str, edits: Iterable[Edit]) -> str:
    """Return a text after these edits; of two that overlap, the second is left out."""
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    result, done = "", 0
    for edit in sorted(set(edits), key=lambda edit: (edit.line, edit.column)):
        start, end = starts[edit.line - 1] + edit.column - 1, starts[edit.end_line - 1] + edit.end_column - 1
        if start >= done:
            result, done = result + text[done:start] + edit.text, end
    return result + text[done:]


def records(problems: Iterable[Problem]) -> list[dict[str, object]]:
    """Return problems as objects for JSON."""
    return [_record(problem) for problem in problems]


def excerpts(problems: Iterable[Problem]) -> list[dict[str, object]]:
    """Return for each problem the source that `records` leave out.

    Each item has the shown part of the line, its offset in the line, and the marked length.
    """
    return [
        {"source": source, "offset": offset, "length": min(problem.length, len(source))}
        for problem in problems
        for source, offset in [_shown(problem)]
    ]


def from_records(
    records: Iterable[Mapping[str, Any]], excerpts: Iterable[Mapping[str, Any]] = ()
) -> list[Problem]:
    """Return the problems from which `records` were made, with source lines if there are excerpts."""
    lines = iter(excerpts)
    found = []
    for record in records:
        line = next(lines, {})
        found.append(
            Problem(
                record["file"], record["line"], record["column"], record["key"], record["message"],
                record["code"], record["severity"], record["hint"], source=line.get("source", ""),
                length=line.get("length", 1), offset=line.get("offset", 0),
            )
        )  # fmt: skip
    return found


def _record(problem: Problem) -> dict[str, object]:
    return {
        "severity": problem.severity,
        "code": problem.code,
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "key": problem.key,
        "message": problem.text,
        "hint": problem.hint,
        "edits": [dataclasses.asdict(edit) for edit in problem.edits],
    }


def _annotation(problem: Problem) -> str:
    """Return a GitHub workflow command.

    See https://docs.github.com/actions/reference/workflow-commands-for-github-actions.
    """
    properties = {"file": problem.file}
    if problem.line:
        properties |= {"line": str(problem.line), "col": str(problem.column)}
    properties["title"] = problem.code
    written = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in properties.items())
    message = f"{problem.key}: {problem.text}" if problem.key else problem.text
    if problem.hint:
        message += f"\nhint: {problem.hint}"
    return f"::{problem.severity} {written}::{_escaped(message)}\n"


def _escaped(text: str, also: str = "") -> str:
    return "".join(f"%{ord(c):02X}" if c in "%\r\n" + also else c for c in text)


def _excerpt(problem: Problem, colour: bool) -> str:
    """Return a problem as rustc shows it: one line, the source line with a mark below, the hint."""

    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour else text

    severity = _COLOURS[problem.severity]
    place, word, *rest = problem.parts()
    lines = [": ".join([paint(place, _BOLD), paint(word, severity), *rest])]
    if problem.line and problem.source.strip():
        number = str(problem.line)
        blank, bar = " " * len(number), paint("|", _BLUE)
        source, indent, mark = _marked(problem)
        lines += [
            f" {blank} {bar}",
            f" {paint(number, _BLUE)} {bar} {source}",
            f" {blank} {bar} {indent}{paint(mark, severity)}",
        ]
    if problem.hint:
        lines.append(f"{paint('hint', _CYAN)}: {problem.hint}")
    return "\n".join(lines) + "\n"


def _shown(problem: Problem) -> tuple[str, int]:
    """Return the part of the source line that fits around the column, and its offset in the line."""
    source = problem.source
    first = max(0, problem.column - 1 - problem.offset - _WIDTH // 2) if len(source) > _WIDTH else 0
    return source[first : first + _WIDTH].rstrip(), problem.offset + first


def _marked(problem: Problem) -> tuple[str, str, str]:
    """Return the source line as shown, and the blanks and the carets of the line below it.

    Tabs and wide characters keep their columns.
    """
    shown, offset = _shown(problem)
    start = problem.column - 1 - offset
    blank = "".join("\t" if c == "\t" else " " * _columns(c) for c in shown[:start])
    marked = sum(_columns(c) for c in shown[start : start + problem.length])
    return _printable(shown), blank, "^" * max(1, marked)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _printable(text: str) -> str:
    return printable.replaced(text, but="\t")

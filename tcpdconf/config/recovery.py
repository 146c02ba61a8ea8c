"""Every syntax error of a file at once, and what the rest of it says.

The text is cut into statements; those that are no TOML are repaired (`repair`) or left out, and what remains
is parsed. So one error does not hide the others, nor what is wrong with values elsewhere in the file.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from typing import Any, Final, NamedTuple

from tcpdconf.config import problems, repair, sources, syntax

_PARSED: Final = 1_000_000  # characters that are parsed for keys that are defined twice
_HEADER: Final = re.compile(r"[ \t]*\[{1,2}[ \t]*[\w.\"' -]+\]{0,2}[ \t]*(#.*)?$")
_ASSIGNMENT: Final = re.compile(r"[ \t]*[\w.-]+[ \t]*=(?!=)")
_NUMBER: Final = re.compile(r"[\d., \"'-]*")
_PIECE: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"?|\'[^\'\n]*\'?|#[^\n]*|[\[\]{}\n]|[^\[\]{}\n"\'#]+',
    re.DOTALL,
)
_CONFLICT: Final = re.compile(
    r"^<{7}(?: .*)?\n(?:.*\n)*?(?:\|{7}(?: .*)?\n(?:.*\n)*?)?={7}\n(?:.*\n)*?>{7}(?: .*)?$", re.MULTILINE
)
_MARKER: Final = re.compile(r"^(?:<{7}|={7}|>{7}|\|{7})(?: .*)?$", re.MULTILINE)


class _Statement(NamedTuple):
    """A piece of a file: a key with its value, or a header; with the number of its first line from 0."""

    line: int
    text: str

    @property
    def is_header(self) -> bool:
        return self.text.lstrip().startswith("[")


@dataclass
class Recovered:
    """What is wrong with the syntax of a file, and what the rest says; data is None if nothing is known."""

    told: list[problems.Problem] = field(default_factory=list)
    data: dict[str, Any] | None = None
    text: str = ""  # that was parsed in its place, with the same lines
    lost: list[str] = field(default_factory=list)  # statements that nothing is known of
    touched: dict[int, int] = field(default_factory=dict)  # repaired lines, from 1: the number of the problem


def recover(source: sources.Source, error: Exception) -> Recovered:
    """All problems of a text that tomllib refuses with `error`."""
    if not isinstance(error, tomllib.TOMLDecodeError):
        return Recovered([syntax.problem(source, error)])
    foreign = _foreign(source)
    if foreign is not None:
        return Recovered([foreign])
    found = Recovered()
    text = _without_conflicts(source, found)
    lines = text.split("\n")
    is_lost = False
    for statement in list(_statements(text)):
        if is_lost and not statement.is_header:
            _blank(lines, statement, found)
            continue
        if repair.parses(statement.text) or syntax.is_twice(statement.text):
            is_lost = False
            continue
        is_lost = not _judge(source, statement, lines, found) and statement.is_header
    _unite(source, lines, found)
    return found


def _foreign(source: sources.Source) -> problems.Problem | None:
    """A file in quite another language."""
    start = source.text.lstrip()
    language = None
    if start.startswith("{"):
        language = "JSON"
    elif start.startswith("<?xml"):
        language = "XML"
    elif re.match(r"(?:#.*\n|\s)*(?:---|[\w-]+:[ \t]*(?:#.*)?\n[ \t]+[\w-])", source.text):
        language = "YAML"
    if language is None:
        return None
    line = source.text.count("\n", 0, len(source.text) - len(start)) + 1
    hint = 'write it as TOML: a [services.NAME] header, and below it lines such as user = "courier"'
    return source.problem(problems.Span(line, 1), "", f"is {language}, not TOML", "syntax", hint=hint)


def _without_conflicts(source: sources.Source, found: Recovered) -> str:
    """The text with the first side of each conflict that a merge has left."""

    def first(match: re.Match[str]) -> str:
        line = source.text.count("\n", 0, match.start()) + 1
        _add(source, found, problems.Span(line, 1, 7), "a merge has left a conflict here", hint)
        keeps, kept = False, []
        for written in match[0].split("\n"):
            is_marker = _MARKER.fullmatch(written) is not None
            keeps = written.startswith("<<<<<<<") if is_marker else keeps
            kept.append("" if is_marker or not keeps else written)
        return "\n".join(kept)

    hint = "keep one of the two sides, and delete the lines that begin with <<<<<<<, ======= and >>>>>>>"
    text = _CONFLICT.sub(first, source.text)
    for match in _MARKER.finditer(text):
        span = problems.Span(text.count("\n", 0, match.start()) + 1, 1, 7)
        _add(source, found, span, "a merge has left the mark of a conflict here", "delete this line")
    return _MARKER.sub("", text)


def _statements(text: str) -> Iterator[_Statement]:
    """The statements of a text. One that is not closed ends where another must begin."""
    lines = text.split("\n")
    start = 0
    while start < len(lines):
        end = _end(lines, start)
        yield _Statement(start, "\n".join(lines[start:end]) + "\n")
        start = end


def _end(lines: list[str], start: int) -> int:
    """The line after a statement."""
    first = lines[start]
    if _HEADER.match(first) or not re.search(r"[\[{]|\"\"\"|'''", first):
        return start + 1
    if re.search(r"\"\"\"|'''", first):
        return _text_end(lines, start)
    opened: list[str] = []
    number = start
    while number < len(lines):
        line = lines[number]
        if number > start and _begins(line, opened):
            return number if "{" not in opened else start + 1
        for piece in _PIECE.findall(line):
            if piece in {"[", "{"}:
                opened.append(piece)
            elif piece in {"]", "}"} and opened:
                opened.pop()
        number += 1
        if not opened:
            return number
    return start + 1


def _begins(line: str, opened: list[str]) -> bool:
    """Whether a line inside brackets belongs to the next statement."""
    if _HEADER.match(line) and not _NUMBER.fullmatch(line.strip(" []")) and "," not in line:
        return re.search(r"\[[^\]\"']*[A-Za-z]", line) is not None
    return "{" not in opened and _ASSIGNMENT.match(line) is not None


def _text_end(lines: list[str], start: int) -> int:
    """The line after a string of several lines; of one that nothing closes, all lines are left."""
    for end in range(start + 1, len(lines) + 1):
        piece = "\n".join(lines[start:end])
        if len(piece) > _PARSED // 10:
            break
        counted = piece.count('"""'), piece.count("'''")
        if not any(count % 2 for count in counted):
            return end
    return len(lines)


def _judge(source: sources.Source, statement: _Statement, lines: list[str], found: Recovered) -> bool:
    """Put a problem of a statement with the others, and its repair into the lines; False if there is none."""
    repaired = repair.find(statement.text)
    if repaired is None:
        _add_plain(source, statement, found)
    else:
        before = statement.text[: repaired.start].split("\n")
        span = problems.Span(statement.line + len(before), len(before[-1]) + 1, max(1, repaired.length))
        edits = () if repaired.becomes is None else _edits(statement, repaired.becomes)
        _add(source, found, span, repaired.text, repaired.hint, edits)
    count = statement.text.count("\n")
    if repaired is None or repaired.becomes is None:
        _blank(lines, statement, found)
        return False
    written = repaired.becomes.removesuffix("\n").split("\n")
    lines[statement.line : statement.line + count] = (written + [""] * count)[:count]
    for number in range(statement.line + 1, statement.line + count + 1):
        found.touched[number] = len(found.told) - 1
    return True


def _blank(lines: list[str], statement: _Statement, found: Recovered) -> None:
    count = statement.text.count("\n")
    if statement.text.strip():
        found.lost.append(statement.text)
    lines[statement.line : statement.line + count] = [""] * count


def _add_plain(source: sources.Source, statement: _Statement, found: Recovered) -> None:
    """What tomllib says of a statement that nobody can repair."""
    alone = sources.Source(source.path, statement.text, {})
    try:
        tomllib.loads(statement.text)
    except (ValueError, RecursionError) as error:
        said = syntax.problem(alone, error)
        line = said.line + statement.line if said.line else 0
        found.told.append(replaced(said, line=line))


def _add(  # noqa: PLR0917 (what a problem consists of)
    source: sources.Source,
    found: Recovered,
    span: problems.Span,
    text: str,
    hint: str | None,
    edits: tuple[problems.Edit, ...] = (),
) -> None:
    problem = source.problem(span, "", text, "syntax", hint=hint)
    found.told.append(replaced(problem, edits=edits))


def _edits(statement: _Statement, becomes: str) -> tuple[problems.Edit, ...]:
    """The one piece of a statement that differs, and what it becomes."""
    old, new = statement.text, becomes
    if new == "":
        end = statement.line + old.count("\n") + 1
        return (problems.Edit(statement.line + 1, 1, end, 1, ""),)
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    stop = 0
    while stop < min(len(old), len(new)) - start and old[-1 - stop] == new[-1 - stop]:
        stop += 1
    first, last = _place(statement, old[:start]), _place(statement, old[: len(old) - stop])
    return (problems.Edit(*first, *last, new[start : len(new) - stop]),)


def _place(statement: _Statement, before: str) -> tuple[int, int]:
    rows = before.split("\n")
    return statement.line + len(rows), len(rows[-1]) + 1


def _unite(source: sources.Source, lines: list[str], found: Recovered) -> None:
    """Parse what is left; keys that are defined twice are left out one after the other."""
    budget = _PARSED
    while budget > 0:
        text = "\n".join(lines)
        budget -= len(text)
        try:
            found.data, found.text = sources.parsed(text), text
        except (ValueError, RecursionError) as error:
            now = sources.Source(source.path, text, {})
            problem = syntax.problem(now, error)
            found.told.append(replaced(problem, source=source.places.line(problem.line)))
            if not _without(lines, problem, found):
                return
        else:
            return


def _without(lines: list[str], problem: problems.Problem, found: Recovered) -> bool:
    """Leave out the statement that a problem is about, and what belongs to it; False if it is not known."""
    statements = list(_statements("\n".join(lines)))
    place = next(
        (
            number
            for number, each in enumerate(statements)
            if each.line < problem.line <= each.line + each.text.count("\n") and each.text.strip()
        ),
        None,
    )
    if place is None:
        return False
    whole = statements[place].is_header
    _blank(lines, statements[place], found)
    for statement in statements[place + 1 :]:
        if not whole or statement.is_header:
            break
        _blank(lines, statement, found)
    return True


def mend(found: Recovered, later: list[problems.Problem]) -> Iterator[problems.Problem]:
    """Yield the other problems, of repaired lines at the place of their syntax error.

    One that says what to write is taken in by that error: its advice then leads to a value that is right.
    """
    for problem in later:
        number = found.touched.get(problem.line)
        if number is None:
            yield problem
            continue
        known = found.told[number]
        edits, value = _joined(found, known, problem)
        if edits:
            found.told[number] = replaced(known, hint=f"write {value}", edits=edits)
        else:
            place = {name: getattr(known, name) for name in ("line", "column", "length", "source")}
            yield replaced(problem, **place, edits=())


def _joined(
    found: Recovered, known: problems.Problem, later: problems.Problem
) -> tuple[tuple[problems.Edit, ...], str]:
    """The edits of the file for two that follow each other on one line, and the value that they make."""
    if len(known.edits) != 1 or len(later.edits) != 1:
        return (), ""
    first, second = known.edits[0], later.edits[0]
    line = found.text.split("\n")[first.line - 1]
    if {first.line, first.end_line, second.line, second.end_line} != {first.line} or "\n" in first.text:
        return (), ""
    after = line[: second.column - 1] + second.text + line[second.end_column - 1 :]
    rest = line[first.column - 1 + len(first.text) :]
    before = line[: first.column - 1] + known.source[first.column - 1 : first.end_column - 1] + rest
    statement = _Statement(first.line - 1, before + "\n")
    return _edits(statement, after + "\n"), after.partition("=")[2].partition(" #")[0].strip()

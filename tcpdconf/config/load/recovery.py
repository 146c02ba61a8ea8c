"""Finds every syntax error of a file at once, and parses the rest of it.

The text is cut into statements. Those that are not TOML are repaired (`repair`) or left out, and the rest is
parsed. So one error hides neither the others nor problems of values elsewhere in the file.
"""

import itertools
import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace as replaced
from typing import Final, NamedTuple

from tcpdconf.config import problems
from tcpdconf.config.load import repair, tokens, toml_errors
from tcpdconf.config.load.source import Recovered, SourceFile, parsed

_ROUNDS: Final = 4  # rounds of leaving out keys that are defined twice
_TEXT: Final = 100_000  # characters of a string of several lines
_TOLD: Final = 100  # syntax errors of a file
_SCANNED: Final = 200_000  # lines searched in vain for the end of a statement, at most
_LONGEST: Final = 20_000  # characters of a line that may be a header, or an array of several lines
_HEADER: Final = re.compile(r"[ \t]*\[{1,2}[\w.\"' \t-]{1,500}\]{0,2}[ \t]*(#.*)?$")
_ASSIGNMENT: Final = re.compile(r"[ \t]*[\w.-]+[ \t]*=(?!=)")
_NUMBER: Final = re.compile(r"[\d., \"'-]*")
_PIECE: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"?|\'[^\'\n]*\'?|#[^\n]*|[\[\]{}\n]|[^\[\]{}\n"\'#]+',
    re.DOTALL,
)
_MARKER: Final = re.compile(r"^(?:<{7}|={7}|>{7}|\|{7})(?: .*)?$", re.MULTILINE)


class _Statement(NamedTuple):
    """Holds a piece of a file: a key with its value, or a header. `line` counts from 0."""

    line: int
    text: str

    @property
    def is_header(self) -> bool:
        return self.text.lstrip().startswith("[")


def recover(source: SourceFile, error: Exception) -> Recovered:
    """Return all syntax errors of a text that tomllib refuses with `error`, and its readable data."""
    if not isinstance(error, tomllib.TOMLDecodeError):
        return Recovered([toml_errors.problem(source, error)])
    foreign = _foreign(source)
    if foreign is not None:
        return Recovered([foreign])
    found = Recovered()
    text = _without_conflicts(source, found)
    lines = text.split("\n")
    is_lost, header = False, ""
    for statement in _statements(text):
        if len(found.told) >= _TOLD:
            return found
        if statement.is_header:
            header = statement.text
        elif is_lost:
            _blank(lines, statement, found)
            continue
        if tokens.parses(statement.text) or toml_errors.is_twice(statement.text):
            is_lost = False
            continue
        is_judged = _judge(source, statement, lines, found)
        is_lost = not is_judged and statement.is_header
        if not is_judged:
            found.lost.append(header)  # the lost text may define any of its keys
    _unite(source, lines, found)
    return found


def _foreign(source: SourceFile) -> problems.Problem | None:
    """Return the problem of a file in another language, or None."""
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


def _without_conflicts(source: SourceFile, found: Recovered) -> str:
    """Return the text with only the first side of each conflict that a merge has left."""
    lines = source.text.split("\n")
    hint = "keep one of the two sides, and delete the lines that begin with <<<<<<<, ======= and >>>>>>>"
    begun = False
    kept = True
    for number, line in enumerate(lines, 1):
        if not _MARKER.fullmatch(line):
            lines[number - 1] = line if kept else ""
            continue
        if len(found.told) >= _TOLD:
            break
        sign = line[0]
        if sign == "<":
            _add(source, found, problems.Span(number, 1, 7), "a merge has left a conflict here", hint)
        elif not begun:
            text = "a merge has left the mark of a conflict here"
            edits = (problems.Edit(number, 1, number + 1, 1, ""),)
            _add(source, found, problems.Span(number, 1, 7), text, "delete this line", edits)
        kept = sign in "<>" or not begun
        begun = sign != ">" and (begun or sign == "<")
        lines[number - 1] = ""
    return "\n".join(lines)


def _statements(text: str) -> Iterator[_Statement]:
    """Yield the statements of a text; an unclosed one ends where another must begin."""
    lines = text.split("\n")
    start, budget = 0, _SCANNED
    while start < len(lines):
        end, looked = _end(lines, start) if budget > 0 else (start + 1, 0)
        budget -= looked - end
        yield _Statement(start, "\n".join(lines[start:end]) + "\n")
        start = end


def _end(lines: list[str], start: int) -> tuple[int, int]:
    """Return the line after a statement, and the line up to which the search went."""
    first = lines[start]
    if len(first) > _LONGEST or _HEADER.match(first) or not re.search(r"[\[{]|\"\"\"|'''", first):
        return start + 1, start + 1
    if re.search(r"\"\"\"|'''", first):
        end = _text_end(lines, start)
        return end, end
    opened: list[str] = []
    tables = 0  # the open brackets that are braces
    for number in range(start, len(lines)):
        line = lines[number]
        if number > start and len(line) < _LONGEST and _begins(line, in_array=not tables):
            return number if not tables else start + 1, number
        for piece in _PIECE.findall(line):
            if piece in {"[", "{"}:
                opened.append(piece)
                tables += piece == "{"
            elif piece in {"]", "}"} and opened:
                tables -= opened.pop() == "{"
        if not opened:
            return number + 1, number + 1
    return start + 1, len(lines)


def _begins(line: str, *, in_array: bool) -> bool:
    """Return whether a line inside brackets begins the next statement."""
    if _HEADER.match(line) and not _NUMBER.fullmatch(line.strip(" []")) and "," not in line:
        return re.search(r"\[[^\]\"']*[A-Za-z]", line) is not None
    return in_array and _ASSIGNMENT.match(line) is not None


def _text_end(lines: list[str], start: int) -> int:
    """Return the line after a string of several lines; if it is not closed, the end of the text."""
    for end in range(start + 1, len(lines) + 1):
        piece = "\n".join(lines[start:end])
        if len(piece) > _TEXT:
            break
        counted = piece.count('"""'), piece.count("'''")
        if not any(count % 2 for count in counted):
            return end
    return len(lines)


def _judge(source: SourceFile, statement: _Statement, lines: list[str], found: Recovered) -> bool:
    """Add the problem of a statement, and write its repair into the lines.

    Return False if there is no repair; the statement is then blanked.
    """
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


def _add_plain(source: SourceFile, statement: _Statement, found: Recovered) -> None:
    """Add the error that tomllib reports for a statement without a repair."""
    alone = SourceFile(source.path, statement.text, {})
    try:
        tomllib.loads(statement.text)
    except (ValueError, RecursionError) as error:
        said = toml_errors.problem(alone, error)
        line = said.line + statement.line if said.line else 0
        found.told.append(replaced(said, line=line))


def _add(  # noqa: PLR0917 (the parts of a problem)
    source: SourceFile,
    found: Recovered,
    span: problems.Span,
    text: str,
    hint: str | None,
    edits: tuple[problems.Edit, ...] = (),
) -> None:
    problem = source.problem(span, "", text, "syntax", hint=hint)
    found.told.append(replaced(problem, edits=edits))


def _edits(statement: _Statement, becomes: str) -> tuple[problems.Edit, ...]:
    """Return the edit for the one piece of a statement that differs."""
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


def _unite(source: SourceFile, lines: list[str], found: Recovered) -> None:
    """Parse the remaining lines; of keys that are defined twice, leave out the second."""
    written = source.text.split("\n")
    for _ in range(_ROUNDS):
        text = "\n".join(lines)
        try:
            found.data, found.text = parsed(text), text
        except (ValueError, RecursionError) as error:
            now = SourceFile(source.path, text, {})
            again = (
                [*itertools.islice(toml_errors.duplicates(now), _TOLD)]
                if toml_errors.says_twice(error)
                else []
            )
            told = again or [toml_errors.problem(now, error)]
            found.told += [replaced(problem, source=_line(written, problem.line)) for problem in told]
            if not again or len(found.told) >= _TOLD:
                return
            _leave_out(lines, {problem.line for problem in again}, found)
        else:
            return


def _line(lines: list[str], number: int) -> str:
    """Return a line by its number from 1; "" for 0, which means the whole file."""
    return lines[number - 1] if number else ""


def _leave_out(lines: list[str], numbers: set[int], found: Recovered) -> None:
    """Blank the statements on some lines and, if they are headers, all that belongs to them."""
    below = False
    for statement in list(_statements("\n".join(lines))):
        count = statement.text.count("\n")
        if any(number in numbers for number in range(statement.line + 1, statement.line + count + 1)):
            _blank(lines, statement, found)
            below = statement.is_header
        elif statement.is_header:
            below = False
        elif below:
            _blank(lines, statement, found)


def mend(found: Recovered, later: list[problems.Problem]) -> Iterator[problems.Problem]:
    """Yield the other problems; those of repaired lines move to the place of their syntax error.

    If such a problem has edits, its syntax error absorbs them, so that its advice leads to a valid value.
    """
    lines = found.text.split("\n")
    taken: dict[int, list[problems.Problem]] = {}
    for problem in later:
        number = found.touched.get(problem.line)
        if number is None or (
            problem.line != found.told[number].line and problem.source == lines[problem.line - 1]
        ):
            yield problem
        elif problem.edits:
            taken.setdefault(number, []).append(problem)
        else:
            yield _placed(problem, found.told[number])
    for number, group in taken.items():
        known = found.told[number]
        edits, value = _joined(found, known, [edit for problem in group for edit in problem.edits])
        if edits:
            found.told[number] = replaced(known, hint=f"write {value}", edits=edits)
        else:
            yield from (_placed(problem, known) for problem in group)


def _placed(problem: problems.Problem, known: problems.Problem) -> problems.Problem:
    """Return a problem of a repaired statement, at the place of the repair."""
    place = {name: getattr(known, name) for name in ("line", "column", "length", "source")}
    return replaced(problem, **place, edits=())


def _joined(
    found: Recovered, known: problems.Problem, later: list[problems.Edit]
) -> tuple[tuple[problems.Edit, ...], str]:
    """Return the edits for an error and the later edits on its line, and the value that they produce."""
    if len(known.edits) != 1:
        return (), ""
    first = known.edits[0]
    places = {first.line, first.end_line, *(place for edit in later for place in (edit.line, edit.end_line))}
    if places != {first.line} or "\n" in first.text:
        return (), ""
    line = found.text.split("\n")[first.line - 1]
    moved = [problems.Edit(1, edit.column, 1, edit.end_column, edit.text) for edit in later]
    after = problems.edited(line, moved)
    statement = _Statement(first.line - 1, known.source + "\n")
    return _edits(statement, after + "\n"), after.partition("=")[2].partition(" #")[0].strip()

"""Translates tomllib's errors into messages for people who edit mail servers, at the right place."""

import re
import tomllib
from collections.abc import Iterator
from typing import Final

from tcpdconf.config import problems
from tcpdconf.config.load.source import SourceFile

_PLACE = re.compile(r" \((?:at line (\d+), column (\d+)|at end of document)\)$")
_TWICE = re.compile(r"Cannot (?:overwrite|declare|redefine|mutate)|Duplicate inline table key")
_TRIED: Final = 20  # quotes that may have begun a string; each is tried by parsing the text before it
_PARSED: Final = 200_000  # characters to parse for that, except for the last quote
_WORD = re.compile(r"[^\s,#\[\]{}=\"']+")
_BOOLEANS: Final = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}  # fmt: skip  # noqa: E501

# the beginning of tomllib's message -> ours, and what to do
_WORDING: Final = (
    ("Expected newline or end of document after a statement", "nothing may follow a value on its line", None),
    ("Expected '=' after a key", 'a key must be followed by "=" and its value', None),
    ("Expected ']' at the end of a table", 'a table header must end in "]"', None),
    ("Expected ']]' at the end of an array", 'the header of an array of tables must end in "]]"', None),
    ("Invalid statement", "must be a key, a [table] or a comment", None),
    ("Invalid initial character for a key part", "must be a key", "a key is letters, digits, _ and -, or in quotes"),  # noqa: E501
    ("Unclosed array", 'array elements must be separated by ",", and the array closed by "]"', None),
    ("Unclosed inline table", 'keys of an inline table must be separated by ",", and the table closed by "}"', None),  # noqa: E501
    ("Unterminated string", "a string is not closed", None),
    ("Illegal character '\\n'", "a string is not closed on its line", None),
    ("Found invalid character '\\n'", "a string is not closed on its line", None),
    ("Unescaped '\\' in a string", "a backslash in a string must be doubled", "or write the string in single quotes"),  # noqa: E501
    ("Invalid hex value", "a \\u or \\U in a string needs four or eight hexadecimal digits", None),
    ("Escaped character is not a Unicode", "a \\u or \\U in a string names no character", None),
    ("Invalid date or datetime", "there is no such date", None),
)  # fmt: skip


def problem(source: SourceFile, error: Exception) -> problems.Problem:
    """Return the problem of a file that tomllib refused."""
    if not isinstance(error, tomllib.TOMLDecodeError):
        text = "arrays or tables are nested too deeply" if isinstance(error, RecursionError) else str(error)
        return source.problem(None, "", f"cannot be parsed: {text}", "syntax")
    if _TWICE.match(str(error)) and source.places.duplicates:
        return next(duplicates(source))
    span = _span(source.text, str(error))
    if str(error).startswith("Unterminated string"):
        span = _opening(source.text) or span
    text, hint = _reworded(_PLACE.sub("", str(error)), source.text, span)
    return source.problem(span, "", text, "syntax", hint=hint)


def duplicates(source: SourceFile) -> Iterator[problems.Problem]:
    """Yield a problem for each key that is defined twice."""
    for twice in source.places.duplicates:
        first = f"{source.path}:{twice.first.line}:{twice.first.column}"
        key = problems.dotted(twice.key)
        yield source.problem(twice.span, key, f"is defined twice, first at {first}", "duplicate-key")


def is_twice(statement: str) -> bool:
    """Return whether a statement is refused because it defines a key twice."""
    try:
        tomllib.loads(statement)
    except (ValueError, RecursionError) as error:
        return says_twice(error)
    return False


def says_twice(error: Exception) -> bool:
    """Return whether tomllib has refused a text because it defines a key twice."""
    return _TWICE.match(str(error)) is not None


def _span(text: str, message: str) -> problems.Span:
    """Return the place that a message names; the end of the document is after its last visible character."""
    found = _PLACE.search(message)
    if found and found[1]:
        return problems.Span(int(found[1]), int(found[2]))
    lines = text.rstrip().split("\n")
    return problems.Span(len(lines), len(lines[-1]) + 1)


def _opening(text: str) -> problems.Span | None:
    """Return where an unclosed string of several lines begins: no string is open before it."""
    tries = max(1, min(_TRIED, _PARSED // len(text)))
    for found in reversed([match.start() for match in re.finditer("'{3}|\"{3}", text)][-tries:]):
        try:
            tomllib.loads(text[:found])
        except ValueError as error:
            if str(error).startswith("Unterminated string"):
                continue
        line = text.count("\n", 0, found)
        return problems.Span(line + 1, found - text.rfind("\n", 0, found), 3)
    return None


def _reworded(message: str, text: str, span: problems.Span) -> tuple[str, str | None]:
    if message.startswith("Invalid value"):
        return _no_value(text.split("\n")[span.line - 1][span.column - 1 :])
    for start, ours, hint in _WORDING:
        if message.startswith(start):
            return ours, hint
    if message.startswith(("Illegal character", "Found invalid character")):
        return f"a control character must not stand here: {message.rpartition('character ')[2]}", None
    if _TWICE.match(message):
        return "a key or table is defined twice", None
    return message[:1].lower() + message[1:], None


def _no_value(rest: str) -> tuple[str, str | None]:
    word = _WORD.match(rest)
    if word is None:
        return "a value is missing", None
    if word[0].lower() in _BOOLEANS:
        return f"not a value: {word[0]}", f"write {_BOOLEANS[word[0].lower()]}"
    return f"not a value: {word[0]}", f'strings need quotes: "{word[0]}"' if "\\" not in word[0] else None

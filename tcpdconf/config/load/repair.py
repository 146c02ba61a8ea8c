"""Guesses how a TOML statement that cannot be parsed was meant.

A repair is advice for people. It also lets the rest of a file be checked in the same run. It is used only if
the repaired statement can be parsed.
"""

import re
import unicodedata
from typing import Final, NamedTuple

from tcpdconf.config.load import tokens

_DOUBLE: Final = dict.fromkeys("“”„‟″«»", '"')
_SINGLE: Final = dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u2039\u203a", "'")
_DASHES: Final = dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
_INVISIBLE: Final = dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", "")
_ODD: Final = {**_DOUBLE, **_SINGLE, **_DASHES, **_INVISIBLE}
_OUTSIDE: Final = re.compile(rf"({tokens.STRING})|(#[^\n]*)|([^\"'#]+|[\"'])", re.DOTALL)
_TEMPLATE: Final = re.compile(
    r"\{\{.{0,200}?\}\}|\{%.{0,200}?%\}|\{#.{0,200}?#\}|<%.{0,200}?%>|\$\{[^}\n]{0,200}\}"
    r"|\$\([^)\n]{0,200}\)|\$[A-Za-z_]\w*|@[A-Z_]{1,50}@|__[A-Z]{1,50}__"
)
_KEY: Final = re.compile(
    r"[ \t]*((?:[\w-]+|\"[^\"\n]*\"|'[^'\n]*')(?:[ \t]*\.[ \t]*(?:[\w-]+|\"[^\"\n]*\"|'[^'\n]*'))*)"
)
_ASSIGNED: Final = re.compile(r"[ \t]*(=>|:=|==|=|:|(?<=[ \t]))[ \t]*")
_LONGEST: Final = 2000  # characters of a line that is examined, at most
_NOTHING: Final = frozenset({"null", "none", "nil", "undef", "undefined"})
_ARRAYS: Final = frozenset(
    {"listeners", "access", "dns_lists", "rules", "levels", "lists", "environment_files"}
)
_COMMENT: Final = re.compile(r"[ \t]*(//|;|--|/\*|%|!|REM\b|rem\b)[ \t]*(.*)")


class Repair(NamedTuple):
    """Describes an error in a statement and its repair.

    `start` and `length` are the place, in characters of the statement. `becomes` is the repaired statement,
    or None if it cannot be guessed.
    """

    start: int
    length: int
    text: str
    hint: str | None
    becomes: str | None = None


def find(statement: str) -> Repair | None:
    """Return the first common mistake in a statement with its repair, or None."""
    if any(len(line) > _LONGEST for line in statement.split("\n")):
        return None
    for attempt in (_odd_characters, _template, _header, _comment, _pair):
        found = attempt(statement)
        if found is not None and (found.becomes is None or tokens.parses(found.becomes)):
            return found
    return None


def _odd_characters(statement: str) -> Repair | None:
    """Repair characters that word processors and web pages write in place of TOML's own."""
    first: tuple[int, str] | None = None
    parts = []
    for match in _OUTSIDE.finditer(statement):
        part = match[0]
        if match[3] is not None:
            place = next((place for place, char in enumerate(part) if _plain(char) != char), None)
            if place is not None and first is None:
                first = match.start() + place, part[place]
            part = "".join(map(_plain, part))
        parts.append(part)
    if first is None:
        return None
    becomes, (start, char) = "".join(parts), first
    if not tokens.parses(becomes):
        deeper = find(becomes) if becomes != statement else None
        becomes = deeper.becomes if deeper is not None and deeper.becomes is not None else statement
    if becomes == statement:
        return Repair(start, 1, f"{_named(char)} must not stand here", None)
    if char in _DOUBLE or char in _SINGLE:
        return Repair(
            start, 1, f"a string must stand in straight quotes, not in {char}", _value_hint(becomes), becomes
        )
    plain = _plain(char)
    hint = f'write "{plain}"' if plain.strip() else "write a plain blank" if plain else "delete it"
    return Repair(start, 1, f"{_named(char)} must not stand here", hint, becomes)


def _plain(char: str) -> str:
    if char in _ODD:
        return _ODD[char]
    return " " if char > "\x7f" and unicodedata.category(char) == "Zs" else char


def _named(char: str) -> str:
    name = unicodedata.name(char, "a character").lower()
    return f"the character U+{ord(char):04X} ({name})"


def _value_hint(statement: str) -> str | None:
    found = _KEY.match(statement)
    equals = _ASSIGNED.match(statement, found.end()) if found else None
    value = statement[equals.end() :].strip() if equals else ""
    return f"write {value}" if value and "\n" not in value and "#" not in value else None


def _template(statement: str) -> Repair | None:
    for match in _OUTSIDE.finditer(statement):
        found = _TEMPLATE.search(match[0]) if match[3] is not None else None
        if found:
            start = match.start() + found.start()
            text = f"a placeholder was not filled in: {found[0]}"
            return Repair(
                start, len(found[0]), text, "write the value, or run the template through its program first"
            )
    found = _TEMPLATE.search(statement)  # a placeholder with quotes inside
    if found is None or tokens.parses(statement[: found.start()] + "0" + statement[found.end() :]) is False:
        return None
    text = f"a placeholder was not filled in: {found[0]}"
    return Repair(
        found.start(), len(found[0]), text, "write the value, or run the template through its program first"
    )


def _header(statement: str) -> Repair | None:
    """Repair a table's header: its brackets, and the text after it."""
    found = re.fullmatch(
        r"(\s*)(\[{1,2})[ \t]*([^\[\]#\n]{0,1000}?)[ \t]*(\]{0,2})[ \t]*([:;,.]?)[ \t]*(#[^\n]*)?\n?",
        statement,
    )
    if found is None or not _KEY.fullmatch(found[3]):
        return None
    name, opened, closed = found[3], len(found[2]), len(found[4])
    count = opened
    if opened != closed and closed:
        count = 2 if name.rpartition(".")[2] in _ARRAYS else 1
    header = "[" * count + name + "]" * count
    becomes = statement[: found.start(2)] + header + (f" {found[6]}" if found[6] else "") + "\n"
    if opened != closed:
        end = '"]]"' if count == 2 else '"]"'
        what = "the header of an array of tables" if count == 2 else "a table header"
        if closed > opened:
            return Repair(
                found.start(4), closed, f"{what} must begin and end alike", f"write {header}", becomes
            )
        return Repair(
            found.end(4) if closed else found.end(3),
            1,
            f"{what} must end in {end}",
            f"write {header}",
            becomes,
        )
    return Repair(
        found.start(5), 1, "nothing may follow a table header on its line", f"write {header}", becomes
    )


def _comment(statement: str) -> Repair | None:
    found = _COMMENT.match(statement)
    if found is None:
        return None
    start = found.start(1)
    becomes = f"{statement[:start]}# {statement[start + len(found[1]) :].lstrip()}"
    return Repair(
        start, len(found[1]), 'a comment must begin with "#"', f"write # {found[2].rstrip()}", becomes
    )


def _pair(statement: str) -> Repair | None:  # noqa: PLR0911 (one for each mistake)
    key = _KEY.match(statement)
    if key is None:
        return None
    equals = _ASSIGNED.match(statement, key.end())
    if equals is None:
        return None
    sign, start = equals[1], equals.end()
    value = statement[start:]
    if not value.split("#")[0].strip():
        if sign == "=":
            place = len(statement[:start].rstrip())
            return Repair(place, 1, "a value is missing", "write the value, or delete the line")
        return None
    word = value.split("#")[0].strip()
    if sign == "=" and word.lower() in _NOTHING:
        return Repair(
            start,
            len(word),
            f"TOML has no {word}",
            "delete the line: a key that is left out has no value",
            "",
        )
    found = _valued(value, umask=key[1].strip().endswith("umask"))
    if sign != "=":
        place, length = (equals.start(1), len(sign)) if sign else (start, 1)
        return _unassigned(place, length, f"{statement[: key.end()]} = ", value, found)
    if found is None:
        return None
    whole = None if found.becomes is None else statement[:start] + found.becomes
    return found._replace(start=start + found.start, becomes=whole)


def _unassigned(place: int, length: int, front: str, value: str, repaired: Repair | None) -> Repair:
    """Repair a key without "="; `front` is the key with it, and `repaired` repairs its value."""
    becomes = front + value
    if repaired is not None and repaired.becomes is not None and not tokens.parses(becomes):
        becomes = front + repaired.becomes
    hint = 'write "="' if "\n" in becomes.strip() else f"write {becomes.strip()}"
    return Repair(place, length, 'a key must be followed by "=" and its value', hint, becomes)


def _valued(value: str, *, umask: bool) -> Repair | None:
    """Repair a value, perhaps with a comment, that TOML does not know."""
    for repaired in (_rewritten(value, umask=umask), _whole_line(value)):
        if repaired is not None and (repaired.becomes is None or tokens.parses(f"x = {repaired.becomes}")):
            return repaired
    return None


def _whole_line(value: str) -> Repair | None:
    """Repair several bare words, which are one string: program = /bin/cat -u."""
    found = re.fullmatch(r"([^\"'#\[\]{}\n]+?)([ \t]*(?:#[^\n]*)?\n?)", value)
    if found is None:
        return None
    text, rest = found[1].rstrip(" \t,;"), found[2]
    if "\\" in text or not text:
        return None
    return Repair(0, len(text), f"a string must be in quotes: {text}", f'write "{text}"', f'"{text}"{rest}')


def _rewritten(value: str, *, umask: bool) -> Repair | None:
    writer = tokens.Rewriter(umask=umask)
    writer.run(value)
    if writer.first is None:
        return None
    return Repair(*writer.first, "".join(writer.out))

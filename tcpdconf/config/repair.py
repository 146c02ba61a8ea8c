"""How a TOML statement that cannot be parsed was probably meant.

A repair is advice for people, and lets the rest of a file be judged in the same run. It is given only if the
repaired statement can be parsed.
"""

import re
import tomllib
import unicodedata
from typing import Final, NamedTuple

_DOUBLE: Final = dict.fromkeys("“”„‟″«»", '"')
_SINGLE: Final = dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u2039\u203a", "'")
_DASHES: Final = dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
_INVISIBLE: Final = dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", "")
_ODD: Final = {**_DOUBLE, **_SINGLE, **_DASHES, **_INVISIBLE}
_STRING: Final = r'"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\''
_OUTSIDE: Final = re.compile(rf"({_STRING})|(#[^\n]*)|([^\"'#]+|[\"'])", re.DOTALL)
_TOKEN: Final = re.compile(
    rf"(?P<string>{_STRING})|(?P<comment>#[^\n]*)|(?P<blank>[ \t]+)|(?P<end>\n)|(?P<mark>[\[\]{{}},=])"
    r"|(?P<open>[\"'][^\n]*)|(?P<word>[^\s,#\[\]{}=\"']+)",
    re.DOTALL,
)
_TEMPLATE: Final = re.compile(
    r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}|<%.*?%>|\$\{[^}\n]*\}|\$\([^)\n]*\)|\$[A-Za-z_]\w*|@[A-Z_]+@|__[A-Z_]+__"
)
_KEY: Final = re.compile(
    r"[ \t]*((?:[\w-]+|\"[^\"\n]*\"|'[^'\n]*')(?:[ \t]*\.[ \t]*(?:[\w-]+|\"[^\"\n]*\"|'[^'\n]*'))*)"
)
_ASSIGNED: Final = re.compile(r"[ \t]*(=>|:=|==|=|:|(?<=[ \t]))[ \t]*")
_BOOLEANS: Final = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}  # fmt: skip  # noqa: E501
_NOTHING: Final = frozenset({"null", "none", "nil", "undef", "undefined"})
_ARRAYS: Final = frozenset(
    {"listeners", "access", "dns_lists", "rules", "levels", "lists", "environment_files"}
)
_COMMENT: Final = re.compile(r"[ \t]*(//|;|--|/\*|%|!|REM\b|rem\b)[ \t]*(.*)")


class Repair(NamedTuple):
    """What is wrong in a statement, and what it becomes.

    `start` and `length` say where, in characters of the statement. `becomes` is None when nobody knows it.
    `whole` marks advice that needs no look at the value: nothing was guessed of its type.
    """

    start: int
    length: int
    text: str
    hint: str | None
    becomes: str | None = None


def parses(statement: str) -> bool:
    """Whether a statement alone is TOML."""
    try:
        tomllib.loads(statement)
    except (ValueError, RecursionError):
        return False
    return True


def find(statement: str) -> Repair | None:
    """The first thing that is wrong with a statement in a way that people often have it."""
    for attempt in (_odd_characters, _template, _header, _comment, _pair):
        found = attempt(statement)
        if found is not None and (found.becomes is None or parses(found.becomes)):
            return found
    return None


def _odd_characters(statement: str) -> Repair | None:
    """Characters that word processors and web pages put in place of TOML's own."""
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
    if not parses(becomes):
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
    found = _TEMPLATE.search(statement)  # quotes inside of it
    if found is None or parses(statement[: found.start()] + "0" + statement[found.end() :]) is False:
        return None
    text = f"a placeholder was not filled in: {found[0]}"
    return Repair(
        found.start(), len(found[0]), text, "write the value, or run the template through its program first"
    )


def _header(statement: str) -> Repair | None:
    """A table's header: its brackets, and what stands after it."""
    found = re.fullmatch(
        r"(\s*)(\[{1,2})[ \t]*([^\[\]#\n]*?)[ \t]*(\]{0,2})[ \t]*([:;,.]?)[ \t]*(#[^\n]*)?\n?", statement
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
    front = statement[:start] if sign == "=" else f"{statement[: key.end()]} = "
    if sign != "=":
        becomes = front + (
            value if parses(front + value) or found is None or found.becomes is None else found.becomes
        )
        text = 'a key must be followed by "=" and its value'
        place, length = (equals.start(1), len(sign)) if sign else (start, 1)
        return Repair(
            place,
            length,
            text,
            f"write {becomes.strip()}" if "\n" not in becomes.strip() else 'write "="',
            becomes,
        )
    if found is None:
        return None
    whole = None if found.becomes is None else front + found.becomes
    return found._replace(start=start + found.start, becomes=whole)


def _valued(value: str, *, umask: bool) -> Repair | None:
    """A value, perhaps with a comment, that TOML does not know."""
    for repaired in (_rewritten(value, umask=umask), _whole_line(value)):
        if repaired is not None and (repaired.becomes is None or parses(f"x = {repaired.becomes}")):
            return repaired
    return None


def _whole_line(value: str) -> Repair | None:
    """Several bare words are one string: program = /bin/cat -u."""
    found = re.fullmatch(r"([^\"'#\[\]{}\n]+?)([ \t]*(?:#[^\n]*)?\n?)", value)
    if found is None:
        return None
    text, rest = found[1].rstrip(" \t,;"), found[2]
    if "\\" in text or not text:
        return None
    return Repair(0, len(text), f"a string must be in quotes: {text}", f'write "{text}"', f'"{text}"{rest}')


class _Change(NamedTuple):
    start: int
    length: int
    text: str
    hint: str | None


class _Rewriter:
    """Goes over the tokens of a value, and writes them as TOML has them; `first` is the first change."""

    def __init__(self, *, umask: bool) -> None:
        self.first: _Change | None = None
        self.out: list[str] = []
        self._umask = umask
        self._open: list[str] = []
        self._ready = True  # for a value; else for a comma or the end
        self._done = False

    def change(self, start: int, length: int, text: str, hint: str | None = None) -> None:
        if self.first is None:
            self.first = _Change(start, length, text, hint)

    def run(self, value: str) -> None:
        for match in _TOKEN.finditer(value):
            kind, piece, start = str(match.lastgroup), match[0], match.start()
            if kind in {"blank", "comment", "end"}:
                self._between(kind, piece, start)
            elif self._done:
                self._after(piece, start)
            elif kind == "mark":
                self._mark(piece, start)
            else:
                self._value(kind, piece, start, value[match.end() :])
        for opened in reversed(self._open):
            closing = "]" if opened == "[" else "}"
            what = "an array" if opened == "[" else "an inline table"
            end = len(value.rstrip())
            self.change(end, 1, f'{what} must be closed by "{closing}"', f'write "{closing}"')
            self._insert(closing)

    def _insert(self, text: str) -> None:
        """Write before the blanks and line ends that were written last."""
        place = len(self.out)
        while place and not self.out[place - 1].strip():
            place -= 1
        self.out.insert(place, text)

    def _between(self, kind: str, piece: str, start: int) -> None:
        if kind == "end" and "{" in self._open:
            self.change(start, 1, "an inline table must stand on one line", "write it on one line")
            if self.out and not self.out[-1].isspace():
                self.out.append(" ")
        elif not (kind == "blank" and "{" in self._open and self.out and self.out[-1].isspace()):
            self.out.append(piece)

    def _after(self, piece: str, start: int) -> None:
        """What follows a value that is complete."""
        if piece.startswith("//"):
            self.change(start, len(piece), 'a comment must begin with "#"', 'write "#"')
            self.out.append("#" + piece[2:])
        elif piece in {";", ",", ".", "]", "}"}:
            self.change(start, len(piece), "nothing may follow a value on its line", f'delete "{piece}"')
        else:
            self.change(start, 1, "nothing may follow a value on its line")
            self.out.append(piece)

    def _mark(self, piece: str, start: int) -> None:
        if piece in "[{":
            self._separate(start)
            self._open.append(piece)
            self._ready = True
        elif piece in "]}":
            if self._open and (self._open[-1] == "[") == (piece == "]"):
                if piece == "}":
                    self._drop_comma()
                self._open.pop()
                self._ready, self._done = False, not self._open
        elif piece == ",":
            self._ready = True
        else:
            self._ready = True
        self.out.append(piece)

    def _drop_comma(self) -> None:
        place = len(self.out) - 1
        while place >= 0 and self.out[place].isspace():
            place -= 1
        if place >= 0 and self.out[place] == ",":
            del self.out[place]

    def _separate(self, start: int) -> None:
        if self._open and not self._ready:
            what = "array elements" if self._open[-1] == "[" else "keys of an inline table"
            self.change(start, 1, f'{what} must be separated by ","', 'write a "," before it')
            self._insert(",")

    def _value(self, kind: str, piece: str, start: int, rest: str) -> None:
        inside = self._open[-1:] == ["{"]
        is_key = inside and self.out and "".join(self.out).rstrip()[-1:] != "="
        if is_key:
            self._separate(start)
            if piece.endswith(":") or rest.lstrip().startswith(":"):
                self.change(
                    start + len(piece.rstrip(":")),
                    1,
                    'a key must be followed by "=", not by ":"',
                    'write "="',
                )
                piece = piece.rstrip(":") + " ="
            self.out.append(piece)
            self._ready = True
            return
        self._separate(start)
        self.out.append(self._scalar(kind, piece, start))
        self._ready, self._done = False, not self._open

    def _scalar(self, kind: str, piece: str, start: int) -> str:
        if kind == "open":
            return self._closed(piece, start)
        if kind == "string" or parses(f"x = {piece}"):
            return self._escaped(piece, start) if not parses(f"x = {piece}") else piece
        if not self._open and piece[-1:] == ";" and parses(f"x = {piece[:-1]}"):
            self.change(start + len(piece) - 1, 1, "nothing may follow a value on its line", 'delete ";"')
            return piece[:-1]
        if piece.lower() in _BOOLEANS:
            becomes = _BOOLEANS[piece.lower()]
            self.change(start, len(piece), f"must be true or false, not {piece}", f"write {becomes}")
        elif re.fullmatch(r"0\d{1,8}", piece):
            becomes = f'"{piece}"' if self._umask else str(int(piece))
            text = "an octal number must begin with 0o" if self._umask else "a number must not begin with 0"
            self.change(start, len(piece), f"{text}, not {piece}", f"write {becomes}")
        elif "\\" in piece:
            becomes = f"'{piece}'"
            self.change(start, len(piece), f"a string must be in quotes: {piece}", f"write {becomes}")
        else:
            becomes = f'"{piece}"'
            self.change(start, len(piece), f"a string must be in quotes: {piece}", f"write {becomes}")
        return becomes

    def _closed(self, piece: str, start: int) -> str:
        """A string that is open at the end of its line, without what may stand after it."""
        quote, text = piece[0], piece[1:]
        end = re.search(r"[ \t\]},;]*$", text)
        rest = end[0] if end else ""
        body = text[: len(text) - len(rest)]
        if self._open and rest:
            self._open.clear()
        other = "'" if quote == '"' else '"'
        body = body.removesuffix(other)
        becomes = f"{quote}{body}{quote}"
        self.change(
            start, len(piece), "a string is not closed on its line", f"write {becomes}{rest.rstrip()}"
        )
        return becomes + rest

    def _escaped(self, piece: str, start: int) -> str:
        if any(char < " " for char in piece) or "'" in piece or "\\" not in piece:
            char = next((char for char in piece if char < " "), "")
            self.change(start, 1, f"a control character must not stand here: {char!r}")
            return piece
        becomes = f"'{piece[1:-1]}'"
        self.change(
            start + piece.index("\\"), 2, "a backslash in a string must be doubled", f"write {becomes}"
        )
        return becomes


def _rewritten(value: str, *, umask: bool) -> Repair | None:
    writer = _Rewriter(umask=umask)
    writer.run(value)
    if writer.first is None:
        return None
    return Repair(*writer.first, "".join(writer.out))

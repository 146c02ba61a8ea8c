"""Rewrites a TOML value token by token, correcting common mistakes."""

import re
import tomllib
from typing import Final, NamedTuple

STRING: Final = r'"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\''
_TOKEN: Final = re.compile(
    rf"(?P<string>{STRING})|(?P<comment>#[^\n]*)|(?P<blank>[ \t]+)|(?P<end>\n)|(?P<mark>[\[\]{{}},=])"
    r"|(?P<open>[\"'][^\n]*)|(?P<word>[^\s,#\[\]{}=\"']+)",
    re.DOTALL,
)
_BOOLEANS: Final = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}  # fmt: skip  # noqa: E501


def parses(statement: str) -> bool:
    """Return whether a statement on its own is valid TOML."""
    try:
        tomllib.loads(statement)
    except (ValueError, RecursionError):
        return False
    return True


class _Change(NamedTuple):
    start: int
    length: int
    text: str
    hint: str | None


class Rewriter:
    """Rewrites the tokens of a value as valid TOML; `first` is the first change."""

    def __init__(self, *, umask: bool) -> None:
        self.first: _Change | None = None
        self.out: list[str] = []
        self._umask = umask
        self._open: list[str] = []
        self._ready = True  # True if a value comes next; else a comma or the end
        self._done = False

    def change(self, start: int, length: int, text: str, hint: str | None = None) -> None:
        """Record a change at a place of the value; only the first is kept."""
        if self.first is None:
            self.first = _Change(start, length, text, hint)

    def run(self, value: str) -> None:
        """Write the whole value to `out`."""
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
        """Insert text before the blanks and line ends that were written last."""
        place = len(self.out)
        while place and not self.out[place - 1].strip():
            place -= 1
        self.out.insert(place, text)

    def _between(self, kind: str, piece: str, start: int) -> None:
        if kind == "comment" and "{" in self._open:
            text = "an inline table must stand on one line, so no comment may stand in it"
            self.change(start, len(piece), text, "write it on one line, without the comment")
        elif kind == "end" and "{" in self._open:
            self.change(start, 1, "an inline table must stand on one line", "write it on one line")
            if self.out and not self.out[-1].isspace():
                self.out.append(" ")
        elif not (kind == "blank" and "{" in self._open and self.out and self.out[-1].isspace()):
            self.out.append(piece)

    def _after(self, piece: str, start: int) -> None:
        """Handle a token that follows a complete value."""
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
                    self._drop_comma(start)
                self._open.pop()
                self._ready, self._done = False, not self._open
        elif piece == ",":
            self._ready = True
        else:
            self._ready = True
        self.out.append(piece)

    def _drop_comma(self, start: int) -> None:
        place = len(self.out) - 1
        while place >= 0 and self.out[place].isspace():
            place -= 1
        if place >= 0 and self.out[place] == ",":
            self.change(start, 1, 'no "," may stand before the end of an inline table', 'delete the ","')
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
        """Close a string that is open at the end of its line; keep what may follow it outside."""
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

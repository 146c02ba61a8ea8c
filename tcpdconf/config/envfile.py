r"""Files of NAME=VALUE lines, as systemd's EnvironmentFile= reads them (systemd.exec(5)). Pure.

Lines that are empty or begin with `#` or `;` are comments. A value may be in single quotes (taken as it
stands, over several lines), in double quotes (a backslash keeps `"`, `\`, `` ` `` and `$`), or bare (a
backslash keeps the next character). A backslash at the end of a line joins the next one. Nothing is
expanded. Unlike systemd, which skips what it does not understand, a line that assigns nothing is an error.
"""

import re
from typing import Final

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BLANK: Final = " \t\r"


class EnvironmentFileError(ValueError):
    """The file is no list of variables; `line` counts from 1."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def parse(text: str) -> dict[str, str]:
    """The variables of a file, in order; the last assignment of a name counts.

    Raises:
        EnvironmentFileError: a line is neither NAME=VALUE nor a comment.
    """
    found: dict[str, str] = {}
    position, end = 0, len(text)
    while position < end:
        start = position
        position = _line_end(text, position)
        line = text[start:position].strip(_BLANK)
        position += 1
        if not line or line[0] in "#;":
            continue
        number = text.count("\n", 0, start) + 1
        name, equals, _ = line.partition("=")
        name = name.strip(_BLANK)
        if not equals or not _NAME.fullmatch(name):
            raise EnvironmentFileError(number, "must be NAME=VALUE or a comment")
        value, position = _value(text, text.index("=", start) + 1, number)
        if "\0" in value:
            raise EnvironmentFileError(number, "must not contain a NUL character")
        found[name] = value
    return found


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _value(text: str, position: int, number: int) -> tuple[str, int]:
    """A value from just after its `=`, and where the next line begins."""
    while text[position : position + 1] and text[position] in _BLANK:
        position += 1
    quote = text[position : position + 1]
    if quote and quote in "'\"":
        value, position = _quoted(text, position + 1, quote, number)
        end = _line_end(text, position)
        if text[position:end].strip(_BLANK):
            raise EnvironmentFileError(number, "nothing may follow the closing quote")
        return value, end + 1
    return _bare(text, position)


def _quoted(text: str, position: int, quote: str, number: int) -> tuple[str, int]:
    value = ""
    while position < len(text):
        character = text[position]
        if character == quote:
            return value, position + 1
        if character == "\\" and quote == '"' and position + 1 < len(text):
            position += 1
            following = text[position]
            if following not in '"\\`$\n':
                value += "\\"
            character = "" if following == "\n" else following
        value += character
        position += 1
    raise EnvironmentFileError(number, f"the value's {quote} is not closed")


def _bare(text: str, position: int) -> tuple[str, int]:
    value, kept = "", 0  # up to `kept`, the end is no blank that may be cut off
    while position < len(text) and text[position] != "\n":
        character = text[position]
        if character == "\\" and position + 1 < len(text):
            position += 1
            character = "" if text[position] == "\n" else text[position]
            value += character
            kept = len(value)
        else:
            value += character
        position += 1
    return value[:kept] + value[kept:].rstrip(_BLANK), position + 1

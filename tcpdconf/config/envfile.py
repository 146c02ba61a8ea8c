r"""Parses files of NAME=VALUE lines as systemd's EnvironmentFile= does (systemd.exec(5)). Pure.

Lines that are empty or begin with `#` or `;` are comments. A value may be in single quotes (taken literally,
over several lines), in double quotes, or bare. In double quotes a backslash escapes `"`, `\`, `` ` `` and
`$`, in a bare value the next character. A backslash at the end of a line joins the next one. Nothing is
expanded. systemd skips lines that it does not understand; here a line that assigns nothing is an error.
"""

import re
from typing import Final

_BLANK: Final = " \t\r"
_COMMENT: Final = rf"[{_BLANK}]*+(?:[#;][^\n]*+)?"
_COMMENTS: Final = re.compile(rf"(?:{_COMMENT}\n)*+(?:{_COMMENT}\Z)?+")
_NAME: Final = re.compile(rf"[{_BLANK}]*+([A-Za-z_][A-Za-z0-9_]*+)[{_BLANK}]*+=[{_BLANK}]*+")
# values as they are written, without their quotes
_BARE: Final = re.compile(r"(?:[^\\\n]++|\\.)*+\\?+", re.DOTALL)
_QUOTED: Final = {
    "'": re.compile(r"[^']*+"),
    '"': re.compile(r'(?:[^"\\]++|\\.)*+', re.DOTALL),
}
_REST: Final = re.compile(rf"[{_BLANK}]*+(?:\n|\Z)")
# a backslash sequence; its group is what remains
_ESCAPED: Final = re.compile(r"\\(?:\n|(.))", re.DOTALL)
_ESCAPED_IN_QUOTES: Final = re.compile(r'\\(?:\n|(["\\`$]))')


class EnvironmentSyntaxError(ValueError):
    """Reports that the file is not a list of variables; `line` counts from 1."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def read(content: bytes) -> dict[str, str]:
    """Return the variables of a file in order; the last assignment of a name counts.

    Raises:
        EnvironmentSyntaxError: a line is not UTF-8, or neither NAME=VALUE nor a comment.
    """
    try:
        return parse(content.decode())
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise EnvironmentSyntaxError(number, f"is not UTF-8: byte 0x{content[error.start]:02x}") from None


def parse(text: str) -> dict[str, str]:
    """Return the variables of a text, in time proportional to its length.

    Raises:
        EnvironmentSyntaxError: a line is neither NAME=VALUE nor a comment.
    """
    found: dict[str, str] = {}
    position = _end(_COMMENTS, text, 0)
    while position < len(text):
        name = _NAME.match(text, position)
        if name is None:
            raise _wrong(text, position, "must be NAME=VALUE or a comment")
        quote = text[name.end() : name.end() + 1]
        value, end = _quoted(text, name, quote) if quote in _QUOTED else _bare(text, name.end())
        if "\0" in value:
            raise _wrong(text, position, "must not contain a NUL character")
        found[name[1]] = value
        position = _end(_COMMENTS, text, end)
    return found


def _bare(text: str, position: int) -> tuple[str, int]:
    """Return a value without quotes, and where the next line begins."""
    end = _end(_BARE, text, position)
    written = text[position:end]
    value = written.rstrip(_BLANK)
    if (len(value) - len(value.rstrip("\\"))) % 2:  # an escaped blank belongs to the value
        value = written[: len(value) + 1]
    return _ESCAPED.sub(r"\1", value), end + 1


def _quoted(text: str, name: re.Match[str], quote: str) -> tuple[str, int]:
    """Return a value in quotes, and where the next line begins."""
    begin = name.end() + 1
    end = _end(_QUOTED[quote], text, begin)
    if text[end : end + 1] != quote:
        raise _wrong(text, name.start(), f"the value's {quote} is not closed")
    rest = _REST.match(text, end + 1)
    if rest is None:
        raise _wrong(text, name.start(), "nothing may follow the closing quote")
    value = text[begin:end]
    return value if quote == "'" else _ESCAPED_IN_QUOTES.sub(r"\1", value), rest.end()


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    """Return where a match, which may be empty, ends."""
    found = pattern.match(text, position)
    assert found is not None  # noqa: S101 (it may be empty)
    return found.end()


def _wrong(text: str, position: int, what: str) -> EnvironmentSyntaxError:
    return EnvironmentSyntaxError(text.count("\n", 0, position) + 1, what)

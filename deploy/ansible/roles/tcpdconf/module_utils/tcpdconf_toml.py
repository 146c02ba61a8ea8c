"""TOML of plain data: tables, arrays, strings, numbers and booleans, whatever the strings hold.

Every string is a basic string in which all but printable characters is escaped, so that no value can end
its own string or line. None is what was left out. tests/deploy reads back what is written here.
"""

from __future__ import annotations

import re
from typing import Any

Key = tuple[Any, ...]

_WIDTH = 100
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def serialize(tables: dict[str, Any], header: str = "") -> str:
    """Nested dicts as TOML below a text of comments: values first, then tables, each with its header.

    Raises:
        ValueError: TOML cannot say this; the message names the key.
    """
    lines: list[str] = []
    _table(lines, (), tables)
    return header + "\n".join(lines).lstrip("\n") + "\n"


def _table(lines: list[str], key: Key, table: dict[str, Any]) -> None:
    """The values of a table before the tables in it: what follows a header belongs to that header."""
    named = {name: value for name, value in table.items() if value is not None}
    for name, value in named.items():
        if not _has_header(value):
            start = f"{_name(key, name)} = "
            lines.append(start + _spread((*key, name), value, len(start)))
    for name, value in named.items():
        if not _has_header(value):
            continue
        inside = (*key, name)
        header = ".".join(_name(key, part) for part in inside)
        if isinstance(value, dict):
            if not all(isinstance(item, dict) and item for item in value.values()):
                lines += ["", f"[{header}]"]
            _table(lines, inside, value)
        else:
            for item in value:
                lines += ["", f"[[{header}]]"]
                _table(lines, inside, item)


def _has_header(value: object) -> bool:
    """Return whether a value gets lines of its own: a table, or an array of nothing but tables."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(item, dict) for item in value)
    return isinstance(value, dict) and bool(value)


def _spread(key: Key, value: object, used: int) -> str:
    """A value on one line; an array that is too long for it with a line for each item."""
    line = _literal(key, value)
    if used + len(line) <= _WIDTH or not isinstance(value, (list, tuple)):
        return line
    return "[\n" + "".join(f"  {_literal(key, item)},\n" for item in value) + "]"


def _literal(key: Key, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(key, value)
    if isinstance(value, (int, float)):
        if key[-1] == "umask":
            raise ValueError(f'{_dotted(key)}: quote it, as in "022": YAML reads 022 as another number')
        return str(value)
    if isinstance(value, dict):
        pairs = [
            f"{_name(key, name)} = {_literal((*key, name), item)}"
            for name, item in value.items()
            if item is not None
        ]
        return "{ " + ", ".join(pairs) + " }" if pairs else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_literal(key, item) for item in value) + "]"
    raise ValueError(f"{_dotted(key)}: TOML has no {type(value).__name__}")


def _string(key: Key, text: str) -> str:
    return '"' + "".join(_SHORT.get(char) or _escaped(key, char) for char in text) + '"'


def _escaped(key: Key, char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if 0xD800 <= code < 0xE000:
        raise ValueError(f"{_dotted(key)}: half a character (U+{code:04X})")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _name(key: Key, name: object) -> str:
    """One part of a key, quoted where TOML wants it."""
    if not isinstance(name, str):
        raise ValueError(  # noqa: TRY004 (what TOML cannot say is one kind of error)
            f"{_dotted((*key, name))}: a key must be a string"
        )
    return name if _BARE.fullmatch(name) else _string(key, name)


def _dotted(key: Key) -> str:
    return ".".join(str(part) for part in key)

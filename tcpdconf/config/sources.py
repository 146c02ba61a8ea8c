"""The files of a conf.d directory, read and parsed: which they are, and what cannot be read of them.

This is the only module of `config` that reads configuration files. It judges TOML, not what the TOML says.
"""

import errno
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from tcpdconf.config import codes, positions, problems

Spot = Literal["key", "value"]

_PARTS: Final = 100  # of a key
_PART: Final = r"""(?>(?<![\w-])[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY: Final = re.compile(rf"{_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{_PARTS}}}")


@dataclass(frozen=True)
class Source:
    """One file: its path as messages show it, its text (lines end in LF), and what the TOML holds."""

    path: str
    text: str = field(repr=False)
    data: dict[str, Any] = field(repr=False)

    @cached_property
    def places(self) -> positions.Positions:
        """Where the keys stand."""
        return positions.Positions(self.text)

    def span(self, key: positions.Key, spot: Spot = "value") -> problems.Span | None:
        """The place of a key or its value; of the nearest table that is written when the key is not."""
        exact = self.places.get(key)
        place = exact or self.places.nearest(key)
        if place is None:
            return None
        return place.key if exact and spot == "key" else place.value

    def problem(
        self,
        span: problems.Span | None,
        key: str,
        text: str,
        code: codes.Code,
        *,
        severity: problems.Severity = "error",
        hint: str | None = None,
    ) -> problems.Problem:
        """A problem at a place of this file; None is the whole file."""
        if span is None:
            return problems.Problem(self.path, 0, 0, key, text, code, severity, hint)
        line = self.places.line(span.line)
        return problems.Problem(
            self.path, span.line, span.column, key, text, code, severity, hint, line, span.length
        )


class Found(NamedTuple):
    """What a directory holds: the files that parse, in order, the others' texts, and what is wrong."""

    sources: list[Source]
    broken: list[str]
    problems: list[problems.Problem]
    order: dict[str, int]  # of all files, by the path that is shown


def read(directory: str | Path, replace: Mapping[str, str]) -> Found:
    """Every file of a directory that counts, in byte order of their names.

    `replace` maps the path of such a file, which need not exist, to another whose content stands in for it.
    """
    found = Found([], [], [], {})
    try:
        paths = _paths(Path(directory), replace)
    except OSError as error:
        found.problems.append(_whole(str(directory), f"cannot read: {error.strerror}", "unreadable"))
        return found
    except ValueError as error:
        found.problems.append(_whole(str(directory), str(error), "wrong-replacement"))
        return found
    if not paths:
        text = "has no file whose name ends in .toml"
        found.problems.append(_whole(str(directory), text, "no-files"))
    for path in paths:
        found.order[path] = len(found.order)
        _read_into(found, path, piped=path in replace.values())
    return found


def _paths(directory: Path, replace: Mapping[str, str]) -> list[str]:
    """The files to read, in byte order of the names that they have or stand in for."""
    paths = {name: str(directory / name) for name in os.listdir(directory) if counts(name)}
    for target, candidate in replace.items():
        if Path(target).parent.resolve() != directory.resolve():
            raise ValueError(f"cannot replace {target}: it is not in this directory")
        name = Path(target).name
        if not counts(name):
            raise ValueError(f"cannot replace {target}: files of this name are ignored")
        paths[name] = candidate
    return [paths[name] for name in sorted(paths, key=os.fsencode)]


def counts(name: str) -> bool:
    """Whether a file of this name in a directory is a configuration file."""
    return name.endswith(".toml") and not name.startswith((".", "#"))


def _read_into(found: Found, path: str, *, piped: bool) -> None:
    try:
        content = _content(path, piped=piped)
    except OSError as error:
        found.problems.append(_whole(path, f"cannot read: {error.strerror}", "unreadable"))
        found.broken.append("")
        return
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        found.problems.append(_undecodable(path, content, error.start))
        found.broken.append(content.decode(errors="replace"))
        return
    try:
        found.sources.append(Source(path, text, parsed(text)))
    except (ValueError, RecursionError) as error:
        found.broken.append(text)
        from tcpdconf.config import syntax  # noqa: PLC0415 (a good configuration has no syntax errors)

        found.problems.append(syntax.problem(Source(path, text, {}), error))


def parsed(text: str) -> dict[str, Any]:
    """What a TOML text says.

    Raises:
        ValueError: it is none, or a key has so many parts that tomllib, whose time grows with their square,
            would take minutes.
        RecursionError: it is nested too deeply.
    """
    if _LONG_KEY.search(text):
        raise ValueError(f"a key of more than {_PARTS} parts")
    return tomllib.loads(text)


def _content(path: str, *, piped: bool) -> bytes:
    """A file's bytes. A FIFO that lies in the directory would block forever; a candidate may be a pipe."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | (0 if piped else os.O_NONBLOCK))
    with open(fd, "rb", buffering=0) as file:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not (stat.S_ISREG(mode) or (piped and (stat.S_ISFIFO(mode) or os.isatty(fd)))):
            raise OSError(0, "Not a regular file")
        return file.readall()


def _whole(path: str, text: str, code: codes.Code) -> problems.Problem:
    return problems.Problem(path, 0, 0, "", text, code)


def _undecodable(path: str, content: bytes, offset: int) -> problems.Problem:
    """The first byte that is not UTF-8: its place, in characters of the line before it."""
    start = content.rfind(b"\n", 0, offset) + 1
    before = content[start:offset].decode("utf-8-sig" if start == 0 else "utf-8")
    line = content[start:].split(b"\n", 1)[0].decode(errors="replace").rstrip("\r").removeprefix("\ufeff")
    return problems.Problem(
        path, content.count(b"\n", 0, offset) + 1, len(before) + 1, "",
        f"is not UTF-8: byte 0x{content[offset]:02x}", "encoding",
        hint="save the file as UTF-8", source=line,
    )  # fmt: skip

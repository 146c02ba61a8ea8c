"""Reads and parses the files of a conf.d directory.

This is the only module of `config` that reads configuration files. It checks that they are valid TOML; other
modules validate the values.
"""

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tcpdconf.config import codes, problems
from tcpdconf.config.file_signature import Signature, signature
from tcpdconf.config.load.source import SourceFile, parsed

_BYTES: Final = 2**20  # in all files together
_TOKENS: Final = 50_000  # in all files; the supervisor parses this many in about a third of a second
_FILES: Final = 1000
# lines without tokens
_NO_TOKENS: Final = re.compile(rb"^[ \t]*(?:#.*)?\r?\n", re.MULTILINE)
# names that people give to configuration files, unlike those of backups and of packages' leftovers
_MEANT: Final = re.compile(r"[^.#][^.]*\.(?:conf|cfg|ini|ya?ml|json|tml|tom|toml\.txt|(?i:toml))")


class Directory(NamedTuple):
    """Holds the content of a directory: parsed files in order, texts of the others, and problems.

    A directory that is too large is not parsed at all.
    """

    sources: list[SourceFile]
    broken: list[str]
    problems: list[problems.Problem]
    order: dict[str, int]  # positions of all files, by the path that is shown
    signatures: dict[str, Signature]  # of readable files, taken before reading

    @property
    def too_large(self) -> bool:
        """True if the directory has more than is read."""
        return any(problem.code == "too-large" for problem in self.problems)


def read(directory: str | Path, replace: Mapping[str, str], *, alone: bool = False) -> Directory:
    """Read and parse every configuration file of a directory, in byte order of their names.

    `replace` maps the path of such a file, which need not exist, to another file to read in its place. With
    `alone`, `directory` is the path of one file, which may be a pipe, and no other is read.
    """
    found = Directory([], [], [], {}, {})
    try:
        paths = [str(directory)] if alone else _paths(Path(directory), replace)
    except OSError as error:
        found.problems.append(_whole(str(directory), f"cannot read: {error.strerror}", "unreadable"))
        return found
    except ValueError as error:
        found.problems.append(_whole(str(directory), str(error), "wrong-replacement"))
        return found
    ignored = _ignored(paths if alone else os.listdir(Path(directory)))
    if not paths:
        text = "has no file whose name ends in .toml"
        hint = f"rename {ignored[0]} to {_renamed(ignored[0])}" if ignored else None
        found.problems.append(problems.Problem(str(directory), 0, 0, "", text, "no-files", hint=hint))
    else:
        for name in ignored:
            path = str(directory) if alone else os.path.join(directory, name)
            text = "is ignored: its name does not end in .toml"
            hint = f"rename it to {_renamed(name)}, or move it elsewhere"
            found.problems.append(problems.Problem(path, 0, 0, "", text, "ignored-file", "warning", hint))
    found.order.update({path: number for number, path in enumerate(paths)})
    contents: dict[str, _Content] = {}
    left = _BYTES
    for path in paths[:_FILES]:
        content = _read(found, path, left, piped=alone or path in replace.values())
        if content is not None:
            contents[path] = content
            left = max(0, left - content.size)
    found.problems.extend(_too_large(directory, contents, len(paths)))
    if not found.too_large:
        for path, content in contents.items():
            _parse_into(found, path, content)
    return found


def _ignored(paths: Iterable[str]) -> list[str]:
    """Return the names of ignored files that were probably meant to be read."""
    names = map(os.path.basename, paths)
    return sorted(name for name in names if _MEANT.fullmatch(name) and not counts(name))


def _renamed(name: str) -> str:
    """Return the name under which such a file would be read."""
    return f"{name.partition('.')[0]}.toml"


def _paths(directory: Path, replace: Mapping[str, str]) -> list[str]:
    """Return the files to read, in byte order of their own names or of those that they replace."""
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
    """Return whether a file of this name in a directory is a configuration file."""
    return name.endswith(".toml") and not name.startswith((".", "#"))


def _read(found: Directory, path: str, most: int, *, piped: bool) -> "_Content | None":
    """Read a file, at most one byte more than `most`; nothing if its size is already too large."""
    try:
        with open(_opened(path, piped=piped), "rb") as file:
            status = os.fstat(file.fileno())
            found.signatures[path] = signature(status)
            if status.st_size > most and stat.S_ISREG(status.st_mode):
                return _Content(b"", status.st_size)
            content = file.read(most + 1)
            return _Content(content, len(content))
    except OSError as error:
        found.problems.append(_whole(path, f"cannot read: {error.strerror}", "unreadable"))
        return None


def _opened(path: str, *, piped: bool) -> int:
    """Open a file without waiting, unless it may be a pipe.

    A FIFO in the directory would otherwise block for ever. A replacement may be a pipe, or /dev/null, which
    shows the directory without the file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | (0 if piped else os.O_NONBLOCK))
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) or (piped and not stat.S_ISDIR(mode)):
        return fd
    os.close(fd)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(0, "Not a regular file")


class _Content(NamedTuple):
    """Holds the bytes read from a file, and its least size in bytes."""

    read: bytes
    size: int

    @property
    def tokens(self) -> int:
        """Return about how many keys, values and brackets there are, which determine the time of parsing."""
        rest = _NO_TOKENS.sub(b"", self.read)
        return sum(map(rest.count, (b"=", b",", b"[", b"{", b".", b"\n")))


def _too_large(
    directory: str | Path, contents: Mapping[str, _Content], files: int
) -> Iterator[problems.Problem]:
    """Yield a problem for each limit that is exceeded, naming the file with the largest share.

    The file that has most of it is named.
    """
    hint = 'put long lists of access rules into a file of their own: [[services.NAME.access]] file = "..."'
    if files > _FILES:
        yield _whole(str(directory), f"has {files} files, at most {_FILES} are allowed", "too-large")
    sizes = {path: content.size for path, content in contents.items()}
    if sum(sizes.values()) > _BYTES:
        path = max(sizes, key=sizes.__getitem__)
        text = f"has {sizes[path]} bytes, and all files together may have at most {_BYTES}"
        yield problems.Problem(path, 0, 0, "", text, "too-large", hint=hint)
        return
    tokens = {path: content.tokens for path, content in contents.items()}
    if sum(tokens.values()) > _TOKENS:
        path = max(tokens, key=tokens.__getitem__)
        count = sum(tokens.values())
        text = f"is too long: all files together have {count} tokens, at most {_TOKENS} are allowed"
        yield problems.Problem(path, 0, 0, "", text, "too-large", hint=hint)


def _parse_into(found: Directory, path: str, read: _Content) -> None:
    content = read.read
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        found.problems.append(_undecodable(path, content, error.start))
        found.broken.append(content.decode(errors="replace"))
        return
    try:
        source = SourceFile(path, text, parsed(text))
        _read_octal(source)
        found.sources.append(source)
    except (ValueError, RecursionError) as error:
        from tcpdconf.config.load import recovery  # noqa: PLC0415 (a good configuration has no syntax errors)

        recovered = recovery.recover(SourceFile(path, text, {}), error)
        if recovered.data is None:
            found.broken.append(text)
            found.problems.extend(recovered.told)
            return
        found.broken.extend(recovered.lost)
        source = SourceFile(path, recovered.text, recovered.data, recovered)
        _read_octal(source)
        found.sources.append(source)


def _read_octal(source: SourceFile) -> None:
    """Turn masks in octal notation into strings: once parsed, 0o22 and 18 are equal."""
    services = source.data.get("services")
    names = [("services", name) for name in services] if isinstance(services, dict) else []
    for key in (*names, ("defaults",)):
        table: Any = source.data
        for part in key:
            table = table.get(part)
        mask = table.get("umask") if isinstance(table, dict) else None
        if isinstance(mask, int) and mask >= 0 and source.written((*key, "umask")).startswith("0o"):
            table["umask"] = f"{mask:03o}"


def _whole(path: str, text: str, code: codes.Code) -> problems.Problem:
    return problems.Problem(path, 0, 0, "", text, code)


def _undecodable(path: str, content: bytes, offset: int) -> problems.Problem:
    """Return the problem of the first byte that is not UTF-8; its column counts characters."""
    start = content.rfind(b"\n", 0, offset) + 1
    before = content[start:offset].decode("utf-8-sig" if start == 0 else "utf-8")
    line = content[start:].split(b"\n", 1)[0].decode(errors="replace").rstrip("\r").removeprefix("\ufeff")
    return problems.Problem(
        path, content.count(b"\n", 0, offset) + 1, len(before) + 1, "",
        f"is not UTF-8: byte 0x{content[offset]:02x}", "encoding",
        hint="save the file as UTF-8", source=line,
    )  # fmt: skip

"""The files of a conf.d directory, read and parsed: which they are, and what cannot be read of them.

This is the only module of `config` that reads configuration files. It judges TOML, not what the TOML says.
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

_BYTES: Final = 2**20  # of all files together
_TOKENS: Final = 50_000  # the same; the supervisor reads about so many in a third of a second
_FILES: Final = 1000
# lines of which nothing is counted
_NO_TOKENS: Final = re.compile(rb"^[ \t]*(?:#.*)?\r?\n", re.MULTILINE)
# names that people give to configuration files; backups and what packages leave have others
_MEANT: Final = re.compile(r"[^.#][^.]*\.(?:conf|cfg|ini|ya?ml|json|tml|tom|toml\.txt|(?i:toml))")


class Directory(NamedTuple):
    """What a directory holds: the files that parse, in order, the others' texts, and what is wrong.

    One that is too large is not parsed at all.
    """

    sources: list[SourceFile]
    broken: list[str]
    problems: list[problems.Problem]
    order: dict[str, int]  # of all files, by the path that is shown
    signatures: dict[str, Signature]  # of those that could be read, before they were

    @property
    def too_large(self) -> bool:
        """Whether there is more than is read."""
        return any(problem.code == "too-large" for problem in self.problems)


def read(directory: str | Path, replace: Mapping[str, str], *, alone: bool = False) -> Directory:
    """Every file of a directory that counts, in byte order of their names.

    `replace` maps the path of such a file, which need not exist, to another whose content stands in for it.
    With `alone` the path is that of a file, which may be a pipe, and no other is read.
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
    """The names of files that do not count and were probably meant to."""
    names = map(os.path.basename, paths)
    return sorted(name for name in names if _MEANT.fullmatch(name) and not counts(name))


def _renamed(name: str) -> str:
    """The name under which such a file counts."""
    return f"{name.partition('.')[0]}.toml"


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


def _read(found: Directory, path: str, most: int, *, piped: bool) -> "_Content | None":
    """Read a file, one byte more than `most` at most; nothing of one whose size says enough."""
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
    """Open a file. A FIFO that lies in the directory would block forever.

    A candidate may be a pipe, or /dev/null, which shows the directory without the file.
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
    """What was read of a file, and how large it is at least, in bytes."""

    read: bytes
    size: int

    @property
    def tokens(self) -> int:
        """About how many keys, values and brackets TOML has to be taken apart into: that takes the time."""
        rest = _NO_TOKENS.sub(b"", self.read)
        return sum(map(rest.count, (b"=", b",", b"[", b"{", b".", b"\n")))


def _too_large(
    directory: str | Path, contents: Mapping[str, _Content], files: int
) -> Iterator[problems.Problem]:
    """What is more than the supervisor can read while it has other things to do.

    The file that has most of it is named.
    """
    hint = 'put long lists of access rules into a file of their own, which access names: file = "..."'
    if files > _FILES:
        yield _whole(str(directory), f"has {files} files, and {_FILES} are the most", "too-large")
    sizes = {path: content.size for path, content in contents.items()}
    if sum(sizes.values()) > _BYTES:
        path = max(sizes, key=sizes.__getitem__)
        text = f"has {sizes[path]} bytes; all files together have more than {_BYTES}, which are the most"
        yield problems.Problem(path, 0, 0, "", text, "too-large", hint=hint)
        return
    tokens = {path: content.tokens for path, content in contents.items()}
    if sum(tokens.values()) > _TOKENS:
        path = max(tokens, key=tokens.__getitem__)
        text = (
            f"is too long: all files together have {sum(tokens.values())} tokens, and {_TOKENS} are the most"
        )
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
    """Make strings of masks that are written as octal numbers: nothing else tells 0o22 from 18."""
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
    """The first byte that is not UTF-8: its place, in characters of the line before it."""
    start = content.rfind(b"\n", 0, offset) + 1
    before = content[start:offset].decode("utf-8-sig" if start == 0 else "utf-8")
    line = content[start:].split(b"\n", 1)[0].decode(errors="replace").rstrip("\r").removeprefix("\ufeff")
    return problems.Problem(
        path, content.count(b"\n", 0, offset) + 1, len(before) + 1, "",
        f"is not UTF-8: byte 0x{content[offset]:02x}", "encoding",
        hint="save the file as UTF-8", source=line,
    )  # fmt: skip

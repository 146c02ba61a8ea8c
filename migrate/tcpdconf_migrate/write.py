"""Writes the services: read back with the loader first, then all files or none.

Every file begins with a line that says who wrote it, with a digest of what follows. So a file that somebody
else wrote, or has changed since, is known and kept.
"""

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from tcpdconf.config import load, model, problems

_MARKED: Final = re.compile(rb"# Written by tcpdconf-migrate; unchanged while its digest is ([0-9a-f]{16})\n")

Services = Mapping[str, model.Service]


class WriteError(Exception):
    """Nothing was written; the text says why, perhaps in several lines."""


def marked(text: str) -> str:
    """A text with the line in front that makes it this tool's."""
    return f"# Written by tcpdconf-migrate; unchanged while its digest is {_digest(text.encode())}\n{text}"


def check(texts: Mapping[str, str], services: Services) -> None:
    """Read texts as the loader does, each a file of this name, and compare.

    Raises:
        WriteError: what was read is not these services.
    """
    with tempfile.TemporaryDirectory(prefix="tcpdconf-migrate-") as folder:
        for name, text in texts.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        found = _load(folder, {})
    _compare(found, services)


def write(
    directory: str, texts: Mapping[str, str], services: Services, *, force: bool, private: bool
) -> None:
    """Write files into a directory, which is made where it is missing; paths may have one folder in front.

    Args:
        directory: the conf.d.
        texts: content by path below it, without the mark.
        services: what the loader has to find in them, beside what is in the directory already.
        force: whether files that this tool did not write, or that were changed since, are replaced.
        private: whether only the owner may read them.

    Raises:
        WriteError: nothing was written, and why.
    """
    check({path: text for path, text in texts.items() if "/" not in path}, services)
    contents = {os.path.join(directory, path): marked(text).encode() for path, text in texts.items()}
    try:
        if not force:
            _spare(contents)
        with _Files(contents, 0o600 if private else 0o644) as files:
            drafts = {
                path: draft for path, draft in files.drafts.items() if os.path.dirname(path) == directory
            }
            beside = _load(directory, drafts)  # the defaults of other files count as well
            _compare({name: beside[name] for name in services}, services)
            files.replace()
    except OSError as error:
        raise WriteError(f"cannot write {error.filename or directory}: {error.strerror}") from None


def _load(directory: str, drafts: Mapping[str, str]) -> Services:
    """The services of a directory in which drafts stand in for files."""
    try:
        return load.load(directory, drafts, to_serve=False).config.services
    except problems.ConfigError as error:
        raise WriteError(problems.render(error.problems)) from None


def _compare(found: Services, services: Services) -> None:
    names = sorted(services.keys() | found.keys())
    different = [name for name in names if found.get(name) != services.get(name)]
    if different:
        raise WriteError(f"reads back differently: {', '.join(different)}")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _spare(contents: Mapping[str, bytes]) -> None:
    """Stop at files that are not this tool's."""
    foreign = []
    for path in contents:
        with contextlib.suppress(FileNotFoundError):
            there = Path(path).read_bytes()
            mark = _MARKED.match(there)
            if mark is None:
                foreign.append(f"{path}: was not written by tcpdconf-migrate; --force replaces it")
            elif mark[1].decode() != _digest(there[mark.end() :]):
                foreign.append(f"{path}: was changed since tcpdconf-migrate wrote it; --force replaces it")
    if foreign:
        raise WriteError("\n".join(foreign))


class _Files:
    """Files on their way: drafts beside their places, then all of them renamed; or things are as before."""

    def __init__(self, contents: Mapping[str, bytes], mode: int) -> None:
        self._contents = contents
        self._mode = mode
        self._made: list[str] = []  # folders
        self.drafts: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            for path, content in self._contents.items():
                self._make_folder(os.path.dirname(path))
                self.drafts[path] = draft = f"{os.path.dirname(path)}/.{os.path.basename(path)}.{os.getpid()}"
                _write(draft, content, self._mode)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what is left: drafts, and folders that nothing was put into."""
        for draft in self.drafts.values():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    def replace(self) -> None:
        """Put every draft in its place; if one cannot be, none is."""
        done: dict[str, bytes | None] = {}
        try:
            for path, draft in self.drafts.items():
                before = Path(path).read_bytes() if os.path.exists(path) else None
                os.replace(draft, path)
                done[path] = before
            for folder in {os.path.dirname(path) for path in self.drafts}:
                _sync(folder)
        except BaseException:
            for path, before in done.items():
                _restore(path, before, self._mode)
            raise

    def _make_folder(self, folder: str) -> None:
        if folder and not os.path.isdir(folder):
            self._make_folder(os.path.dirname(folder))
            os.mkdir(folder)
            self._made.append(folder)


def _write(path: str, content: bytes, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _restore(path: str, before: bytes | None, mode: int) -> None:
    if before is None:
        os.unlink(path)
    else:
        draft = f"{path}.before"
        _write(draft, before, mode)
        os.replace(draft, path)


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

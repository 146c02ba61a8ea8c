"""Writes the services: all files or none, after reading them back with the loader.

Every file begins with a line that names this tool, with a digest of the text that follows. A file that
somebody else wrote, or that has changed since, is thus recognised and kept; the other files are still
written.
"""

import contextlib
import difflib
import hashlib
import os
import re
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, NamedTuple, Self

from tcpdconf.config import problems
from tcpdconf.config.load import load
from tcpdconf.config.model.service import Service

_MARKED: Final = re.compile(rb"# Written by tcpdconf-migrate; unchanged while its digest is ([0-9a-f]{16})\n")

Services = Mapping[str, Service]


class Written(NamedTuple):
    """Lists the paths that were written, and for each of the others why it was kept."""

    written: list[str]
    kept: list[str]


class WriteError(Exception):
    """Reports that nothing was written; the text says why, perhaps in several lines."""


def marked(text: str) -> str:
    """Return a text with the first line that marks it as this tool's."""
    return f"# Written by tcpdconf-migrate; unchanged while its digest is {_digest(text.encode())}\n{text}"


def check(texts: Mapping[str, str], services: Services) -> None:
    """Read texts with the loader, each as a file of this name, and compare the services.

    Raises:
        WriteError: the services that were read are not these.
    """
    with tempfile.TemporaryDirectory(prefix="tcpdconf-migrate-") as folder:
        for name, text in texts.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        found = _load(folder, {})
    _compare(found, services)


def write(
    directory: str,
    texts: Mapping[str, str],
    services: Services,
    *,
    forced: Collection[str],
    private: bool,
) -> Written:
    """Write files into a directory, created if missing; paths may have one folder in front.

    A file that this tool did not write, or that was changed since, is kept, and the others are written.

    Args:
        directory: the conf.d.
        texts: content by path below it, without the mark.
        services: the services that the loader must find in them, together with the directory's other files.
        forced: paths below the directory that are replaced anyway.
        private: True if only the owner may read them.

    Raises:
        WriteError: nothing was written; the text says why.
    """
    check({path: text for path, text in texts.items() if "/" not in path}, services)
    try:
        kept = {path: why for path in texts if path not in forced and (why := _foreign(directory, path))}
        ours = {path: text for path, text in texts.items() if path not in kept}
        contents = {os.path.join(directory, path): marked(text).encode() for path, text in ours.items()}
        with _Files(contents, 0o600 if private else 0o644) as files:
            drafts = {
                path: draft for path, draft in files.drafts.items() if os.path.dirname(path) == directory
            }
            beside = _load(directory, drafts) if drafts else {}  # the defaults of other files count as well
            names = [name for name in services if f"{name}.toml" in ours]
            _compare({name: beside[name] for name in names}, {name: services[name] for name in names})
            files.replace()
    except OSError as error:
        raise WriteError(f"cannot write {error.filename or directory}: {error.strerror}") from None
    return Written(list(ours), list(kept.values()))


def diff(directory: str, texts: Mapping[str, str]) -> str:
    """Return the changes that writing these texts would make, in the form of diff -u, without marks."""
    lines: list[str] = []
    for name, text in texts.items():
        path = os.path.join(directory, name)
        before = _MARKED.sub(b"", _content(path), count=1).decode(errors="backslashreplace")
        was, becomes = before.splitlines(keepends=True), text.splitlines(keepends=True)
        lines += difflib.unified_diff(was, becomes, path, f"{path} (to be written)")
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _content(path: str) -> bytes:
    """Return the content of a file; empty if it is missing.

    Raises:
        WriteError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise WriteError(f"cannot read {path}: {error.strerror}") from None


def _load(directory: str, drafts: Mapping[str, str]) -> Services:
    """Return the services of a directory in which drafts replace files."""
    try:
        return load.load(directory, drafts, to_serve=False).config.services
    except problems.ConfigError as error:
        raise WriteError(problems.render(error.problems)) from None


def _compare(found: Services, services: Services) -> None:
    names = sorted(services.keys() | found.keys())
    different = [name for name in names if found.get(name) != services.get(name)]
    if different:
        raise WriteError(f"would be read back differently: {', '.join(different)}")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _foreign(directory: str, name: str) -> str:
    """Return why a file must not be replaced; "" if it is this tool's or missing."""
    path = os.path.join(directory, name)
    try:
        there = Path(path).read_bytes()
    except FileNotFoundError:
        return ""
    mark = _MARKED.match(there)
    force = f"--diff shows what would change, --force {name} replaces it"
    if mark is None:
        return f"{path}: was not written by tcpdconf-migrate; {force}"
    if mark[1].decode() != _digest(there[mark.end() :]):
        return f"{path}: was changed since tcpdconf-migrate wrote it; {force}"
    return ""


class _Files:
    """Writes several files at once: drafts beside their places, then renames; or restores all."""

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
        """Remove remaining drafts, and folders that are still empty."""
        for draft in self.drafts.values():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    def replace(self) -> None:
        """Move every draft into place; if one fails, restore all."""
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

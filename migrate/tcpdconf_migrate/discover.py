"""Finds couriertcpd's command lines: as typed, in a script or unit, in Courier's files, in /proc."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tcpdconf_migrate import commandline, processes, unit
from tcpdconf_migrate.courier import courier
from tcpdconf_migrate.courier import scripts as courier_scripts
from tcpdconf_migrate.script import script
from tcpdconf_migrate.wrappers import wrappers

_WORD: Final = re.compile(r"[\w./-]+")


class Found(NamedTuple):
    """Holds the command lines of a source.

    `private` is True if other users may not read them.
    """

    commands: list[commandline.Command]
    unread: list[commandline.Unread]
    private: bool = False


class DiscoverError(Exception):
    """Reports a source that cannot be read at all, or has no couriertcpd."""


def in_argv(words: Sequence[str]) -> Found:
    """Return a command line as a user has typed it."""
    unwrapped = wrappers.unwrap(words)
    if unwrapped.words and not commandline.is_couriertcpd(unwrapped.words[0]):
        return _in_shell("the command line", shlex.join(words), {})
    if not unwrapped.words:
        why = f": {unwrapped.why}" if any(commandline.PROGRAM in word for word in words) else ""
        raise DiscoverError(f"no command line of couriertcpd found in: {shlex.join(words)}{why}")
    command = commandline.Command(
        unwrapped.words,
        "the command line",
        wrappers.merged({}, unwrapped.settings),
        unwrapped.notes,
        "stop couriertcpd",
        "start it again",
    )
    return Found([command], [])


def in_courier(directory: str) -> Found:
    """Return the command lines of Courier's own configuration."""
    try:
        return Found(*courier.read(directory))
    except OSError as error:
        raise DiscoverError(f"{directory}: {error.strerror}") from None


def in_script(path: str, known: Mapping[str, str]) -> Found:
    """Return those of a shell script, run file or systemd unit; `known` are variables given by the user."""
    try:
        text = _text(path)
        is_unit = unit.is_unit(text)
        found = Found(*unit.read(path, text, _text, known)) if is_unit else _in_shell(path, text, known)
    except (OSError, UnicodeDecodeError) as error:
        file = getattr(error, "filename", None) or path
        raise DiscoverError(f"cannot read {file}: {getattr(error, 'strerror', error)}") from None
    if not found.commands and not found.unread:
        raise DiscoverError(f"{path}: {_dead_end(text)}")
    return found


def _dead_end(text: str) -> str:
    """Return why nothing was found in a text, and what to do."""
    for number, line in enumerate(text.splitlines(), 1):
        script_of_courier = next(filter(_is_script_of_courier, _WORD.findall(line)), None)
        if script_of_courier:
            why = f"line {number} names {script_of_courier}, a start script of Courier"
            return f"there is no couriertcpd in it, but {why}: {courier_scripts.NEXT}"
    for number, line in enumerate(text.splitlines(), 1):
        if commandline.PROGRAM in line and not line.lstrip().startswith("#"):
            return f"line {number} names couriertcpd, but nothing in it starts it: name the script that does"
    return "there is no couriertcpd in it"


def _is_script_of_courier(word: str) -> bool:
    """Return whether a word is the path of a start script, or a name that only it has."""
    return courier_scripts.named(word) and ("/" in word or "-" in word or word.endswith((".rc", ".service")))


def _in_shell(path: str, text: str, known: Mapping[str, str]) -> Found:
    found = Found([], [])
    for line in script.read(text, _text, known):
        if isinstance(line, script.UnreadLine):
            found.unread.append(commandline.Unread(f"{path}:{line.line}", line.text))
        else:
            found.commands.append(_from_shell(path, line))
    return found


def _from_shell(path: str, line: script.Line) -> commandline.Command:
    around = script.around(line)
    stop = start = f"the service manager that runs {path}"
    if os.path.basename(path) == "run":  # runit's and daemontools' name for it
        folder = os.path.dirname(os.path.abspath(path))
        stop, start = f"sv down {folder}", f"sv up {folder}"
    origin = f"{path}:{line.line}"
    return commandline.Command(around.words, origin, around.settings, around.notes, stop, start)


def in_processes() -> Found:
    """Return the command lines of the running couriertcpd processes."""
    found = Found(*processes.read(processes.PROC), private=True)
    if not found.commands and not found.unread:
        raise DiscoverError("there is no process of couriertcpd")
    return found


def _text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="surrogateescape")

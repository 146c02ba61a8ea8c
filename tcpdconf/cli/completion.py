"""Completes names of services for the shells below share/: quickly, and silent about errors.

A shell runs `tcpdconf --complete-services WORD...` with the words of the command line before the one to
complete, and offers the names that it prints.
"""

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Final

from tcpdconf.cli import arguments

_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # has no meaning of its own to any shell
_SECONDS: Final = 1.0  # for a daemon's answer


def services(words: Sequence[str]) -> list[str]:
    """Return the names that may come next, sorted.

    They come from the configuration directory that the command would read, or else from the running daemon.
    For a command that reads no directory, the daemon comes first.
    """
    words = [_unquoted(word) for word in words if word != "="]  # bash makes "=" a word of its own
    command = arguments.command(words[0]) if words else None
    if command is None:
        return []
    options, others = command.guessed(words[1:])
    reads = "--conf" in command.options
    named = options.get("--conf") or (others[0] if others and words[0] in arguments.WITH_DIRECTORY else None)
    directory = os.path.expanduser(named or arguments.DIRECTORY)
    if named:
        return sorted(_plain(_configured(directory)))
    if reads:
        return sorted(_plain(_configured(directory)) or _plain(_running(options.get("--runtime-dir"))))
    return sorted(_plain(_running(options.get("--runtime-dir"))) or _plain(_configured(directory)))


def _configured(directory: str) -> Iterable[str]:
    """Yield the enabled services of a directory, whatever errors it has."""
    from tcpdconf.config.load import files as config_files  # noqa: PLC0415 (most completions need no files)

    for file in config_files.read(directory, {}).sources:
        tables = file.data.get("services")
        for name, table in tables.items() if isinstance(tables, dict) else ():
            if isinstance(table, dict) and table.get("enabled") is not False:
                yield name


def _running(runtime: str | None) -> Iterable[str]:
    """Return the services of the running daemon; none if it does not answer soon."""
    from tcpdconf.daemon.control import client as control_client  # noqa: PLC0415 (as above)
    from tcpdconf.daemon.control import runtimedir  # noqa: PLC0415

    try:
        answer = control_client.ask(runtimedir.find(runtime), {"command": "status"}, _SECONDS)
    except control_client.ControlError:
        return ()
    found: dict[str, object] = answer["services"]
    return found


def _plain(names: Iterable[str]) -> set[str]:
    return {name for name in names if _PLAIN.fullmatch(name)}


def _unquoted(word: str) -> str:
    """Return a word as the command gets it: bash and zsh pass it as typed, fish without quotes."""
    try:
        found = shlex.split(word)
    except ValueError:  # a quotation that does not end
        return word
    return found[0] if len(found) == 1 else word

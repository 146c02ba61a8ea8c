"""Reads couriertcpd's command line from a systemd unit: ExecStart= and other settings of [Service].

Syntax and expansion are systemd's (systemd.syntax(7), systemd.service(5), COMMAND LINES). `${X}` is one word,
`$X` is split, a file of variables is not expanded, and no shell is involved. An empty assignment resets
earlier ones. Files in UNIT.d beside the unit are read as systemd reads them.
"""

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tcpdconf_migrate import commandline, unitsettings
from tcpdconf_migrate.courier import scripts as courier_scripts
from tcpdconf_migrate.script import script
from tcpdconf_migrate.wrappers import wrappers

_SETTING: Final = re.compile(r"([A-Za-z]+)\s*=\s*(.*)")
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}|\$\$|%%|%.")
_SPECIFIER: Final = re.compile(r"%%|%.")
_PREFIXES: Final = re.compile(r"[-@:+!|]*")


def is_unit(text: str) -> bool:
    """Return whether a text is a systemd unit of a service."""
    return re.search(r"^\[Service\]\s*$", text, re.MULTILINE) is not None


def read(
    path: str, text: str, read_file: script.ReadFile, known: Mapping[str, str]
) -> tuple[list[commandline.Command], list[commandline.Unread]]:
    """Return the command lines of a unit. `known` are variables given by the user."""
    settings = list(_settings(path, text))
    for drop_in in sorted(Path(f"{path}.d").glob("*.conf"), key=lambda file: file.name):
        settings += _settings(str(drop_in), read_file(str(drop_in)))
    unit = _Unit(path, unitsettings.ServiceSection(settings, read_file), read_file, known)
    found: list[commandline.Command] = []
    unread: list[commandline.Unread] = []
    starts = unit.service.values("ExecStart")
    for setting in starts:
        for result in unit.commands(setting):
            if isinstance(result, commandline.Command):
                found.append(result)
            else:
                unread.append(result)
    if not found and not unread:
        unread += (commandline.Unread(each.origin, _next(each.value)) for each in starts)
    return found, unread


def _next(value: str) -> str:
    """Return the next step for an ExecStart= without couriertcpd."""
    program = "".join(value.lstrip("-@:+!|").split(maxsplit=1)[:1])
    return f"{program} is not couriertcpd: if it is a script, run tcpdconf-migrate script {program}"


def _settings(path: str, text: str) -> Iterator[unitsettings.Setting]:
    """Yield each setting of [Service]; a backslash at the end joins lines."""
    section, pending, start = "", "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith(("#", ";")):
            continue
        start = start if pending else number
        pending += line.rstrip("\\") + " " if line.endswith("\\") else line
        if line.endswith("\\"):
            continue
        written, pending = pending.strip(), ""
        if written.startswith("["):
            section = written
        elif section == "[Service]" and (found := _SETTING.fullmatch(written)):
            yield unitsettings.Setting(path, start, found[1], found[2])


class _Exec(NamedTuple):
    """Holds an ExecStart=: its prefixes and its words."""

    prefixes: str
    words: list[str]


class _Unit:
    """Applies the settings of one unit to every command in it."""

    def __init__(
        self,
        path: str,
        service: unitsettings.ServiceSection,
        read_file: script.ReadFile,
        known: Mapping[str, str],
    ) -> None:
        self.service = service
        self._name = os.path.basename(path)
        self._read_file = read_file
        self._variables = {**service.variables, **known}

    def commands(self, setting: unitsettings.Setting) -> Iterator[commandline.Command | commandline.Unread]:
        """Yield the commands of an ExecStart=; none if it has nothing to do with couriertcpd."""
        if commandline.PROGRAM not in setting.value:
            for word in filter(courier_scripts.named, setting.value.split()):
                why = f"{word} is a start script of Courier: {courier_scripts.NEXT}"
                yield commandline.Unread(setting.origin, why)
            return
        try:
            command = self._exec(setting.value)
        except ValueError as error:
            yield commandline.Unread(setting.origin, str(error))
            return
        if why := self.service.refusal(command.prefixes):
            yield commandline.Unread(setting.origin, why)
            return
        for line in script.read(shlex.join(command.words), self._read_file, self._variables):
            if isinstance(line, script.UnreadLine):
                yield commandline.Unread(setting.origin, line.text)
            else:
                yield self._command(setting.origin, line)

    def _command(self, origin: str, line: script.Line) -> commandline.Command:
        around = script.around(line)
        return commandline.Command(
            around.words,
            origin,
            wrappers.merged(self.service.settings, around.settings),
            (*self.service.notes, *around.notes),
            f"systemctl disable --now {self._name}",
            f"systemctl enable --now {self._name}",
        )

    def _exec(self, value: str) -> _Exec:
        """Parse a systemd command line.

        Raises:
            ValueError: a part of it is expanded by systemd only.
        """
        found = _PREFIXES.match(value)
        prefixes = found[0] if found else ""
        written = shlex.split(value[len(prefixes) :])
        words = list(self._words(written, variables=":" not in prefixes))
        if "@" in prefixes:
            words = words[:1] + words[2:]  # the second word is the name that ps shows
        return _Exec(prefixes, words)

    def _words(self, written: Sequence[str], *, variables: bool) -> Iterator[str]:
        """Expand specifiers, and variables unless the prefix `:` forbids it."""
        for word in written:
            bare = re.fullmatch(r"\$(\w+)", word)
            if not variables:
                yield _SPECIFIER.sub(self._expanded, word)
            elif bare:
                yield from self._value(bare[1]).split()
            else:
                yield _VARIABLE.sub(self._expanded, word)

    def _expanded(self, found: re.Match[str]) -> str:
        if found[0] in {"$$", "%%"}:
            return found[0][0]
        if found[0].startswith("%"):
            raise ValueError(f"the specifier {found[0]} is expanded by systemd only")
        return self._value(found[1])

    def _value(self, name: str) -> str:
        if name not in self._variables:
            raise ValueError(f"{name} is set by no Environment= or EnvironmentFile= that can be read")
        return self._variables[name]

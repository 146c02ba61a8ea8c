"""couriertcpd in a systemd unit: ExecStart= with the variables of Environment= and EnvironmentFile=.

Syntax and expansion are systemd's (systemd.syntax(7), systemd.service(5), COMMAND LINES): `${X}` is one
word, `$X` is split, a file of variables is not expanded, and no shell is involved.
"""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Final

from tcpdconf.config import envfile
from tcpdconf_migrate import commandline, script, wrappers

_SETTING: Final = re.compile(r"([A-Za-z]+)\s*=\s*(.*)")
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}|\$\$|%%|%.")
_LIMITS: Final = {
    "LimitAS": "as", "LimitDATA": "data", "LimitSTACK": "stack", "LimitMEMLOCK": "memlock",
    "LimitCORE": "core", "LimitNOFILE": "nofile", "LimitNPROC": "nproc", "LimitFSIZE": "fsize",
    "LimitCPU": "cpu",
}  # fmt: skip
_NOT_CARRIED: Final = re.compile(
    r"Capability\w*|AmbientCapabilities|NoNewPrivileges|Private\w+|Protect\w+|Restrict\w+|SystemCall\w+"
    r"|ReadWritePaths|MemoryMax|MemoryLimit|TasksMax|Nice|SupplementaryGroups|RootDirectory|ExecStartPre"
)


def is_unit(text: str) -> bool:
    """Whether a file is a systemd unit of a service."""
    return re.search(r"^\[Service\]\s*$", text, re.MULTILINE) is not None


def read(
    path: str, text: str, read_file: script.ReadFile, known: Mapping[str, str]
) -> tuple[list[commandline.Command], list[commandline.Unread]]:
    """The command lines of a unit. `known` are variables that the caller vouches for."""
    unit = _Unit(path, list(_settings(text)), read_file, dict(known))
    found: list[commandline.Command] = []
    unread: list[commandline.Unread] = []
    for line, name, value in unit.settings:
        if name == "ExecStart" and commandline.PROGRAM in value:
            result = unit.command(line, value)
            if isinstance(result, commandline.Command):
                found.append(result)
            else:
                unread.append(result)
    return found, unread


def _settings(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, name and value of each setting of [Service]; a backslash at the end joins lines."""
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
            yield start, found[1], found[2]


class _Unit:
    """One unit: what its settings say of every command in it."""

    def __init__(
        self,
        path: str,
        settings: list[tuple[int, str, str]],
        read_file: script.ReadFile,
        known: dict[str, str],
    ) -> None:
        self.settings = settings
        self._path = path
        self._read_file = read_file
        self._notes: list[commandline.Note] = []
        self._around: commandline.Settings = {}
        self._variables: dict[str, str] = {}
        for line, name, value in settings:
            self._set(line, name, value)
        self._variables |= known

    def command(self, line: int, value: str) -> commandline.Command | commandline.Unread:
        """The command of an ExecStart=."""
        origin = f"{self._path}:{line}"
        try:
            words = list(self._words(value.lstrip("-@:+!")))
        except ValueError as error:
            return commandline.Unread(origin, str(error))
        unwrapped = wrappers.unwrap(words)
        if not unwrapped.words:
            return commandline.Unread(origin, f"what {words[0]} does with couriertcpd is not known here")
        name = os.path.basename(self._path)
        return commandline.Command(
            unwrapped.words,
            origin,
            self._around | unwrapped.settings,
            (*self._notes, *unwrapped.notes),
            f"systemctl disable --now {name}",
            f"systemctl enable --now {name}",
        )

    def _set(self, line: int, name: str, value: str) -> None:
        simple = {"User": "user", "Group": "group", "WorkingDirectory": "directory", "UMask": "umask"}
        if name in simple and value:
            if "$" in value or "%" in value:
                self._ignore(line, name, value, "systemd expands no variables there")
            else:
                self._around[simple[name]] = value
        elif name in _LIMITS:
            self._limit(line, name, value)
        elif name == "Environment":
            for word in shlex.split(value):
                variable, _, text = word.partition("=")
                self._variables[variable] = text
                self._around.setdefault("environment", {})[variable] = text
        elif name == "EnvironmentFile":
            self._file(line, value)
        elif _NOT_CARRIED.fullmatch(name):
            self._ignore(
                line, name, value, "is tcpdconf's own unit's to say, if it is to hold for its services"
            )

    def _limit(self, line: int, name: str, value: str) -> None:
        text = value.rpartition(":")[2]
        text = "unlimited" if text == "infinity" else text
        if text.isdigit() or text == "unlimited":
            self._around.setdefault("rlimits", {})[_LIMITS[name]] = int(text) if text.isdigit() else text
        elif re.fullmatch(r"\d+[KMGT]", text):
            self._around.setdefault("rlimits", {})[_LIMITS[name]] = text
        else:
            self._ignore(line, name, value, "is no plain number")

    def _file(self, line: int, value: str) -> None:
        path = value.removeprefix("-")
        try:
            self._variables |= envfile.parse(self._read_file(path))
        except (OSError, ValueError) as error:
            if not value.startswith("-"):
                self._ignore(line, "EnvironmentFile", value, f"cannot be read: {error}")
            return
        self._around.setdefault("environment_files", []).append({"path": path})

    def _ignore(self, line: int, name: str, value: str, why: str) -> None:
        self._notes.append(commandline.Note("ignored", f"line {line}, {name}={value}", why))

    def _words(self, text: str) -> Iterator[str]:
        for word in shlex.split(text):
            bare = re.fullmatch(r"\$(\w+)", word)
            if bare:
                yield from self._value(bare[1]).split()
            else:
                yield _VARIABLE.sub(self._expanded, word)

    def _expanded(self, found: re.Match[str]) -> str:
        if found[0] in {"$$", "%%"}:
            return found[0][0]
        if found[0].startswith("%"):
            raise ValueError(f"the specifier {found[0]} is known to systemd only")
        return self._value(found[1])

    def _value(self, name: str) -> str:
        if name not in self._variables:
            raise ValueError(f"{name} is set by no Environment= or EnvironmentFile= that can be read")
        return self._variables[name]

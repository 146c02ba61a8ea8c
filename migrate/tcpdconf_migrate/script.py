"""Finds the couriertcpd command lines of a shell script without running it.

Variables are followed through the script and the files that it sources, as far as they can be: an
assignment in a branch holds in that branch and is unknown after it. Nothing is guessed: a command with
anything unknown in it is `Unread`, with the reason. Files are read; nothing is executed.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tcpdconf_migrate import commandline, shellcommands, shellvariables, shellwords

ReadFile = Callable[[str], str]

_DECLARING: Final = frozenset({"export", "readonly", "local", "declare", "typeset"})
_OPENING: Final = {"then": "branch", "do": "branch", "{": "group", "(": "subshell"}
_CLOSING: Final = frozenset({"fi", "done", "}", "esac", ")", "else", "elif", ";;"})
_BETWEEN: Final = frozenset({"if", "while", "until", "!", "time"})
_NEVER_STARTING: Final = frozenset({"killall", "pkill", "pgrep", "pidof", "ps", "grep", "test", "[", "rm"})
_DEEPEST: Final = 8  # files and texts of commands within each other
_LIMITS: Final = {
    "-v": ("as", 1024), "-d": ("data", 1024), "-s": ("stack", 1024), "-l": ("memlock", 1024),
    "-n": ("nofile", 1), "-u": ("nproc", 1), "-t": ("cpu", 1), "-c": ("core", 512), "-f": ("fsize", 512),
}  # fmt: skip


class Unread(NamedTuple):
    """A place that may start couriertcpd, and why it cannot be told how; `line` of the script."""

    line: int
    text: str


@dataclass(frozen=True)
class Line:
    """A command with couriertcpd somewhere in it, and the state of the shell there.

    Attributes:
        line: of the script.
        words: all of the command's words.
        environment: the variables that the script exports.
        sourced: the files that it reads with `set -a`, in order.
        settings: what umask, cd and ulimit have set, as keys of a service.
        unclear: what of all these cannot be told.
    """

    line: int
    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    sourced: tuple[str, ...] = ()
    settings: commandline.Settings = field(default_factory=dict)
    unclear: tuple[str, ...] = ()


def read(text: str, read_file: ReadFile, known: Mapping[str, str]) -> list[Line | Unread]:
    """Every command line of a script, and every place that may be one, in order.

    Args:
        text: the script.
        read_file: gives the text of a file that the script sources; OSError when there is none.
        known: variables that the caller vouches for; no assignment of the script changes them.
    """
    walk = _Walk(read_file, known)
    try:
        walk.through(text, 1)
    except shellwords.ShellError as error:
        walk.found.append(Unread(error.line, str(error)))
    return walk.found


class _Walk:
    """One pass over a script, in the order of its lines."""

    def __init__(self, read_file: ReadFile, known: Mapping[str, str]) -> None:
        self.found: list[Line | Unread] = []
        self._read_file = read_file
        self._variables = shellvariables.Variables(known)
        self._kinds: list[str] = []  # of the scopes that are open
        self._sourced: list[str] = []
        self._depth = 0
        self._outer: int | None = None  # the script's line, while something that it refers to is read

    def through(self, text: str, line: int) -> None:
        """Walk through the commands of a text whose first line has this number."""
        if self._depth == _DEEPEST:
            raise shellwords.ShellError(line, "files and commands are nested too deeply")
        self._depth += 1
        height = len(self._kinds)
        for command in shellcommands.commands(shellwords.tokens(text, line)):
            self._command(command)
        while len(self._kinds) > height:
            self._close(line)
        self._depth -= 1

    def _command(self, command: shellcommands.Command) -> None:
        """A command, after the words of control that stand in front of it."""
        words = list(command.words)
        while words:
            plain = shellcommands.plain(words[0])
            if plain in _CLOSING:
                self._close(words[0].line)
            if plain in _OPENING or plain == "else":
                self._kinds.append(_OPENING.get(plain, "branch"))
                self._variables.enter()
            elif plain not in _CLOSING and plain not in _BETWEEN:
                break
            words = words[1:]
        if words:
            self._simple(words, conditional=command.before in {"&&", "||"})

    def _close(self, line: int) -> None:
        """Leave a scope. What a branch has assigned may or may not be so from now on."""
        if not self._kinds:
            return
        kind, names = self._kinds.pop(), self._variables.leave()
        for name, value in names.items():
            why = f"{name.strip()} is set in a branch that ends at line {line}"
            if kind != "subshell":
                self._variables.assign(name, value if kind == "group" else self._variables.unknown(why))

    def _simple(self, words: list[shellwords.Word], *, conditional: bool) -> None:
        line, plain = words[0].line, shellcommands.plain(words[0])
        if plain == "for" and len(words) > 1:
            name = shellcommands.plain(words[1])
            self._variables.assign(name, self._variables.unknown(f"{name} is the variable of a loop"))
        if plain in {"for", "case"}:
            return
        assignments = list(itertools.takewhile(bool, map(shellcommands.assigned, words)))
        rest = words[len(assignments) :]
        own: dict[str, str] = {}
        for assigned in filter(None, assignments):
            own[assigned.name] = value = self._assigned(assigned)
            if not rest:
                why = f"{assigned.name} is set at line {line} only if the command before it says so"
                self._variables.assign(assigned.name, self._variables.unknown(why) if conditional else value)
        if rest:
            self._run(line, [field for word in rest for field in self._variables.fields(word)], own)

    def _assigned(self, assigned: shellcommands.Assigned) -> str:
        if assigned.appends:
            why = f"{assigned.name} is appended to with +=, which not every /bin/sh understands"
            return self._variables.unknown(why)
        return self._variables.text(assigned.parts)

    def _run(self, line: int, fields: list[str], own: dict[str, str]) -> None:
        """What a command does to the variables, or that it starts couriertcpd."""
        name = fields[0] if fields else ""
        if any(commandline.PROGRAM in field for field in fields):
            self._mention(self._outer or line, fields, own)
        elif name in _DECLARING:
            self._declare(fields[1:])
        elif name == "set" and {"-a", "+a"} & set(fields):
            self._variables.exports_all = "-a" in fields
        elif name in {".", "source"} and len(fields) > 1:
            self._source(line, fields[1])
        elif name in {"umask", "cd"} and len(fields) == 2:
            self._variables.assign(f" {name}", fields[1])
        elif name == "ulimit":
            self._limit([field for field in fields[1:] if field not in {"-S", "-H"}])
        elif name in {"read", "unset"}:
            for variable in fields[1:]:
                why = f"{variable} is set by {name} at line {line}"
                self._variables.assign(variable, self._variables.unknown(why))

    def _declare(self, fields: list[str]) -> None:
        for text in fields:
            name, equals, value = text.partition("=")
            if equals:
                self._variables.assign(name, value)
            if name.isidentifier():
                self._variables.exported[name] = None

    def _limit(self, fields: list[str]) -> None:
        if len(fields) == 2 and fields[0] in _LIMITS:
            self._variables.assign(f" ulimit {fields[0]}", fields[1])

    def _source(self, line: int, path: str) -> None:
        """A sourced file: its assignments are the script's own."""
        if reasons := self._variables.reasons(path):
            self._variables.forget("a file is sourced whose name cannot be told: " + reasons[0])
            return
        try:
            text = self._read_file(path)
        except OSError as error:
            self._variables.forget(f"{path}, which is sourced, cannot be read: {error.strerror}")
            return
        whole = self._variables.exports_all
        if whole and path not in self._sourced:
            self._sourced.append(path)
        self._variables.exports_all = False  # the file itself is named, not every variable in it
        self._within(line, text, 1)
        self._variables.exports_all = whole

    def _within(self, line: int, text: str, first: int) -> None:
        """Walk through a text that the script refers to at a line."""
        outer, self._outer = self._outer, self._outer or line
        self.through(text, first)
        self._outer = outer

    def _mention(self, line: int, fields: list[str], own: dict[str, str]) -> None:
        """A command that has couriertcpd in its words: it may be a shell with commands as text."""
        name = fields[0].rpartition("/")[2]
        inner = next((field for field in fields if commandline.PROGRAM in field and " " in field), "")
        if name in _NEVER_STARTING or {"-stop", "-restart"} & set(fields):
            return
        if name == "eval":
            self._within(line, " ".join(fields[1:]), line)
        elif inner and "-c" in fields:
            self._within(line, inner, line)
        elif commandline.unwrap(fields).words:
            self._start(line, fields, own)
        else:
            reasons = self._variables.reasons(" ".join(fields))
            why = "; ".join(reasons) or f"what {name} does with couriertcpd is not known here"
            self.found.append(Unread(line, why))

    def _start(self, line: int, fields: list[str], own: dict[str, str]) -> None:
        variables = self._variables
        if reasons := variables.reasons(" ".join((*fields, *own.values()))):
            self.found.append(Unread(line, "; ".join(reasons)))
            return
        environment = {name: variables.value(name) for name in variables.exported} | own
        state = {name: variables.value(name) for name in sorted(variables.names()) if name.startswith(" ")}
        values = (*environment.values(), *state.values())
        unclear = (*variables.assumed, *(why for value in values for why in variables.reasons(value)))
        known = {name: value for name, value in environment.items() if not variables.reasons(value)}
        settings = _settings({name: value for name, value in state.items() if not variables.reasons(value)})
        self.found.append(Line(line, tuple(fields), known, tuple(self._sourced), settings, unclear))


def _settings(state: Mapping[str, str]) -> commandline.Settings:
    """What umask, cd and ulimit have set, as keys of a service."""
    found: commandline.Settings = {}
    for name, value in state.items():
        command, _, option = name[1:].partition(" ")
        if command == "ulimit":
            key, unit = _LIMITS[option]
            if value.isdigit() or value == "unlimited":
                limit = int(value) * unit if value.isdigit() else value
                found.setdefault("rlimits", {})[key] = limit
        else:
            found[{"cd": "directory"}.get(command, command)] = value
    return found

"""Finds the couriertcpd command lines of a shell script without running it.

It follows variables through the script and the files that it sources, as far as possible: an assignment in a
branch is valid in that branch and unknown after it. It never guesses: a command with an unknown part becomes
an `UnreadLine` with the reason. Files are read; nothing is executed.
"""

import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from tcpdconf.config.couriertcpd import grammar
from tcpdconf_migrate import commandline
from tcpdconf_migrate.courier import scripts as courier_scripts
from tcpdconf_migrate.script import commands as shell_commands
from tcpdconf_migrate.script import state as shell_state
from tcpdconf_migrate.script import words as shell_words
from tcpdconf_migrate.script.commands import Assigned, SimpleCommand
from tcpdconf_migrate.script.variables import Variables
from tcpdconf_migrate.script.words import ShellSyntaxError, Word
from tcpdconf_migrate.wrappers import options as wrapper_options
from tcpdconf_migrate.wrappers import wrappers

ReadFile = Callable[[str], str]

_DECLARING: Final = frozenset({"export", "readonly", "local", "declare", "typeset"})
_OPENING: Final = {"then": "branch", "do": "branch", "{": "group", "(": "subshell"}
_CLOSING: Final = frozenset({"fi", "done", "}", "esac", ")", "else", "elif", ";;"})
_BETWEEN: Final = frozenset({"if", "while", "until", "!", "time"})
# commands that may name couriertcpd but never start it
_NEVER_STARTING: Final = frozenset({
    "[", "[[", "basename", "cat", "chgrp", "chmod", "chown", "dirname", "echo", "grep", "hash", "install",
    "kill", "killall", "log_begin_msg", "log_daemon_msg", "log_end_msg", "log_failure_msg",
    "log_progress_msg", "log_success_msg", "logger", "ls", "mkdir", "pgrep", "pidof", "pkill", "printf", "ps",
    "rm", "test", "touch", "type", "whereis", "which",
})  # fmt: skip
_WRITING: Final = frozenset({"cat", "echo", "printf"})  # with redirected output, they may write a script
_OPTION: Final = re.compile(
    "-(?:" + "|".join(option.name for option in grammar.OPTIONS) + ")(?:=.*)?", re.DOTALL
)
_SHELL_OF_ITS_OWN: Final = re.compile(r"#!.*\b(bash|ksh|zsh)\b")
_SUBSTITUTION: Final = re.compile(r"(?:\$\(|[<>]\()(.*)\)|`(.*)`", re.DOTALL)
_ITSELF: Final = "$$ is known only at run time"
_DEEPEST: Final = 8  # nested files and command texts, at most


class UnreadLine(NamedTuple):
    """Names a line of the script that may start couriertcpd, and why its command line is unknown."""

    line: int
    text: str


@dataclass(frozen=True)
class Line:
    """Holds a command that contains couriertcpd, and the state of the shell at that point.

    Attributes:
        line: the line of the script.
        words: all of the command's words.
        environment: the variables that the script exports.
        sourced: the files that it reads with `set -a`, in order.
        settings: the effects of umask, cd, ulimit and redirections, as keys of a service.
        unclear: the parts of these that are unknown.
        front: the effects of wrappers around the enclosing shells, as keys of a service.
        notes: remarks about them.
    """

    line: int
    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    sourced: tuple[str, ...] = ()
    settings: commandline.Settings = field(default_factory=dict)
    unclear: tuple[str, ...] = ()
    front: commandline.Settings = field(default_factory=dict)
    notes: tuple[commandline.Note, ...] = ()


def read(text: str, read_file: ReadFile, known: Mapping[str, str]) -> list[Line | UnreadLine]:
    """Return every command line of a script, and every line that may be one, in order.

    Args:
        text: the script.
        read_file: returns the text of a file that the script sources; raises OSError if it cannot be read.
        known: variables given by the user; no assignment of the script changes them.
    """
    walk = _ScriptWalk(read_file, known, bash=_SHELL_OF_ITS_OWN.match(text) is not None)
    try:
        walk.through(text, 1)
    except ShellSyntaxError as error:
        walk.found.append(UnreadLine(error.line, str(error)))
    return walk.found


def around(line: Line) -> wrappers.Unwrapped:
    """Return couriertcpd's own words, and the settings from wrappers, shells, variables and files."""
    own = wrappers.unwrap(line.words)
    files = [{"path": os.path.abspath(file), "shell": True} for file in line.sourced]
    shell = {**line.settings, "environment_files": files, "environment": dict(line.environment)}
    settings = wrappers.merged(wrappers.merged(line.front, shell), own.settings)
    unclear = [commandline.Note("ignored", f"line {line.line}", why) for why in line.unclear]
    return wrappers.Unwrapped(own.words, settings, (*line.notes, *own.notes, *unclear))


class _ScriptWalk:
    """Walks once over a script, in the order of its lines."""

    def __init__(self, read_file: ReadFile, known: Mapping[str, str], *, bash: bool) -> None:
        self.found: list[Line | UnreadLine] = []
        self._read_file = read_file
        self._variables = Variables(known)
        self._bash = bash
        self._front: commandline.Settings = {}
        self._notes: tuple[commandline.Note, ...] = ()
        self._left: list[str] = []  # parts of the shell's state that are not carried over
        self._kinds: list[tuple[str, int]] = []  # of the open scopes, and the number of findings before each
        self._closed = 0  # number of findings before the scope that was closed last
        self._sourced: list[str] = []
        self._depth = 0
        self._outer: int | None = None  # the script's line, while a text that it refers to is read

    def through(self, text: str, line: int) -> None:
        """Walk through the commands of a text whose first line has this number."""
        if self._depth == _DEEPEST:
            raise ShellSyntaxError(line, "files and commands are nested too deeply")
        self._depth += 1
        height = len(self._kinds)
        for command in shell_commands.commands(shell_words.tokens(text, line)):
            self._command(command)
        while len(self._kinds) > height:
            self._close(line)
        self._depth -= 1

    def _command(self, command: SimpleCommand) -> None:
        """Handle a command, after the reserved words in front of it."""
        words = list(command.words)
        closes = not words
        while words:
            plain = shell_commands.plain(words[0])
            if plain in _CLOSING:
                self._close(words[0].line)
                closes = True
            if plain in _OPENING or plain == "else":
                self._kinds.append((_OPENING.get(plain, "branch"), len(self.found)))
                self._variables.enter()
                closes = False
            elif plain not in _CLOSING and plain not in _BETWEEN:
                break
            words = words[1:]
        if words:
            self._simple(command._replace(words=tuple(words)))
        elif closes and (command.redirections or command.after in {"|", "|&"}):
            self._redirect_group(command)

    def _close(self, line: int) -> None:
        """Leave a scope; assignments of a branch are unknown after it, since it may not run."""
        if not self._kinds:
            return
        (kind, self._closed), names = self._kinds.pop(), self._variables.leave()
        for name, value in names.items():
            why = f"{name.strip()} is set in a branch that ends at line {line}"
            if kind != "subshell":
                self._variables.assign(name, value if kind == "group" else self._variables.unknown(why))

    def _redirect_group(self, command: SimpleCommand) -> None:
        """Mark the commands in a group or subshell if redirections follow it."""
        if not any(shell_state.standard_error(self._descriptors(command), "/")):
            return
        why = "the redirection of standard error behind the group is not carried over: set stderr"
        self.found[self._closed :] = [
            replace(line, unclear=(*line.unclear, why)) if isinstance(line, Line) else line
            for line in self.found[self._closed :]
        ]

    def _simple(self, command: SimpleCommand) -> None:
        words, conditional = command.words, command.before in {"&&", "||"}
        line, plain = words[0].line, shell_commands.plain(words[0])
        if plain == "for" and len(words) > 1:
            name = shell_commands.plain(words[1])
            self._variables.assign(name, self._variables.unknown(f"{name} is the variable of a loop"))
        if plain in {"for", "case"}:
            return
        self._look_into(words)
        assignments = list(itertools.takewhile(bool, map(shell_commands.assigned, words)))
        rest = words[len(assignments) :]
        own: dict[str, str] = {}
        for assigned in filter(None, assignments):
            own[assigned.name] = value = self._assigned(assigned)
            if not rest:
                why = f"{assigned.name} is set at line {line}, depending on the command before it"
                self._variables.assign(assigned.name, self._variables.unknown(why) if conditional else value)
        if rest:
            fields = [field for word in rest for field in self._variables.fields(word)]
            self._run(_Run(line, fields, own, command, conditional))

    def _look_into(self, words: Sequence[Word]) -> None:
        """Walk through the command substitutions of a command, which are subshells."""
        for word in words:
            for part in word.parts:
                found = _SUBSTITUTION.fullmatch(part.text) if part.kind == "unknown" else None
                if found and commandline.PROGRAM in part.text:
                    self._variables.enter()
                    self._within(word.line, found[1] or found[2] or "", word.line)
                    self._variables.leave()

    def _assigned(self, assigned: Assigned) -> str:
        if assigned.appends:
            why = f"{assigned.name} is appended to with +=, which not every /bin/sh understands"
            return self._variables.unknown(why)
        return self._variables.text(assigned.parts)

    def _run(self, run: "_Run") -> None:
        """Apply a command to the state of the shell, or record that it starts couriertcpd."""
        line, fields = run.line, run.fields
        name = fields[0] if fields else ""
        document = "".join(redirection.document for redirection in run.command.redirections)
        if any(commandline.PROGRAM in field for field in (*fields, document)):
            self._mention(run, document)
        elif why := self._may_start(fields):
            self.found.append(UnreadLine(self._outer or line, why))
        elif name in _DECLARING:
            self._declare(fields[1:])
        elif name == "set" and {"-a", "+a"} & set(fields):
            self._variables.exports_all = "-a" in fields
        elif name in {".", "source"} and len(fields) > 1:
            self._source(line, fields[1])
        elif name in shell_state.BUILTINS:
            self._change_state(run)
        elif name in {"read", "unset"}:
            for variable in fields[1:]:
                why = f"{variable} is set by {name} at line {line}"
                self._variables.assign(variable, self._variables.unknown(why))
        elif name == "newgrp" or (
            name not in _NEVER_STARTING and _ITSELF in self._variables.reasons(" ".join(fields))
        ):
            self._left.append(f"{name} at line {line} changes the shell itself, which is not carried over")

    def _may_start(self, fields: Sequence[str]) -> str:
        """Return why a command may start couriertcpd without its name, or ""."""
        for word, behind in itertools.pairwise([*" ".join(fields).split(), ""]):
            script = courier_scripts.named(word)
            if script and (
                behind in {"start", "restart"} or self._variables.reasons(behind) or "start" in fields
            ):
                return f"{word} is a start script of Courier: {courier_scripts.NEXT}"
        reasons = self._variables.reasons(fields[0]) if fields else []
        hidden = any(commandline.PROGRAM in reason for reason in reasons)
        if hidden or (reasons and sum(_OPTION.fullmatch(field) is not None for field in fields) > 1):
            return "; ".join(self._variables.reasons(" ".join(fields)))
        return ""

    def _change_state(self, run: "_Run") -> None:
        """Follow umask, cd, ulimit, trap, and exec without a command."""
        changes = shell_state.builtin(run.fields, bash=self._bash)
        if len(run.fields) == 1 and run.fields[0] == "exec":
            descriptors = self._descriptors(run.command)
            changes = shell_state.StateChanges({f" fd{number}": to for number, to in descriptors.items()})
        if changes.left:
            self._left += self._variables.reasons(" ".join(run.fields)) or changes.left
        for key, value in changes.state.items():
            why = f"{' '.join(run.fields)} at line {run.line} depends on the command before it"
            self._variables.assign(key, self._variables.unknown(why) if run.conditional else value)

    def _descriptors(self, command: SimpleCommand) -> dict[str, str]:
        """Return the targets of a command's descriptors."""
        names = [name for name in self._variables.names() if name.startswith(" fd")]
        now = {name[3:]: self._variables.value(name) for name in names}
        if command.after in {"|", "|&"}:
            now["1"] = "a pipe"
        targets = [(each, self._variables.text(each.target.parts)) for each in command.redirections]
        return shell_state.redirected(now, targets) | ({"2": "a pipe"} if command.after == "|&" else {})

    def _declare(self, fields: list[str]) -> None:
        for text in fields:
            name, equals, value = text.partition("=")
            if equals:
                self._variables.assign(name, value)
            if name.isidentifier():
                self._variables.exported[name] = None

    def _source(self, line: int, path: str) -> None:
        """Walk through a sourced file, whose assignments apply to the script itself."""
        if reasons := self._variables.reasons(path):
            self._forget("a file is sourced whose name cannot be told: " + reasons[0])
            return
        try:
            text = self._read_file(path)
        except OSError as error:
            self._forget(f"{path}, which is sourced, cannot be read: {error.strerror}")
            return
        whole = self._variables.exports_all
        if whole and path not in self._sourced:
            self._sourced.append(path)
        self._variables.exports_all = False  # the service names the file itself, not every variable in it
        self._within(line, text, 1)
        self._variables.exports_all = whole

    def _forget(self, why: str) -> None:
        self._variables.forget(why)
        self._left.append(why)

    def _within(self, line: int, text: str, first: int) -> None:
        """Walk through a text that the script refers to at a line."""
        outer, self._outer = self._outer, self._outer or line
        self.through(text, first)
        self._outer = outer

    def _mention(self, run: "_Run", document: str) -> None:
        """Handle a command that names couriertcpd; it may be a shell with commands as text."""
        line, fields = self._outer or run.line, run.fields
        name = fields[0].rpartition("/")[2] if fields else ""
        if name in _NEVER_STARTING and not (name in _WRITING and shell_commands.writes(run.command)):
            return
        if fields[:2] in (["command", "-v"], ["command", "-V"]):
            return
        if commandline.PROGRAM in document:
            why = f"{name} is given a text with couriertcpd: write the text to a file, and read that"
            self.found.append(UnreadLine(line, why))
            return
        if name == "eval":
            self._within(line, " ".join(fields[1:]), line)
            return
        front = wrappers.unwrap(fields)
        if not front.words:
            why = "; ".join(self._variables.reasons(" ".join(fields))) or front.why
            self.found.append(UnreadLine(line, why))
        elif not commandline.is_couriertcpd(front.words[0]):
            self._nested(line, run, front)
        elif commandline.starts(front.words[1:]):
            self._start(line, run)

    def _nested(self, line: int, run: "_Run", front: wrappers.Unwrapped) -> None:
        """Walk through the commands that a shell gets as text, after the wrappers in front of it."""
        inner = wrappers.shell(front.words)
        given = [field for field in (*run.fields, *run.own.values()) if field != inner.text]
        reasons = self._variables.reasons(" ".join(given))
        if inner.text is None or not set(inner.options) <= set("ceuxlfvhpamnb") or reasons:
            why = "; ".join(reasons) or f"{inner.name} is not supported in front of couriertcpd"
            self.found.append(UnreadLine(line, why))
            return
        before = self._variables, self._front, self._notes, self._bash, self._sourced
        settings = dict(front.settings)
        self._variables = self._inner(run, settings)
        self._variables.exports_all = "a" in inner.options
        self._front = wrappers.merged(self._front, settings)
        self._notes = (*self._notes, *front.notes)
        self._bash = inner.name in {"bash", "ksh", "zsh"}
        self._sourced = [] if settings.get("inherit_environment") is False else list(self._sourced)
        self._within(line, inner.text, line)
        self._variables, self._front, self._notes, self._bash, self._sourced = before

    def _inner(self, run: "_Run", settings: commandline.Settings) -> Variables:
        """Return the variables and state of an inner shell; the settings that apply to it are removed."""
        found = self._variables.child(inherits=settings.get("inherit_environment") is not False)
        for number, to in self._descriptors(run.command).items():
            found.assign(f" fd{number}", "" if number == "2" and "stderr" in settings else to)
        if settings.get("inherit_environment") is not False:
            for name, value in run.own.items():
                found.export(name, value)
        for name in settings.pop(wrapper_options.UNSET, ()):
            found.exported.pop(name, None)
        for name, value in settings.pop("environment", {}).items():
            found.export(name, value)
        for key, value in settings.pop("rlimits", {}).items():
            found.assign(f" rlimit {key}", str(value))
        for key, name in (("directory", " cd"), ("umask", " umask")):
            if key in settings:
                found.assign(name, settings.pop(key))
        return found

    def _start(self, line: int, run: "_Run") -> None:
        variables = self._variables
        if reasons := variables.reasons(" ".join((*run.fields, *run.own.values()))):
            self.found.append(UnreadLine(line, "; ".join(reasons)))
            return
        environment = {name: variables.value(name) for name in variables.exported} | run.own
        state = {name: variables.value(name) for name in sorted(variables.names()) if name.startswith(" ")}
        state |= {f" fd{number}": to for number, to in self._descriptors(run.command).items()}
        values = (*environment.values(), *state.values())
        unclear = [*variables.assumed, *self._left]
        unclear += (why for value in values for why in variables.reasons(value))
        known = {name: value for name, value in environment.items() if not variables.reasons(value)}
        state = {name: value for name, value in state.items() if not variables.reasons(value)}
        settings = shell_state.settings(state, unclear)
        words, sourced = tuple(run.fields), tuple(self._sourced)
        why = tuple(dict.fromkeys(unclear))
        self.found.append(Line(line, words, known, sourced, settings, why, self._front, self._notes))


class _Run(NamedTuple):
    """Holds a command with expanded fields, and the variables that are set for it alone."""

    line: int
    fields: list[str]
    own: dict[str, str]
    command: SimpleCommand
    conditional: bool

"""Finds couriertcpd among the running processes, with its surroundings there (proc(5)).

The command line, variables, directory, umask and limits are those of the process itself, so nothing has to be
guessed. Of other users' processes an ordinary user sees only the command line.
"""

import os
import pwd
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tcpdconf_migrate import commandline
from tcpdconf_migrate.courier import courier
from tcpdconf_migrate.courier import shell as courier_shell
from tcpdconf_migrate.wrappers import kinds as wrapper_kinds
from tcpdconf_migrate.wrappers import wrappers

PROC: Final = "/proc"
_LIMITS: Final = {
    "Max address space": "as", "Max core file size": "core", "Max cpu time": "cpu", "Max data size": "data",
    "Max file size": "fsize", "Max locked memory": "memlock", "Max open files": "nofile",
    "Max processes": "nproc", "Max stack size": "stack",
}  # fmt: skip
# variables that a login, a shell or a service manager passes to every program
_OF_THE_STARTER: Final = frozenset({
    "_", "PWD", "OLDPWD", "SHLVL", "TERM", "COLORTERM", "LS_COLORS", "LESSOPEN", "LESSCLOSE", "MAIL",
    "DISPLAY", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "NOTIFY_SOCKET", "MAINPID",
    "MANAGERPID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID",
})  # fmt: skip
_PREFIXES: Final = ("SSH_", "SUDO_", "XDG_", "DBUS_")


class _Process(NamedTuple):
    pid: int
    words: tuple[str, ...]
    parent: int


def read(proc: str) -> tuple[list[commandline.Command], list[commandline.Unread]]:
    """Return the command lines of all couriertcpd processes except its children, in the order of pids."""
    processes = {process.pid: process for process in _processes(proc)}
    found: list[commandline.Command] = []
    unread: list[commandline.Unread] = []
    for process in processes.values():
        parent = processes.get(process.parent)
        if parent is not None and parent.words == process.words:
            continue  # a child between fork and exec
        try:
            found.append(_command(proc, process))
        except OSError as error:
            why = f"cannot read {error.filename}: {error.strerror}"
            unread.append(commandline.Unread(f"process {process.pid}", why))
    return found, unread


def _processes(proc: str) -> Iterator[_Process]:
    for name in sorted(filter(str.isdigit, os.listdir(proc)), key=int):
        try:
            words = tuple(_items(f"{proc}/{name}/cmdline"))
            if words and commandline.is_couriertcpd(words[0]):
                yield _Process(int(name), words, int(_status(proc, name)["PPid"]))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has exited meanwhile


def _items(path: str) -> list[str]:
    return [os.fsdecode(item) for item in Path(path).read_bytes().split(b"\0")[:-1]]


def _status(proc: str, pid: int | str) -> dict[str, str]:
    lines = Path(f"{proc}/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _command(proc: str, process: _Process) -> commandline.Command:
    status = _status(proc, process.pid)
    environment = dict(item.partition("=")[::2] for item in _items(f"{proc}/{process.pid}/environ"))
    rlimits, notes = _rlimits(f"{proc}/{process.pid}/limits", f"{proc}/1/limits")
    settings: commandline.Settings = {
        "directory": os.readlink(f"{proc}/{process.pid}/cwd"),
        "umask": f"{int(status['Umask'], 8):03o}",
        "rlimits": rlimits,
        "inherit_environment": False,
        **_identity(status),
    }
    notes += _variables(settings, environment)
    notes += _standard_error(settings, proc, process.pid)
    pid_file = next((word for word in reversed(process.words) if word.startswith("-pid=")), None)
    stop = f"{process.words[0]} {pid_file} -stop" if pid_file else f"kill {process.pid}"
    return commandline.Command(
        process.words, f"process {process.pid}", settings, tuple(notes), stop, "start it as before"
    )


def _variables(settings: commandline.Settings, environment: Mapping[str, str]) -> Iterator[commandline.Note]:
    """Set the source of the variables: Courier's files if they give the same, or `environment`."""
    own = {name: value for name, value in environment.items() if not _is_of_the_starter(name)}
    if left := sorted(environment.keys() - own.keys()):
        why = "is left out: it belongs to the session that started this process"
        yield commandline.Note("ignored", ", ".join(left), why, ("environment",))
    try:
        files = courier.files_behind(environment)
        given = courier_shell.sourced(files)
    except courier_shell.ShellError:
        files, given = [], {}
    if files:
        own = {name: own[name] for name in own if given.get(name, "") != own[name]}
        own = {name: value for name, value in own.items() if name not in courier.BY_THE_WAY}
        settings["environment_files"] = [{"path": file, "shell": True} for file in files]
        why = "come from these files, which give the same as this process has"
        yield commandline.Note("changed", "other variables", why, ("environment_files",))
    settings["environment"] = own


def _is_of_the_starter(name: str) -> bool:
    return name in _OF_THE_STARTER or name.startswith(_PREFIXES) or not name.isidentifier()


def _identity(status: Mapping[str, str]) -> dict[str, int | str]:
    """Return user and group unless they are root's.

    They come from -user, or from the user who started it.
    """
    uid, gid = (int(status[key].split()[1]) for key in ("Uid", "Gid"))
    if uid == 0:
        return {}
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return {"user": uid, "group": gid}
    return {"user": account.pw_name} | ({} if account.pw_gid == gid else {"group": gid})


def _rlimits(path: str, of_init: str) -> tuple[dict[str, int | str], list[commandline.Note]]:
    """Return the limits that differ from init's, and notes about limits that are not carried over."""
    found: dict[str, int | str] = {}
    notes = []
    usual = _limits(of_init)
    for name, (soft, hard) in _limits(path).items():
        if usual.get(name, ("", ""))[0] == soft:
            continue
        key = _LIMITS.get(name)
        if key is None:
            notes.append(commandline.Note("ignored", f"{name} {soft}", "a service has no such limit"))
            continue
        found[key] = int(soft) if soft.isdigit() else soft
        if hard != soft:
            what = f"{key} {soft}, hard limit {hard}"
            notes.append(commandline.Note("changed", what, wrapper_kinds.BOTH, ("rlimits", key)))
    return found, notes


def _limits(path: str) -> dict[str, tuple[str, str]]:
    """Return soft and hard limits by name; each column of the file begins at a fixed place."""
    lines = Path(path).read_text(encoding="ascii").splitlines()[1:]
    return {line[:25].strip(): (line[25:46].strip(), line[46:67].strip()) for line in lines}


def _standard_error(settings: commandline.Settings, proc: str, pid: int) -> Iterator[commandline.Note]:
    """Set the target of standard error, unless it is a terminal or the journal, as for tcpdconf."""
    try:
        target = os.readlink(f"{proc}/{pid}/fd/2")
    except FileNotFoundError:
        settings["stderr"] = {"file": "/dev/null"}
        yield commandline.Note(
            "changed", "standard error", "is closed, and goes to /dev/null now", ("stderr",)
        )
        return
    if target.startswith(("pipe:", "socket:")):
        if reader := _reader(proc, target):
            settings["stderr"] = wrappers.unwrap(reader).settings["stderr"]
        elif target.startswith("pipe:"):
            yield commandline.Note(
                "ignored", f"standard error, {target}", "is not carried over: set stderr", ("stderr",)
            )
    elif target.endswith(" (deleted)"):
        yield commandline.Note(
            "ignored", f"standard error, {target}", "is not carried over: set stderr", ("stderr",)
        )
    elif not target.startswith(("/dev/pts/", "/dev/tty", "/dev/console")):
        settings["stderr"] = {"file": target}


def _reader(proc: str, pipe: str) -> list[str]:
    """Return the words of the courierlogger that reads from a pipe, or none."""
    for pid in filter(str.isdigit, os.listdir(proc)):
        try:
            words = _items(f"{proc}/{pid}/cmdline")
            if (
                os.path.basename("".join(words[:1])) == "courierlogger"
                and os.readlink(f"{proc}/{pid}/fd/0") == pipe
            ):
                return words
        except OSError:
            continue  # it has exited, or belongs to another user
    return []

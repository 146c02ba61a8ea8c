"""Translates the wrappers that change the user: su, sudo, setuidgid, setpriv, start-stop-daemon. Pure."""

import re
from typing import Final

from tcpdconf_migrate import commandline
from tcpdconf_migrate.wrappers import options as wrapper_options

Note = commandline.Note
Settings = commandline.Settings


def setuidgid(words: list[str], settings: Settings, notes: list[Note]) -> list[str]:
    """Read setuidgid of daemontools and of s6."""
    list(wrapper_options.options(words, "", ""))
    if not words:
        raise wrapper_options.UnknownError("setuidgid has no user")
    wrapper_options.account(settings, words[0])
    notes.append(Note("changed", f"setuidgid {words[0]}", wrapper_options.GROUPS, ("user",)))
    return words[1:]


# start-stop-daemon's options with a value, then those without
_START_LONG: Final = {
    "p": "pidfile", "n": "name", "x": "exec", "a": "startas", "c": "chuid", "g": "group", "d": "chdir",
    "k": "umask", "N": "nicelevel", "P": "procsched", "I": "iosched", "R": "retry",
}  # fmt: skip
_START_VALUED: Final = (*_START_LONG, *_START_LONG.values(), "ppid")
_START_FLAGS: Final = (
    "S", "start", "b", "background", "m", "make-pidfile", "o", "oknodo", "q", "quiet", "v", "verbose",
    "remove-pidfile", "notify-await", "C", "no-close",
)  # fmt: skip


def start_stop_daemon(words: list[str], settings: Settings, notes: list[Note]) -> list[str]:
    """Read start-stop-daemon --exec PROGRAM -- ARGUMENTS."""
    if "--" not in words:
        raise wrapper_options.UnknownError("start-stop-daemon has no -- in front of couriertcpd's arguments")
    if {"-u", "--user"} & set(words[: words.index("--")]):
        raise wrapper_options.UnknownError(
            "--user of start-stop-daemon is the user of couriertcpd on Gentoo, and the owner of the processes"
            " to look for on Debian: write --chuid for the first meaning"
        )
    given = dict(wrapper_options.options(words, _START_VALUED, _START_FLAGS))
    long = {_START_LONG.get(option, option): value for option, value in given.items()}
    if "chuid" in long:
        wrapper_options.account(settings, long["chuid"])
    keys = {"group": "group", "chdir": "directory", "umask": "umask"}
    settings |= {keys[option]: value for option, value in long.items() if option in keys}
    if priorities := sorted({"nicelevel", "procsched", "iosched"} & long.keys()):
        notes.append(Note("ignored", f"start-stop-daemon --{priorities[0]}", wrapper_options.PRIORITY))
    program = long.get("startas", long.get("exec", ""))
    if not commandline.is_couriertcpd(program):
        raise wrapper_options.UnknownError(
            f"{program or 'start-stop-daemon'} is not supported in front of couriertcpd"
        )
    return [program, *words]


_SU_VALUED: Final = ("c", "command", "s", "shell", "g", "group", "session-command")
_SU_FLAGS: Final = ("l", "login", "m", "p", "preserve-environment", "f", "fast", "P", "pty")


def su(words: list[str], settings: Settings, notes: list[Note]) -> list[str]:
    """Read su, whose options may follow the user, and runuser, which also has -u USER COMMAND."""
    name = words[0].rpartition("/")[2]
    given: dict[str, str] = {}
    plain: list[str] = []
    rest = list(words)
    user = ""
    while len(rest) > 1:
        given.update(
            wrapper_options.options(rest, (*_SU_VALUED, *(("u", "user") * (name == "runuser"))), _SU_FLAGS)
        )
        user = given.get("u", given.get("user", ""))
        if not rest or user:
            break
        plain.append(rest[0])
    login = "-" in plain or bool({"l", "login"} & given.keys())
    plain = [word for word in plain if word != "-"]
    settings["user"] = user or (plain[0] if plain else "root")
    settings.pop("group", None)
    if group := given.get("g", given.get("group")):
        settings["group"] = group
    if login:
        wrapper_options.empty(settings)
        notes.append(
            Note("risk", f"{name} -", "the profile and home directory of the user are not carried over")
        )
    elif not {"m", "p", "preserve-environment"} & given.keys():
        why = "sets HOME, SHELL, USER and LOGNAME: write those that the program needs as environment"
        notes.append(Note("ignored", name, why, ("environment",)))
    if user:
        return rest
    text = next((given[key] for key in ("c", "command", "session-command") if key in given), None)
    if text is None or len(plain) > 1:
        raise wrapper_options.UnknownError(f"{name} is not supported in front of couriertcpd")
    interpreter = given.get("s", given.get("shell", "/bin/sh"))
    return [interpreter if wrapper_options.is_shell([interpreter]) else "/bin/sh", "-c", text]


def sudo(words: list[str], settings: Settings, notes: list[Note]) -> list[str]:
    """Read sudo and doas, which run as root without -u and have their own environment."""
    name = words[0].rpartition("/")[2]
    valued = (
        ("u", "user", "g", "group", "D", "chdir", "p", "prompt", "T", "C") if name == "sudo" else ("u", "C")
    )
    flags = (
        "E",
        "preserve-env",
        "H",
        "set-home",
        "n",
        "non-interactive",
        "b",
        "background",
        "S",
        "k",
        "A",
        "B",
    )
    account: Settings = {"user": "root"}
    keeps = False
    for option, value in wrapper_options.options(words, valued, flags if name == "sudo" else "nL"):
        match option:
            case "u" | "user":
                account["user"] = value.removeprefix("#")
            case "g" | "group":
                account["group"] = value.removeprefix("#")
            case "D" | "chdir":
                settings["directory"] = value
            case "E" | "preserve-env":
                keeps = True
    settings.pop("group", None)
    settings |= {key: int(text) if text.isdigit() else text for key, text in account.items()}
    if not keeps:
        wrapper_options.empty(settings)
        why = "empties the environment: write what its own configuration keeps or sets as environment"
        notes.append(Note("risk", name, why, ("environment",)))
    while words and re.match(r"[A-Za-z_]\w*=", words[0]):
        variable, _, value = words.pop(0).partition("=")
        wrapper_options.set_variable(settings, variable, value)
    return words


_SETPRIV: Final = ("reuid", "regid", "ruid", "euid", "rgid", "egid")


def setpriv(words: list[str], settings: Settings, notes: list[Note]) -> list[str]:
    """Read setpriv if it leaves none of its caller's rights."""
    flags = ("init-groups", "clear-groups", "keep-groups", "reset-env", "no-new-privs", "nnp")
    given = dict(wrapper_options.options(words, _SETPRIV, flags))
    if not given.keys() & {"reuid"} or given.keys() & {"ruid", "euid", "rgid", "egid", "keep-groups"}:
        raise wrapper_options.UnknownError(
            "setpriv keeps some rights of its caller: only --reuid with --regid is supported"
        )
    wrapper_options.account(settings, given["reuid"] + (f":{given['regid']}" if "regid" in given else ""))
    if "reset-env" in given:
        wrapper_options.empty(settings)
    if "clear-groups" in given:
        notes.append(Note("changed", "setpriv --clear-groups", wrapper_options.GROUPS, ("user",)))
    if given.keys() & {"no-new-privs", "nnp"}:
        why = "is not carried over: a program with the set-user-ID bit gives its rights to the service"
        notes.append(Note("risk", "setpriv --no-new-privs", why))
    return words

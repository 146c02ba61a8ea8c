"""Translates each program that may run in front of couriertcpd, with its options: env, su, chpst, ... Pure.

An option that is not listed may change the service's user or rights, so it raises UnknownError.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tcpdconf_migrate import commandline
from tcpdconf_migrate.wrappers import options as wrapper_options
from tcpdconf_migrate.wrappers import users as wrapper_users

Note = commandline.Note
Settings = commandline.Settings

# the rlimits that an option of daemontools' softlimit, of s6-softlimit or of chpst sets
_SOFTLIMIT: Final = {
    "m": ("data", "stack", "memlock", "as"), "a": ("as",), "d": ("data",), "s": ("stack",), "l": ("memlock",),
    "o": ("nofile",), "p": ("nproc",), "f": ("fsize",), "c": ("core",), "t": ("cpu",),
}  # fmt: skip
# options of prlimit(1): short -> long, which is the key of rlimits
_PRLIMIT: Final = {
    "v": "as", "c": "core", "t": "cpu", "d": "data", "f": "fsize", "l": "memlock", "n": "nofile",
    "u": "nproc", "s": "stack",
}  # fmt: skip
# programs that change nothing for a service, with their flags
_HARMLESS: Final = {
    "busybox": "", "builtin": "", "command": "p", "nohup": "", "pgrphack": "", "s6-setsid": "bqiI",
    "setsid": "cfw",
}  # fmt: skip


def _harmless(words: list[str], _: Settings, _notes: list[Note]) -> list[str]:
    list(wrapper_options.options(words, "", _HARMLESS[words[0].rpartition("/")[2]]))
    return words


def _exec(words: list[str], settings: Settings, _: list[Note]) -> list[str]:
    for option, _value in wrapper_options.options(words, "a", "cl"):
        if option == "c":
            wrapper_options.empty(settings)
    return words


def _env(words: list[str], settings: Settings, notes: list[Note]) -> list[str]:
    valued = ("u", "unset", "C", "chdir", "S", "split-string", "a", "argv0")
    for option, value in wrapper_options.options(words, valued, ("i", "ignore-environment", "v", "debug")):
        match option:
            case "i" | "ignore-environment":
                wrapper_options.empty(settings)
            case "u" | "unset":
                wrapper_options.unset(settings, value)
                if settings.get("inherit_environment") is not False:
                    why = "is taken out of environment; what tcpdconf itself is started with keeps it"
                    notes.append(Note("ignored", f"env -u {value}", why, ("inherit_environment",)))
            case "C" | "chdir":
                settings["directory"] = value
            case "S" | "split-string":
                return ["env", *_split(value), *words]
    if words[:1] == ["-"]:
        wrapper_options.empty(settings)
        words.pop(0)
    while words and "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        wrapper_options.set_variable(settings, name, value)
    return words


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise wrapper_options.UnknownError(f"env -S {text}: {error}") from None


def _nice(words: list[str], _: Settings, notes: list[Note]) -> list[str]:
    name = words[0].rpartition("/")[2]
    valued = {"nice": ("n", "adjustment"), "ionice": ("c", "class", "n", "classdata"), "chrt": ()}
    words = [re.sub(r"^-(-?\d+)$", r"-n\1", word) if name == "nice" else word for word in words]
    list(wrapper_options.options(words, valued[name], ("t", "ignore") if name == "ionice" else ()))
    notes.append(Note("ignored", name, wrapper_options.PRIORITY))
    return words


def _softlimit(words: list[str], settings: Settings, notes: list[Note]) -> list[str]:
    for option, value in wrapper_options.options(words, "madslopfctr", "hH"):
        _limit(settings, notes, f"-{option} {value}".strip(), _SOFTLIMIT.get(option, ()), value)
    return words


def _limit(settings: Settings, notes: list[Note], written: str, keys: Sequence[str], value: str) -> None:
    """Set a limit if it is a number; otherwise add a note."""
    if keys and value.isdigit():
        settings.setdefault("rlimits", {}).update(dict.fromkeys(keys, int(value)))
    else:
        notes.append(Note("risk", written, "this limit is not carried over: set rlimits"))


def _chpst(words: list[str], settings: Settings, notes: list[Note]) -> list[str]:
    for option, value in wrapper_options.options(words, "uUbe/nlLmdopfcr", "vVP012"):
        match option:
            case "u":
                wrapper_options.account(settings, value)
                notes.append(Note("changed", f"chpst -u {value}", wrapper_options.GROUPS, ("user",)))
            case "/":
                raise wrapper_options.UnknownError(
                    f"chpst -/ {value} changes the root directory, and a service has no such key"
                )
            case "e":
                notes.append(_directory_of_variables(f"chpst -e {value}"))
            case "n":
                notes.append(Note("ignored", f"chpst -n {value}", wrapper_options.PRIORITY))
            case "U":
                notes.append(
                    Note("risk", f"chpst -U {value}", "UID and GID are not set: write them as environment")
                )
            case "l" | "L":
                notes.append(
                    Note("ignored", f"chpst -{option} {value}", "tcpdconf locks its own runtime directory")
                )
            case "2":
                settings["stderr"] = {"file": "/dev/null"}
            case "b" | "v" | "V" | "P" | "0" | "1":
                pass  # the name in ps, messages, and effects that every service has anyway
            case _:
                _limit(settings, notes, f"chpst -{option} {value}", _SOFTLIMIT.get(option, ()), value)
    return words


def _directory_of_variables(what: str) -> Note:
    return Note("risk", what, "write its variables as environment or a file of NAME=VALUE lines")


def _envdir(words: list[str], _: Settings, notes: list[Note]) -> list[str]:
    list(wrapper_options.options(words, "Lc", "fiI"))
    notes.append(_directory_of_variables(f"envdir {words[0]}" if words else "envdir"))
    return words[1:]


def _prlimit(words: list[str], settings: Settings, notes: list[Note]) -> list[str]:
    for option, value in wrapper_options.options(words, (*_PRLIMIT, *_PRLIMIT.values()), ()):
        key = _PRLIMIT.get(option, option)
        soft, _, hard = value.partition(":")
        if hard and soft != hard:
            notes.append(Note("changed", f"prlimit --{key}={value}", BOTH, ("rlimits", key)))
        _limit(settings, notes, f"prlimit --{key}={value}", (key,) if soft else (), soft)
    return words


BOTH: Final = "the soft limit holds as hard limit too: a service has one number for both"


def _courierlogger(words: list[str], settings: Settings, _: list[Note]) -> list[str]:
    """Read courierlogger, which runs couriertcpd and reads its standard error.

    -name is the name in its log lines.
    """
    logger, rest = [words[0]], words[1:]
    while rest and rest[0].startswith("-"):
        option, value = (rest[0] + "=").split("=", 2)[:2]
        if option == "-name":
            settings.setdefault("stderr", {})["name"] = value
        elif option in {"-facility", "-user", "-group", "-droproot"}:
            logger.append(rest[0])
        elif option not in {"-pid", "-start", "-respawn"}:
            raise wrapper_options.unknown_option("courierlogger", rest[0])
        rest = rest[1:]
    settings.setdefault("stderr", {})["logger"] = logger
    return rest


def _chroot(words: list[str], _: Settings, _notes: list[Note]) -> list[str]:
    raise wrapper_options.UnknownError(
        f"{words[0]} changes the root directory, and a service has no such key"
    )


_Wrapper = Callable[[list[str], Settings, list[Note]], list[str]]

WRAPPERS: Final[Mapping[str, _Wrapper]] = {
    **dict.fromkeys(_HARMLESS, _harmless),
    "exec": _exec,
    "env": _env,
    "nice": _nice,
    "ionice": _nice,
    "setuidgid": wrapper_users.setuidgid,
    "s6-setuidgid": wrapper_users.setuidgid,
    "softlimit": _softlimit,
    "s6-softlimit": _softlimit,
    "chpst": _chpst,
    "envdir": _envdir,
    "s6-envdir": _envdir,
    "prlimit": _prlimit,
    "courierlogger": _courierlogger,
    "start-stop-daemon": wrapper_users.start_stop_daemon,
    "su": wrapper_users.su,
    "runuser": wrapper_users.su,
    "sudo": wrapper_users.sudo,
    "doas": wrapper_users.sudo,
    "setpriv": wrapper_users.setpriv,
    "chroot": _chroot,
}

"""A couriertcpd command line as it was found: its words, and what is around it. Pure.

What stands in front of couriertcpd (env, setuidgid, softlimit, courierlogger, ...) says as much about the
service as its own options do; `unwrap` turns that into keys of the service.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tcpdconf.config import argv

Note = argv.Note
Settings = dict[str, Any]

PROGRAM: Final = "couriertcpd"

# daemontools' softlimit and runit's chpst: which rlimits an option sets
_SOFTLIMIT: Final = {
    "m": ("data", "stack", "memlock", "as"), "a": ("as",), "d": ("data",), "s": ("stack",), "l": ("memlock",),
    "o": ("nofile",), "p": ("nproc",), "f": ("fsize",), "c": ("core",), "t": ("cpu",),
}  # fmt: skip
_CHPST_TEXT: Final = frozenset("uUbe/n")  # options of chpst with a value that is no limit
_PLAIN: Final = frozenset({"exec", "nohup", "command", "setsid"})


class Unread(NamedTuple):
    """A place where couriertcpd may be started, and why it cannot be told how."""

    origin: str
    why: str


@dataclass(frozen=True)
class Command:
    """One command line.

    Attributes:
        words: couriertcpd's own words, its name first.
        origin: where it was found, as messages show it.
        settings: keys of the service that do not come from the words, as TOML's types.
        notes: what a person should know of them.
        stop: the command that ends this couriertcpd, and keeps it from being started again.
        start: the command that goes back to it.
        name: what to call the service, where that is known.
    """

    words: tuple[str, ...]
    origin: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    stop: str = ""
    start: str = ""
    name: str | None = None


class Unwrapped(NamedTuple):
    """A command without what was in front of couriertcpd; no words where that is not known here."""

    words: tuple[str, ...]
    settings: Settings
    notes: tuple[Note, ...]


def is_couriertcpd(word: str) -> bool:
    """Whether a word is the program's name or path."""
    return word.rpartition("/")[2] == PROGRAM


def unwrap(words: Sequence[str]) -> Unwrapped:
    """Take apart what stands in front of couriertcpd."""
    rest = list(words)
    settings: Settings = {}
    notes: list[Note] = []
    while rest and not is_couriertcpd(rest[0]):
        name = rest[0].rpartition("/")[2]
        if name in _PLAIN:
            rest = rest[1:]
        elif name in _WRAPPERS:
            rest = _WRAPPERS[name](rest, settings, notes)
        else:
            rest = []
    return Unwrapped(tuple(rest), settings, tuple(notes))


def _env(words: list[str], settings: Settings, notes: list[Note]) -> list[str]:
    rest = words[1:]
    while rest:
        name, equals, value = rest[0].partition("=")
        if rest[0] in {"-i", "-", "--ignore-environment"}:
            settings["inherit_environment"] = False
        elif rest[0].startswith("-"):
            notes.append(Note("ignored", f"env {rest[0]}", "is not carried over"))
            rest = rest[1:] if rest[0] in {"-u", "-C"} else rest
        elif equals:
            settings.setdefault("environment", {})[name] = value
        else:
            break
        rest = rest[1:]
    return rest


def _nice(words: list[str], _: Settings, notes: list[Note]) -> list[str]:
    notes.append(Note("ignored", "nice", "the priority is the service manager's to set (Nice= of systemd)"))
    rest = words[1:]
    while rest and rest[0].startswith("-"):
        rest = rest[2 if rest[0] == "-n" else 1 :]
    return rest


def _setuidgid(words: list[str], settings: Settings, _: list[Note]) -> list[str]:
    settings["user"] = words[1] if len(words) > 1 else ""
    return words[2:]


def _softlimit(words: list[str], settings: Settings, notes: list[Note]) -> list[str]:
    """softlimit, and the same options of chpst."""
    rest = words[1:]
    while rest and rest[0].startswith("-") and len(rest[0]) > 1:
        option, value = rest[0][1], rest[0][2:]
        rest = rest[1:]
        if not value and (option in _SOFTLIMIT or option in _CHPST_TEXT) and rest:
            value, rest = rest[0], rest[1:]
        if option == "u":
            settings["user"], _, group = value.partition(":")
            settings |= {"group": group} if group else {}
        elif option in _SOFTLIMIT and value.isdigit():
            limits = settings.setdefault("rlimits", {})
            limits |= dict.fromkeys(_SOFTLIMIT[option], int(value))
        else:
            notes.append(
                Note("ignored", f"-{option} {value}".strip(), f"{words[0]}'s option is not carried over")
            )
    return rest


def _envdir(words: list[str], _: Settings, notes: list[Note]) -> list[str]:
    notes.append(
        Note(
            "ignored", " ".join(words[:2]), "write its variables as environment or a file of NAME=VALUE lines"
        )
    )
    return words[2:]


def _courierlogger(words: list[str], settings: Settings, _: list[Note]) -> list[str]:
    """courierlogger, which runs couriertcpd and reads its standard error: -name is what it calls itself."""
    logger, rest = [words[0]], words[1:]
    while rest and rest[0].startswith("-"):
        option, value = (rest[0] + "=").split("=", 2)[:2]
        if option == "-name":
            settings.setdefault("stderr", {})["name"] = value
        elif option not in {"-pid", "-start", "-respawn"}:
            logger.append(rest[0])
        rest = rest[1:]
    settings.setdefault("stderr", {})["logger"] = logger
    return rest


def _start_stop_daemon(words: list[str], settings: Settings, _notes: list[Note]) -> list[str]:
    """start-stop-daemon --exec PROGRAM -- ARGUMENTS."""
    ours, dashes, arguments = _partition(words[1:], "--")
    if not dashes:
        return []
    program = ""
    for index, word in enumerate(ours):
        option, equals, value = word.partition("=")
        value = value if equals else "".join(ours[index + 1 : index + 2])
        if option in {"--exec", "-x", "--startas", "-a"}:
            program = value
        elif option in {"--chuid", "-c"}:
            settings["user"], _, group = value.partition(":")
            settings |= {"group": group} if group else {}
        elif option in {"--chdir", "-d"}:
            settings["directory"] = value
        elif option in {"--umask", "-k"}:
            settings["umask"] = value
    return [program, *arguments]


def _partition(words: list[str], at: str) -> tuple[list[str], bool, list[str]]:
    if at not in words:
        return words, False, []
    index = words.index(at)
    return words[:index], True, words[index + 1 :]


_WRAPPERS: Final[dict[str, Callable[[list[str], Settings, list[Note]], list[str]]]] = {
    "env": _env,
    "nice": _nice,
    "setuidgid": _setuidgid,
    "softlimit": _softlimit,
    "chpst": _softlimit,
    "envdir": _envdir,
    "courierlogger": _courierlogger,
    "start-stop-daemon": _start_stop_daemon,
}

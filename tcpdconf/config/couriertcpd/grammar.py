"""The grammar of couriertcpd's command line: options in front, then the port list, then the program. Pure.

Source: couriertcpd(8), OPTIONS; beyond it, what the program was seen to do. Imports nothing slow: -stop and
-restart have to answer at once.
"""

import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

Action = Literal["run", "stop", "restart"]

_USAGE: Final = "Usage: couriertcpd [options] port prog arg1 arg2..."
_ATOI: Final = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)")
_LONG: Final = 2**63 - 1
_MOST: Final = 10_000_000  # what a service counts to


class CommandLineError(ValueError):
    """The command line is not valid; the text is what couriertcpd says of it."""


class Note(NamedTuple):
    """Something that a person should know about a translation.

    `kind`: "obsolete" (an option that couriertcpd itself no longer has), "ignored" (without a meaning here),
    "changed" (tcpdconf does it otherwise), "limit" (a number that is known to hurt), "risk". `what` is the
    option as written, `why` one sentence. `key`, below the service, is what it concerns; () is no key.
    """

    kind: str
    what: str
    why: str
    key: tuple[str | int, ...] = ()


class Option(NamedTuple):
    """An option: its name, what it takes ("" for a switch), the keys that it becomes, and what is to say."""

    name: str
    value: str
    keys: tuple[str, ...]
    says: str = ""


OPTIONS: Final = (
    Option("access", "FILE", ("access.file",), "has to be there and readable"),
    Option("accesslocal", "", ("access.local",)),
    Option("address", "ADDRESS", ("listeners.address", "listeners.freebind"), "`0` and `::` are `*`"),
    Option(
        "allow", "ZONE[=SHOWN][,VAR[/A.B.C.D][,]]", ("dns_lists",), '`action = "allow"`; last comma: `txt`'
    ),
    Option("block", "ZONE[=SHOWN][,VAR[/A.B.C.D][,TEXT]]", ("dns_lists",), "TEXT `*`: `txt = true`"),
    Option("denymsg", "TEXT", ("deny_message",), "an empty TEXT is an empty line"),
    Option("drop", "VAR,...", ("drop",), "`BLOCK` without a value; each of several is looked at"),
    Option("forcebind", "", (), "of some builds: does nothing"),
    Option("group", "GROUP", ("group",), "0 without a value"),
    Option(
        "haproxy", "SECONDS/port=ADDRESS.PORT,...", ("listeners.haproxy",), "every listener without a value"
    ),
    Option("listen", "N", ("listeners.backlog",)),
    Option("lock", "FILE", (), "of some builds: does nothing"),
    Option("maxperc", "N", ("limits.max_per_network",), "IPv4 /24; IPv6 /120, or /64 after migration"),
    Option("maxperip", "N", ("limits.max_per_ip",), "4 without the option"),
    Option("maxprocs", "N", ("limits.max_connections",), "40 without the option"),
    Option("nodnslookup", "", ("lookup_names",), "true without the option"),
    Option("noidentlookup", "", (), "of old versions: does nothing"),
    Option("pid", "FILE", (), "goes into the background; `tcpdconf run` does not"),
    Option("proxy", "", (), "does nothing, as there"),
    Option("restart", "", (), "`tcpdconf reload`"),
    Option("stderr", "FILE or socket", ("stderr",)),
    Option("stderrlogger", "PROGRAM", ("stderr.logger",), "goes before a FILE of -stderr"),
    Option("stderrloggername", "NAME", ("stderr.name",)),
    Option("stop", "", (), "`tcpdconf stop`"),
    Option("user", "USER", ("user",), "a number keeps the group: `group`; 0 without a value"),
    Option("warn", "N", ("limits.warn_at",), "ignored when above -maxprocs"),
)
_NAMES: Final = frozenset(option.name for option in OPTIONS)
_LISTS: Final = frozenset({"allow", "block"})


class Given(NamedTuple):
    """A command line taken apart: the last value of each option, lists in order, and what follows them.

    `ports` is the list as written and `program` what stands behind it; both may be empty unless action is
    "run". `overruled` are options, as written, of which a later one says something else.
    """

    action: Action
    values: Mapping[str, str]
    lists: tuple[tuple[str, str], ...]
    ports: str
    program: tuple[str, ...]
    overruled: tuple[str, ...]

    def written(self, name: str) -> str:
        """An option that counts, as somebody writes it."""
        return written(name, self.values.get(name, ""))


def written(name: str, value: str) -> str:
    """An option as somebody writes it."""
    return f"-{name}={value}" if value else f"-{name}"


def read(words: Sequence[str]) -> Given:
    """Take a command line apart; `words` are those behind the program's name.

    Raises:
        CommandLineError: an option is unknown, -pid is missing where it is needed, or list and program are.
    """
    values: dict[str, str] = {}
    lists: list[tuple[str, str]] = []
    overruled: list[str] = []
    rest = list(words)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word == "-":
            break
        name, _, value = word[1:].partition("=")
        if name not in _NAMES:
            raise CommandLineError(f"couriertcpd: Invalid option: {word}")
        if name in _LISTS:
            lists.append((name, value))
            continue
        if values.get(name, value) != value:
            overruled.append(written(name, values[name]))
        values[name] = value
    action: Action = "restart" if "restart" in values else "stop" if "stop" in values else "run"
    if action != "run" and "pid" not in values:
        raise CommandLineError("couriertcpd: -pid argument is required.")
    if action == "run" and len(rest) < 2:
        raise CommandLineError(_USAGE)
    return Given(action, values, tuple(lists), rest[0] if rest else "", tuple(rest[1:]), tuple(overruled))


def atoi(text: str) -> int:
    """A number as C's atoi reads it, where int has 32 bits and long has 64; 0 where there is none.

    >>> atoi(" +7x"), atoi("abc"), atoi("4294967297")
    (7, 0, 1)
    """
    found = _ATOI.match(text)
    number = max(-_LONG - 1, min(_LONG, int(found[1][:32]))) if found else 0
    return (number + 2**31) % 2**32 - 2**31


class Draft(NamedTuple):
    """A command line while it becomes a service: what it says, who starts it, how exactly, and the notes."""

    given: Given
    directory: str
    group: int
    exact: bool
    notes: list[Note]

    def note(self, kind: str, what: str, why: str, *key: str | int) -> None:
        """Add a note."""
        self.notes.append(Note(kind, what, why, key))

    def note_option(self, kind: str, name: str, why: str, *key: str | int) -> None:
        """Add a note on an option."""
        self.note(kind, self.given.written(name), why, *key)

    def below(self, path: str) -> str:
        """A path, from the working directory where it is relative."""
        return posixpath.join(self.directory, path)

    def positive(self, name: str, called: str) -> int | None:
        """The number of an option that has to be above 0; None without the option.

        Raises:
            CommandLineError: it is not; `called` is the name that couriertcpd has for it then.
        """
        if name not in self.given.values:
            return None
        number = atoi(self.given.values[name])
        if number <= 0:
            raise CommandLineError(f"Invalid -{called} option.")
        return min(number, _MOST)

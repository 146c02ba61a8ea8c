"""Parses couriertcpd's command line: first options, then the port list, then the program. Pure.

Source: couriertcpd(8), OPTIONS; beyond it, observation of the program. The module imports nothing slow: -stop
and -restart have to respond at once.
"""

import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

Action = Literal["run", "stop", "restart"]

_USAGE: Final = "Usage: couriertcpd [options] port prog arg1 arg2..."
_ATOI: Final = re.compile(r"[ \t\n\v\f\r]*([+-]?)0*([0-9]*)")
_LONG: Final = 2**63 - 1
_MOST: Final = 10_000_000  # the largest number that a service accepts


class CommandLineError(ValueError):
    """Reports an invalid command line; the text is couriertcpd's own message."""


class Note(NamedTuple):
    """Tells a person something about a translation.

    `kind`: "obsolete" (an option that couriertcpd itself no longer has), "ignored" (without a meaning here),
    "changed" (tcpdconf does it otherwise), "limit" (a number that is known to hurt), "risk". `what` is the
    option as written, `why` one sentence. `key`, below the service, is the key that it concerns; () means
    none.
    """

    kind: str
    what: str
    why: str
    key: tuple[str | int, ...] = ()


class Option(NamedTuple):
    """Describes an option: its name, its value ("" for a switch), the keys that it becomes, and a remark."""

    name: str
    value: str
    keys: tuple[str, ...]
    says: str = ""


OPTIONS: Final = (
    Option("access", "FILE", ("access.file",), "must exist and be readable"),
    Option("accesslocal", "", ("access.local",)),
    Option("address", "ADDRESS", ("listeners.address", "listeners.freebind"), "`0` and `::` are `*`"),
    Option(
        "allow", "ZONE[=SHOWN][,VAR[/A.B.C.D][,]]", ("dns_lists",), '`action = "allow"`; last comma: `txt`'
    ),
    Option("block", "ZONE[=SHOWN][,VAR[/A.B.C.D][,TEXT]]", ("dns_lists",), "TEXT `*`: `txt = true`"),
    Option("denymsg", "TEXT", ("deny_message",), "an empty TEXT is an empty line"),
    Option("drop", "VAR,...", ("drop",), "`BLOCK` without a value; all names count"),
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
    Option("proxy", "", (), "does nothing, as in couriertcpd"),
    Option("restart", "", (), "`tcpdconf reload`"),
    Option("stderr", "FILE or socket", ("stderr",)),
    Option("stderrlogger", "PROGRAM", ("stderr.logger",), "takes precedence over a FILE of -stderr"),
    Option("stderrloggername", "NAME", ("stderr.name",)),
    Option("stop", "", (), "`tcpdconf stop`"),
    Option("user", "USER", ("user",), "a number keeps the group: `group`; 0 without a value"),
    Option("warn", "N", ("limits.warn_at",), "ignored if above -maxprocs"),
)
_NAMES: Final = frozenset(option.name for option in OPTIONS)
_LISTS: Final = frozenset({"allow", "block"})


class Given(NamedTuple):
    """Holds a parsed command line: the last value of each option, the lists in order, ports and program.

    `ports` is the list as written and `program` all that follows it; both may be empty unless action is
    "run". `overruled` are options, as written, that a later one overrides.
    """

    action: Action
    values: Mapping[str, str]
    lists: tuple[tuple[str, str], ...]
    ports: str
    program: tuple[str, ...]
    overruled: tuple[str, ...]

    def written(self, name: str) -> str:
        """Return an option that is in effect, as written on a command line."""
        return written(name, self.values.get(name, ""))


def written(name: str, value: str) -> str:
    """Return an option as written on a command line."""
    return f"-{name}={value}" if value else f"-{name}"


def read(words: Sequence[str]) -> Given:
    """Parse a command line; `words` are the arguments after the program's name.

    Raises:
        CommandLineError: an option is unknown, or -pid, the port list or the program is missing.
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
    """Return a number as C's atoi reads it, with 32-bit int and 64-bit long; 0 if there is none.

    >>> atoi(" +7x"), atoi("abc"), atoi("4294967297")
    (7, 0, 1)
    """
    found = _ATOI.match(text)
    assert found is not None  # noqa: S101 (it may be empty)
    number = max(-_LONG - 1, min(_LONG, int(found[1] + (found[2][:20] or "0"))))  # 20 digits are beyond _LONG
    return (number + 2**31) % 2**32 - 2**31


class Draft(NamedTuple):
    """Holds a command line while it is translated into a service.

    `directory` is the working directory, `group` the group of the starting process. `exact` asks for
    couriertcpd's behaviour. `notes` collects remarks.
    """

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
        """Return a path; a relative one is taken from the working directory."""
        return posixpath.join(self.directory, path)

    def positive(self, name: str, called: str) -> int | None:
        """Return the number of an option, which must be above 0; None without the option.

        Raises:
            CommandLineError: it is not above 0; `called` is the name in couriertcpd's message.
        """
        if name not in self.given.values:
            return None
        number = atoi(self.given.values[name])
        if number <= 0:
            raise CommandLineError(f"Invalid -{called} option.")
        return min(number, _MOST)

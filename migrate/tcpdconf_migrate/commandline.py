"""Describes a couriertcpd command line as it was found: its words and its surroundings. Pure.

Programs in front of couriertcpd (env, setuidgid, softlimit, courierlogger, ...) determine the service as much
as its own options do. The package `wrappers` turns them into keys of the service.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tcpdconf.config.couriertcpd import grammar, parse

Note = parse.Note
Settings = dict[str, Any]

PROGRAM: Final = "couriertcpd"


class Unread(NamedTuple):
    """Names a place where couriertcpd may be started, and why its command line is unknown."""

    origin: str
    why: str


@dataclass(frozen=True)
class Command:
    """Describes one command line.

    Attributes:
        words: couriertcpd's own words, its name first.
        origin: the place where it was found, as messages show it.
        settings: keys of the service that do not come from the words, as TOML types.
        notes: remarks about them.
        stop: the command that stops this couriertcpd for good.
        start: the command that starts it again.
        name: the name of the service, if it is known.
    """

    words: tuple[str, ...]
    origin: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    stop: str = ""
    start: str = ""
    name: str | None = None


def is_couriertcpd(word: str) -> bool:
    """Return whether a word is the program's name or path."""
    return word.rpartition("/")[2] == PROGRAM


def starts(words: Sequence[str]) -> bool:
    """Return whether couriertcpd's own words start it.

    True also for a command line that it refuses, so that this is reported.
    """
    try:
        return grammar.read(words).action == "run"
    except grammar.CommandLineError:
        return True

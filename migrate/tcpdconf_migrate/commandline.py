"""A couriertcpd command line as it was found: its words, and what is around it. Pure.

What stands in front of couriertcpd (env, setuidgid, softlimit, courierlogger, ...) says as much about the
service as its own options do; the module wrappers turns that into keys of the service.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tcpdconf.config.couriertcpd import grammar, parse

Note = parse.Note
Settings = dict[str, Any]

PROGRAM: Final = "couriertcpd"


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


def is_couriertcpd(word: str) -> bool:
    """Whether a word is the program's name or path."""
    return word.rpartition("/")[2] == PROGRAM


def starts(words: Sequence[str]) -> bool:
    """Whether couriertcpd's own words start it; a command line that it refuses is read, to say so."""
    try:
        return grammar.read(words).action == "run"
    except grammar.CommandLineError:
        return True

"""Translates all that stands in front of couriertcpd into keys of its service, or says why it cannot. Pure.

A wrapper that is not listed may change the service's user or rights, so the command line after it is not
read.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from tcpdconf_migrate import commandline
from tcpdconf_migrate.wrappers import kinds as wrapper_kinds
from tcpdconf_migrate.wrappers import options as wrapper_options

Note = commandline.Note
Settings = commandline.Settings


class Unwrapped(NamedTuple):
    """Holds a command without its wrappers.

    Attributes:
        words: couriertcpd's own, or those of a shell with `-c`; none if they are unknown.
        settings: keys of the service that the wrappers set, and options.UNSET.
        notes: remarks about them.
        why: the reason, if there are no words.
    """

    words: tuple[str, ...]
    settings: Settings
    notes: tuple[Note, ...]
    why: str = ""


def unwrap(words: Sequence[str]) -> Unwrapped:
    """Remove the wrappers in front of couriertcpd, or of a shell whose text may start it."""
    rest = list(words)
    settings: Settings = {}
    notes: list[Note] = []
    try:
        while rest and not commandline.is_couriertcpd(rest[0]) and not wrapper_options.is_shell(rest):
            name = rest[0].rpartition("/")[2]
            rest = wrapper_kinds.WRAPPERS.get(name, _unknown)(rest, settings, notes)
    except wrapper_options.UnknownError as error:
        return Unwrapped((), settings, tuple(notes), str(error))
    return Unwrapped(tuple(rest), settings, tuple(notes), "" if rest else f"{words[0]} starts no couriertcpd")


def merged(around: Settings, own: Settings) -> Settings:
    """Merge the settings of a wrapper into those around it; the inner ones win."""
    found = {**around, **own}
    found.pop(wrapper_options.UNSET, None)
    for key in ("rlimits", "environment"):
        found[key] = {**around.get(key, {}), **own.get(key, {})}
    if own.get("inherit_environment") is False:
        found["environment"] = dict(own.get("environment", {}))
        found["environment_files"] = own.get("environment_files", [])
    for name in own.get(wrapper_options.UNSET, ()):
        found["environment"].pop(name, None)
    if "user" in own and "group" not in own:
        found.pop("group", None)
    return {key: value for key, value in found.items() if value not in ({}, [])}


def _unknown(words: list[str], _: Settings, _notes: list[Note]) -> list[str]:
    name = words[0].rpartition("/")[2]
    raise wrapper_options.UnknownError(f"{name} is not supported in front of couriertcpd")


class Shell(NamedTuple):
    """Holds the words of a shell; `text` is its commands after -c, or None."""

    name: str
    options: str
    text: str | None


def shell(words: Sequence[str]) -> Shell:
    """Parse the words of a shell: the text after -c, and the letters of its options."""
    letters = ""
    rest = list(words[1:])
    while rest and re.fullmatch(r"[-+].+", rest[0]) and rest[0] != "--":
        option = rest.pop(0)
        if option in {"-o", "+o"} and rest:
            letters += {"allexport": "a"}.get(rest.pop(0), "")
        elif option.startswith("--"):
            letters += {"--login": "l"}.get(option, "?")
        elif option.startswith("-"):
            letters += option[1:]
    rest = rest[1:] if rest[:1] == ["--"] else rest
    return Shell(words[0].rpartition("/")[2], letters, rest[0] if "c" in letters and rest else None)

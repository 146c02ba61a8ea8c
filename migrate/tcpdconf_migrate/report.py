"""Writes the tool's texts: the comment at the top of each file, the notes, the next steps. Pure."""

import shlex
from collections.abc import Sequence
from typing import Final, NamedTuple

from tcpdconf.config import printable, render
from tcpdconf_migrate import commandline, plan

_KINDS: Final = ("risk", "limit", "changed", "ignored", "obsolete")
TRY_PORTS: Final = 10000
_TRY: Final = "tcpdconf-try"
_CONF: Final = "/etc/tcpdconf/conf.d"


class Again(NamedTuple):
    """Holds this tool's words without -o, --force and --name; `source` follows the options."""

    options: Sequence[str]
    source: Sequence[str]

    def into(self, directory: str, *more: str) -> str:
        """Return the command that writes into a directory."""
        return shlex.join([*self.options, *more, "-o", directory, *self.source])


def toml(planned: plan.Planned) -> str:
    """Return the file of one service."""
    origin, words = (
        printable.replaced(planned.command.origin, " "),
        printable.replaced(shlex.join(planned.command.words), " "),
    )
    return f"# From {origin}:\n#   {words}\n\n" + render.service(planned.name, planned.service, planned.notes)


def notes(found: plan.Plan, unread: Sequence[commandline.Unread]) -> str:
    """Return a line for each service, the notes with the gravest kind first, and the rejected lines."""
    lines = []
    for planned in found.services:
        state = "" if planned.service.enabled else " (not enabled)"
        lines.append(f"{planned.name}: from {planned.command.origin}{state}")
    for kind in _KINDS:
        for (what, why), names in _gathered(found, kind).items():
            lines.append(f"{kind}: {', '.join(names)}: {what}: {why}")
    lines += [f"not read: {origin}: {why}" for origin, why in unread]
    lines += [f"not valid: {origin}: {why}" for origin, why in found.refused]
    return "".join(f"{printable.replaced(line, ' ')}\n" for line in lines)


def _gathered(found: plan.Plan, kind: str) -> dict[tuple[str, str], list[str]]:
    """Return the notes of a kind as (what, why), with their services; each reason once."""
    whats: dict[str, list[str]] = {}
    names: dict[str, list[str]] = {}
    for planned in found.services:
        for note in planned.notes:
            if note.kind == kind:
                whats.setdefault(note.why, []).append(note.what)
                names.setdefault(note.why, []).append(planned.name)
    return {
        (", ".join(dict.fromkeys(whats[why])), why): list(dict.fromkeys(each)) for why, each in names.items()
    }


def next_steps(found: plan.Plan, directory: str | None, again: Again) -> str:
    """Return the commands that come next: check, try on other ports, switch, go back.

    Args:
        found: the services that were printed or written.
        directory: where they were written; None if they were printed.
        again: this tool's own words.
    """
    commands = [each.command for each in found.services if each.service.enabled]
    steps = [
        ("check it", [f"tcpdconf check {directory or _CONF}"]),
        (
            f"try it beside couriertcpd, with {TRY_PORTS} added to each port",
            [again.into(_TRY, "--add-to-ports", str(TRY_PORTS)), f"tcpdconf run {_TRY}"],
        ),
        ("switch", [*_each([each.stop for each in commands]), f"tcpdconf run {directory or _CONF}"]),
        ("go back", ["tcpdconf stop", *_each([each.start for each in commands])]),
    ]
    if directory is None:
        steps.insert(0, ("write it", [again.into(_CONF)]))
    lines = ["Next:"]
    for title, words in steps:
        lines += [f"  {title}:", *(f"    {line}" for line in words)]
    return "\n".join(lines) + "\n"


def _each(commands: Sequence[str]) -> list[str]:
    """Return each command once; systemctl commands for several units become one."""
    units: dict[str, list[str]] = {}
    for command in dict.fromkeys(filter(None, commands)):
        words = command.rpartition(" ") if command.startswith("systemctl ") else (command, "", "")
        units.setdefault(words[0], []).append(words[2])
    return [" ".join([words, *filter(None, names)]) for words, names in units.items()]

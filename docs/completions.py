"""Completion for shells, made of the parsers by shtab."""

import argparse
import re
from typing import Final

import shtab

from tcpdconf import arguments
from tcpdconf_migrate import __main__ as migration

# where each shell's own packages look below share/
_PLACES: Final = {
    "bash": "bash-completion/completions/{name}",
    "zsh": "zsh/site-functions/_{name}",
    "fish": "fish/vendor_completions.d/{name}.fish",
}
_KINDS: Final = {"DIR": shtab.DIRECTORY, "FILE": shtab.FILE}


def files() -> dict[str, str]:
    """Each file, by its path below share."""
    found = {}
    for parser in (arguments.parser(), migration.parser()):
        _name_files(parser)
        for shell, place in _PLACES.items():
            text = shtab.complete(parser, shell)
            text = re.sub(
                r"^# Usage:\n(#.*\n)*", "# Written by docs/generate.py.\n", text, count=1, flags=re.MULTILINE
            )
            found[place.format(name=parser.prog)] = text.rstrip() + "\n"
    return found


def _name_files(parser: argparse.ArgumentParser) -> None:
    """Say which arguments are files and directories: their metavar does."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _name_files(command)
        elif action.metavar in _KINDS:
            action.complete = _KINDS[action.metavar]  # type: ignore[attr-defined] # shtab looks there

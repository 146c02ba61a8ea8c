"""Completion for shells, made of the parsers by shtab."""

import argparse
import re
from typing import Any, Final

import shtab

from tcpdconf.cli import arguments
from tcpdconf_migrate import __main__ as migration

# where each shell's own packages look below share/
_PLACES: Final = {
    "bash": "bash-completion/completions/{name}",
    "zsh": "zsh/site-functions/_{name}",
    "fish": "fish/vendor_completions.d/{name}.fish",
}
_KINDS: Final = {"DIR": shtab.DIRECTORY, "FILE": shtab.FILE}
# names of services, which tcpdconf tells from the words before (`tcpdconf.cli.completion`)
_SERVICES: Final = {
    "bash": "_tcpdconf_services",
    "zsh": "_tcpdconf_services",
    "fish": "(_tcpdconf_services)",
    "preamble": {
        "bash": """
# $1=COMP_WORDS[1]
_tcpdconf_services() {
  local before=("${COMP_WORDS[@]:1:COMP_CWORD-1}")
  compgen -W "$("${COMP_WORDS[0]}" --complete-services "${before[@]}" 2>/dev/null)" -- "$1"
}""",
        "zsh": """
_tcpdconf_services() {
  local -a names
  names=(${(f)"$($service --complete-services "${(@)words[1,CURRENT-1]}" 2>/dev/null)"})
  compadd -a names
}""",
        "fish": """
function _tcpdconf_services
  set -l words (commandline -opc)
  command $words[1] --complete-services $words[2..-1] 2>/dev/null
end""",
    },
}


def files() -> dict[str, str]:
    """Each file, by its path below share."""
    found = {}
    services = {"SERVICE": _SERVICES, "NAME": _SERVICES}
    for parser, kinds in ((arguments.parser(), _KINDS | services), (migration.parser(), _KINDS)):
        _name_kinds(parser, kinds)
        for shell, place in _PLACES.items():
            text = shtab.complete(parser, shell)
            text = re.sub(
                r"^# Usage:\n(#.*\n)*", "# Written by docs/generate.py.\n", text, count=1, flags=re.MULTILINE
            )
            found[place.format(name=parser.prog)] = text.rstrip() + "\n"
    return found


def _name_kinds(parser: argparse.ArgumentParser, kinds: dict[str, Any]) -> None:
    """Say what arguments are of which kind: their metavar does."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _name_kinds(command, kinds)
        elif action.metavar in kinds:
            action.complete = kinds[action.metavar]  # type: ignore[attr-defined] # shtab looks there

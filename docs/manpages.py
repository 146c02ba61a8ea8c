"""The manual pages, for man(7): what the parsers and the models say, between a few words of frame."""

import argparse
import re
from collections.abc import Iterable, Iterator
from typing import Final

import schematables
import tcpdconf
from tcpdconf.cli import arguments
from tcpdconf_migrate import __main__ as migration

_FILES: Final = {
    "/etc/tcpdconf/conf.d/*.toml": "The configuration, read in byte order of the names: tcpdconf.toml(5).",
    "/run/tcpdconf/control.sock": "Control socket of the daemon of root.",
    "/run/tcpdconf/guard.sock": "Control socket for daemon.control_group: bans only.",
    "/var/lib/tcpdconf/bans": "Bans of the daemon of root, if STATE_DIRECTORY names no other directory.",
}
_VARIABLES: Final = {
    "RUNTIME_DIRECTORY": "Directory of the control socket. systemd sets it.",
    "XDG_RUNTIME_DIR": "For users other than root: the control socket is in its subdirectory tcpdconf.",
    "STATE_DIRECTORY": "Directory of what outlives the daemon, such as bans. systemd sets it.",
    "XDG_STATE_HOME": "For users other than root: the state is in its subdirectory tcpdconf.",
    "NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS": "Set by the service manager: sd_notify(3), sd_listen_fds(3).",
    "NO_COLOR": "If set and not empty, output to a terminal has no colours.",
    "JOURNAL_STREAM": "Set by systemd: the log goes to the journal, with a field for each key.",
}
_SIGNALS: Final = {
    "SIGHUP": "Reloads the configuration, as the command reload does.",
    "SIGTERM, SIGINT": "Stops the daemon. Programs get SIGTERM and have daemon.stop_timeout to end. After a"
    " second signal the daemon does not wait for them.",
}
_STATUS: Final = {
    "0": "Done. explain: the connection would be admitted. reload --dry-run: nothing would change.",
    "1": "explain: the connection would be refused. reload --dry-run: something would change. Otherwise an"
    " error.",
    "2": "Wrong usage.",
    "3": "reload --dry-run: no daemon answers.",
    "78": "Bad configuration. All problems are printed.",
    "0, 1, 2, 3": "status --check: ok, warning, critical, unknown. Wrong usage counts as unknown.",
}
_INTRODUCTION: Final = """\
It accepts TCP connections and runs one program for each, with the connection as standard input and output,
as Courier's couriertcpd does. One supervisor runs any number of services, each in a worker with the rights
of its own user. A service is described in TOML: tcpdconf.toml(5)."""
_CONFIGURATION: Final = """\
tcpdconf reads every file of the directory whose name ends in .toml and does not begin with . or #, in byte
order of the names. A service is defined in one file. Tables under [defaults], of any file, apply to services
that leave them out. An array of a service replaces the array of the defaults. `tcpdconf check` reports all
problems. `tcpdconf show --origin` prints the effective values with the file and line of each."""
_FORMS_STATUS: Final = {
    "0": "Done, with or without notes.",
    "1": "Another error.",
    "2": "Wrong usage, or a command line that couriertcpd would refuse.",
}
_EXAMPLE: Final = """\
[services.imap]
program = ["/usr/lib/courier/courier/imaplogin", "/usr/bin/imapd", "Maildir"]

[[services.imap.listeners]]
port = 143

[services.imap.limits]
max_connections = 40
max_per_ip = 20

[[services.imap.access]]
file = "/etc/courier/imapaccess.dat"
"""


def pages() -> dict[str, str]:
    """Each page, by its path below share/man."""
    return {
        "man8/tcpdconf.8": _command(),
        "man5/tcpdconf.toml.5": _file(),
        "man1/tcpdconf-migrate.1": _migrate(),
    }


def _command() -> str:
    parser = arguments.parser()
    return _page(
        "tcpdconf", 8, str(parser.description),
        [".SH SYNOPSIS", *_synopsis(parser), ".SH DESCRIPTION", _text(_INTRODUCTION)],
        [".SH COMMANDS", *_subcommands(parser)],
        [".SH EXIT STATUS", *_items(_STATUS)],
        [".SH SIGNALS", *_items(_SIGNALS)],
        [".SH ENVIRONMENT", *_items(_VARIABLES)],
        [".SH FILES", *_items(_FILES)],
        [".SH SEE ALSO", ".BR tcpdconf.toml (5),", ".BR tcpdconf-migrate (1)"],
    )  # fmt: skip


def _file() -> str:
    file, *inside = schematables.tables()
    return _page(
        "tcpdconf.toml", 5, "Configuration of tcpdconf.",
        [".SH DESCRIPTION", _text(_CONFIGURATION), *_keys(file)],
        *([f".SH {_text(table.header)}", _text(table.description), *_keys(table)] for table in inside),
        [".SH EXAMPLE", ".nf", _text(_EXAMPLE) + ".fi"],
        [".SH SEE ALSO", ".BR tcpdconf (8)"],
    )  # fmt: skip


def _migrate() -> str:
    parser = migration.parser()
    return _page(
        "tcpdconf-migrate", 1, str(parser.description),
        [".SH SYNOPSIS", *_synopsis(parser), ".SH FORMS", *_subcommands(parser)],
        [".SH EXIT STATUS", *_items(_FORMS_STATUS)],
        [".SH SEE ALSO", ".BR tcpdconf (8),", ".BR tcpdconf.toml (5)"],
    )  # fmt: skip


def _page(name: str, section: int, purpose: str, *parts: Iterable[str]) -> str:
    what = purpose.rstrip(".")
    head = [
        '.\\" Written by docs/generate.py.',
        f'.TH {name.upper()} {section} "" "tcpdconf {tcpdconf.__version__}"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(what if what[1:2].isupper() else what[0].lower() + what[1:])}",
    ]
    return "\n".join([*head, *(line for part in parts for line in part)]) + "\n"


def _synopsis(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A line for each command: its name, and what comes after it, without -h."""
    for number, (name, command) in enumerate(_choices(parser).items()):
        taken = " ".join(command.format_usage().split()).partition("[-h]")[2]
        yield from [".br"] * bool(number)
        yield f".B {_text(f'{parser.prog} {name}')}"
        yield from [_text(taken.strip())] * bool(taken)


def _subcommands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for name, text in _helps(parser).items():
        command = _choices(parser)[name]
        yield f".SS {_text(f'{parser.prog} {name}')}"
        yield _text(_sentence(text))
        for action in command._actions:
            if not isinstance(action, argparse._HelpAction):
                yield from (".TP", _head(action), _text(_help(command, action)))


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return dict(_subparsers(parser).choices)


def _helps(parser: argparse.ArgumentParser) -> dict[str, str]:
    return {action.dest: str(action.help) for action in _subparsers(parser)._choices_actions}


def _subparsers(parser: argparse.ArgumentParser) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    return next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))


def _head(action: argparse.Action) -> str:
    choices = "{" + ",".join(action.choices) + "}" if action.choices else None
    value = "" if action.nargs == 0 else str(action.metavar or choices or action.dest.upper())
    names = [f"\\fB{_text(name)}\\fR" for name in action.option_strings]
    return " ".join([", ".join(names), f"\\fI{_text(value)}\\fR" if value else ""]).strip()


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return _sentence(str(action.help or "") % {**vars(action), "prog": parser.prog})


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _items(items: dict[str, str]) -> Iterator[str]:
    for name, text in items.items():
        yield from (".TP", f".B {_text(name)}", _text(text))


def _keys(table: schematables.Table) -> Iterator[str]:
    for key in table.keys:
        default = f"; default {key.default}" if key.default not in {"", "required"} else ""
        must = ", required" if key.default == "required" else ""
        yield from (".TP", f".B {_text(key.name)}", _text(f"{key.words} ({key.type}{must}{default})"))


def _text(text: str) -> str:
    """Text for troff: between Markdown's backquotes it is bold."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    escaped = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", escaped)
    return re.sub(r"^(?=[.'])", r"\\&", escaped, flags=re.MULTILINE)

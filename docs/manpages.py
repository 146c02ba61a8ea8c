"""The manual pages, as text for man(7): what the parsers and the models say, between a few words of frame."""

import argparse
import re
from collections.abc import Iterable, Iterator
from typing import Final

import schematables

import tcpdconf
from tcpdconf import arguments
from tcpdconf_migrate import __main__ as migration

_FILES: Final = {
    "/etc/tcpdconf/conf.d/*.toml": "The configuration, read in byte order of the names: tcpdconf.toml(5).",
    "/run/tcpdconf/control.sock": "Where the commands find the daemon that root runs.",
}
_VARIABLES: Final = {
    "RUNTIME_DIRECTORY": "Directory of the control socket; systemd sets it.",
    "XDG_RUNTIME_DIR": "Its directory for users other than root, with /tcpdconf added.",
    "NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS": "The service manager's: sd_notify(3), sd_listen_fds(3).",
    "JOURNAL_STREAM": "Set by systemd: each line of the log begins with its level.",
}
_SIGNALS: Final = {
    "SIGHUP": "Loads the configuration again, as the command reload does.",
    "SIGTERM, SIGINT": "Ends the daemon: programs get SIGTERM and daemon.stop_timeout seconds. A second one hurries.",
}
_STATUS: Final = {
    "0": "Done. Of explain: the connection would be admitted.",
    "1": "It would be refused; or anything else went wrong.",
    "2": "Wrong usage.",
    "78": "Bad configuration: every problem is told.",
}
_CONFIGURATION: Final = """\
Every file of the directory that ends in .toml is read, in byte order of the names, unless it begins with . or #.
A service is defined in one file. Tables under [defaults], of any file, fill in what services leave out; an array
of a service replaces the array of the defaults. `tcpdconf check` tells all that is wrong; `tcpdconf show --origin`
prints what counts, and where it is from. Every key is there since version 0.1.0 unless it says otherwise."""
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
        [".SH SYNOPSIS", *_synopsis(parser), ".SH DESCRIPTION", _text(_introduced("README"))],
        [".SH COMMANDS", *_subcommands(parser)],
        [".SH EXIT STATUS", *_items(_STATUS)],
        [".SH SIGNALS", *_items(_SIGNALS)],
        [".SH ENVIRONMENT", *_items(_VARIABLES)],
        [".SH FILES", *_items(_FILES)],
        [".SH SEE ALSO", ".BR tcpdconf.toml (5),", ".BR tcpdconf-migrate (1)"],
    )  # fmt: skip


def _introduced(_: str) -> str:
    return (
        "It accepts TCP connections and runs one program for each, with the connection as standard input and "
        "output, as Courier's couriertcpd does. One supervisor runs any number of services, each in a worker with "
        "the rights of its own user."
    )


def _file() -> str:
    file, *inside = schematables.tables()
    parts: list[Iterable[str]] = [[".SH DESCRIPTION", _text(_CONFIGURATION), *_keys(file)]]
    for table in inside:
        parts.append([f".SH {_text(table.header)}", _text(table.description), *_keys(table)])
    return _page(
        "tcpdconf.toml", 5, "Configuration of tcpdconf.",
        *parts,
        [".SH EXAMPLE", ".nf", _text(_EXAMPLE) + ".fi"],
        [".SH SEE ALSO", ".BR tcpdconf (8)"],
    )  # fmt: skip


def _migrate() -> str:
    parser = migration.parser()
    return _page(
        "tcpdconf-migrate", 1, str(parser.description),
        [".SH SYNOPSIS", *_synopsis(parser), ".SH FORMS", *_subcommands(parser)],
        [".SH EXIT STATUS", *_items({"0": "Done, with notes or without.", "1": "Anything else went wrong.",
                                     "2": "Wrong usage, or a command line that couriertcpd would not take."})],
        [".SH SEE ALSO", ".BR tcpdconf (8),", ".BR tcpdconf.toml (5)"],
    )  # fmt: skip


def _page(name: str, section: int, purpose: str, *parts: Iterable[str]) -> str:
    what = purpose.rstrip(".")
    head = [
        '.\\" Written by docs/generate.py.',
        f'.TH {name.upper()} {section} "" "tcpdconf {tcpdconf.__version__}"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(what[0].lower() + what[1:] if what[1:2].islower() else what)}",
    ]
    return "\n".join([*head, *(line for part in parts for line in part)]) + "\n"


def _synopsis(parser: argparse.ArgumentParser) -> Iterator[str]:
    for name, command in _choices(parser).items():
        yield from [f".B {_text(f'{parser.prog} {name}')}", *_usage(command), ".br"]


def _usage(command: argparse.ArgumentParser) -> Iterator[str]:
    """The arguments after the command's name, without -h."""
    words = " ".join(command.format_usage().split())
    yield _text(words.partition("[-h] ")[2]) if "[-h] " in words else ".\\\""


def _subcommands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for name, text in _helps(parser).items():
        command = _choices(parser)[name]
        yield f".SS {_text(f'{parser.prog} {name}')}"
        yield _text(text[0].upper() + text[1:] + ".")
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
    text = str(action.help or "") % {**vars(action), "prog": parser.prog}
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _items(items: dict[str, str]) -> Iterator[str]:
    for name, text in items.items():
        yield from (".TP", f".B {_text(name)}", _text(text))


def _keys(table: schematables.Table) -> Iterator[str]:
    for key in table.keys:
        default = f"; default {key.default}" if key.default not in {"", "required"} else ""
        must = ", required" if key.default == "required" else ""
        yield from (".TP", f".B {_text(key.name)}", _text(f"{key.words} ({key.type}{must}{default})"))


def _text(text: str) -> str:
    """Text for troff: Markdown's backquotes are bold, and nothing else means anything."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    escaped = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", escaped)
    return re.sub(r"^(?=[.'])", r"\\&", escaped, flags=re.MULTILINE)

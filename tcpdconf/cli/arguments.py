"""Parses the command line of `tcpdconf` and its subcommands.

`main` runs them.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from tcpdconf import usage
from tcpdconf.cli import monitoring

if TYPE_CHECKING:
    from tcpdconf.explain import dns as explain_dns
    from tcpdconf.policy import connection

DIRECTORY: Final = "/etc/tcpdconf/conf.d"
WITH_DIRECTORY: Final = frozenset({"run", "check", "show"})  # commands whose first argument is DIR
_seconds: Final = usage.duration(0, 604800)  # for waiting for connections or a daemon
_DURATION: Final = 'a number of seconds, or a duration such as "5min"'


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line, by default this process's own.

    Raises:
        SystemExit: it is wrong, or asks for help or the version; the output has been printed.
    """
    words = sys.argv[1:] if words is None else list(words)
    try:
        return _given(words)
    except usage.UsageError as error:
        if words[:1] == ["status"] and any(len(word) > 2 and "--check".startswith(word) for word in words):
            sys.stdout.write(monitoring.unknown(error.text) + "\n")
            raise SystemExit(monitoring.UNKNOWN) from None
        raise


def _given(words: Sequence[str]) -> argparse.Namespace:
    given = parser().parse(words)
    if getattr(given, "check", False) and given.format != "text":
        given.chosen.error("--check prints one line; it goes without --format")
    named = [each for name in ("directory", "conf") if (each := getattr(given, name, None)) is not None]
    if len({os.path.realpath(each) for each in named}) > 1:
        given.chosen.error(f"DIR is {named[0]} and --conf is {named[1]}; give one of them")
    given.directory = named[0] if named else DIRECTORY
    return given


def parser() -> usage.Parser:
    """Return the parser; `command` in its result is the name of the subcommand."""
    made = usage.Parser(prog="tcpdconf", description="A TCP super-server for mail hosts, configured in TOML.")
    usage.add_version(made)
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")
    for name, (text, add) in _COMMANDS.items():
        add(commands.add_parser(name, help=text))
    return made


def command(name: str) -> usage.Parser | None:
    """Return the parser of one subcommand alone, or None if there is no such subcommand."""
    if name not in _COMMANDS:
        return None
    made = usage.Parser(prog=f"tcpdconf {name}")
    _COMMANDS[name][1](made)
    return made


def _run(command: argparse.ArgumentParser) -> None:
    _directory(command)
    command.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        default=[],
        help="run this service and no other; repeatable",
    )
    command.add_argument(
        "--take-over",
        action="store_true",
        help="take the listening sockets from the daemon that runs, and stop it when this one serves;"
        " its connections may go on for daemon.drain_timeout",
    )
    _runtime_directory(command)


def _check(command: argparse.ArgumentParser) -> None:
    _directory(command, "directory of *.toml files, or one such file, to be checked alone")
    command.add_argument(
        "--replace",
        metavar="FILE=CANDIDATE",
        type=_replacement,
        action="append",
        default=[],
        help="check CANDIDATE as if it were FILE, a file of DIR that need not exist; repeatable",
    )
    command.add_argument(
        "--format", choices=("text", "json", "github"), default="text", help="how problems are shown"
    )
    _colour(command)
    command.add_argument("--strict", action="store_true", help="let warnings count as problems")
    command.add_argument(
        "--quiet", action="store_true", help="print problems only, without a line that sums up"
    )
    read = command.add_mutually_exclusive_group()
    read.add_argument("--fast", action="store_true", help="leave access and environment files unread")
    read.add_argument(
        "--probe",
        action="store_true",
        help="also try programs, access and environment files, with each service's rights, and ask DNS lists "
        "and, where names are looked up, name servers",
    )


def _show(command: argparse.ArgumentParser) -> None:
    _directory(command)
    command.add_argument("--format", choices=("toml", "json"), default="toml", help="how it is printed")
    command.add_argument("--origin", action="store_true", help="add file and line of each value")
    _colour(command)


def _explain(command: argparse.ArgumentParser) -> None:
    command.add_argument("service", metavar="SERVICE", help="name of the service")
    command.add_argument(
        "address", metavar="ADDRESS", type=_end, help="of the client; ADDRESS:PORT where the port matters"
    )
    command.add_argument("--conf", metavar="DIR", help=f"directory of *.toml files (default: {DIRECTORY})")
    command.add_argument(
        "--local",
        metavar="ADDR:PORT",
        type=_whole_end,
        help="this host's end of the connection (default: that of the first listener that would accept it)",
    )
    command.add_argument(
        "--proxied-by", metavar="ADDR", type=_end, help="the proxy whose PROXY header names the client"
    )
    command.add_argument(
        "--proxied-local",
        metavar="ADDR:PORT",
        type=_whole_end,
        help="the local end that the header names (default: this host's own)",
    )
    command.add_argument(
        "--listed",
        metavar="ZONE=ADDR[=TEXT]",
        type=_listing,
        action="append",
        default=[],
        help="let the DNS list ZONE answer this, instead of asking it; repeatable",
    )
    command.add_argument("--no-dns", action="store_true", help="ask no name server")
    command.add_argument("--format", choices=("text", "json"), default="text", help="how it is told")
    _colour(command)
    _runtime_directory(command)


def _status(command: argparse.ArgumentParser) -> None:
    when = command.add_mutually_exclusive_group()
    when.add_argument("--watch", action="store_true", help="show it every second until Ctrl-C")
    when.add_argument(
        "--wait",
        metavar="SECONDS",
        type=_seconds,
        help=f"wait until a daemon is there and every service accepts, at most so long: {_DURATION}",
    )
    when.add_argument(
        "--check",
        action="store_true",
        help="print one line as monitoring plugins do; exit status 0 ok, 1 warning, 2 critical, 3 unknown:"
        " no daemon, or a wrong command line",
    )
    command.add_argument(
        "--format", choices=("text", "json", "prometheus"), default="text", help="how it is printed"
    )
    _runtime_directory(command)


def _connections(command: argparse.ArgumentParser) -> None:
    command.add_argument("--format", choices=("text", "json"), default="text", help="how it is printed")
    _runtime_directory(command)


def _reload(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="only say what would change; exit status 0 nothing, 1 something, 3 no daemon can say",
    )
    _colour(command)
    _runtime_directory(command)


def _stop(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--drain",
        metavar="SECONDS",
        type=_seconds,
        help=f"let connections go on for so long before their programs are ended: {_DURATION}",
    )
    _runtime_directory(command)


def _nothing(_command: argparse.ArgumentParser) -> None:
    """Add nothing: the subcommand has no options of its own."""


def _directory(command: argparse.ArgumentParser, what: str = "directory of *.toml files") -> None:
    command.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        help=f"{what} (default: {DIRECTORY})",
    )
    command.add_argument("--conf", metavar="DIR", help="the same, as an option")


def _colour(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="when problems are shown in colour; auto: at a terminal, unless NO_COLOR is set or TERM is dumb",
    )


def _runtime_directory(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--runtime-dir",
        metavar="DIR",
        help="directory of the control socket (default: $RUNTIME_DIRECTORY, else /run/tcpdconf for root and"
        " $XDG_RUNTIME_DIR/tcpdconf for others)",
    )


def _end(text: str) -> "connection.Endpoint":
    return _parsed(text, 0)


def _whole_end(text: str) -> "connection.Endpoint":
    return _parsed(text, None)


def _parsed(text: str, port: int | None) -> "connection.Endpoint":
    from tcpdconf.explain import listener as explain_listener  # noqa: PLC0415 (each command imports what it needs)

    try:
        return explain_listener.end(text, port)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _listing(text: str) -> "tuple[str, explain_dns.Listing]":
    from tcpdconf.explain import dns as explain_dns  # noqa: PLC0415 (each command imports what it needs)

    try:
        return explain_dns.listing(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _replacement(text: str) -> tuple[str, str]:
    target, equals, candidate = text.partition("=")
    if not (target and equals and candidate):
        raise argparse.ArgumentTypeError(f"must be FILE=CANDIDATE, not {text!r}")
    return target, candidate


_COMMANDS: Final[dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]]] = {
    "run": ("run the services of a directory in the foreground", _run),
    "check": ("validate a configuration without serving it", _check),
    "show": ("print the effective configuration, defaults included", _show),
    "explain": ("tell what would happen to a connection, and why", _explain),
    "status": ("show what the running daemon does", _status),
    "connections": ("list the connections of the running daemon", _connections),
    "reload": (
        "let the running daemon load its configuration again, and say what changed",
        _reload,
    ),
    "stop": ("stop the running daemon, and wait for its end", _stop),
    "schema": ("print the JSON Schema of a configuration file", _nothing),
}

"""What the command `tcpdconf` and its subcommands take. What they do is in `cli`."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import tcpdconf

if TYPE_CHECKING:
    from tcpdconf import inquiry
    from tcpdconf.policy import connection

DIRECTORY: Final = "/etc/tcpdconf/conf.d"
_LONGEST: Final = 604800  # seconds that connections may be waited for


def parser() -> argparse.ArgumentParser:
    """The parser; `command` in what it returns is the name of the subcommand."""
    made = argparse.ArgumentParser(
        prog="tcpdconf", description="A TCP super-server for mail hosts, configured in TOML."
    )
    made.add_argument("--version", action="version", version=f"tcpdconf {tcpdconf.__version__}")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")
    for name, (text, add) in _COMMANDS.items():
        add(commands.add_parser(name, help=text))
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
    _directory(command)
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


def _explain(command: argparse.ArgumentParser) -> None:
    command.add_argument("service", metavar="SERVICE", help="name of the service")
    command.add_argument(
        "address", metavar="ADDRESS", type=_end, help="of the client; ADDRESS:PORT where the port matters"
    )
    command.add_argument(
        "--conf", metavar="DIR", default=DIRECTORY, help="directory of *.toml files (default: %(default)s)"
    )
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
    _runtime_directory(command)


def _status(command: argparse.ArgumentParser) -> None:
    command.add_argument("--watch", action="store_true", help="show it every second until Ctrl-C")
    command.add_argument(
        "--format", choices=("text", "json", "prometheus"), default="text", help="how it is printed"
    )
    _runtime_directory(command)


def _connections(command: argparse.ArgumentParser) -> None:
    command.add_argument("--format", choices=("text", "json"), default="text", help="how it is printed")
    _runtime_directory(command)


def _stop(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--drain",
        metavar="SECONDS",
        type=_seconds,
        help="let connections go on for so long before their programs are ended",
    )
    _runtime_directory(command)


def _nothing(_command: argparse.ArgumentParser) -> None:
    """It has no options of its own."""


def _directory(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        default=DIRECTORY,
        help="directory of *.toml files (default: %(default)s)",
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
    from tcpdconf import arrival  # noqa: PLC0415 (each command imports what it needs)

    try:
        return arrival.end(text, port)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _listing(text: str) -> "tuple[str, inquiry.Listing]":
    from tcpdconf import inquiry  # noqa: PLC0415 (each command imports what it needs)

    try:
        return inquiry.listing(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _replacement(text: str) -> tuple[str, str]:
    target, equals, candidate = text.partition("=")
    if not (target and equals and candidate):
        raise argparse.ArgumentTypeError(f"must be FILE=CANDIDATE, not {text!r}")
    return target, candidate


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= _LONGEST:
        raise argparse.ArgumentTypeError(f"must be seconds from 0 to {_LONGEST}, not {text!r}")
    return seconds


_COMMANDS: Final[dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]]] = {
    "run": ("run the services of a directory in the foreground", _run),
    "check": ("validate a configuration without serving it", _check),
    "show": ("print the effective configuration, defaults included", _show),
    "explain": ("tell what would happen to a connection, and why", _explain),
    "status": ("show what the running daemon does", _status),
    "connections": ("list the connections of the running daemon", _connections),
    "reload": (
        "let the running daemon load its configuration again, and say what changed",
        _runtime_directory,
    ),
    "stop": ("stop the running daemon, and wait for its end", _stop),
    "schema": ("print the JSON Schema of a configuration file", _nothing),
}

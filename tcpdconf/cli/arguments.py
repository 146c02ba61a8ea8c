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
_NETWORKS: Final = (
    'address or network, such as 192.0.2.7 or 2001:db8::/48; "-" reads them from standard input, one in each'
    " line"
)
_ban_time: Final = usage.duration(0.001, 100 * 365 * 86400)
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
    usage.add_version(made, _way)
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
        help="run only this service (repeatable)",
    )
    command.add_argument(
        "--take-over",
        action="store_true",
        help="take over the listening sockets of the running daemon, and stop it once this one serves"
        " (its connections may continue for daemon.drain_timeout)",
    )
    _runtime_directory(command)


def _check(command: argparse.ArgumentParser) -> None:
    _directory(command, "directory of *.toml files, or one such file to check alone")
    command.add_argument(
        "--replace",
        metavar="FILE=CANDIDATE",
        type=_replacement,
        action="append",
        default=[],
        help="check CANDIDATE in the place of FILE, a file of DIR that need not exist (repeatable)",
    )
    command.add_argument(
        "--format", choices=("text", "json", "github"), default="text", help="output format of problems"
    )
    _colour(command)
    command.add_argument("--strict", action="store_true", help="treat warnings as errors")
    command.add_argument("--quiet", action="store_true", help="print only problems, without the summary line")
    read = command.add_mutually_exclusive_group()
    read.add_argument("--fast", action="store_true", help="do not read access and environment files")
    read.add_argument(
        "--probe",
        action="store_true",
        help="also try programs, access and environment files with each service's rights, and query DNS"
        " lists, and name servers if a service looks up names",
    )


def _show(command: argparse.ArgumentParser) -> None:
    _directory(command)
    command.add_argument("--format", choices=("toml", "json"), default="toml", help="output format")
    command.add_argument("--origin", action="store_true", help="add the file and line of each value")
    _colour(command)


def _explain(command: argparse.ArgumentParser) -> None:
    command.add_argument("service", metavar="SERVICE", help="name of the service")
    command.add_argument(
        "address", metavar="ADDRESS", type=_end, help="address of the client, with :PORT if the port matters"
    )
    command.add_argument("--conf", metavar="DIR", help=f"directory of *.toml files (default: {DIRECTORY})")
    command.add_argument(
        "--local",
        metavar="ADDR:PORT",
        type=_whole_end,
        help="local end of the connection (default: that of the first listener that would accept it)",
    )
    command.add_argument(
        "--proxied-by",
        metavar="ADDR",
        type=_end,
        help="address of the proxy whose PROXY header names the client",
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
        help="take this as the answer of the DNS list ZONE, instead of asking it (repeatable)",
    )
    command.add_argument("--no-dns", action="store_true", help="do not query name servers")
    command.add_argument("--format", choices=("text", "json"), default="text", help="output format")
    _colour(command)
    _runtime_directory(command)


def _status(command: argparse.ArgumentParser) -> None:
    when = command.add_mutually_exclusive_group()
    when.add_argument("--watch", action="store_true", help="show the state every second until Ctrl-C")
    when.add_argument(
        "--wait",
        metavar="SECONDS",
        type=_seconds,
        help=f"wait at most this long until a daemon runs and every service accepts: {_DURATION}",
    )
    when.add_argument(
        "--check",
        action="store_true",
        help="print one line, as monitoring plugins do (exit status 0 ok, 1 warning, 2 critical, 3 unknown:"
        " no daemon, or a wrong command line)",
    )
    command.add_argument(
        "--format", choices=("text", "json", "prometheus"), default="text", help="output format"
    )
    _colour(command, "what needs attention")
    _runtime_directory(command)


def _connections(command: argparse.ArgumentParser) -> None:
    command.add_argument("--format", choices=("text", "json"), default="text", help="output format")
    _runtime_directory(command)


def _reload(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="print the changes and make none (exit status 0 no changes, 1 changes, 3 no daemon)",
    )
    _colour(command)
    _runtime_directory(command)


def _stop(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--drain",
        metavar="SECONDS",
        type=_seconds,
        help=f"let connections continue for this long before their programs get SIGTERM: {_DURATION}."
        " Services with an agent first announce the stop, and still accept for agent.announce",
    )
    _runtime_directory(command)


def _ban(command: argparse.ArgumentParser) -> None:
    _networks(command)
    command.add_argument(
        "--for",
        dest="seconds",
        metavar="TIME",
        type=_ban_time,
        help=f"lift the ban after this time: {_DURATION} (default: never)",
    )
    _only_service(command, "refuse it at this service only")
    command.add_argument("--reason", metavar="TEXT", default="", help="note why, for `tcpdconf bans`")
    command.add_argument(
        "--force",
        action="store_true",
        help="ban also this host's own addresses, trusted proxies, daemon.never_ban, and networks wider than"
        " /8 (IPv4) or /32 (IPv6)",
    )
    _runtime_directory(command)


def _unban(command: argparse.ArgumentParser) -> None:
    whose = command.add_mutually_exclusive_group(required=True)
    whose.add_argument("networks", metavar="ADDRESS|NETWORK", nargs="*", default=[], help=_NETWORKS)
    whose.add_argument("--host", metavar="NAME", help="lift all bans that this host of the cluster has made")
    _only_service(command, "lift the ban that was made for this service")
    _runtime_directory(command)


def _disconnect(command: argparse.ArgumentParser) -> None:
    whose = command.add_mutually_exclusive_group(required=True)
    whose.add_argument(
        "networks", metavar="ADDRESS|NETWORK", nargs="*", default=[], help="address or network of the clients"
    )
    whose.add_argument("--pid", type=int, help="pid of the program, as `tcpdconf connections` shows it")
    _only_service(command, "end programs of this service only")
    _runtime_directory(command)


def _networks(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "networks",
        metavar="ADDRESS|NETWORK",
        nargs="+",
        help=_NETWORKS,
    )


def _only_service(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--service", metavar="NAME", help=f"{what} (default: all services)")


def _nothing(_command: argparse.ArgumentParser) -> None:
    """Add nothing: the subcommand has no options of its own."""


def _directory(command: argparse.ArgumentParser, what: str = "directory of *.toml files") -> None:
    command.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        help=f"{what} (default: {DIRECTORY})",
    )
    command.add_argument("--conf", metavar="DIR", help="the same as DIR")


def _colour(command: argparse.ArgumentParser, what: str = "problems") -> None:
    command.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help=f"colour {what} (auto: at a terminal, unless NO_COLOR is set or TERM is dumb)",
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
    "explain": ("show what would happen to a connection, and why", _explain),
    "status": ("show the state of the running daemon", _status),
    "connections": ("list the connections of the running daemon", _connections),
    "disconnect": ("end the programs of clients", _disconnect),
    "ban": ("refuse clients from an address or a network from now on", _ban),
    "unban": ("lift bans", _unban),
    "bans": ("list the bans", _connections),
    "reload": (
        "reload the configuration of the running daemon, and print the changes",
        _reload,
    ),
    "stop": ("stop the running daemon, and wait until it has ended", _stop),
    "schema": ("print the JSON Schema of a configuration file", _nothing),
}


def _way() -> str:
    """Return how programs are started, for the version."""
    from tcpdconf.daemon.process import spawn  # noqa: PLC0415 (no command needs it here)

    try:
        return f" (starts programs: {spawn.way()})"
    except spawn.UnknownWayError as error:
        return f" ({error})"

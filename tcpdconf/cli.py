"""The command `tcpdconf`: each subcommand a short function that gives its exit status.

0: done; 2: wrong usage (argparse); 78: bad configuration; 1: anything else. What a subcommand needs is
imported when it runs, so that checking a file does not wait for the daemon.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import tcpdconf

if TYPE_CHECKING:
    from tcpdconf import inquiry, rehearsal
    from tcpdconf.config import load, problems
    from tcpdconf.policy import connection

EX_CONFIG: Final = 78
DIRECTORY: Final = "/etc/tcpdconf/conf.d"
LONGEST: Final = 86400  # seconds that connections may be waited for


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a C locale must not hide a problem
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # the reader has what it wanted; the interpreter must not try to flush again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tcpdconf", description="A TCP super-server for mail hosts, configured in TOML."
    )
    parser.add_argument("--version", action="version", version=f"tcpdconf {tcpdconf.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = commands.add_parser("run", help="run the services of a directory in the foreground")
    _add_directory(command)
    command.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        default=[],
        help="run this service and no other; repeatable",
    )
    _add_runtime_directory(command)
    command.set_defaults(command=run)

    command = commands.add_parser("check", help="validate a configuration without serving it")
    _add_directory(command)
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
    command.add_argument(
        "--probe",
        action="store_true",
        help="also try programs, access and environment files, with each service's rights, and DNS lists",
    )
    command.set_defaults(command=check)

    command = commands.add_parser("show", help="print the effective configuration, defaults included")
    _add_directory(command)
    command.add_argument("--format", choices=("toml", "json"), default="toml", help="how it is printed")
    command.add_argument("--origin", action="store_true", help="add file and line of each value")
    command.set_defaults(command=show)

    command = commands.add_parser("explain", help="tell what would happen to a connection, and why")
    _add_explain(command)
    command.set_defaults(command=explain)

    _add_control(commands)

    command = commands.add_parser("schema", help="print the JSON Schema of a configuration file")
    command.set_defaults(command=schema)
    return parser


def _add_control(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands that talk to a running daemon."""
    command = commands.add_parser("status", help="show what the running daemon does")
    command.add_argument("--watch", action="store_true", help="show it every second until Ctrl-C")
    _add_output(command)
    _add_runtime_directory(command)
    command.set_defaults(command=status)

    command = commands.add_parser("connections", help="list the connections of the running daemon")
    _add_output(command)
    _add_runtime_directory(command)
    command.set_defaults(command=connections)

    command = commands.add_parser(
        "reload", help="let the running daemon load its configuration again, and say what changed"
    )
    _add_runtime_directory(command)
    command.set_defaults(command=reload)

    command = commands.add_parser("stop", help="stop the running daemon, and wait for its end")
    command.add_argument(
        "--drain",
        metavar="SECONDS",
        type=_seconds,
        help="let connections go on for so long before their programs are ended",
    )
    _add_runtime_directory(command)
    command.set_defaults(command=stop)


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--format", choices=("text", "json"), default="text", help="how it is printed")


def _add_runtime_directory(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--runtime-dir",
        metavar="DIR",
        help="directory of the control socket (default: $RUNTIME_DIRECTORY, else /run/tcpdconf for root and"
        " $XDG_RUNTIME_DIR/tcpdconf for others)",
    )


def _add_directory(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        default=DIRECTORY,
        help="directory of *.toml files (default: %(default)s)",
    )


def _add_explain(command: argparse.ArgumentParser) -> None:
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


def _end(text: str) -> "connection.Endpoint":
    return _parsed(text, 0)


def _whole_end(text: str) -> "connection.Endpoint":
    return _parsed(text, None)


def _parsed(text: str, port: int | None) -> "connection.Endpoint":
    from tcpdconf import rehearsal  # noqa: PLC0415 (each command imports what it needs)

    try:
        return rehearsal.end(text, port)
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
    if not 0 <= seconds <= LONGEST:
        raise argparse.ArgumentTypeError(f"must be seconds from 0 to {LONGEST}, not {text!r}")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal says stop."""
    from tcpdconf.daemon import signals  # noqa: PLC0415 (signals are caught before anything slow is imported)

    arrived = signals.Signals(signals.SUPERVISOR)

    from tcpdconf.daemon import running  # noqa: PLC0415

    return running.run(arguments.directory, arguments.only, arrived)


def check(arguments: argparse.Namespace) -> int:
    """Print every problem; in text, a line that sums up."""
    from tcpdconf import checking  # noqa: PLC0415 (each command imports what it needs)
    from tcpdconf.config import load, problems  # noqa: PLC0415

    loaded: load.Loaded | None = None
    lists = ""
    try:
        loaded = load.load(arguments.directory, dict(arguments.replace))
        found = [*loaded.warnings, *checking.rules(loaded)]
        if arguments.probe:
            tried, lists = checking.probe(loaded, found)
            found += tried
    except problems.ConfigError as error:
        found = list(error.problems)
    sys.stdout.write(problems.render(found, arguments.format))
    errors = sum(problem.severity == "error" for problem in found)
    if arguments.format == "text":
        sys.stdout.write(("\n" if found and lists else "") + lists)
        print(("\n" if found else "") + f"{arguments.directory}: {_summary(loaded, found, errors)}")
    return EX_CONFIG if errors else 0


def _summary(loaded: "load.Loaded | None", found: "Sequence[problems.Problem]", errors: int) -> str:
    counted = _count(errors, "problem") if errors else "no problems"
    if len(found) > errors:
        counted += ", " + _count(len(found) - errors, "warning")
    if loaded is None:
        return counted
    services = _count(len(loaded.config.services), "service")
    files = _count(len(loaded.files), "file")
    return f"{services} in {files}, {len(loaded.config.enabled())} enabled: {counted}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def show(arguments: argparse.Namespace) -> int:
    """Print the effective configuration; what is wrong with it goes to standard error instead."""
    from tcpdconf.config import load, problems, render  # noqa: PLC0415 (each command imports what it needs)

    try:
        loaded = load.load(arguments.directory)
    except problems.ConfigError as error:
        sys.stderr.write(problems.render(error.problems))
        return EX_CONFIG
    data = render.data(loaded.config)
    if arguments.format == "toml":
        sys.stdout.write(render.toml(data, loaded.comment) if arguments.origin else render.toml(data))
    elif arguments.origin:
        origins = {problems.dotted(key): loaded.comment(key) for key in render.leaves(data)}
        sys.stdout.write(render.as_json({"config": data, "origin": origins}))
    else:
        sys.stdout.write(render.as_json(data))
    return 0


def explain(arguments: argparse.Namespace) -> int:
    """Tell what would happen to a connection; 0 when it would be admitted, 1 when refused."""
    from tcpdconf import explain, explanation  # noqa: PLC0415 (each command imports what it needs)
    from tcpdconf.config import load, problems  # noqa: PLC0415
    from tcpdconf.daemon import running  # noqa: PLC0415

    try:
        loaded = running.chosen(load.load(arguments.conf), [arguments.service])
        found = explain.explain(loaded, _request(arguments), running.environment())
    except problems.ConfigError as error:
        sys.stderr.write(problems.render(error.problems))
        return EX_CONFIG
    except explain.ExplainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    as_told = explanation.as_json if arguments.format == "json" else explanation.as_text
    sys.stdout.write(as_told(found))
    return 0 if found["verdict"] == "admitted" else 1


def _request(arguments: argparse.Namespace) -> "rehearsal.Request":
    from tcpdconf import rehearsal  # noqa: PLC0415 (each command imports what it needs)

    return rehearsal.Request(
        service=arguments.service,
        client=arguments.address,
        local=arguments.local,
        proxied_by=arguments.proxied_by,
        proxied_local=arguments.proxied_local,
        listed=tuple(arguments.listed),
        ask=not arguments.no_dns,
    )


def status(arguments: argparse.Namespace) -> int:
    """Show the state of the running daemon."""
    from tcpdconf import controlling  # noqa: PLC0415 (each command imports what it needs)

    return controlling.status(arguments.runtime_dir, arguments.format, again=arguments.watch)


def connections(arguments: argparse.Namespace) -> int:
    """List the connections of the running daemon."""
    from tcpdconf import controlling  # noqa: PLC0415 (each command imports what it needs)

    return controlling.connections(arguments.runtime_dir, arguments.format)


def reload(arguments: argparse.Namespace) -> int:
    """Let the running daemon load its configuration again."""
    from tcpdconf import controlling  # noqa: PLC0415 (each command imports what it needs)

    return controlling.reload(arguments.runtime_dir)


def stop(arguments: argparse.Namespace) -> int:
    """Stop the running daemon."""
    from tcpdconf import controlling  # noqa: PLC0415 (each command imports what it needs)

    return controlling.stop(arguments.runtime_dir, arguments.drain)


def schema(_: argparse.Namespace) -> int:
    """Print the JSON Schema."""
    from tcpdconf.config import render, schema  # noqa: PLC0415 (each command imports what it needs)

    sys.stdout.write(render.as_json(schema.schema()))
    return 0

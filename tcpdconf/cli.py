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
    from tcpdconf.config import load, problems

EX_CONFIG: Final = 78
DIRECTORY: Final = "/etc/tcpdconf/conf.d"


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
    command.add_argument(
        "--runtime-dir",
        metavar="DIR",
        help="directory of the control socket (default: $RUNTIME_DIRECTORY, else /run/tcpdconf for root and"
        " $XDG_RUNTIME_DIR/tcpdconf for others)",
    )
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

    command = commands.add_parser("schema", help="print the JSON Schema of a configuration file")
    command.set_defaults(command=schema)
    return parser


def _add_directory(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        default=DIRECTORY,
        help="directory of *.toml files (default: %(default)s)",
    )


def _replacement(text: str) -> tuple[str, str]:
    target, equals, candidate = text.partition("=")
    if not (target and equals and candidate):
        raise argparse.ArgumentTypeError(f"must be FILE=CANDIDATE, not {text!r}")
    return target, candidate


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


def schema(_: argparse.Namespace) -> int:
    """Print the JSON Schema."""
    from tcpdconf.config import render, schema  # noqa: PLC0415 (each command imports what it needs)

    sys.stdout.write(render.as_json(schema.schema()))
    return 0

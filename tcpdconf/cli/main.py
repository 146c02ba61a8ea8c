"""Runs the command `tcpdconf`: each subcommand is a short function that returns its exit status.

0: success; 2: wrong usage (3 for `status --check`); 78: bad configuration; 1: any other failure. Each
subcommand imports its modules when it runs, so that checking a file does not wait for the daemon's.
"""

import argparse
import contextlib
import gc
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from tcpdconf import usage
from tcpdconf.cli import arguments

if TYPE_CHECKING:
    from tcpdconf.config import problems
    from tcpdconf.config.load.loaded import Loaded
    from tcpdconf.explain.listener import Request

EX_CONFIG: Final = 78
_COMPLETE: Final = "--complete-services"  # for the shells (docs/completions.py), not for people


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a C locale must not hide a problem
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == [_COMPLETE]:
        return _complete(words[1:])
    given = arguments.parse(words)
    gc.disable()  # imports make many objects and no garbage: this saves a fifth of the time
    try:
        status = COMMANDS[given.command](given)
        sys.stdout.flush()
    except BrokenPipeError:
        # the reader needs no more; the interpreter must not try to flush again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 1
    finally:
        gc.enable()
    return status


def _complete(words: Sequence[str]) -> int:
    """Print the names of services that a shell offers; print nothing after any error."""
    from tcpdconf.cli import completion  # noqa: PLC0415 (each command imports what it needs)

    with contextlib.suppress(Exception):
        sys.stdout.write("".join(f"{name}\n" for name in completion.services(words)))
    return 0


def run(given: argparse.Namespace) -> int:
    """Serve until a signal stops the daemon."""
    from tcpdconf.daemon.process import signals  # noqa: PLC0415 (signals are caught before anything slow is imported)

    arrived = signals.Signals(signals.SUPERVISOR)

    from tcpdconf.daemon import run as daemon_run  # noqa: PLC0415

    return daemon_run.run(given.directory, given.only, given.runtime_dir, arrived, take_over=given.take_over)


def check(given: argparse.Namespace) -> int:
    """Print every problem and, in text, a summary line; return 78 if the check fails."""
    from tcpdconf.cli import check as checks  # noqa: PLC0415 (each command imports what it needs)
    from tcpdconf.config import problems  # noqa: PLC0415
    from tcpdconf.config.load import load  # noqa: PLC0415

    loaded: Loaded | None = None
    lists = ""
    alone = os.path.exists(given.directory) and not os.path.isdir(given.directory)
    if alone and given.replace:
        given.chosen.error(f"--replace goes with a directory, and {given.directory} is a file")
    try:
        loaded = load.load(
            given.directory,
            dict(given.replace),
            further=None if given.fast else checks.files,
            alone=alone,
        )
        found = [*loaded.warnings, *checks.rules(loaded), *checks.capacity(loaded)]
        found += checks.rights(loaded)
        if not given.fast:
            found += checks.bans(loaded)
        if given.probe:
            tried, lists = checks.probe(loaded, found)
            found += tried
    except problems.ConfigError as error:
        found = list(error.problems)
    sys.stdout.write(problems.render(found, given.format, colour=usage.has_colour(given.color, sys.stdout)))
    errors = sum(problem.severity == "error" for problem in found)
    if given.format == "text" and not given.quiet:
        sys.stdout.write(("\n" if found and lists else "") + lists)
        print(("\n" if found else "") + f"{given.directory}: {_summary(loaded, found, errors)}")
        sys.stdout.write("" if loaded is None else checks.observed(loaded))
        if alone:
            sys.stdout.write(checks.within_its_set(given.directory))
    return EX_CONFIG if errors or (given.strict and found) else 0


def _summary(loaded: "Loaded | None", found: "Sequence[problems.Problem]", errors: int) -> str:
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


def show(given: argparse.Namespace) -> int:
    """Print the effective configuration, or its problems on standard error."""
    from tcpdconf.config import problems, render  # noqa: PLC0415 (each command imports what it needs)
    from tcpdconf.config.load import load  # noqa: PLC0415

    try:
        loaded = load.load(given.directory)
    except problems.ConfigError as error:
        _complain(error.problems, given.color)
        return EX_CONFIG
    data = render.data(loaded.config)
    if given.format == "toml":
        sys.stdout.write(render.toml(data, loaded.comment) if given.origin else render.toml(data))
    elif given.origin:
        origins = {problems.dotted(key): loaded.comment(key) for key in render.leaves(data)}
        sys.stdout.write(render.as_json({"config": data, "origin": origins}))
    else:
        sys.stdout.write(render.as_json(data))
    return 0


def explain(given: argparse.Namespace) -> int:
    """Explain what would happen to a connection; return 0 if it would be admitted, 1 if refused."""
    from tcpdconf.config import problems  # noqa: PLC0415
    from tcpdconf.config.load import load  # noqa: PLC0415
    from tcpdconf.daemon import run as daemon_run  # noqa: PLC0415
    from tcpdconf.explain import process as explain  # noqa: PLC0415 (each command imports what it needs)
    from tcpdconf.explain import report as explain_report  # noqa: PLC0415

    try:
        loaded = daemon_run.chosen(load.load(given.directory), [given.service])
        ends = [given.address, *([given.proxied_by] if given.proxied_by else [])]
        everywhere = loaded.config.services[given.service].limits.scope == "cluster"
        counted = (given.service, given.address.text) if everywhere else ("", "")
        live = explain.live(given.runtime_dir, given.directory, [end.text for end in ends], *counted)
        banned = explain.ban(given.runtime_dir, given.directory, given.service, given.address)
        found = explain.explain(loaded, _request(given), daemon_run.environment(), live, banned)
    except problems.ConfigError as error:
        _complain(error.problems, given.color)
        return EX_CONFIG
    except explain.ExplainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    as_told = explain_report.as_json if given.format == "json" else explain_report.as_text
    sys.stdout.write(as_told(found))
    return 0 if found["verdict"] == "admitted" else 1


def _complain(found: "Sequence[problems.Problem]", color: str) -> None:
    """Print problems on standard error."""
    from tcpdconf.config import problems  # noqa: PLC0415 (each command imports what it needs)

    sys.stderr.write(problems.render(found, colour=usage.has_colour(color, sys.stderr)))


def _request(given: argparse.Namespace) -> "Request":
    from tcpdconf.explain.listener import Request  # noqa: PLC0415 (each command imports what it needs)

    return Request(
        service=given.service,
        client=given.address,
        local=given.local,
        proxied_by=given.proxied_by,
        proxied_local=given.proxied_local,
        listed=tuple(given.listed),
        ask=not given.no_dns,
    )


def status(given: argparse.Namespace) -> int:
    """Show the state of the running daemon."""
    from tcpdconf.cli import talk  # noqa: PLC0415 (each command imports what it needs)

    if given.check:
        return talk.check(given.runtime_dir)
    if given.wait is not None:
        return talk.wait(given.runtime_dir, given.format, given.color, given.wait)
    act = talk.watch if given.watch else talk.status
    return act(given.runtime_dir, given.format, given.color)


def connections(given: argparse.Namespace) -> int:
    """List the connections of the running daemon."""
    from tcpdconf.cli import talk  # noqa: PLC0415 (each command imports what it needs)

    return talk.connections(given.runtime_dir, given.format)


def disconnect(given: argparse.Namespace) -> int:
    """End the programs of clients of the running daemon."""
    from tcpdconf.cli import guard  # noqa: PLC0415 (each command imports what it needs)

    return guard.disconnect(given.runtime_dir, given.networks, given.pid, given.service)


def ban(given: argparse.Namespace) -> int:
    """Ban clients from the running daemon."""
    from tcpdconf.cli import guard  # noqa: PLC0415 (each command imports what it needs)

    options = {"for": given.seconds, "reason": given.reason, "service": given.service, "force": given.force}
    return guard.ban(given.runtime_dir, given.networks, options)


def unban(given: argparse.Namespace) -> int:
    """Lift bans of the running daemon."""
    from tcpdconf.cli import guard  # noqa: PLC0415 (each command imports what it needs)

    if given.host is not None:
        return guard.unban_host(given.runtime_dir, given.host)
    return guard.unban(given.runtime_dir, given.networks, {"service": given.service})


def bans(given: argparse.Namespace) -> int:
    """List the bans of the running daemon."""
    from tcpdconf.cli import guard  # noqa: PLC0415 (each command imports what it needs)

    return guard.bans(given.runtime_dir, given.format)


def reload(given: argparse.Namespace) -> int:
    """Make the running daemon load its configuration again, or with --dry-run compare it."""
    from tcpdconf.cli import talk  # noqa: PLC0415 (each command imports what it needs)

    act = talk.compare if given.dry_run else talk.reload
    return act(given.runtime_dir, given.color)


def stop(given: argparse.Namespace) -> int:
    """Stop the running daemon."""
    from tcpdconf.cli import talk  # noqa: PLC0415 (each command imports what it needs)

    return talk.stop(given.runtime_dir, given.drain)


def schema(_: argparse.Namespace) -> int:
    """Print the JSON Schema of a configuration file."""
    from tcpdconf.config import render  # noqa: PLC0415
    from tcpdconf.config.model import jsonschema as config_schema  # noqa: PLC0415 (each command imports what it needs)

    sys.stdout.write(render.as_json(config_schema.schema()))
    return 0


COMMANDS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "run": run,
    "check": check,
    "show": show,
    "explain": explain,
    "status": status,
    "connections": connections,
    "disconnect": disconnect,
    "ban": ban,
    "unban": unban,
    "bans": bans,
    "reload": reload,
    "stop": stop,
    "schema": schema,
}

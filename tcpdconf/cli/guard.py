"""Runs the commands ban, unban, bans and disconnect.

Each function returns the exit status: 0 for success, 1 if the daemon has refused a part, or does not run.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tcpdconf.cli import columns
from tcpdconf.config import printable
from tcpdconf.daemon.control import runtimedir
from tcpdconf.daemon.control.client import ControlConnection, ControlError

_AT_ONCE: Final = 1000  # networks in a request
_PART: Final = 60_000  # bytes of the networks in a request, which has at most 64 KiB
_LINE: Final = 100  # most characters of an address that is sent
_PATIENCE: Final = 60.0  # seconds for an answer: the daemon waits for the disk


class _Named(NamedTuple):
    """Holds an address as given, and its origin: "" for the command line, or a line of standard input."""

    text: str
    where: str


def ban(directory: str | None, words: Sequence[str], options: Mapping[str, Any]) -> int:
    """Ban addresses and networks; "-" reads them from standard input."""
    return _change("ban", directory, words, options, "banned")


def unban(directory: str | None, words: Sequence[str], options: Mapping[str, Any]) -> int:
    """Lift bans; "-" reads addresses and networks from standard input."""
    return _change("unban", directory, words, options, "no longer banned")


def unban_host(directory: str | None, name: str) -> int:
    """Lift all bans that one host of the cluster has made; return 1 if it has made none."""
    try:
        with _connected(directory) as daemon:
            answer = daemon.ask({"command": "unban", "host": name}, _PATIENCE)
    except ControlError as error:
        return _failed(error)
    print(f"{answer['count']} no longer banned")
    return 0 if answer["count"] else 1


def bans(directory: str | None, form: str) -> int:
    """Print all bans, the oldest first, and the enforced penalties; `form` is the output format."""
    try:
        with _connected(directory) as daemon:
            found, penalties = _all(daemon)
    except ControlError as error:
        return _failed(error)
    if form == "json":
        sys.stdout.write(json.dumps({"bans": found, "penalties": penalties}, indent=2) + "\n")
    else:
        sys.stdout.write(_table(found, time.time()))
        rows = [
            (each["network"], each["service"], printable.duration(each["seconds"]), each["offence"])
            for each in penalties
        ]
        table = columns.table(("penalty", "service", "ends in", "offence"), rows)
        sys.stdout.write(f"\n{table}" if table else "")
    return 0


def _all(daemon: ControlConnection) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return all bans and penalties; start again if the daemon has rewritten its file meanwhile."""
    found: list[dict[str, Any]] = []
    penalties: list[dict[str, Any]] = []
    start, file = 0, None
    while True:
        answer = daemon.ask({"command": "bans", "start": start}, _PATIENCE)
        if file not in {None, answer["file"]}:
            start, file, found = 0, None, []
            continue
        found += answer["bans"]
        penalties = answer.get("penalties", penalties)
        if answer["next"] is None:
            return found, penalties
        start, file = answer["next"], answer["file"]


def disconnect(directory: str | None, words: Sequence[str], pid: int | None, service: str | None) -> int:
    """End the programs of clients; return 1 if no program was found."""
    request: dict[str, Any] = {"command": "disconnect", "service": service}
    request |= {"networks": list(words)} if pid is None else {"pid": pid}
    try:
        with ControlConnection(runtimedir.find(directory)) as daemon:
            answer = daemon.ask(request, _PATIENCE)
    except ControlError as error:
        return _failed(error)
    _complain(answer["errors"])
    for name, count in answer["doubtful"].items():
        sys.stderr.write(
            f"{name}: {count} program{'' if count == 1 else 's'} not ended: /proc does not show whose\n"
        )
    for name, count in answer["ended"].items():
        print(f"{name}: {count} program{'' if count == 1 else 's'} told to end")
    if not answer["ended"]:
        print("no such connection")
    return 0 if answer["ended"] else 1


def _change(
    command: str, directory: str | None, words: Sequence[str], options: Mapping[str, Any], done: str
) -> int:
    """Send networks to the daemon in parts, each of which is on disk when its answer comes."""
    total, failed = 0, False
    try:
        with _connected(directory) as daemon:
            for part in _parts(_given(words)):
                request = {"command": command, "networks": [each.text for each in part], **options}
                answer = daemon.ask(request, _PATIENCE)
                total += answer["count"]
                failed |= bool(answer["errors"])
                _complain(answer["errors"], part)
    except ControlError as error:
        return _failed(error)
    if len(words) > 1 or "-" in words:
        print(f"{total} {done}")
    return 1 if failed else 0


def _given(words: Iterable[str]) -> Iterator[_Named]:
    """Yield the addresses of a command line; "-" stands for the lines of standard input.

    In standard input, blank lines and comments (from "#" on) are skipped.
    """
    for word in words:
        if word != "-":
            yield _Named(word, "")
            continue
        for number, line in enumerate(sys.stdin.buffer, 1):
            text = line.decode("utf-8", "replace").partition("#")[0].strip()
            if text:
                yield _Named(text[:_LINE], f"line {number}: ")


def _parts(named: Iterable[_Named]) -> Iterator[list[_Named]]:
    """Split addresses into parts that fit into a request."""
    part: list[_Named] = []
    size = 0
    for each in named:
        added = len(json.dumps(each.text)) + 2
        if len(part) == _AT_ONCE or size + added > _PART:
            yield part
            part, size = [], 0
        part.append(each)
        size += added
    if part:
        yield part


def _table(found: Sequence[Mapping[str, Any]], now: float) -> str:
    if not found:
        return "no bans\n"
    rows = []
    for each in found:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each["since"]))
        left = "never" if each["until"] is None else printable.duration(each["until"] - now)
        by = each["by"] if each.get("host") is None else f"{each['host']}: {each['by']}"
        rows.append((each["network"], each["service"] or "all", left, since, by, each["reason"]))
    return columns.table(("network", "service", "ends in", "since", "by", "reason"), rows)


def _connected(directory: str | None) -> ControlConnection:
    return ControlConnection(runtimedir.find(directory), or_guard=True)


def _complain(errors: Iterable[Mapping[str, Any]], given: Sequence[_Named] = ()) -> None:
    """Print errors to standard error, in the order of the networks."""
    for each in sorted(errors, key=lambda error: error["index"]):
        text = each["error"]
        if not text.startswith(each["network"]):
            text = f"{each['network']} {text}"
        where = given[each["index"]].where if given else ""
        sys.stderr.write(f"error: {where}{printable.escaped(text)}\n")


def _failed(error: ControlError) -> int:
    sys.stderr.write(f"error: {error}\n")
    return 1

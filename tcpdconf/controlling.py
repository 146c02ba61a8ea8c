"""The commands that talk to a running daemon: status, connections, reload, stop. Each gives its exit status.

0 done; 1 rejected, or there is no daemon to do it. What the daemon answers is docs/reference/control.md.
"""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from tcpdconf import metrics, statuspage
from tcpdconf.config import problems
from tcpdconf.daemon import controlclient, runtimedir

_RELOAD: Final = 300.0  # seconds: tables of a million networks are read meanwhile
_EVERY: Final = 1.0
_CLEAR: Final = "\x1b[H\x1b[J"  # to the upper left corner, and all below it (ECMA-48, CUP and ED)


def status(directory: str | None, form: str, *, again: bool) -> int:
    """Print the daemon's state, once or every second until Ctrl-C."""
    try:
        with _connected(directory) as daemon:
            while True:
                answer = daemon.ask({"command": "status"})
                if again and form == "text" and sys.stdout.isatty():
                    sys.stdout.write(_CLEAR)
                page = _page(answer, form)
                _print(answer, form, page, in_one_line=again)
                if not again:
                    return 0
                time.sleep(_EVERY)
    except KeyboardInterrupt:
        return 0
    except controlclient.ControlError as error:
        return _failed(error)


def connections(directory: str | None, form: str) -> int:
    """Print a line for each connection."""
    try:
        with _connected(directory) as daemon:
            answer = daemon.ask({"command": "connections"})
    except controlclient.ControlError as error:
        return _failed(error)
    _print(answer, form, statuspage.connections(answer))
    return 0


def reload(directory: str | None) -> int:
    """Let the daemon load its configuration again; print what changed, or every problem."""
    try:
        with _connected(directory) as daemon:
            answer = daemon.ask({"command": "reload"}, _RELOAD)
    except controlclient.ControlError as error:
        return _failed(error)
    sys.stderr.write(problems.render(_problems(answer["problems"])))
    if not answer["ok"]:
        sys.stderr.write("rejected: what was loaded before goes on\n")
        return 1
    for line in answer["details"]:
        print(line)
    if not answer["changed"]:
        print("nothing has changed")
    elif not answer["details"]:
        print(f"changed: {', '.join(answer['changed'])}")
    return 0


def stop(directory: str | None, drain: float | None) -> int:
    """Stop the daemon, and wait until it has ended."""
    try:
        with _connected(directory) as daemon:
            daemon.ask({"command": "stop", "drain": drain})
            daemon.wait()
    except controlclient.ControlError as error:
        return _failed(error)
    print(f"stopped: pid {daemon.pid}")
    return 0


def _connected(directory: str | None) -> controlclient.Connection:
    return controlclient.Connection(runtimedir.find(directory))


def _page(answer: dict[str, Any], form: str) -> str:
    if form == "prometheus":
        return metrics.exposition(answer)
    return statuspage.status(answer, time.time())


def _print(answer: dict[str, Any], form: str, page: str, *, in_one_line: bool = False) -> None:
    if form == "json":
        page = json.dumps(answer, indent=None if in_one_line else 2) + "\n"
    sys.stdout.write(page)
    sys.stdout.flush()


def _problems(records: Sequence[dict[str, Any]]) -> list[problems.Problem]:
    """Problems as `check --format json` writes them."""
    return [
        problems.Problem(
            each["file"], each["line"], each["column"], each["key"], each["message"], each["code"],
            each["severity"], each["hint"],
        )
        for each in records
    ]  # fmt: skip


def _failed(error: controlclient.ControlError) -> int:
    sys.stderr.write(f"error: {error}\n")
    return 1

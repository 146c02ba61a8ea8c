"""Runs the commands that talk to a running daemon: status, connections, reload, stop.

Each returns its exit status: 0 for success, 1 if the daemon rejects the request or there is none. `check` and
`compare` have others. docs/reference/control.md describes the daemon's answers.
"""

import gc
import json
import sys
import time
from typing import Any, Final, NoReturn

from tcpdconf import usage
from tcpdconf.cli import monitoring, screen
from tcpdconf.cli import status as status_page
from tcpdconf.config import problems
from tcpdconf.daemon.control import runtimedir
from tcpdconf.daemon.control.client import ControlConnection, ControlError

EX_CONFIG: Final = 78
_NO_DAEMON: Final = 3
_RELOAD: Final = 300.0  # seconds; the daemon may read tables of a million networks meanwhile
_EVERY: Final = 1.0
_OFTEN: Final = 0.1  # seconds between two requests to a daemon that is starting


def status(directory: str | None, form: str, color: str) -> int:
    """Print the daemon's state."""
    try:
        with _connected(directory) as daemon:
            answer = daemon.ask({"command": "status"})
    except ControlError as error:
        return _failed(error)
    _print(answer, form, _page(answer, form, color))
    return 0


def watch(directory: str | None, form: str, color: str) -> int:
    """Show the daemon's state every second until Ctrl-C: on a screen, or one page after another."""
    gc.enable()  # it may run for days
    try:
        with _connected(directory) as daemon:
            if form == "text" and screen.is_usable():
                _watch_on_screen(daemon, colour=usage.has_colour(color, sys.stdout))
            while True:
                answer = daemon.ask({"command": "status"})
                page = _page(answer, form, color, end=True)
                _print(answer, form, f"{page}\n" if form == "text" else page, in_one_line=True)
                time.sleep(_EVERY)
    except KeyboardInterrupt:
        return 0
    except ControlError as error:
        return _failed(error)


def _watch_on_screen(daemon: ControlConnection, *, colour: bool) -> NoReturn:
    """Show the daemon's state until an exception ends this; a new size of the terminal counts at once."""
    with screen.Screen() as shown:
        while True:
            answer = daemon.ask({"command": "status"})
            due, resized = time.monotonic() + _EVERY, True
            while resized:
                now, width = time.time(), shown.width
                page = status_page.status(answer, now, width=width, colour=colour)
                rejected = status_page.rejection(answer, now, colour=colour).rstrip("\n")
                shown.show(page, rejected or "...")
                resized = shown.wait(due)


def wait(directory: str | None, form: str, color: str, seconds: float) -> int:
    """Wait until a daemon accepts for every service, and print its state; return 1 after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        try:
            with _connected(directory) as daemon:
                answer = daemon.ask({"command": "status"}, max(_OFTEN, end - time.monotonic()))
            lacking = _lacking(answer)
            if not lacking:
                _print(answer, form, _page(answer, form, color))
                return 0
        except ControlError as error:
            lacking = str(error)
        left = end - time.monotonic()
        if left <= 0:
            sys.stderr.write(f"error: not ready after {seconds:g} s: {lacking}\n")
            return 1
        time.sleep(min(_OFTEN, left))


def check(directory: str | None) -> int:
    """Print one line as monitoring plugins do; return the plugin's exit status."""
    try:
        with _connected(directory) as daemon:
            level, line = monitoring.check(daemon.ask({"command": "status"}))
    except ControlError as error:
        level, line = monitoring.UNKNOWN, monitoring.unknown(str(error))
    except Exception as error:  # noqa: BLE001 (a traceback's exit status would be that of a warning)
        level, line = monitoring.UNKNOWN, monitoring.unknown(f"cannot read the daemon's answer: {error!r}")
    print(line)
    return level


def connections(directory: str | None, form: str) -> int:
    """Print a line for each connection."""
    try:
        with _connected(directory) as daemon:
            answer = daemon.ask({"command": "connections"})
    except ControlError as error:
        return _failed(error)
    _print(answer, form, status_page.connections(answer))
    return 0


def reload(directory: str | None, color: str) -> int:
    """Make the daemon load its configuration again; print its changes, or every problem."""
    try:
        with _connected(directory) as daemon:
            answer = daemon.ask({"command": "reload"}, _RELOAD)
    except ControlError as error:
        return _failed(error)
    _complain(answer, color)
    if not answer["ok"]:
        sys.stderr.write("rejected: the previous configuration stays in effect\n")
        return 1
    _print_changes(answer, "nothing has changed")
    return 0


def compare(directory: str | None, color: str) -> int:
    """Print what a reload would change.

    Return 0 for nothing, 1 for something, 3 if no daemon can tell, 78 if the reload would be rejected.
    """
    try:
        with _connected(directory) as daemon:
            answer = daemon.ask({"command": "compare"}, _RELOAD)
    except ControlError as error:
        _failed(error)
        return _NO_DAEMON
    _complain(answer, color)
    if not answer["ok"]:
        sys.stderr.write("a reload would be rejected\n")
        return EX_CONFIG
    _print_changes(answer, "nothing would change")
    return 1 if answer["changed"] or answer["details"] else 0


def stop(directory: str | None, drain: float | None) -> int:
    """Stop the daemon, and wait until it has exited."""
    try:
        with _connected(directory) as daemon:
            daemon.ask({"command": "stop", "drain": drain})
            daemon.wait()
    except ControlError as error:
        return _failed(error)
    print(f"stopped: pid {daemon.pid}")
    return 0


def _connected(directory: str | None) -> ControlConnection:
    return ControlConnection(runtimedir.find(directory))


def _print_changes(answer: dict[str, Any], nothing: str) -> None:
    for line in answer["details"]:
        print(line)
    if not answer["details"]:
        print(f"changed: {', '.join(answer['changed'])}" if answer["changed"] else nothing)


def _lacking(answer: dict[str, Any]) -> str:
    """Describe what is missing until every service accepts; "" if all do."""
    if answer["last_reload"] is None:
        return f"the daemon (pid {answer['pid']}) is starting"
    idle = [name for name, service in answer["services"].items() if not service.get("accepts", True)]
    return f"these services do not accept: {', '.join(idle)}" if idle else ""


def _page(answer: dict[str, Any], form: str, color: str, *, end: bool = False) -> str:
    if form == "prometheus":
        from tcpdconf.daemon.http import exposition  # noqa: PLC0415 (prometheus_client is large)

        return exposition.text(answer).decode()
    colour, size = usage.has_colour(color, sys.stdout), screen.size()
    width = None if size is None else size.columns
    page = status_page.status(answer, time.time(), width=width, colour=colour, end=end)
    if size is not None and page.count("\n") >= size.lines:  # its beginning leaves the terminal
        return status_page.status(answer, time.time(), width=width, colour=colour, end=True)
    return page


def _print(answer: dict[str, Any], form: str, page: str, *, in_one_line: bool = False) -> None:
    if form == "json":
        page = json.dumps(answer, indent=None if in_one_line else 2) + "\n"
    sys.stdout.write(page)
    sys.stdout.flush()


def _complain(answer: dict[str, Any], color: str) -> None:
    """Print the problems of a reload; an older daemon answers without source lines."""
    found = problems.from_records(answer["problems"], answer.get("excerpts", ()))
    sys.stderr.write(problems.render(found, colour=usage.has_colour(color, sys.stderr)))


def _failed(error: ControlError) -> int:
    sys.stderr.write(f"error: {error}\n")
    return 1

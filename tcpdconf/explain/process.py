"""Explains a connection in a process of its own that has the service's rights.

This process opens the files with its own rights, as the supervisor does. A child that has become the
service's user reads them and the answers of name servers, as a worker does. It reports in JSON, which is not
trusted either: it is only shown.
"""

import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from tcpdconf.config import host, problems
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.daemon.control import runtimedir
from tcpdconf.daemon.control.client import ControlConnection, ControlError
from tcpdconf.daemon.descriptors import WorkerDescriptors
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages.assignment import FROM_READER, Assignment, Failure, Unusable
from tcpdconf.daemon.process import child, log, privileges
from tcpdconf.daemon.worker.files import ServiceFiles
from tcpdconf.explain import decide
from tcpdconf.explain import listener as explain_listener
from tcpdconf.explain import report as explain_report
from tcpdconf.explain.listener import Request

if TYPE_CHECKING:
    from tcpdconf.policy import connection

_SECONDS: Final = 60.0  # for everything
_LARGEST: Final = 1 << 24  # bytes that an explanation may have
_NOTHING: Final = "the process that decides has ended without saying what"


class ExplainError(Exception):
    """Reports that the deciding process has given no explanation."""


def explain(
    loaded: Loaded,
    request: Request,
    daemon: dict[str, str],
    live: decide.Live | None = None,
) -> dict[str, Any]:
    """Return the explanation of a connection in the form of `report.data`.

    Args:
        loaded: the configuration; it has the service of the request.
        request: the connection to explain.
        daemon: the environment that the daemon is started with.
        live: the present clients of each service of the running daemon; None: no daemon was asked.

    Raises:
        ConfigError: the service could not be served at all.
        ExplainError: a defect, or it took too long.
    """
    given = WorkerDescriptors()
    try:
        service = loaded.config.services[request.service]
        given.open(service, host.identity(service), loaded.config.dns_chains)
        if given.failures:
            raise _problems(loaded, request, given.failures)
        task = Assignment(request.service, loaded.config, daemon, tuple(given.roles))
        files = ServiceFiles(task, zip(given.roles, given.fds, strict=True))
        said = _heard(lambda: _say(loaded, request, files, live), set(given.fds))
    finally:
        given.close()
    found = _object(said)
    if "failures" not in found:
        return found
    try:
        failures = wire.parsed(said, FROM_READER).failures
    except wire.MalformedError:
        raise ExplainError(_NOTHING) from None
    raise _problems(loaded, request, failures)


def clients(runtime_directory: str | None, conf: str) -> decide.Live | None:
    """Return the clients that the running daemon serves at present, by service.

    Return None if no daemon runs this configuration, or it cannot be asked.
    """
    try:
        with ControlConnection(runtimedir.find(runtime_directory)) as daemon:
            theirs = daemon.ask({"command": "status"})["config"]["dir"]
            if os.path.realpath(theirs) != os.path.realpath(conf):
                return None
            answer = daemon.ask({"command": "connections"})
    except ControlError:
        return None
    found: dict[str, list[connection.Endpoint]] = {}
    for each in answer["connections"]:
        found.setdefault(each["service"], []).append(explain_listener.end(each["peer"], 0))
    return found


def _problems(loaded: Loaded, request: Request, failures: Iterable[Failure]) -> problems.ConfigError:
    return problems.ConfigError(
        loaded.problem(("services", request.service, *failure.key), failure.text, "cannot-use")
        for failure in failures
    )


def _say(
    loaded: Loaded,
    request: Request,
    files: ServiceFiles,
    live: decide.Live | None,
) -> bytes:
    """Decide with the service's rights; return the explanation or the failures as JSON."""
    identity = host.identity(loaded.config.services[request.service])
    if privileges.may_become(identity):
        privileges.become(identity)
    else:
        privileges.give_up_capabilities()
    log.set_level("error")  # the result of a list's test is reported as a step
    try:
        return json.dumps(explain_report.data(decide.rehearse(loaded, request, files, live))).encode()
    except decide.CannotServeError as error:
        return wire.written(Unusable(tuple(error.failures)))


def _heard(say: Callable[[], bytes], keep: set[int]) -> bytes:
    """Run `say` in a child, and return its output.

    Raises:
        ExplainError: the output takes too long, or is too long.
    """
    reading, writing = os.pipe()

    def run() -> int:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(say())
        return 0

    try:
        pid = child.fork(run, keep | {writing})
        os.close(writing)
        try:
            return _read(reading)
        finally:
            os.kill(pid, signal.SIGKILL)  # it has written everything, or never will
            os.waitpid(pid, 0)
    finally:
        os.close(reading)


def _object(said: bytes) -> dict[str, Any]:
    """Return a child's output as a JSON object.

    Raises:
        ExplainError: the output is no JSON object.
    """
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ExplainError(_NOTHING)
    return found


def _read(pipe: int) -> bytes:
    """Return all bytes up to the end of the pipe.

    Raises:
        ExplainError: it takes too long, or there are too many bytes.
    """
    found = b""
    until = time.monotonic() + _SECONDS
    while len(found) <= _LARGEST:
        if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
            raise ExplainError(f"cannot tell within {_SECONDS:g} s")
        data = os.read(pipe, 65536)
        if not data:
            return found
        found += data
    raise ExplainError(f"there are more than {_LARGEST} bytes to tell")
